/* db.c - the connection: connecting, sending, and giving each answer to its unit.
 *
 *     DOWN --backoff--> CONNECTING --ok--> READY --error--> DOWN
 *
 * Two queues of units: `waiting` has not been given to libpq, `sent` has, its sync included, and is
 * answered in order. That queue, and not libpq's NULL results, says what is still to come: each
 * statement is answered by results and one NULL, a sync by one result without a NULL, and an idle
 * connection gives NULL for ever.
 *
 * Only its sync tells how a unit ended. An error that ends the connection may stand where the
 * answer of a statement would, so a unit without its sync is DB_UNKNOWN whatever else was read.
 *
 * libpq looks names up in the calling thread: name the server by address or socket. */
#include "io/db_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "io/loop_internal.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    IN_FLIGHT_MAX = 100, // beyond it, depth buys little and costs memory
    QUEUE_MS = 30000,    // how long a unit waits for a connection
    CONNECT_MS = 10000,
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 10000
};

enum state { DOWN, CONNECTING, READY };

struct db {
    struct loop *loop;
    char *url, *name;
    bool prepare;
    enum state state;
    PGconn *conn; // NULL: DOWN
    struct event *io;
    struct loop_timer *retry;  // DOWN: the next attempt; CONNECTING: the end of this one
    struct loop_timer *expiry; // not READY: when the first waiting unit has waited enough
    int attempts;              // since something was answered
    int64_t down_since_ms;
    struct err why; // of being down
    struct db_queue waiting, sent;
    struct db_plans *plans;
    unsigned names; // given to prepared statements so far
    bool push_due;
    bool told, told_ready; // what on_state and the log know
    void (*on_state)(void *ctx, bool ready, const struct err *err);
    void *on_state_ctx;
    void (*on_notify)(void *ctx, const char *channel);
    void *on_notify_ctx;
};

static void on_io(evutil_socket_t fd, short what, void *arg);

// ---- state -----------------------------------------------------------------------------------

static void want(struct db *db, int fd, short what)
{
    bool same = event_get_fd(db->io) == fd && event_get_events(db->io) == (what | EV_PERSIST) &&
                event_pending(db->io, EV_READ | EV_WRITE, NULL);
    if (!same) {
        event_del(db->io);
        event_assign(db->io, loop_base(db->loop), fd, what | EV_PERSIST, on_io, db);
        must(event_add(db->io, NULL) == 0);
    }
}

static void tell_state(void *ctx)
{
    struct db *db = ctx;
    bool ready = db->state == READY;
    if (db->told && db->told_ready == ready) {
        return;
    }
    const char *what = db->told ? "connection lost" : "no connection";
    db->told = true;
    db->told_ready = ready;
    if (ready) {
        log_info("db", "connection ready", "name", db->name, NULL);
    } else {
        log_warn("db", what, "name", db->name, "error", db->why.message, NULL);
    }
    if (db->on_state) {
        db->on_state(db->on_state_ctx, ready, ready ? NULL : &db->why); // may close db
    }
}

static void expire(void *ctx)
{
    struct db *db = ctx;
    int64_t now = clock_mono_ms();
    while (db->waiting.first) {
        int64_t since = db->waiting.first->since_ms;
        int64_t left = (since > db->down_since_ms ? since : db->down_since_ms) + QUEUE_MS - now;
        if (left > 0) {
            loop_timer_set(db->expiry, left);
            return;
        }
        struct err err = db->why;
        err_wrap(&err, "no connection to the database for %d s", QUEUE_MS / 1000);
        struct db_unit *unit = db_queue_take(&db->waiting);
        db_unit_fail(unit, DB_UNSENT, &err);
        db_unit_finish(unit, db->loop);
    }
}

// Full jitter: any wait up to a bound that doubles, so that clients don't come back in step.
static int64_t backoff_ms(int attempts)
{
    int64_t bound = BACKOFF_MAX_MS;
    if (attempts < 7) {
        bound = (int64_t)BACKOFF_FIRST_MS << attempts;
    }
    unsigned random;
    must(getrandom(&random, sizeof(random), 0) == sizeof(random));
    return (bound < BACKOFF_MAX_MS ? bound : BACKOFF_MAX_MS) * (int64_t)(random >> 8) >> 24;
}

static void disconnect(struct db *db)
{
    event_del(db->io);
    PQfinish(db->conn); // closes what the event watched, so after it
    db->conn = NULL;
    db_plans_forget(db->plans);
}

static void fail_sent(struct db *db, const struct err *err)
{
    while (db->sent.first) {
        struct db_unit *unit = db_queue_take(&db->sent);
        db_unit_fail(unit, DB_UNKNOWN, err);
        db_unit_finish(unit, db->loop);
    }
}

static void go_down(struct db *db, const struct err *why)
{
    if (db->state == READY) {
        db->down_since_ms = clock_mono_ms();
    }
    db->why = *why;
    db->state = DOWN;
    disconnect(db);
    fail_sent(db, why);
    expire(db);
    loop_timer_set(db->retry, backoff_ms(db->attempts++));
    loop_defer(db->loop, tell_state, db);
}

// go_down with the best reason there is: the server's last words, else the first line of libpq's
// (advice and what it met while closing follow), else ours.
static void lose(struct db *db, const char *reason)
{
    struct err err;
    const struct db_unit *unit = db->sent.first;
    const char *text = PQerrorMessage(db->conn);
    text = *text ? text : reason;
    if (unit && strncmp(unit->err.sqlstate, "57P", 3) == 0) {
        err_set(&err, ERR_CONN, "%s", unit->err.message);
    } else {
        err_set(&err, ERR_CONN, "%.*s", (int)strcspn(text, "\n"), text);
    }
    go_down(db, &err);
}

// ---- sending ---------------------------------------------------------------------------------

static bool send_statement(struct db *db, const struct db_unit *unit, struct db_statement *s)
{
    struct db_plan *plan = db->prepare && !s->once ? db_plan_of(db->plans, s->sql) : NULL;
    char name[16];
    if (plan && plan->name == 0) {
        db_plan_name(name, ++db->names);
        if (!PQsendPrepare(db->conn, name, s->sql, s->nparams, s->types)) {
            return false;
        }
        plan->name = db->names;
        plan->unit = unit;
        s->prepares = true;
    }
    if (plan && (plan->ready || plan->unit == unit)) {
        s->name = plan->name;
        db_plan_name(name, s->name);
        return PQsendQueryPrepared(db->conn, name, s->nparams, s->values, s->lengths, s->formats,
                                   0);
    }
    return PQsendQueryParams(db->conn, s->sql, s->nparams, s->types, s->values, s->lengths,
                             s->formats, 0);
}

// False: the connection has to go. The unit's sync was not sent then, so nothing of it happens.
static bool send_unit(struct db *db, struct db_unit *unit)
{
    bool ok = true;
    db_crash_unit(db->conn, unit, "unit");
    for (int i = 0; ok && i < unit->count; i++) {
        if (i > 0) {
            db_crash_statement(db->conn, &unit->statements[i]);
        }
        ok = send_statement(db, unit, &unit->statements[i]);
    }
    db_crash_unit(db->conn, unit, "sync");
    ok = ok && PQpipelineSync(db->conn);
    db_crash_unit(db->conn, unit, "sent");
    if (!ok && PQstatus(db->conn) != CONNECTION_OK) {
        db_unit_reset(unit);
        db_queue_return(&db->waiting, unit);
        return false;
    }
    if (!ok) {
        struct err err;
        err_set(&err, ERR_CONN, "the unit could not be sent: %s", PQerrorMessage(db->conn));
        db_unit_fail(unit, DB_UNSENT, &err);
        db_unit_finish(unit, db->loop);
        return false;
    }
    unit->in_prepare = unit->count > 0 && unit->statements[0].prepares;
    db_queue_put(&db->sent, unit);
    return true;
}

static void push(void *ctx)
{
    struct db *db = ctx;
    db->push_due = false;
    if (db->state != READY) {
        return;
    }
    if (PQstatus(db->conn) != CONNECTION_OK) {
        lose(db, "the connection was lost");
        return;
    }
    while (db->waiting.first && db->sent.count < IN_FLIGHT_MAX) {
        if (!send_unit(db, db_queue_take(&db->waiting))) {
            lose(db, "the connection refused to send");
            return;
        }
    }
    int rest = PQflush(db->conn);
    if (rest < 0) {
        lose(db, "writing failed");
        return;
    }
    want(db, PQsocket(db->conn), rest ? EV_READ | EV_WRITE : EV_READ);
}

static void push_later(struct db *db)
{
    if (!db->push_due && db->state == READY) {
        db->push_due = true;
        loop_defer(db->loop, push, db);
    }
}

// ---- answers ---------------------------------------------------------------------------------

// A prepared statement that a DDL change or a pooler took from under us: nothing happened, and with
// a fresh one it will work.
static bool is_stale(const PGresult *error)
{
    const char *state = PQresultErrorField(error, PG_DIAG_SQLSTATE);
    const char *function = PQresultErrorField(error, PG_DIAG_SOURCE_FUNCTION);
    return state &&
           (strcmp(state, "26000") == 0 || (strcmp(state, "0A000") == 0 && function &&
                                            strcmp(function, "RevalidateCachedQuery") == 0));
}

static void take_error(struct db *db, struct db_unit *unit, const PGresult *error)
{
    if (unit->err.code != ERR_NONE) {
        return;
    }
    db_error(&unit->err, error);
    unit->failed = unit->at < unit->count ? unit->at : unit->count - 1;
    if (unit->at < unit->count) {
        const struct db_statement *s = &unit->statements[unit->at];
        if (s->name && is_stale(error)) {
            unit->stale = true;
            db_plan_settled(db_plan_of(db->plans, s->sql), s->name, false);
        }
    }
}

static void take_result(struct db *db, struct db_unit *unit, PGresult *result, bool ok)
{
    struct db_statement *s = unit->at < unit->count ? &unit->statements[unit->at] : NULL;
    if (s && unit->in_prepare) {
        db_plan_settled(db_plan_of(db->plans, s->sql), s->name, ok);
    } else if (s && ok) {
        PQclear(s->result);
        s->result = result;
        return;
    }
    PQclear(result);
}

// The NULL after a statement's results.
static void next_statement(struct db_unit *unit)
{
    unit->got_null = true;
    if (unit->in_prepare) {
        unit->in_prepare = false;
    } else if (unit->at < unit->count) {
        unit->at++;
        unit->in_prepare = unit->at < unit->count && unit->statements[unit->at].prepares;
    }
}

// The sync: the unit is committed or rolled back. False: we have lost count of the answers.
static bool settle(struct db *db, struct db_unit *unit)
{
    if (unit->err.code == ERR_NONE && unit->at != unit->count) {
        return false;
    }
    db_crash_unit(db->conn, unit, "answered");
    db_queue_take(&db->sent);
    db->attempts = 0; // a server that answers
    if (unit->stale && !unit->resent) {
        db_unit_reset(unit);
        unit->resent = true;
        db_queue_return(&db->waiting, unit);
        return true;
    }
    unit->outcome = unit->err.code == ERR_NONE ? DB_OK : DB_FAILED;
    db_unit_finish(unit, db->loop);
    return true;
}

// Gives the next thing read to the first unit. False: the connection is of no use any more.
static bool take(struct db *db, PGresult *result)
{
    struct db_unit *unit = db->sent.first;
    if (!result) {
        if (unit->got_null) {
            return false; // nothing more will come
        }
        next_statement(unit);
        return true;
    }
    unit->got_null = false;
    ExecStatusType status = PQresultStatus(result);
    switch (status) {
    case PGRES_PIPELINE_SYNC:
        PQclear(result);
        return settle(db, unit);
    case PGRES_EMPTY_QUERY:
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
        take_result(db, unit, result, true);
        return true;
    case PGRES_PIPELINE_ABORTED:
        take_result(db, unit, result, false);
        return true;
    case PGRES_BAD_RESPONSE:
    case PGRES_NONFATAL_ERROR:
    case PGRES_FATAL_ERROR: {
        // Without a SQLSTATE it is libpq that speaks: the connection broke.
        bool from_server = PQresultErrorField(result, PG_DIAG_SQLSTATE) != NULL;
        take_error(db, unit, result);
        take_result(db, unit, result, false);
        return from_server;
    }
    case PGRES_COPY_OUT:
    case PGRES_COPY_IN:
    case PGRES_COPY_BOTH:
    case PGRES_SINGLE_TUPLE:
        break; // nobody here asks for these
    }
    PQclear(result);
    return false;
}

static bool drain(struct db *db)
{
    while (db->sent.first && !PQisBusy(db->conn)) {
        if (!take(db, PQgetResult(db->conn))) {
            return false;
        }
    }
    for (PGnotify *notify; (notify = PQnotifies(db->conn));) {
        if (db->on_notify) {
            db->on_notify(db->on_notify_ctx, notify->relname);
        }
        PQfreemem(notify);
    }
    return PQstatus(db->conn) == CONNECTION_OK;
}

// ---- connecting ------------------------------------------------------------------------------

static void on_notice(void *ctx, const PGresult *notice)
{
    const char *text = PQresultErrorField(notice, PG_DIAG_MESSAGE_PRIMARY);
    log_debug("db", "notice", "name", ((struct db *)ctx)->name, "text", text, NULL);
}

static void connect_done(struct db *db)
{
    loop_timer_clear(db->retry);
    if (PQsetnonblocking(db->conn, 1) != 0 || !PQenterPipelineMode(db->conn)) {
        lose(db, "the connection can't be used without blocking");
        return;
    }
    db->state = READY;
    loop_timer_clear(db->expiry);
    loop_defer(db->loop, tell_state, db);
    want(db, PQsocket(db->conn), EV_READ);
    push_later(db);
}

static void connect_step(struct db *db)
{
    // libpq may close its socket and open another one with the same number.
    event_del(db->io);
    switch (PQconnectPoll(db->conn)) {
    case PGRES_POLLING_READING:
        want(db, PQsocket(db->conn), EV_READ);
        break;
    case PGRES_POLLING_WRITING:
    case PGRES_POLLING_ACTIVE:
        want(db, PQsocket(db->conn), EV_WRITE);
        break;
    case PGRES_POLLING_OK:
        connect_done(db);
        break;
    case PGRES_POLLING_FAILED:
        lose(db, "the database can't be reached");
        break;
    }
}

// A name without "=" is a database's, and as such right.
static bool is_malformed(const char *url)
{
    PQconninfoOption *options = PQconninfoParse(url, NULL);
    PQconninfoFree(options);
    return !options && (strchr(url, '=') || strncmp(url, "postgres", 8) == 0);
}

static void connect_start(struct db *db)
{
    // What follows the URL wins over it, what precedes it is only the default.
    const char *const names[] = {
        "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
        "dbname",          "client_encoding",     "application_name", NULL};
    const char *const values[] = {"30", "10", "3", "30000", db->url, "UTF8", db->name, NULL};
    db->state = CONNECTING;
    db->conn = PQconnectStartParams(names, values, 1);
    must(db->conn);
    if (PQstatus(db->conn) == CONNECTION_BAD) {
        if (is_malformed(db->url)) {
            struct err err; // libpq would quote the URL, password and all
            err_set(&err, ERR_CONFIG,
                    "the database URL can't be read; it looks like "
                    "postgresql://user:password@host:5432/name");
            go_down(db, &err);
        } else {
            lose(db, "the database can't be reached");
        }
        return;
    }
    PQsetNoticeReceiver(db->conn, on_notice, db);
    loop_timer_set(db->retry, CONNECT_MS);
    want(db, PQsocket(db->conn), EV_WRITE); // as if the first poll had asked for it
}

static void on_retry(void *ctx)
{
    struct db *db = ctx;
    if (db->state == DOWN) {
        connect_start(db);
        return;
    }
    struct err err;
    err_set(&err, ERR_TIMEOUT, "the database did not answer within %d s", CONNECT_MS / 1000);
    go_down(db, &err);
}

static void on_io(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    struct db *db = arg;
    if (db->state == CONNECTING) {
        connect_step(db);
        return;
    }
    // After an end of file there may still be whole answers in libpq's buffer: drain, then judge.
    bool alive = !(what & EV_READ) || PQconsumeInput(db->conn);
    alive = drain(db) && alive;
    if (alive) {
        push(db);
    } else {
        lose(db, "the connection was lost");
    }
}

// ---- outside ---------------------------------------------------------------------------------

struct db *db_open(struct loop *loop, const struct db_options *options)
{
    struct db *db = xcalloc(1, sizeof(*db));
    db->loop = loop;
    db->url = xstrdup(options->url);
    db->name = xstrdup(options->name ? options->name : "moonwright");
    db->prepare = options->prepare;
    db->io = event_new(loop_base(loop), -1, 0, on_io, db);
    must(db->io);
    db->retry = loop_timer_new(loop, on_retry, db);
    db->expiry = loop_timer_new(loop, expire, db);
    db->plans = db_plans_new();
    db->down_since_ms = clock_mono_ms();
    err_set(&db->why, ERR_CONN, "the database has not answered yet");
    connect_start(db);
    return db;
}

void db_close(struct db *db)
{
    if (!db) {
        return;
    }
    loop_undefer(db->loop, db);
    loop_timer_free(db->retry);
    loop_timer_free(db->expiry);
    disconnect(db);
    event_free(db->io);
    struct err err;
    err_set(&err, ERR_CONN, "the connection was closed");
    fail_sent(db, &err);
    while (db->waiting.first) {
        struct db_unit *unit = db_queue_take(&db->waiting);
        db_unit_fail(unit, DB_UNSENT, &err);
        db_unit_finish(unit, db->loop);
    }
    db_plans_free(db->plans);
    free(db->url);
    free(db->name);
    free(db);
}

void db_send(struct db *db, struct db_unit *unit, db_done_fn *done, void *ctx)
{
    unit->done = done;
    unit->ctx = ctx;
    if (unit->outcome != DB_OK) { // its builder's mistake
        db_unit_finish(unit, db->loop);
        return;
    }
    unit->since_ms = clock_mono_ms();
    db_queue_put(&db->waiting, unit);
    if (db->state == READY) {
        push_later(db);
    } else if (!loop_timer_armed(db->expiry)) {
        loop_timer_set(db->expiry, QUEUE_MS);
    }
}

bool db_is_ready(const struct db *db)
{
    return db->state == READY;
}

size_t db_in_flight(const struct db *db)
{
    return db->waiting.count + db->sent.count;
}

void db_on_state(struct db *db, void (*fn)(void *ctx, bool ready, const struct err *err), void *ctx)
{
    db->on_state = fn;
    db->on_state_ctx = ctx;
}

int db_backend_pid(const struct db *db)
{
    return PQbackendPID(db->conn);
}

void db_on_notify(struct db *db, void (*fn)(void *ctx, const char *channel), void *ctx)
{
    db->on_notify = fn;
    db->on_notify_ctx = ctx;
}
