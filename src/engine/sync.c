/* sync.c - runs of feeds, and the role that starts them by schedule.
 *
 *   role: resting --cron--> running --all feeds ended--> resting
 *
 * A time that comes while a run is under way is not made up for, except that a full run which was
 * due then is done next. The role begins with a run. */
#include "engine/sync.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/zone.h"
#include "base/cron.h"
#include "engine/settings.h"
#include "engine/sync_feed.h"
#include "engine/sync_parents.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_REST_MS = 60000, SECOND_US = 1000000 };

struct sync_run {
    const struct engine *engine;
    struct sync_client *client;
    bool own_client;
    struct sync_plans *plans;
    struct sync_feed **feeds;
    size_t count, left;
    bool failed;
    struct err err; /* the first */
    sync_progress_fn *progress;
    sync_done_fn *done;
    void *ctx;
};

struct sync {
    const struct engine *engine;
    struct sync_client *client;
    struct sync_plans *plans;
    struct sync_parents *parents;
    struct sync_run *run;
    struct loop_timer *timer;
    struct cron full, incremental;
    bool has_full, has_incremental;
    const char *zone;
    int64_t next_full, next_incremental; /* seconds since 1970 */
    bool full_due;
};

/* ---- one run ---- */

static void run_free(struct sync_run *run)
{
    loop_undefer(run->engine->loop, run);
    for (size_t i = 0; i < run->count; i++) {
        sync_feed_free(run->feeds[i]);
    }
    free(run->feeds);
    if (run->own_client) {
        sync_client_free(run->client);
    }
    sync_plans_free(run->plans);
    free(run);
}

void sync_run_cancel(struct sync_run *run)
{
    if (run) {
        run_free(run);
    }
}

/* Outside of every callback of the client and the feeds, which it frees. */
static void run_ended(void *ctx)
{
    struct sync_run *run = ctx;
    sync_done_fn *done = run->done;
    void *owner = run->ctx;
    bool failed = run->failed;
    struct err err = run->err;
    run_free(run);
    done(owner, failed ? &err : NULL);
}

static void on_progress(void *ctx, const struct sync_progress *progress)
{
    struct sync_run *run = ctx;
    if (progress->state == SYNC_FAILED && !run->failed) {
        run->failed = true;
        run->err = *progress->err;
    }
    if (run->progress) {
        run->progress(run->ctx, progress);
    }
    if (progress->state != SYNC_RUNNING && --run->left == 0) {
        loop_defer(run->engine->loop, run_ended, run);
    }
}

static bool is_wanted(const char *const *entities, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(entities[i], name) == 0) {
            return true;
        }
    }
    return count == 0;
}

static struct sync_run *run_start(const struct engine *engine, struct sync_client *client,
                                  struct sync_plans *plans, const char *const *entities,
                                  size_t count, bool full)
{
    struct sync_run *run = xcalloc(1, sizeof(*run));
    run->engine = engine;
    run->client = client;
    run->plans = sync_plans_use(plans);
    run->feeds = xcalloc(plans->count + 1, sizeof(struct sync_feed *));
    for (size_t i = 0; i < plans->count; i++) {
        if (is_wanted(entities, count, plans->plan[i].name)) {
            run->feeds[run->count++] = sync_feed_start(engine, client, plans, &plans->plan[i], full,
                                                       on_progress, run);
            run->left++;
        }
    }
    return run;
}

static bool check_names(const struct sync_plans *plans, const char *const *entities, size_t count,
                        struct err *err)
{
    struct buf known;
    buf_init(&known, 1024);
    for (size_t i = 0; i < plans->count; i++) {
        buf_printf(&known, "%s%s", i ? " " : "", plans->plan[i].name);
    }
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        if (!sync_plan_named(plans, entities[i])) {
            ok = err_set(err, ERR_INPUT, "there is nothing called \"%s\" to copy; there are: %s",
                         entities[i], known.data);
        }
    }
    buf_fini(&known);
    return ok;
}

struct sync_run *sync_run_once(const struct engine *engine, const char *const *entities,
                               size_t count, bool full, sync_progress_fn *progress,
                               sync_done_fn *done, void *ctx, struct err *err)
{
    struct sync_client *client = sync_client_new(engine, err);
    struct sync_plans *plans = client ? sync_plans_load(engine, err) : NULL;
    if (!plans || !check_names(plans, entities, count, err)) {
        sync_plans_free(plans);
        sync_client_free(client);
        return NULL;
    }
    struct sync_run *run = run_start(engine, client, plans, entities, count, full);
    sync_plans_free(plans);
    run->own_client = true;
    run->progress = progress;
    run->done = done;
    run->ctx = ctx;
    return run;
}

/* ---- the role ---- */

static void tick(void *ctx);

static bool read_cron(const struct engine *engine, const char *name, struct cron *cron, bool *has,
                      struct err *err)
{
    const char *text = setting(engine->settings, name);
    *has = *text != '\0';
    return !*has || cron_parse(text, cron, err) || err_wrap(err, "%s", name);
}

static int64_t next_of(const struct sync *sync, bool has, const struct cron *cron, int64_t now)
{
    struct cron_fire next;
    return has && cron_next(cron, sync->zone, cron_steady(cron), now, &next) ? next.at : INT64_MAX;
}

/* What is planned never lies behind the next fire: the clock may have been set back since. */
static void plan_next(struct sync *sync, int64_t now)
{
    int64_t full = next_of(sync, sync->has_full, &sync->full, now);
    int64_t incremental = next_of(sync, sync->has_incremental, &sync->incremental, now);
    sync->full_due |= now >= sync->next_full;
    if (now >= sync->next_full || full < sync->next_full) {
        sync->next_full = full;
    }
    if (now >= sync->next_incremental || incremental < sync->next_incremental) {
        sync->next_incremental = incremental;
    }
}

static void on_run_done(void *ctx, const struct err *err)
{
    struct sync *sync = ctx;
    sync->run = NULL;
    if (err && err->code == ERR_CONFIG) {
        log_error("sync", "nothing can be copied", "reason", err->message, NULL);
    }
    loop_timer_set(sync->timer, 0);
}

static void begin_run(struct sync *sync, bool full)
{
    sync->full_due = full ? false : sync->full_due;
    sync->run = run_start(sync->engine, sync->client, sync->plans, NULL, 0, full);
    sync->run->done = on_run_done;
    sync->run->ctx = sync;
}

static void tick(void *ctx)
{
    struct sync *sync = ctx;
    int64_t now_us = clock_wall_us(), now = now_us / SECOND_US;
    bool due = now >= sync->next_incremental;
    plan_next(sync, now);
    if (!sync->run && (due || sync->full_due)) {
        begin_run(sync, sync->full_due);
    }
    int64_t next = sync->next_full < sync->next_incremental ? sync->next_full
                                                            : sync->next_incremental;
    int64_t rest = MAX_REST_MS; // the wall's clock may be set
    if (next != INT64_MAX && next - now < MAX_REST_MS / 1000) {
        rest = next * 1000 - now_us / 1000;
    }
    loop_timer_set(sync->timer, rest < 1 ? 1 : rest);
}

struct sync *sync_start(const struct engine *engine, struct err *err)
{
    struct sync *sync = xcalloc(1, sizeof(*sync));
    sync->engine = engine;
    const char *zone = getenv("TZ");
    sync->zone = zone && *zone && zone_exists(zone) ? zone : "UTC";
    bool ok = read_cron(engine, "SYNC_FULL_CRON", &sync->full, &sync->has_full, err) &&
              read_cron(engine, "SYNC_INCREMENTAL_CRON", &sync->incremental, &sync->has_incremental,
                        err);
    sync->client = ok ? sync_client_new(engine, err) : NULL;
    sync->plans = sync->client ? sync_plans_load(engine, err) : NULL;
    if (!sync->plans) {
        sync_client_free(sync->client);
        free(sync);
        return NULL;
    }
    int64_t now = clock_wall_us() / SECOND_US;
    sync->next_full = next_of(sync, sync->has_full, &sync->full, now);
    sync->next_incremental = now;
    sync->timer = loop_timer_new(engine->loop, tick, sync);
    sync->parents = sync_parents_start(engine, sync->client, sync->plans);
    loop_timer_set(sync->timer, 0);
    return sync;
}

void sync_stop(struct sync *sync)
{
    if (!sync) {
        return;
    }
    sync_run_cancel(sync->run);
    sync_parents_stop(sync->parents);
    loop_timer_free(sync->timer);
    sync_client_free(sync->client);
    sync_plans_free(sync->plans);
    free(sync);
}
