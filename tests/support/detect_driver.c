/* detect_driver.c - a worker that only detects, for tests: `detect_driver URL ST_URL LUA
 * WORKFLOWS`.
 *
 * With the same URL twice there is one database. It says "refused: ..." for each refused file and
 * "in force" whenever a set of files is, and ends on SIGTERM, with 3 when its lease was lost. */
#include "base/err.h"
#include "base/log.h"
#include "engine/detect.h"
#include "engine/settings.h"
#include "engine/versions.h"
#include "engine/worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct driver {
    struct engine engine;
    struct detect *detect;
    struct versions *versions;
    int status;
} driver;

static void stop(void *ctx)
{
    (void)ctx;
    loop_stop(driver.engine.loop);
}

static void lost(void *ctx)
{
    (void)ctx;
    driver.status = 3;
    loop_stop(driver.engine.loop);
}

static void active(void *ctx, struct vm *vm, int64_t stamp)
{
    (void)ctx;
    detect_use(driver.detect, vm, stamp);
    size_t count;
    const struct versions_refusal *refused = versions_refused(driver.versions, &count);
    for (size_t i = 0; i < count; i++)
        printf("refused: %s\n", refused[i].message);
    puts("in force");
    fflush(stdout);
}

static void ready(void *ctx)
{
    (void)ctx;
    static const struct versions_events events = {.active = active};
    struct err err;
    driver.detect = detect_start(&driver.engine, lost, NULL, NULL);
    driver.versions = versions_start(&driver.engine, &events, &err);
    if (!driver.versions) {
        fprintf(stderr, "%s\n", err.message);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    must(argc == 5);
    signal(SIGPIPE, SIG_IGN);
    struct loop *loop = loop_new();
    struct err err;
    struct settings *settings = settings_load("/nonexistent/.env", &err);
    must(settings);
    bool prepare = !getenv("UNPREPARED");
    const struct db_options db = {.url = argv[1], .prepare = prepare, .name = "detect_driver"};
    const struct db_options st = {.url = argv[2], .prepare = prepare, .name = "detect_driver"};
    struct pool *pool = pool_new(loop, &db, 2);
    bool one = strcmp(argv[1], argv[2]) == 0;
    struct pool *st_pool = one ? pool : pool_new(loop, &st, 2);
    driver.engine = (struct engine){.loop = loop,
                                    .settings = settings,
                                    .db = pool,
                                    .st = st_pool,
                                    .one_database = one,
                                    .lua_dir = argv[3],
                                    .workflows_dir = argv[4]};
    struct loop_signal *term = loop_signal_new(loop, SIGTERM, stop, NULL);
    driver.engine.worker = worker_start_for(loop, pool, "workflow", 30000, ready, lost, NULL);
    loop_run(loop);
    versions_stop(driver.versions);
    if (driver.detect) {
        struct detect_stats s = detect_stats(driver.detect);
        printf("changes %lld events %lld started %lld\n", (long long)s.changes, (long long)s.events,
               (long long)s.started);
    }
    detect_stop(driver.detect);
    worker_stop(driver.engine.worker);
    struct loop_timer *end = loop_timer_new(loop, stop, NULL);
    loop_timer_set(end, 200);
    loop_run(loop);
    loop_timer_free(end);
    loop_signal_free(term);
    if (!one)
        pool_free(st_pool);
    pool_free(pool);
    loop_free(loop);
    settings_free(settings);
    return driver.status;
}
