/* pool.c - several connections as one.
 *
 * A unit goes to the connection that is up and has the fewest; with none up it waits in the
 * shortest queue. The first of equals is taken, which keeps a quiet program on one connection. Once
 * units are sent in order, the first connection is theirs: others don't wait behind them. */
#include "io/pool.h"

#include "base/mem.h"
#include "io/listen.h"

#include <stdlib.h>

struct pool {
    struct ears *ears;
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
    pool->ears = ears_new(loop, options->url);
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
        ears_free(pool->ears);
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

struct listener *pool_listen(struct pool *pool, const char *channel, loop_fn *fn, void *ctx)
{
    return listener_open(pool->ears, channel, fn, ctx);
}

bool pool_hears(const struct pool *pool)
{
    return ears_hear(pool->ears);
}
