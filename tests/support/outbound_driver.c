/* outbound_driver.c - actions and webhooks alone, for tests: `outbound_driver URL LUA WORKFLOWS`.
 *
 * Settings come from the environment. It prints one line, "PORT WORKER", and then answers:
 * the webhooks' paths; POST /run {instance, run, step, name, args, options, event, workflow,
 * class, mode, now, due} with {verdict, text, until} when the action has been reported; POST
 * /cancel ends the action that runs; POST /reload. Ends on SIGTERM. */
#include "base/log.h"
#include "base/mem.h"
#include "engine/action.h"
#include "engine/hooks.h"
#include "engine/settings.h"
#include "engine/worker.h"
#include "script/json.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct driver {
    struct engine engine;
    struct http_server *http;
    struct hooks *hooks;
    struct actions *actions;
    struct action *action; // the newest one under way
    struct run *run;
    int status;
} driver;

struct run {
    struct http_request *request;
    struct action *action;
    struct json *doc; /* with the three parts of it, what the call is made of */
    char *args, *event, *options;
};

static void run_free(struct run *run)
{
    json_free(run->doc);
    free(run->args);
    free(run->event);
    free(run->options);
    free(run);
}

static void reply(struct http_request *request, int status, const char *text)
{
    http_reply(request, status, "application/json", text, strlen(text));
}

static void reported(void *ctx, enum action_verdict verdict, char *text, const char *until)
{
    static const char *const names[] = {"done",     "failed",   "suspended", "held",
                                        "stopping", "not_ours", "lost"};
    struct run *run = ctx;
    struct buf out;
    buf_init(&out, 64 << 20);
    buf_printf(&out, "{\"verdict\":\"%s\",\"text\":", names[verdict]);
    buf_json(&out, text, strlen(text));
    free(text);
    buf_adds(&out, ",\"until\":");
    buf_json(&out, until ? until : "", until ? strlen(until) : 0);
    buf_adds(&out, "}");
    if (driver.action == run->action) {
        driver.action = NULL;
    }
    reply(run->request, 200, out.data);
    buf_fini(&out);
    run_free(run);
}

static void start(void *ctx, const struct db_reply *held)
{
    struct run *run = ctx;
    struct json *doc = run->doc;
    int64_t number = 1;
    (void)held; /* if that failed, so will the intent */
    json_int(doc, "run", &number);
    run->args = json_encode(doc, "args");
    run->event = json_encode(doc, "event");
    run->options = json_encode(doc, "options");
    struct action_call call = {.instance = json_text(doc, "instance"),
                               .run = (int)number,
                               .step = json_text(doc, "step"),
                               .name = json_text(doc, "name"),
                               .args = run->args,
                               .args_len = strlen(run->args),
                               .options = run->options,
                               .event = slice_of(run->event),
                               .workflow = json_text(doc, "workflow"),
                               .class_ = json_text(doc, "class"),
                               .mode = json_text(doc, "mode"),
                               .now = json_text(doc, "now"),
                               .due = json_text(doc, "due")};
    driver.run = run;
    run->action = driver.action = action_start(driver.actions, &call, reported, run);
}

/* We hold the instance from now on, as after a claim. */
static void on_run(void *ctx, struct http_request *request)
{
    (void)ctx;
    size_t len;
    const char *body = http_body(request, &len);
    struct json *doc = json_parse(body, len, NULL);
    if (!doc) {
        reply(request, 400, "{}");
        return;
    }
    struct run *run = xcalloc(1, sizeof(*run));
    *run = (struct run){.request = request, .doc = doc};
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "insert into workflow_queue (instance_id, workflow_definition_id, worker, state) "
                 "values ($1, 0, $2, 'running') "
                 "on conflict (instance_id) do update set worker = excluded.worker",
                 2, json_text(doc, "instance"), worker_id(driver.engine.worker));
    pool_send(driver.engine.db, unit, start, run);
}

static void on_cancel(void *ctx, struct http_request *request)
{
    (void)ctx;
    if (driver.action) {
        action_cancel(driver.action);
        reply(driver.run->request, 200, "{\"verdict\":\"cancelled\",\"text\":\"\",\"until\":\"\"}");
        run_free(driver.run);
        driver.action = NULL;
    }
    reply(request, 200, "{}");
}

static void on_reload(void *ctx, struct http_request *request)
{
    (void)ctx;
    struct err err;
    bool ok = actions_use(driver.actions, NULL, &err);
    struct buf out;
    buf_init(&out, 1 << 16);
    buf_adds(&out, "{\"error\":");
    buf_json(&out, ok ? "" : err.message, ok ? 0 : strlen(err.message));
    buf_adds(&out, "}");
    reply(request, 200, out.data);
    buf_fini(&out);
}

static void stop(void *ctx)
{
    (void)ctx;
    loop_stop(driver.engine.loop);
}

static void lost(void *ctx)
{
    driver.status = 3;
    stop(ctx);
}

static void ready(void *ctx)
{
    (void)ctx;
    printf("%d %s\n", http_server_port(driver.http), worker_id(driver.engine.worker));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    must(argc == 4);
    struct err err = {0};
    struct engine *engine = &driver.engine;
    struct settings *settings = settings_load("/nonexistent/.env", &err);
    if (!settings) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    log_set_level(LOG_DEBUG);
    engine->loop = loop_new();
    engine->settings = settings;
    struct db_options options = {
        .url = argv[1], .prepare = !getenv("UNPREPARED"), .name = "outbound_driver"};
    engine->db = engine->st = pool_new(engine->loop, &options, 3);
    engine->one_database = true;
    options.prepare = false;
    engine->readonly = getenv("WITHOUT_READONLY") ? NULL : pool_new(engine->loop, &options, 1);
    engine->lua_dir = argv[2];
    engine->workflows_dir = argv[3];
    engine->fetcher = fetcher_new(engine->loop, &err);
    must(engine->fetcher != NULL);
    driver.http = http_server_new(engine->loop, "127.0.0.1", 0, &(struct http_limits){0}, &err);
    must(driver.http != NULL);
    engine->worker = worker_start_for(engine->loop, engine->db, "test",
                                      (int)setting_int(settings, "WORKER_LEASE_MS"), ready, lost,
                                      NULL);
    driver.actions = actions_start(engine, NULL, &err);
    if (!driver.actions) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    driver.hooks = hooks_start(engine, driver.http);
    http_route(driver.http, "POST", "/run", on_run, NULL);
    http_route(driver.http, "POST", "/cancel", on_cancel, NULL);
    http_route(driver.http, "POST", "/reload", on_reload, NULL);
    struct loop_signal *term = loop_signal_new(engine->loop, SIGTERM, stop, NULL);
    loop_run(engine->loop);
    loop_signal_free(term);
    hooks_stop(driver.hooks);
    http_server_free(driver.http);
    actions_stop(driver.actions);
    worker_stop(engine->worker);
    fetcher_free(engine->fetcher);
    pool_free(engine->db);
    if (engine->readonly) {
        pool_free(engine->readonly);
    }
    loop_free(engine->loop);
    settings_free(settings);
    return driver.status;
}
