/* role.c - one worker's life: what its role needs, around one event loop.
 *
 *     open --SIGTERM--> draining (no new work) --idle, or DRAIN_MS--> closing --written--> end
 *
 * sync copies; workflow detects, starts and runs under a lease; web answers; monitor looks after
 * the rest. */
#include "front/supervisor.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/approve.h"
#include "engine/hooks.h"
#include "engine/monitor.h"
#include "engine/retention.h"
#include "engine/page.h"
#include "engine/sync.h"
#include "engine/worker.h"
#include "front/role_workflow.h"
#include "front/web.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEARTBEAT_MS 4000 /* at most: a quarter of the silence that ends us */
#define CLOSE_MS 3000     /* for the last units, at the end */
#define LAGS 4            /* the lag of so many beats is shown: a quarter of a minute */
#define LOST_MS 10000     /* for the last answers, without a lease */

struct role {
    struct engine engine;
    const char *name;
    char *beat_path;
    struct loop_timer *beat, *end, *leave;
    struct loop_signal *term, *hup;
    struct http_server *http;
    struct hooks *hooks;
    struct web *web;
    struct approvals *approvals;
    struct monitor *monitor;
    struct retention *retention;
    struct sync *sync;
    struct workflow_role *workflow;
    struct worker *presence; /* the row of a role that holds no instances */
    int64_t lags[LAGS];
    int beats;
    bool draining, closing, told;
    int64_t closing_since, lost_since;
    int code;
};

static int64_t beat_ms(const struct settings *settings)
{
    int64_t ms = setting_int(settings, "WORKER_LEASE_MS") / 8;
    return ms < HEARTBEAT_MS ? ms : HEARTBEAT_MS;
}

static int64_t resident_bytes(void)
{
    long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%*s %lld", &pages) != 1)
        pages = 0;
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

/* What is not counted as it happens. */
static void count(struct role *r)
{
    struct figures *f = figures();
    struct pool_state db = pool_state(r->engine.db);
    struct pool_state st = r->engine.st != r->engine.db ? pool_state(r->engine.st)
                                                        : (struct pool_state){0, 0, 0};
    r->lags[r->beats++ % LAGS] = loop_lag_us(r->engine.loop);
    f->loop_lag_us = 0;
    for (int i = 0; i < LAGS; i++)
        f->loop_lag_us = r->lags[i] > f->loop_lag_us ? r->lags[i] : f->loop_lag_us;
    f->connections = db.connections + st.connections;
    f->connections_ready = db.ready + st.ready;
    f->units = db.in_flight + st.in_flight;
    f->resident_bytes = resident_bytes();
    if (r->workflow != NULL)
        workflow_role_count(r->workflow, f);
}

static void beat(void *ctx)
{
    struct role *r = ctx;
    int fd = open(r->beat_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || futimens(fd, NULL) != 0)
        log_error("role", "can't write the heartbeat", "file", r->beat_path, "error",
                  strerror(errno), NULL);
    if (fd >= 0)
        close(fd);
    page()->beat_ms = clock_mono_ms();
    if (r->engine.db != NULL)
        count(r);
    loop_timer_set(r->beat, beat_ms(r->engine.settings));
}

static void end(void *ctx)
{
    struct role *r = ctx;
    bool written = pool_in_flight(r->engine.db) == 0 && pool_in_flight(r->engine.st) == 0;
    if (r->closing && !written && clock_mono_ms() - r->closing_since < CLOSE_MS) {
        loop_timer_set(r->end, 10);
    } else if (r->closing && !r->told) { /* whoever waits for the last answers hears them first */
        r->told = true;
        loop_timer_set(r->end, 0);
    } else {
        loop_stop(r->engine.loop);
    }
}

static void drain(void *ctx)
{
    struct role *r = ctx;
    if (r->draining)
        return;
    r->draining = true;
    if (r->workflow == NULL) {
        loop_timer_set(r->end, 0);
        return;
    }
    loop_timer_set(r->end, setting_int(r->engine.settings, "DRAIN_MS"));
    workflow_role_drain(r->workflow, end, r);
}

static void reload(void *ctx)
{
    struct role *r = ctx;
    if (r->workflow != NULL)
        workflow_role_reload(r->workflow);
}

/* Another worker may hold our instances already: nothing is begun or closed any more. But what
 * became of the requests on the wire only we get to know, and it is written without a lease. Then
 * the supervisor starts a new life. */
static void lost(void *ctx)
{
    struct role *r = ctx;
    int64_t now = clock_mono_ms();
    if (r->leave == NULL) {
        log_error("role", "the lease is lost: this worker ends", NULL);
        r->leave = loop_timer_new(r->engine.loop, lost, r);
        r->lost_since = now;
    }
    if (r->workflow == NULL || !workflow_role_on_the_wire(r->workflow) ||
        now - r->lost_since > LOST_MS)
        _exit(EXIT_AGAIN);
    loop_timer_set(r->leave, 20);
}

static void refused(void *ctx, const struct err *err)
{
    struct role *r = ctx;
    front_fail(err);
    r->code = EXIT_CONFIG;
    loop_stop(r->engine.loop);
}

/* A role without instances loses nothing with its row: it makes another one. */
static void absent(void *ctx);

static void present(void *ctx)
{
    (void)ctx;
    page()->up = true;
}

static void be_present(struct role *r)
{
    int lease = (int)setting_int(r->engine.settings, "WORKER_LEASE_MS");
    r->presence = worker_start_for(r->engine.loop, r->engine.db, page()->role, lease, present,
                                   absent, r);
}

static void absent(void *ctx)
{
    struct role *r = ctx;
    worker_stop(r->presence);
    be_present(r);
}

static struct pool *open_pool(struct role *r, const char *url, int connections)
{
    char name[64];
    snprintf(name, sizeof(name), "moonwright %s", r->name);
    bool prepare = setting_on(r->engine.settings, "DATABASE_PREPARE");
    struct db_options options = {.url = url, .prepare = prepare, .name = name};
    return pool_new(r->engine.loop, &options, connections);
}

static void open_databases(struct role *r, bool workflow)
{
    const char *engine = setting(r->engine.settings, "DATABASE_URL");
    const char *st = setting(r->engine.settings, "SERVICETITAN_DATABASE_URL");
    const char *readonly = setting(r->engine.settings, "MOONWRIGHT_READONLY_URL");
    r->engine.one_database = st[0] == '\0' || strcmp(st, engine) == 0;
    r->engine.db = open_pool(r, engine, workflow ? 4 : 2);
    r->engine.st = r->engine.one_database ? r->engine.db : open_pool(r, st, 2);
    if (workflow && readonly[0] != '\0')
        r->engine.readonly = open_pool(r, readonly, 1);
}

static bool open_web(struct role *r, struct front *front, struct err *err)
{
    char host[256];
    int port;
    const struct http_limits limits = {0};
    const char *address = setting(r->engine.settings, "MOONWRIGHT_HTTP");
    must(setting_address(address, host, &port));
    r->http = http_server_new(r->engine.loop, host, port, &limits, err);
    if (r->http == NULL)
        return err_wrap(err, "MOONWRIGHT_HTTP is %s", address);
    r->web = web_start(&r->engine, r->http, front);
    r->hooks = hooks_start(&r->engine, r->http);
    r->approvals = approvals_start(&r->engine, r->http);
    log_info("web", "listening", "host", host, "port", log_int(http_server_port(r->http)), NULL);
    return true;
}

/* A setting that copying needs and that is empty, or NULL. */
static const char *sync_lacks(const struct settings *settings)
{
    int count;
    const struct setting_info *table = settings_table(&count);
    for (int i = 0; i < count; i++) {
        if (strcmp(table[i].needed_for, "sync") == 0 && setting(settings, table[i].name)[0] == '\0')
            return table[i].name;
    }
    return NULL;
}

static bool open_sync(struct role *r, struct err *err)
{
    const char *lacks = sync_lacks(r->engine.settings);
    if (lacks != NULL) {
        /* Everything else works without; `moonwright config` tells it too. */
        log_warn("sync", "nothing is copied from ServiceTitan: see `moonwright config`", "missing",
                 lacks, NULL);
        return true;
    }
    r->sync = sync_start(&r->engine, err);
    return r->sync != NULL;
}

static bool open_role(struct role *r, struct front *front, const char *role, struct err *err)
{
    bool workflow = strcmp(role, "workflow") == 0;
    r->engine.settings = front->settings;
    r->engine.lua_dir = front->lua_dir;
    r->engine.workflows_dir = front->workflows_dir;
    open_databases(r, workflow);
    r->engine.fetcher = fetcher_new(r->engine.loop, err);
    if (r->engine.fetcher == NULL)
        return false;
    if (workflow) {
        r->workflow = workflow_role_start(&r->engine, refused, lost, r);
        return true;
    }
    be_present(r);
    if (strcmp(role, "monitor") == 0) {
        r->monitor = monitor_start(&r->engine);
        r->retention = retention_start(&r->engine);
    } else if (strcmp(role, "web") == 0) {
        return open_web(r, front, err);
    } else
        return open_sync(r, err);
    return true;
}

/* Stages first, then what they stood on; between them the last units are waited for: outcomes,
 * cursors, the release of what was held. */
static void close_role(struct role *r)
{
    if (r->workflow != NULL)
        workflow_role_stop(r->workflow);
    r->workflow = NULL;
    if (r->sync != NULL)
        sync_stop(r->sync);
    if (r->http != NULL)
        http_server_free(r->http);
    web_stop(r->web);
    if (r->hooks != NULL)
        hooks_stop(r->hooks);
    approvals_stop(r->approvals);
    worker_stop(r->presence);
    monitor_stop(r->monitor);
    retention_stop(r->retention);
    if (pool_is_ready(r->engine.db)) {
        r->closing = true;
        r->closing_since = clock_mono_ms();
        loop_timer_set(r->end, 0);
        loop_run(r->engine.loop);
    }
    if (r->engine.fetcher != NULL)
        fetcher_free(r->engine.fetcher);
    if (r->engine.st != r->engine.db)
        pool_free(r->engine.st);
    if (r->engine.readonly != NULL)
        pool_free(r->engine.readonly);
    pool_free(r->engine.db);
}

int role_main(struct front *front, const char *role, const char *name)
{
    struct role r = {.name = name};
    struct err err;
    r.engine.loop = loop_new();
    r.engine.settings = front->settings;
    r.beat_path = xprintf("%s/heartbeat/%s", front->data_dir, name);
    r.beat = loop_timer_new(r.engine.loop, beat, &r);
    r.end = loop_timer_new(r.engine.loop, end, &r);
    r.term = loop_signal_new(r.engine.loop, SIGTERM, drain, &r);
    r.hup = loop_signal_new(r.engine.loop, SIGHUP, reload, &r);
    beat(&r);
    if (open_role(&r, front, role, &err)) {
        loop_run(r.engine.loop);
    } else {
        front_fail(&err);
        r.code = EXIT_CONFIG;
    }
    close_role(&r);
    loop_signal_free(r.term);
    loop_signal_free(r.hup);
    loop_timer_free(r.beat);
    loop_timer_free(r.end);
    loop_free(r.engine.loop);
    free(r.beat_path);
    return r.code;
}
