/* instance.h - one instance under way in this worker. */
#ifndef ENGINE_INSTANCE_H
#define ENGINE_INSTANCE_H

#include "engine/action.h"
#include "engine/bodies.h"
#include "engine/journal.h"

struct instance;

/* What all instances of a worker share. */
struct instance_host {
    const struct engine *engine;
    struct actions *actions;
    struct bodies *bodies;
    struct journal *journal;
    /* The instance has ended here (it finished, waits, is stuck or was lost) and is freed. */
    void (*gone)(void *ctx, struct instance *instance, bool finished);
    void (*lost)(void *ctx); /* the lease is gone */
    void *ctx;
    int64_t steps; /* written so far */
};

/* From a row of claim(). */
struct instance *instance_start(struct instance_host *host, const struct db_reply *reply,
                                int statement, int row);
void instance_free(struct instance *instance);               /* drops it, writing nothing */
void instance_discard(struct instance *instance);            /* the same when the journal is gone */
bool instance_frees_others(const struct instance *instance); /* when it leaves: of a slot, say */
const char *instance_id(const struct instance *instance);
void instance_stop(void *instance, struct candidate *candidate); /* journal_events.stop */

/* The list of all of them is its owner's. */
struct instance_link {
    struct instance *next, *prev;
};
struct instance_link *instance_link(struct instance *instance);

#endif
