/* session.h - one database connection for a command that asks, waits and prints. */
#ifndef FRONT_SESSION_H
#define FRONT_SESSION_H

#include "io/db.h"

struct session;

/* NULL when the database doesn't answer; it is not tried again. */
struct session *session_open(const char *url, struct err *err);
void session_close(struct session *session); /* NULL is fine */
struct loop *session_loop(struct session *session);

/* Sends the unit (which it takes) and waits. fn, which may be NULL, reads the reply of a unit that
 * was committed. False: err says why, with sqlstate and the failed statement. */
typedef void session_fn(void *ctx, const struct db_reply *reply);
bool session_run(struct session *session, struct db_unit *unit, session_fn *fn, void *ctx,
                 struct err *err);
int session_failed_statement(const struct session *session); /* of the last run; -1: none */

/* The rows of the first statement as a table: its columns' names are the titles, columns as wide as
 * they must be. Without rows: when_empty is printed; NULL makes that an error (ERR_MISSING). */
bool session_print(struct session *session, struct db_unit *unit, const char *when_empty,
                   struct err *err);
/* The same without titles. */
bool session_print_plain(struct session *session, struct db_unit *unit, const char *when_empty,
                         struct err *err);
/* How many rows were printed, and the first column of the last. */
int session_printed(const struct session *session, const char **last);

#endif
