/* pool.c - several connections as one, and the listener.
 *
 * A unit goes to the connection that is up and has the fewest; with none up it waits in the
 * shortest queue. The first of equals is taken, which keeps a quiet program on one connection. Once
 * units are sent in order, the first connection is theirs: others don't wait behind them. */
#include "io/pool.h"

#include "base/buf.h"
#include "base/mem.h"
#include "io/db_internal.h"

#include <stdlib.h>
#include <string.h>

struct pool {
    int count;
    bool ordered; // something is sent in order
    struct db *dbs[];
};

struct pool *pool_new(struct loop *loop, const struct db_options *options, int connections)
{
    must(connections > 0);
    size_t bytes = (size_t)connections * sizeof(struct db *);
    struct pool *pool = xcalloc(1, sizeof(*pool) + bytes);
    pool->count = connections;
    for (int i = 0; i < connections; i++) {
        pool->dbs[i] = db_open(loop, options);
    }
    return pool;
}

void pool_free(struct pool *pool)
{
    if (pool) {
        for (int i = 0; i < pool->count; i++) {
            db_close(pool->dbs[i]);
        }
        free(pool);
    }
}

static bool is_better(const struct db *a, const struct db *b)
{
    if (db_is_ready(a) != db_is_ready(b)) {
        return db_is_ready(a);
    }
    return db_in_flight(a) < db_in_flight(b);
}

void pool_send(struct pool *pool, struct db_unit *unit, db_done_fn *done, void *ctx)
{
    int first = pool->ordered && pool->count > 1;
    struct db *best = pool->dbs[first];
    for (int i = first + 1; i < pool->count; i++) {
        best = is_better(pool->dbs[i], best) ? pool->dbs[i] : best;
    }
    db_send(best, unit, done, ctx);
}

void pool_send_in_order(struct pool *pool, struct db_unit *unit, db_done_fn *done, void *ctx)
{
    pool->ordered = true;
    db_send(pool->dbs[0], unit, done, ctx);
}

bool pool_is_ready(const struct pool *pool)
{
    for (int i = 0; i < pool->count; i++) {
        if (db_is_ready(pool->dbs[i])) {
            return true;
        }
    }
    return false;
}

size_t pool_in_flight(const struct pool *pool)
{
    size_t sum = 0;
    for (int i = 0; i < pool->count; i++) {
        sum += db_in_flight(pool->dbs[i]);
    }
    return sum;
}

struct pool_state pool_state(const struct pool *pool)
{
    struct pool_state state = {.connections = pool->count,
                               .in_flight = (int64_t)pool_in_flight(pool)};
    for (int i = 0; i < pool->count; i++) {
        state.ready += db_is_ready(pool->dbs[i]);
    }
    return state;
}

// ---- listener --------------------------------------------------------------------------------

struct listener {
    struct loop *loop;
    struct db *db;
    char *sql; // listen "channel"
    loop_fn *fn;
    void *ctx;
    bool due;         // fn is deferred
    struct ask *asks; // the LISTEN under way, newest first
};

// A LISTEN under way, in the memory of its unit. It may be answered after its listener was closed.
struct ask {
    struct listener *listener; // NULL: closed
    struct ask *next;
};

static void call(void *ctx)
{
    struct listener *listener = ctx;
    listener->due = false;
    listener->fn(listener->ctx); // may close the listener
}

static void hint(void *ctx)
{
    struct listener *listener = ctx;
    if (!listener->due) {
        listener->due = true;
        loop_defer(listener->loop, call, listener);
    }
}

static void listening(void *ctx, const struct db_reply *reply)
{
    struct ask *ask = ctx;
    struct listener *listener = ask->listener;
    if (listener) {
        for (struct ask **at = &listener->asks; *at; at = &(*at)->next) {
            if (*at == ask) {
                *at = ask->next;
                break;
            }
        }
        // What was notified before now was not heard.
        if (db_reply_outcome(reply) == DB_OK) {
            hint(listener);
        }
    }
}

static void on_state(void *ctx, bool ready, const struct err *err)
{
    (void)err;
    struct listener *listener = ctx;
    if (ready) {
        struct db_unit *unit = db_unit_new();
        struct ask *ask = arena_alloc(unit->arena, sizeof(*ask));
        *ask = (struct ask){listener, listener->asks};
        listener->asks = ask;
        db_unit_add(unit, listener->sql, 0, NULL);
        db_send(listener->db, unit, listening, ask);
    }
}

struct listener *listener_open(struct loop *loop, const char *url, const char *channel, loop_fn *fn,
                               void *ctx)
{
    struct listener *listener = xcalloc(1, sizeof(*listener));
    struct buf sql;
    buf_init(&sql, 256);
    buf_adds(&sql, "listen \"");
    for (const char *c = channel; *c; c++) {
        buf_adds(&sql, *c == '"' ? "\"\"" : (char[]){*c, 0});
    }
    buf_addc(&sql, '"');
    must(!sql.overflow);
    listener->sql = buf_take(&sql);
    listener->loop = loop;
    listener->fn = fn;
    listener->ctx = ctx;
    struct db_options options = {.url = url, .prepare = false, .name = "moonwright listener"};
    listener->db = db_open(loop, &options);
    db_on_state(listener->db, on_state, listener);
    db_on_notify(listener->db, hint, listener);
    return listener;
}

void listener_close(struct listener *listener)
{
    if (!listener) {
        return;
    }
    loop_undefer(listener->loop, listener);
    for (struct ask *ask = listener->asks; ask; ask = ask->next) {
        ask->listener = NULL;
    }
    db_close(listener->db); // answers what is asked, from the loop
    free(listener->sql);
    free(listener);
}
