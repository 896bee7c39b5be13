/* match.h - Lua's pattern matching, in steps that are counted. Private to script/.
 *
 * A pattern such as "a-a-a-b" can take years on a short text, and nothing interrupts C: so this
 * matcher calls the hook of the state every MATCH_EVERY steps, if limits.c has set one, and the
 * budget holds. */
#ifndef SCRIPT_MATCH_H
#define SCRIPT_MATCH_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#define MATCH_EVERY 20000
#define MATCH_CAPTURES 32

struct capture {
    const char *start;
    ptrdiff_t len; /* or one of CAPTURE_… */
};
enum { CAPTURE_OPEN = -1, CAPTURE_PLACE = -2 };

struct match {
    lua_State *L;
    const char *text, *text_end;
    const char *pattern_end;
    int level; /* captures, finished or not */
    int depth; /* recursions left */
    unsigned steps;
    struct capture captures[MATCH_CAPTURES];
};

void match_init(struct match *m, lua_State *L, const char *text, size_t len, const char *pattern,
                size_t pattern_len);
/* Matches the pattern at one place of the text: the end of the match, or NULL. May raise. */
const char *match_at(struct match *m, const char *at, const char *pattern);
/* Pushes the captures, or the whole match when there are none and whole is given; their number. */
int match_push(struct match *m, const char *start, const char *end);
/* Pushes capture i (from 0); with none, 0 is the whole match. */
void match_push_one(struct match *m, int i, const char *start, const char *end);

#endif
