/* sync_feed.h - reading one feed to its end. */
#ifndef ENGINE_SYNC_FEED_H
#define ENGINE_SYNC_FEED_H

#include "engine/sync.h"
#include "engine/sync_client.h"
#include "engine/sync_plan.h"

struct sync_feed;

/* changed is called after each page, and once with an end state; the feed may be freed in that last
 * call only. */
struct sync_feed *sync_feed_start(const struct engine *engine, struct sync_client *client,
                                  struct sync_plans *plans, const struct sync_plan *plan, bool full,
                                  sync_progress_fn *changed, void *ctx);
void sync_feed_free(struct sync_feed *feed); /* stops where it is; NULL is fine */

#endif
