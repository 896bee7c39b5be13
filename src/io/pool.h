/* pool.h - a few pipelined connections to one database, and one more for what it notifies.
 *
 * Order is kept only within a connection; the unit goes to the one with the shortest queue. */
#ifndef IO_POOL_H
#define IO_POOL_H

#include "io/db.h"

struct pool;

struct pool *pool_new(struct loop *loop, const struct db_options *options, int connections);
void pool_free(struct pool *pool);
void pool_send(struct pool *pool, struct db_unit *unit, db_done_fn *done, void *ctx);
/* On the first connection, up or not, which is theirs from then on: such units are executed in the
 * order they were sent, but for what db.h says of prepared statements. */
void pool_send_in_order(struct pool *pool, struct db_unit *unit, db_done_fn *done, void *ctx);
bool pool_is_ready(const struct pool *pool); /* at least one connection is up */
size_t pool_in_flight(const struct pool *pool);
struct pool_state {
    int connections, ready;
    int64_t in_flight;
};
struct pool_state pool_state(const struct pool *pool);

/* LISTEN, on a connection that all listeners of the pool share. A notification is a hint: it may be
 * lost or merged. fn is also called once or more after each (re)connect, for what was missed. Where
 * LISTEN doesn't work (a transaction pooler) that is all that is ever heard. To be closed before
 * the pool. */
struct listener;
struct listener *pool_listen(struct pool *pool, const char *channel, loop_fn *fn, void *ctx);
void listener_close(struct listener *listener);
/* Whether what is notified now is heard: that connection is up, and the server itself is behind it.
 */
bool pool_hears(const struct pool *pool);

#endif
