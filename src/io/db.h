/* db.h - one PostgreSQL connection, pipelined, as a state machine.
 *
 *     DOWN --backoff--> CONNECTING --ok--> READY --error--> DOWN
 *
 * Work is sent as units. A unit is a list of statements that is one transaction: it ends with one
 * pipeline sync, and BEGIN or COMMIT are never sent. Units are answered in order. When the
 * connection is lost, a unit that was sent and not answered has an unknown outcome (DB_UNKNOWN);
 * one that never left stays queued; after 30 s without a connection it is DB_UNSENT. A unit that
 * fails because the server no longer honours a prepared statement is sent again, once, by itself:
 * those behind it may then have gone before it. */
#ifndef IO_DB_H
#define IO_DB_H

#include "base/err.h"
#include "io/loop.h"

#include <stddef.h>
#include <stdint.h>

struct db;
struct db_unit;

enum db_outcome {
    DB_OK,     /* committed */
    DB_FAILED, /* the database refused it: nothing of it happened; err says why */
    DB_UNSENT, /* never sent: nothing of it happened */
    DB_UNKNOWN /* sent, and the connection was lost: it may have happened */
};

struct db_reply; /* valid during the callback only */
typedef void db_done_fn(void *ctx, const struct db_reply *reply);

/* Building a unit. SQL text must live as long as the connection (string constants, or an owner's
 * text that outlives it): it is also the key under which the statement is prepared. Values are
 * copied. They are C strings: whoever has bytes looks for NULs first. A unit built wrongly (a uuid
 * that is none, too many parameters) is not sent: DB_FAILED with ERR_INPUT. */
struct db_unit *db_unit_new(void);
void db_unit_free(struct db_unit *unit); /* only for a unit that is not sent */
/* `values` are text parameters, NULL for SQL null. */
void db_unit_add(struct db_unit *unit, const char *sql, int nparams, const char *const *values);
/* The same with the variadic list itself: db_unit_addv(u, SQL, 2, id, name). */
void db_unit_addv(struct db_unit *unit, const char *sql, int nparams, ...);
/* The same for a text that is not kept, a script's say: it is copied and never prepared. */
void db_unit_add_once(struct db_unit *unit, const char *sql, int nparams,
                      const char *const *values);

/* Arrays in PostgreSQL's binary format, for the hot path: begin a statement, add its parameters in
 * order, each one of the calls below. Every db_param_* belongs to the statement begun last. */
void db_unit_begin(struct db_unit *unit, const char *sql);
void db_param_text(struct db_unit *unit, const char *value);                    /* NULL: SQL null */
void db_param_int(struct db_unit *unit, int64_t value);                         /* sent as text */
void db_param_uuids(struct db_unit *unit, size_t n, const char *const *uuids);  /* uuid[] */
void db_param_int2s(struct db_unit *unit, size_t n, const int16_t *values);     /* int2[] */
void db_param_int4s(struct db_unit *unit, size_t n, const int32_t *values);     /* int4[] */
void db_param_int8s(struct db_unit *unit, size_t n, const int64_t *values);     /* int8[] */
void db_param_texts(struct db_unit *unit, size_t n, const char *const *values); /* text[] */
void db_param_jsons(struct db_unit *unit, size_t n, const char *const *values); /* json[] */

/* Reading a reply: statement and row and column count from 0; values are text. */
enum db_outcome db_reply_outcome(const struct db_reply *reply);
const struct err *db_reply_err(const struct db_reply *reply); /* set unless DB_OK */
int db_reply_failed_statement(const struct db_reply *reply);  /* -1 unless DB_FAILED */
int db_rows(const struct db_reply *reply, int statement);
int64_t db_affected(const struct db_reply *reply, int statement);
int db_columns(const struct db_reply *reply, int statement);
const char *db_column(const struct db_reply *reply, int statement, int column); /* its name */
const char *db_value(const struct db_reply *reply, int statement, int row,
                     int column); /* NULL: null */
size_t db_length(const struct db_reply *reply, int statement, int row, int column);
int64_t db_int(const struct db_reply *reply, int statement, int row, int column); /* null: 0 */
bool db_bool(const struct db_reply *reply, int statement, int row, int column);   /* null: false */

struct db_options {
    const char *url;  /* a libpq connection string or URL; copied */
    bool prepare;     /* named prepared statements; off behind a transaction pooler */
    const char *name; /* application_name */
};

struct db *db_open(struct loop *loop, const struct db_options *options); /* connects at once */
void db_close(struct db *db); /* fails what is queued (DB_UNSENT / DB_UNKNOWN), through the loop */
/* Takes the unit. done is called once, from the loop. */
void db_send(struct db *db, struct db_unit *unit, db_done_fn *done, void *ctx);
bool db_is_ready(const struct db *db);
size_t db_in_flight(const struct db *db); /* units queued or sent */
/* Called on each change between ready (err NULL) and down (err says why), the first one included.
 */
void db_on_state(struct db *db, void (*fn)(void *ctx, bool ready, const struct err *err),
                 void *ctx);

#endif
