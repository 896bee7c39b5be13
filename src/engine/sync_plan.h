/* sync_plan.h - what is copied and how: the declarations of lua/sync, as C needs them. */
#ifndef ENGINE_SYNC_PLAN_H
#define ENGINE_SYNC_PLAN_H

#include "engine/engine.h"

struct sync_plan {
    const char *name;    /* a feed: "customers" */
    const char *of;      /* what others call a row of it: "customer"; NULL: nobody asks for one */
    const char *path;    /* of the export or the list; {tenant} is filled in */
    const char *query;   /* more of its query, or "" */
    bool is_export;      /* a chain of continueFrom; else a list with pages */
    bool sorted;         /* a list that comes in the order of modifiedOn */
    const char *id_path; /* where rows are fetched by id; NULL: nowhere */
    const char *id_parameter;
    const char *id_query;
    const char *upsert; /* one page in one statement; see lua/sync.lua */
};

struct sync_plans { /* counted: units under way keep the statements' texts alive */
    struct arena *arena;
    int users;
    struct sync_plan *plan;
    size_t count;
};

struct sync_plans *sync_plans_load(const struct engine *engine, struct err *err);
struct sync_plans *sync_plans_use(struct sync_plans *plans); /* one more user */
void sync_plans_free(struct sync_plans *plans);              /* one less; NULL is fine */
const struct sync_plan *sync_plan_named(const struct sync_plans *plans, const char *name);
const struct sync_plan *sync_plan_of(const struct sync_plans *plans, const char *of);

#endif
