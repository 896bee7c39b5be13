/* execute_driver.c - a worker that only executes, for tests: `execute_driver URL LUA_DIR LEASE_MS`.
 *
 * Its actions are stand-ins that leave a row in the test's table `effects` and then do what their
 * `text` says: "fail", "hold", "hold MS", "later MS" (once), "slow MS", else done. It ends on
 * SIGTERM after what is under way, with 3 when its lease was lost. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/action.h"
#include "engine/execute.h"
#include "engine/worker.h"
#include "script/json.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct actions {
    const struct engine *engine;
};

struct action {
    struct actions *actions;
    action_done_fn *done;
    void *ctx;
    char text[64];
    struct loop_timer *timer;
    bool cancelled, waiting; /* for the database */
};

static struct driver {
    struct engine engine;
    struct execute *execute;
    struct actions actions;
    int status;
} driver;

static void action_free(struct action *a)
{
    loop_timer_free(a->timer);
    free(a);
}

static void finish(void *ctx)
{
    struct action *a = ctx;
    action_done_fn *done = a->done;
    void *to = a->ctx;
    bool fails = strcmp(a->text, "fail") == 0, holds = strncmp(a->text, "hold", 4) == 0;
    action_free(a);
    if (fails)
        done(to, ACTION_FAILED,
             xstrdup("{\"action\":\"sms.send\",\"code\":\"refused\",\"message\":\"no\","
                     "\"attempts\":1}"),
             NULL);
    else if (holds)
        done(to, ACTION_HELD,
             xstrdup("{\"code\":\"send_in_doubt\",\"message\":\"?\",\"can\":[\"sent\"]}"), NULL);
    else
        done(to, ACTION_DONE, xstrdup("{\"status\":\"sent\"}"), NULL);
}

static void written(void *ctx, const struct db_reply *reply)
{
    struct action *a = ctx;
    a->waiting = false;
    if (a->cancelled) {
        action_free(a);
        return;
    }
    action_done_fn *done = a->done;
    void *to = a->ctx;
    if (db_reply_outcome(reply) != DB_OK) {
        bool lost = db_reply_err(reply)->code == ERR_FENCE;
        action_free(a);
        done(to, lost ? ACTION_LOST : ACTION_SUSPENDED, xstrdup("database"), "now");
    } else if (db_rows(reply, 1) == 0) {
        action_free(a);
        done(to, ACTION_STOPPING, xstrdup(""), NULL);
    } else if (strncmp(a->text, "later ", 6) == 0 && db_int(reply, 1, 0, 0) == 1) {
        char *until = xstrdup(db_value(reply, 1, 0, 1));
        action_free(a);
        done(to, ACTION_SUSPENDED, xstrdup("quiet hours"), until);
        free(until);
    } else {
        bool later = strncmp(a->text, "slow ", 5) == 0 || strncmp(a->text, "hold ", 5) == 0;
        loop_timer_set(a->timer, later ? atoi(a->text + 5) : 0);
    }
}

void actions_rest(struct actions *actions)
{
    (void)actions;
}

struct action *action_start(struct actions *actions, const struct action_call *call,
                            action_done_fn *done, void *ctx)
{
    struct action *a = xcalloc(1, sizeof(*a));
    a->actions = actions;
    a->done = done;
    a->ctx = ctx;
    a->timer = loop_timer_new(actions->engine->loop, finish, a);
    struct err err;
    struct json *args = json_parse(call->args, call->args_len, &err);
    const char *text = args ? json_text(args, "text") : NULL;
    snprintf(a->text, sizeof(a->text), "%s", text ? text : "");
    json_free(args);
    const char *ms = strncmp(a->text, "later ", 6) == 0 ? a->text + 6 : "0";
    struct db_unit *unit = db_unit_new();
    worker_fence(actions->engine->worker, unit);
    db_unit_addv(unit,
                 "insert into effects (instance, step, name, text, due) "
                 "select $1::uuid, $2, $3, $4, $5 where not stop_pending($1::uuid) "
                 "returning (select count(*) + 1 from effects where instance = $1::uuid "
                 "and step = $2), clock_timestamp() + $6::int * interval '1 ms'",
                 6, call->instance, call->step, call->name, a->text, call->due, ms);
    a->waiting = true;
    pool_send(actions->engine->db, unit, written, a);
    return a;
}

void action_cancel(struct action *action)
{
    action->cancelled = true;
    if (!action->waiting)
        action_free(action);
}

/* ---- the worker ---- */

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

static void ready(void *ctx)
{
    (void)ctx;
    driver.execute = execute_start(&driver.engine, &driver.actions, lost, NULL);
    puts(worker_id(driver.engine.worker));
    fflush(stdout);
}

static void terminate(void *ctx)
{
    (void)ctx;
    if (driver.execute)
        execute_drain(driver.execute, stop, NULL);
    else
        loop_stop(driver.engine.loop);
}

int main(int argc, char **argv)
{
    must(argc == 4);
    signal(SIGPIPE, SIG_IGN);
    struct loop *loop = loop_new();
    const struct db_options options = {
        .url = argv[1], .prepare = !getenv("UNPREPARED"), .name = "execute_driver"};
    struct pool *pool = pool_new(loop, &options, 2);
    driver.engine = (struct engine){.loop = loop, .db = pool, .st = pool, .lua_dir = argv[2]};
    driver.engine.one_database = true;
    driver.actions.engine = &driver.engine;
    struct loop_signal *term = loop_signal_new(loop, SIGTERM, terminate, NULL);
    driver.engine.worker = worker_start_for(loop, pool, "workflow", atoi(argv[3]), ready, lost,
                                            NULL);
    loop_run(loop);
    if (driver.execute) {
        struct execute_stats s = execute_stats(driver.execute);
        printf("claimed %lld finished %lld steps %lld\n", (long long)s.claimed,
               (long long)s.finished, (long long)s.steps);
    }
    execute_stop(driver.execute);
    worker_stop(driver.engine.worker);
    struct loop_timer *end = loop_timer_new(loop, stop, NULL);
    loop_timer_set(end, 200);
    loop_run(loop);
    loop_timer_free(end);
    loop_signal_free(term);
    pool_free(pool);
    loop_free(loop);
    return driver.status;
}
