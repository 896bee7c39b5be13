/* sync_driver.c - sync alone, without the rest of the program, for tests/e2e/test_sync.py.
 *
 *     sync_driver once [--full] [feed...]     one run; the exit status says how it ended
 *     sync_driver role                        the role, until it is terminated
 *
 * With UNPREPARED in the environment no statement is prepared, as behind a pooler. Prints a line
 * per page: "feed state pages rows written rejected". */
#include "base/log.h"
#include "engine/settings.h"
#include "engine/sync.h"
#include "script/vm.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct driver {
    struct loop *loop;
    int status;
};

static void on_progress(void *ctx, const struct sync_progress *p)
{
    static const char *const states[] = {"running", "done", "failed", "yielded"};
    (void)ctx;
    printf("%s %s %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", p->entity, states[p->state],
           p->pages, p->rows, p->written, p->rejected);
    fflush(stdout);
}

static void on_done(void *ctx, const struct err *err)
{
    struct driver *driver = ctx;
    if (err) {
        fprintf(stderr, "failed: %s\n", err->message);
        driver->status = 1;
    }
    loop_stop(driver->loop);
}

static void on_term(void *ctx)
{
    struct driver *driver = ctx;
    loop_stop(driver->loop);
}

static int usage(const struct err *err)
{
    fprintf(stderr, "failed: %s\n", err->message);
    return 2;
}

int main(int argc, char **argv)
{
    struct err err;
    struct settings *settings = settings_load("/nonexistent", &err);
    if (!settings || argc < 2) {
        return usage(&err);
    }
    struct driver driver = {.loop = loop_new()};
    struct db_options options = {.url = setting(settings, "DATABASE_URL"),
                                 .prepare = !getenv("UNPREPARED"),
                                 .name = "sync driver"};
    struct pool *pool = pool_new(driver.loop, &options, 4);
    struct engine engine = {.loop = driver.loop,
                            .settings = settings,
                            .db = pool,
                            .st = pool,
                            .one_database = true,
                            .fetcher = fetcher_new(driver.loop, &err),
                            .lua_dir = LUA_DIR};
    struct loop_signal *term = loop_signal_new(driver.loop, SIGTERM, on_term, &driver);
    struct sync *role = NULL;
    bool full = argc > 2 && strcmp(argv[2], "--full") == 0;
    if (strcmp(argv[1], "role") == 0) {
        role = sync_start(&engine, &err);
        if (!role) {
            return usage(&err);
        }
    } else if (!sync_run_once(&engine, (const char *const *)argv + 2 + full,
                              (size_t)(argc - 2 - full), full, on_progress, on_done, &driver,
                              &err)) {
        return usage(&err);
    }
    loop_run(driver.loop);
    sync_stop(role);
    fetcher_free(engine.fetcher);
    pool_free(pool);
    loop_defer(driver.loop, on_term, &driver); // after what the pool tells those who wait for it
    loop_run(driver.loop);
    loop_signal_free(term);
    loop_free(driver.loop);
    settings_free(settings);
    return driver.status;
}
