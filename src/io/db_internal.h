/* db_internal.h - what db.c, db_unit.c and db_reply.c share, and what the listener needs. */
#ifndef IO_DB_INTERNAL_H
#define IO_DB_INTERNAL_H

#include "base/mem.h"
#include "io/db.h"

#include <libpq-fe.h>

/* One statement of a unit. The arrays live in the unit's arena. */
struct db_statement {
    const char *sql;
    bool once; // its text is the unit's: never prepared
    int nparams, size;
    const char **values;
    int *lengths, *formats;
    Oid *types;
    unsigned name;    // the prepared statement it was sent to, 0 for none
    bool prepares;    // sent with its own PREPARE before it
    PGresult *result; // NULL until answered
};

/* One transaction. Owned by its builder until db_send, then by the connection, and from its end to
 * its callback by the loop. */
struct db_unit {
    struct db_unit *next;
    struct arena *arena;
    struct db_statement *statements;
    int count, size;
    db_done_fn *done;
    void *ctx;
    int64_t since_ms; // when it was queued
    bool resent;      // once is enough
    bool stale;       // its failure was a prepared statement the server no longer honours
    // where the answers are
    int at;          // the statement answered next; count: the sync
    bool in_prepare; // within it, the answer of its PREPARE comes next
    bool got_null;   // the last thing read was the end of a statement's answers
    // how it ended
    enum db_outcome outcome;
    struct err err;
    int failed; // statement, or -1
};

struct db_queue {
    struct db_unit *first, *last;
    size_t count;
};
void db_queue_put(struct db_queue *queue, struct db_unit *unit);
struct db_unit *db_queue_take(struct db_queue *queue); /* not from an empty one */
/* Puts a unit that is sent again before those that never were, behind others sent again. */
void db_queue_return(struct db_queue *queue, struct db_unit *unit);

/* What one connection has prepared, by the SQL text's address; the text is compared as well, for an
 * address that was used again. A plan has no name while it is not prepared. */
struct db_plan {
    const char *key;
    char *sql;
    unsigned name;
    bool ready;                 // the server has said so
    const struct db_unit *unit; // while not ready: the unit that prepares it
};
struct db_plans;
struct db_plans *db_plans_new(void);
void db_plans_free(struct db_plans *plans);
void db_plans_forget(struct db_plans *plans);                          /* a new connection */
struct db_plan *db_plan_of(struct db_plans *plans, const char *sql);   /* valid until the next */
void db_plan_settled(struct db_plan *plan, unsigned name, bool ready); /* its PREPARE's answer */
void db_plan_name(char out[16], unsigned name);

struct db_reply {
    const struct db_unit *unit;
};

void db_unit_reset(struct db_unit *unit); /* as if never sent */
void db_unit_fail(struct db_unit *unit, enum db_outcome outcome, const struct err *err);
/* Takes the unit, which has its outcome: calls done from the loop and frees it. */
void db_unit_finish(struct db_unit *unit, struct loop *loop);

/* Points of a unit's life where a test may have us die: base/crash.h. */
void db_crash_statement(PGconn *conn, const struct db_statement *statement);
void db_crash_unit(PGconn *conn, const struct db_unit *unit, const char *kind);

/* What the database said, as our error. */
void db_error(struct err *err, const PGresult *result);

/* Called for each notification that arrives on the connection. */
void db_on_notify(struct db *db, void (*fn)(void *ctx, const char *channel), void *ctx);
int db_backend_pid(const struct db *db); /* as the server said when we connected; 0: we didn't */

#endif
