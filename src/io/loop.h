/* loop.h - the event loop of one process: timers, signals, and a queue of deferred calls.
 *
 * Contract of everything in io/: a callback is called exactly once per request, never before the
 * function that asked for it has returned, and never after its cancel has returned. */
#ifndef IO_LOOP_H
#define IO_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct loop_timer;
struct loop_signal;
typedef void loop_fn(void *ctx);

struct loop *loop_new(void);
void loop_free(struct loop *loop);
void loop_run(struct loop *loop); /* until loop_stop, which may have come before */
void loop_stop(struct loop *loop);

/* Runs fn once, in this turn or the next, after the current callback has returned; in order. */
void loop_defer(struct loop *loop, loop_fn *fn, void *ctx);
/* The same, before the others: what goes on with what the current callback has in its hands finds
 * it in the processor's cache. Behind the others when too many have followed each other so. */
void loop_next(struct loop *loop, loop_fn *fn, void *ctx);
/* How many calls are deferred: what there is to do without anything from outside. */
size_t loop_deferred(const struct loop *loop);
/* Forgets every deferred call with this ctx. */
void loop_undefer(struct loop *loop, void *ctx);

/* A timer is made disarmed. Setting it again replaces the time; it fires once per setting. */
struct loop_timer *loop_timer_new(struct loop *loop, loop_fn *fn, void *ctx);
void loop_timer_set(struct loop_timer *timer, int64_t ms); /* 0: in the next turn */
bool loop_timer_armed(const struct loop_timer *timer);
void loop_timer_clear(struct loop_timer *timer);
void loop_timer_free(struct loop_timer *timer); /* NULL is fine */

/* The latest that a timer fired since this was asked last: what keeps the loop from its work. */
int64_t loop_lag_us(struct loop *loop);

struct loop_signal *loop_signal_new(struct loop *loop, int signum, loop_fn *fn, void *ctx);
void loop_signal_free(struct loop_signal *signal);

#endif
