/* cmd_sync.c - `moonwright sync`: one run now, with its progress, side by side with the sync role.
 */
#include "front/ask.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/sync.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ENTITIES_MAX 64

struct fetching {
    struct loop *loop;
    struct err err;
    bool failed, terminal, json;
    int told; /* entities, of the JSON */
};

static void on_progress(void *ctx, const struct sync_progress *progress)
{
    static const char *const words[] = {"...", "done", "failed", "goes on in another run"};
    struct fetching *fetching = ctx;
    if (progress->state == SYNC_RUNNING && !fetching->terminal)
        return;
    if (fetching->json) {
        static const char *const states[] = {"running", "done", "failed", "goes_on"};
        printf("%s{\"entity\": \"%s\", \"rows\": %lld, \"written\": %lld, \"refused\": %lld, "
               "\"state\": \"%s\"}",
               fetching->told++ > 0 ? ", " : "", progress->entity, (long long)progress->rows,
               (long long)progress->written, (long long)progress->rejected,
               states[progress->state]);
        return;
    }
    if (progress->state == SYNC_FAILED && progress->rows == 0)
        return; /* the reason is told at the end */
    printf("%s%-20s %8lld rows, %lld written, %lld refused  %s%s",
           fetching->terminal ? "\r\033[K" : "", progress->entity, (long long)progress->rows,
           (long long)progress->written, (long long)progress->rejected, words[progress->state],
           progress->state == SYNC_RUNNING ? "" : "\n");
    fflush(stdout);
}

static void on_done(void *ctx, const struct err *err)
{
    struct fetching *fetching = ctx;
    fetching->failed = err != NULL;
    if (err != NULL)
        fetching->err = *err;
    loop_stop(fetching->loop);
}

static struct pool *open_pool(struct loop *loop, const char *url, bool prepare)
{
    struct db_options options = {.url = url, .prepare = prepare, .name = "moonwright sync"};
    return pool_new(loop, &options, 2);
}

static int sync_now(struct front *front, const struct args *args)
{
    const char *entities[ENTITIES_MAX];
    size_t count = (size_t)args->count;
    struct fetching fetching = {.json = args_has(args, "--json")};
    fetching.terminal = !fetching.json && isatty(1);
    if (count > ENTITIES_MAX)
        return front_usage(args, "so many entities there aren't");
    for (size_t i = 0; i < count; i++)
        entities[i] = args->words[i];
    if (strcmp(setting(front->settings, "MOONWRIGHT_LOG_LEVEL"), "debug") != 0)
        log_set_level(LOG_WARN); /* somebody waits: what it waits for is worth a line */
    struct loop *loop = fetching.loop = loop_new();
    const char *url = setting(front->settings, "DATABASE_URL");
    const char *st = setting(front->settings, "SERVICETITAN_DATABASE_URL");
    struct engine engine = {.loop = loop,
                            .settings = front->settings,
                            .lua_dir = front->lua_dir,
                            .workflows_dir = front->workflows_dir};
    engine.one_database = st[0] == '\0' || strcmp(st, url) == 0;
    bool prepare = setting_on(front->settings, "DATABASE_PREPARE");
    engine.db = open_pool(loop, url, prepare);
    engine.st = engine.one_database ? engine.db : open_pool(loop, st, prepare);
    engine.fetcher = fetcher_new(loop, &fetching.err);
    struct sync_run *run = NULL;
    if (fetching.json)
        printf("{\"entities\": [");
    if (engine.fetcher != NULL)
        run = sync_run_once(&engine, entities, count, args_has(args, "--full"), on_progress,
                            on_done, &fetching, &fetching.err);
    if (run != NULL)
        loop_run(loop);
    if (engine.fetcher != NULL)
        fetcher_free(engine.fetcher);
    if (!engine.one_database)
        pool_free(engine.st);
    pool_free(engine.db);
    loop_free(loop);
    if (fetching.json)
        printf("]}\n");
    return run == NULL || fetching.failed ? front_fail(&fetching.err) : EXIT_OK;
}

static const struct option options[] = {
    {"--full", NULL, "everything, not only what has changed"}, OPTION_JSON, {0}};
static const struct verb verbs[] = {
    {NULL, "[ENTITY...]", "fetch from ServiceTitan now: all, or these", options, NULL, sync_now},
    {0}};

const struct command command_sync = {"sync", "fetch from ServiceTitan now", verbs, true};
