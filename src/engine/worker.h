/* worker.h - the lease of one process life: a row in workflow_workers that every unit locks first.
 *
 * Only the database's clock counts for the lease itself; whether we may still put bytes on a wire
 * is asked of our own monotonic clock (`worker_may_send`). When the lease is lost, `lost` is
 * called once and the process must drop all its work and end. */
#ifndef ENGINE_WORKER_H
#define ENGINE_WORKER_H

#include "io/pool.h"

struct worker;

struct worker *worker_start(struct loop *loop, struct pool *db, const char *role, loop_fn *ready,
                            loop_fn *lost, void *ctx);
/* The same with another lease than 30 s; renewed six times in it, three times by roles that hold
 * nothing. Figures of the process (figures.h) are written with it. */
struct worker *worker_start_for(struct loop *loop, struct pool *db, const char *role, int lease_ms,
                                loop_fn *ready, loop_fn *lost, void *ctx);
/* Called after a dead worker's instances were released, so that they are claimed at once. */
void worker_on_takeover(struct worker *worker, loop_fn *fn, void *ctx);
void worker_stop(
    struct worker *worker); /* releases what it holds and deletes the row, best effort */
const char *worker_id(const struct worker *worker); /* a uuid */

/* Adds the fence as the unit's next statement (it must be the first that is added): locks our row
 * FOR SHARE and raises MWF01 when it is gone, so that nothing of the unit happens. */
void worker_fence(const struct worker *worker, struct db_unit *unit);

/* True while the lease was confirmed less than (lease - 10 s) ago by the monotonic clock. */
bool worker_may_send(const struct worker *worker);
/* The time by the database's clock, to some milliseconds. */
int64_t worker_wall_us(const struct worker *worker);

#endif
