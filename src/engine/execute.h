/* execute.h - runs instances: claims what is due, replays its body, records what it does.
 *
 * The worker's lease (engine->worker) must be there before it starts. Everything an instance
 * knows is in the database; what is here can be dropped at any time. */
#ifndef ENGINE_EXECUTE_H
#define ENGINE_EXECUTE_H

#include "engine/engine.h"

struct actions; /* engine/action.h */
struct execute;

/* lost is called once, when the lease turns out to be gone: the process must end. */
struct execute *execute_start(const struct engine *engine, struct actions *actions, loop_fn *lost,
                              void *ctx);
/* Ends all tasks; what is held stays recorded and is released by worker_stop. */
void execute_stop(struct execute *execute);

/* Claims nothing more; idle is called once when no instance is under way. */
void execute_drain(struct execute *execute, loop_fn *idle, void *ctx);
/* Something may be due: a hint, by whoever settled events in this process. */
void execute_poke(struct execute *execute);

struct execute_stats {
    int64_t claimed, finished, steps;
    int live;
};
struct execute_stats execute_stats(const struct execute *execute);

#endif
