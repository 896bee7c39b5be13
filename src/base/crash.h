/* crash.h - dying on purpose at a named point, so that tests can see what a death leaves behind.
 *
 *   MOONWRIGHT_CRASH_AT=[KIND:[TEXT:]]N    kill -9 of ourselves at the Nth point that matches
 *   MOONWRIGHT_CRASH_ONCE=FILE             only if FILE is not there; it is made, and says where
 *   MOONWRIGHT_CRASH_AT=list               no death: each point passed is a line of FILE
 *   MOONWRIGHT_CRASH_HOW=stop              SIGSTOP instead: a worker that stalls, and may go on
 *
 * TEXT is a part of the point's text: SQL, or a method and a URL. The kinds, see io/db.c,
 * io/fetch.c, script/task.c and script/host.c:
 *
 *   unit        before anything of a unit is sent
 *   statement   between two of its statements: the first of them is executed
 *   sync        all statements are executed, the word to commit is not sent
 *   sent        the word to commit has left
 *   answered    the unit's end is known, and nobody was told
 *   gate        a request is ready to leave, and wasn't yet asked whether it still may
 *   wire        its first byte would leave now
 *   accepted    a request's whole answer is here, and nobody was told
 *   lua         an instance's Lua is about to run; TEXT is a part of its id
 *   judge       the company's Lua is about to be asked; TEXT is a part of "when NAME ABOUT" or, for
 *               the `when` of a stop, of the instance's id
 *
 * A point costs one load and a branch while the variable is not set. */
#ifndef BASE_CRASH_H
#define BASE_CRASH_H

#include <stdbool.h>

/* Whether points matter in this process at all. */
bool crash_armed(void);
/* Counts a point: true when this is the one. Whoever asks does what must be done, and dies. */
bool crash_due(const char *kind, const char *text);
void crash_now(void); /* returns when the process was stopped and goes on */
/* Both. */
void crash_point(const char *kind, const char *text);

#endif
