/* role_workflow.c - wires the stages that hold instances.
 *
 *     versions --detect VM--> detect --poke--> execute --actions--> vendors
 *
 * All of them write under the lease. Its loss is reported by whoever notices first. */
#include "front/role_workflow.h"

#include "base/log.h"
#include "base/mem.h"
#include "engine/action.h"
#include "engine/detect.h"
#include "engine/execute.h"
#include "engine/page.h"
#include "engine/settings.h"
#include "engine/versions.h"
#include "engine/worker.h"

#include <stdlib.h>

struct workflow_role {
    struct engine *engine;
    struct actions *actions;
    struct execute *execute;
    struct detect *detect;
    struct versions *versions;
    refused_fn *refused;
    loop_fn *lost;
    void *ctx;
    bool draining;
};

static void on_lost(void *ctx)
{
    struct workflow_role *role = ctx;
    role->lost(role->ctx);
}

/* Something was settled or released: it may be due at once. */
static void poke(void *ctx)
{
    struct workflow_role *role = ctx;
    if (role->execute != NULL)
        execute_poke(role->execute);
}

/* Actions, mappings and templates are in force; the first ones begin the rest: nothing is claimed
 * before it can be run. */
static void use_actions(void *ctx, const char *files)
{
    struct workflow_role *role = ctx;
    struct err err;
    if (role->draining)
        return;
    if (role->actions != NULL) {
        if (!actions_use(role->actions, files, &err))
            log_error("role", "mappings, actions and templates stay as they were", "error",
                      err.message, NULL);
        return;
    }
    role->actions = actions_start(role->engine, files, &err);
    if (role->actions == NULL) {
        role->refused(role->ctx, &err);
        return;
    }
    role->execute = execute_start(role->engine, role->actions, on_lost, role);
    role->detect = detect_start(role->engine, on_lost, poke, role);
    worker_on_takeover(role->engine->worker, poke, role);
}

static void use_versions(void *ctx, struct vm *vm, int64_t stamp)
{
    struct workflow_role *role = ctx;
    if (role->detect == NULL) {
        vm_free(vm);
        return;
    }
    detect_use(role->detect, vm, stamp);
    page()->up = true;
}

/* The lease is there: from here on instances may be held. */
static void on_ready(void *ctx)
{
    struct workflow_role *role = ctx;
    const struct versions_events events = {use_versions, use_actions, role};
    struct err err;
    if (role->versions != NULL || role->draining)
        return;
    role->versions = versions_start(role->engine, &events, &err);
    if (role->versions == NULL)
        role->refused(role->ctx, &err);
}

struct workflow_role *workflow_role_start(struct engine *engine, refused_fn *refused, loop_fn *lost,
                                          void *ctx)
{
    struct workflow_role *role = xcalloc(1, sizeof(*role));
    int lease = (int)setting_int(engine->settings, "WORKER_LEASE_MS");
    role->engine = engine;
    role->refused = refused;
    role->lost = lost;
    role->ctx = ctx;
    engine->worker = worker_start_for(engine->loop, engine->db, "workflow", lease, on_ready,
                                      on_lost, role);
    return role;
}

void workflow_role_drain(struct workflow_role *role, loop_fn *idle, void *ctx)
{
    role->draining = true;
    if (role->detect != NULL)
        detect_stop(role->detect);
    role->detect = NULL;
    if (role->execute != NULL)
        execute_drain(role->execute, idle, ctx);
    else
        loop_defer(role->engine->loop, idle, ctx);
}

void workflow_role_count(const struct workflow_role *role, struct figures *figures)
{
    if (role->detect != NULL) {
        struct detect_stats stats = detect_stats(role->detect);
        figures->stages[STAGE_DETECT] = (struct stage_figures){.claimed = stats.read,
                                                               .settled = stats.changes +
                                                                          stats.arrivals,
                                                               .failed = stats.errors};
        figures->events = stats.events;
        figures->started = stats.started;
    }
    if (role->execute != NULL) {
        struct execute_stats stats = execute_stats(role->execute);
        figures->stages[STAGE_EXECUTE].claimed = stats.claimed;
        figures->stages[STAGE_EXECUTE].settled = stats.finished;
        figures->steps = stats.steps;
        figures->live = stats.live;
    }
}

void workflow_role_reload(struct workflow_role *role)
{
    if (role->versions != NULL)
        versions_reload(role->versions);
    else
        page()->reloads++; /* it reads them when it begins */
}

bool workflow_role_on_the_wire(const struct workflow_role *role)
{
    return role->actions != NULL && actions_on_the_wire(role->actions);
}

void workflow_role_stop(struct workflow_role *role)
{
    if (role->versions != NULL)
        versions_stop(role->versions);
    if (role->detect != NULL)
        detect_stop(role->detect);
    if (role->execute != NULL)
        execute_stop(role->execute);
    if (role->actions != NULL)
        actions_stop(role->actions);
    worker_stop(role->engine->worker);
    role->engine->worker = NULL;
    free(role);
}
