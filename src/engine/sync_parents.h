/* sync_parents.h - fetching by id what others refer to and what isn't here yet. */
#ifndef ENGINE_SYNC_PARENTS_H
#define ENGINE_SYNC_PARENTS_H

#include "engine/sync_client.h"
#include "engine/sync_plan.h"

struct sync_parents;

/* Looks into parent_requests when told (channel sync) and every few seconds. Borrows the client. */
struct sync_parents *sync_parents_start(const struct engine *engine, struct sync_client *client,
                                        struct sync_plans *plans);
void sync_parents_stop(struct sync_parents *parents); /* NULL is fine */

#endif
