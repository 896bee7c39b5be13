/* detect.h - turns changes and arrivals into events, starts, wakes and stops.
 *
 * Runs in each worker of the role `workflow`; by a turn that is kept in the database only one of
 * them works at a time. */
#ifndef ENGINE_DETECT_H
#define ENGINE_DETECT_H

#include "engine/engine.h"

/* The limits of the VM that judges. */
#define DETECT_MEMORY ((size_t)160 << 20)
#define DETECT_BURST_MS 1000 /* of a whole batch, or of loading all files */

struct detect;
struct vm;

/* lost is called once when the worker's lease turns out to be gone. settled, which may be NULL, is
 * called after each unit that started or woke something. */
struct detect *detect_start(const struct engine *engine, loop_fn *lost, loop_fn *settled,
                            void *ctx);
void detect_stop(struct detect *detect);

/* Takes the VM (versions.h) with the stamp of what it has, and judges by it from the next batch on;
 * until the first one, changes wait. */
void detect_use(struct detect *detect, struct vm *vm, int64_t stamp);
void detect_poke(struct detect *detect); /* something may be there: a hint */

struct detect_stats {
    int64_t batches, read, changes, arrivals, events, started, errors;
};
struct detect_stats detect_stats(const struct detect *detect);

#endif
