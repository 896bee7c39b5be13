/* limit.h - vendors' rate limits, shared by all workers: tokens are drawn in lots from a row.
 *
 * Whoever waits is served in order; one statement at a time draws for all who wait. A lot that
 * isn't used is lost, so no more is drawn than asked for. */
#ifndef ENGINE_LIMIT_H
#define ENGINE_LIMIT_H

#include "engine/engine.h"

struct limits;
struct limit_wait;

struct limits *limits_new(const struct engine *engine);
void limits_free(struct limits *limits); /* forgets who waits */
/* Calls fn when a request may be made; never before it has returned. */
struct limit_wait *limit_take(struct limits *limits, const char *provider, loop_fn *fn, void *ctx);
void limit_cancel(struct limit_wait *wait);
/* Whether so many wait already that another one had better come back later. */
bool limit_is_crowded(struct limits *limits, const char *provider);
/* What an answer means for everybody: fine or not, and a pause that the vendor asked for. */
void limit_report(struct limits *limits, const char *provider, bool ok, int64_t pause_ms);

#endif
