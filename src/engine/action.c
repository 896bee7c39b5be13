/* action.c - one action call of an instance: its Lua, and what that asks for.
 *
 *     running --asks--> op under way --answers--> running --returns--> reported
 *                            `--verdict (postponed, held, stopping, lost)--> reported
 *
 * The action VM is made anew by actions_use; a call goes on in the one it began in, which is
 * freed with its last call. An action is freed when it has been reported or cancelled; its op
 * outlives it until what it knows is written. */
#include "engine/outbound.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/settings.h"
#include "engine/worker.h"
#include "io/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MEMORY = 64 << 20, BURST_MS = 100, TOTAL_MS = 2000, UNIT_RETRY_MS = 500 };
enum { INTENT_YOUNG_MS = 5000, RETRIES = 8, CROWD_S = 10 };

struct generation { // a VM with the files it was made from
    struct vm *vm;
    int calls;
};

struct actions {
    const struct engine *engine;
    struct limits *limits;
    struct generation *newest;
    bool live;
    struct op *ops;
    struct action *all;
};

struct action {
    struct actions *actions;
    struct action *next, *prev;
    struct generation *generation;
    struct task *task;       // NULL when it has returned
    struct op *op;           // what its Lua waits for
    struct action_call call; // its texts are lent by whoever started it
    action_done_fn *done;
    void *ctx;
    // what is to be reported, from the loop
    enum action_verdict verdict;
    bool reporting;
    char *text, *until;
    char *owner; // lent to its Lua
};

// ---- the VM ----------------------------------------------------------------------------------

static struct generation *generation_new(const struct engine *engine, const char *files,
                                         struct err *err)
{
    struct vm_options options = {"action", engine->lua_dir, MEMORY, BURST_MS, TOTAL_MS};
    char *own = files ? NULL : action_sources(engine, err);
    if (!files && !own) {
        return NULL;
    }
    char *bundle = action_bundle(engine, files ? files : own);
    struct generation *generation = xcalloc(1, sizeof(*generation));
    generation->vm = vm_new(engine->loop, &options, err);
    struct slice arg = slice_of(bundle);
    if (!generation->vm || !vm_call(generation->vm, "load", &arg, 1, NULL, err)) {
        vm_free(generation->vm);
        free(generation);
        generation = NULL;
    }
    free(bundle);
    free(own);
    return generation;
}

static void generation_drop(struct generation *generation)
{
    if (generation && generation->calls == 0) {
        vm_free(generation->vm);
        free(generation);
    }
}

bool actions_check(const struct engine *engine, const char *files, struct err *err)
{
    struct generation *generation = generation_new(engine, files, err);
    bool ok = generation;
    generation_drop(generation);
    return ok;
}

struct actions *actions_start(const struct engine *engine, const char *files, struct err *err)
{
    struct generation *generation = generation_new(engine, files, err);
    if (!generation) {
        return NULL;
    }
    struct actions *actions = xcalloc(1, sizeof(*actions));
    actions->engine = engine;
    actions->newest = generation;
    actions->limits = limits_new(engine);
    actions->live = !*setting(engine->settings, "MOONWRIGHT_LIVE") ||
                    setting_on(engine->settings, "MOONWRIGHT_LIVE");
    return actions;
}

bool actions_use(struct actions *actions, const char *files, struct err *err)
{
    struct generation *generation = generation_new(actions->engine, files, err);
    if (!generation) {
        return false; // the old one goes on
    }
    struct generation *old = actions->newest;
    actions->newest = generation;
    generation_drop(old);
    return true;
}

void actions_rest(struct actions *actions)
{
    vm_rest(actions->newest->vm);
}

bool actions_on_the_wire(const struct actions *actions)
{
    for (const struct op *op = actions->ops; op; op = op->next) {
        if (op->fetch || op->more) {
            return true;
        }
    }
    return false;
}

void actions_stop(struct actions *actions)
{
    if (!actions) {
        return;
    }
    while (actions->all) {
        action_cancel(actions->all);
    }
    for (struct op *op = actions->ops, *next; op; op = next) {
        next = op->next;
        op->actions = NULL;
        op->next = op->prev = NULL;
        bool idle = op->wait || op->fetch || (op->timer && loop_timer_armed(op->timer));
        if (op->wait) {
            limit_cancel(op->wait);
        }
        if (op->fetch) {
            fetch_cancel(op->fetch); // its outcome stays in doubt, and is looked for
        }
        op->wait = NULL;
        op->fetch = NULL;
        if (idle) {
            op_free(op);
        }
    }
    limits_free(actions->limits);
    generation_drop(actions->newest);
    free(actions);
}

// ---- one action ------------------------------------------------------------------------------

static void action_free(struct action *action)
{
    struct generation *generation = action->generation;
    if (action->task) {
        task_cancel(action->task);
    }
    if (action->op) {
        action->op->action = NULL;
    }
    if (action->reporting) {
        loop_undefer(action->actions->engine->loop, action);
    }
    if (action->prev) {
        action->prev->next = action->next;
    } else {
        action->actions->all = action->next;
    }
    if (action->next) {
        action->next->prev = action->prev;
    }
    if (--generation->calls == 0 && generation != action->actions->newest) {
        generation_drop(generation);
    }
    free(action->text);
    free(action->until);
    free(action->owner);
    free(action);
}

static void report(void *ctx)
{
    struct action *action = ctx;
    action_done_fn *done = action->done;
    void *done_ctx = action->ctx;
    enum action_verdict verdict = action->verdict;
    char *text = action->text, *until = action->until;
    action->text = action->until = NULL;
    action->reporting = false;
    action_free(action);
    done(done_ctx, verdict, text, until);
    free(until);
}

// The verdict is reported from the loop, with nothing of ours on the stack.
static void finish_with(struct action *action, enum action_verdict verdict, const char *text,
                        size_t len)
{
    action->verdict = verdict;
    action->text = xstrndup(text, len);
    action->reporting = true;
    loop_next(action->actions->engine->loop, report, action);
}

static void finish(struct action *action, enum action_verdict verdict, const char *text,
                   const char *until)
{
    action->until = until ? xstrdup(until) : NULL;
    finish_with(action, verdict, text ? text : "", text ? strlen(text) : 0);
}

static const struct {
    const char *kind;
    void (*start)(struct op *op);
} kinds[] = {
    {"message", message_start},
    {"call", call_start},
    {"settle", call_settle},
    {"query", query_start},
};

// What the Lua of a suspended or held step said itself: {seconds, reason} or {reason}.
static bool ends_itself(struct action *action, const char *kind, const char *text, size_t len)
{
    bool suspend = strcmp(kind, "suspend") == 0;
    if (!suspend && strcmp(kind, "hold") != 0) {
        return false;
    }
    struct json *doc = json_parse(text, len, NULL);
    const char *seconds = doc ? json_text(doc, "seconds") : NULL;
    char *reason = doc ? json_encode(doc, "reason") : NULL;
    char *until = suspend ? op_soon(action->actions->engine, seconds ? atof(seconds) : 1) : NULL;
    const char *why = suspend && doc ? json_text(doc, "reason") : reason;
    task_cancel(action->task);
    action->task = NULL;
    finish(action, suspend ? ACTION_SUSPENDED : ACTION_HELD, why, until);
    free(until);
    free(reason);
    json_free(doc);
    return true;
}

static void posted(void *ctx, struct task *task, const struct slice *args, size_t nargs)
{
    struct action *action = ctx;
    must(nargs == 3 && action->op == NULL);
    (void)task;
    if (ends_itself(action, args[0].data, args[2].data, args[2].len)) {
        return;
    }
    struct op *op = xcalloc(1, sizeof(*op));
    struct actions *actions = action->actions;
    op->actions = actions;
    op->action = action;
    action->op = op;
    op->next = actions->ops;
    if (op->next) {
        op->next->prev = op;
    }
    actions->ops = op;
    op->id = xstrndup(args[1].data, args[1].len);
    op->ask = xstrndup(args[2].data, args[2].len);
    op->key = action_key(actions->engine, actions->live, &action->call);
    op->doc = json_parse(op->ask, args[2].len, NULL);
    must(op->doc != NULL); // lua/action.lua encoded it
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(kinds[i].kind, args[0].data) == 0) {
            kinds[i].start(op);
            return;
        }
    }
    must(!"an action asks for something unknown");
}

// The action's Lua returns the JSON of its value, or that of an error behind a "!".
static void task_ended(void *ctx, struct task *task, enum task_status status, const char *result,
                       size_t len)
{
    struct action *action = ctx;
    (void)task;
    action->task = NULL;
    if (status == TASK_RETURNED && *result == '!') {
        finish_with(action, ACTION_FAILED, result + 1, len - 1);
    } else if (status == TASK_RETURNED && len > 0) {
        finish_with(action, ACTION_DONE, result, len);
    } else { // our own or the company's Lua is wrong: a person repairs it and resumes here
        struct buf why;
        buf_init(&why, 16 << 10);
        buf_adds(&why, "{\"code\":\"action_error\",\"message\":");
        buf_json(&why, result, len > 4000 ? 4000 : len);
        buf_adds(&why, ",\"can\":[\"resume\",\"cancel\"]}");
        log_error("action", "action raised", "action", action->call.name, "instance",
                  action->call.instance, "error", result, NULL);
        finish(action, ACTION_HELD, why.data, NULL);
        buf_fini(&why);
    }
}

static struct slice lend(void *ctx, const char *name)
{
    struct action *action = ctx;
    return action_lend(&action->call, name, &action->owner);
}

struct action *action_start(struct actions *actions, const struct action_call *call,
                            action_done_fn *done, void *ctx)
{
    struct action *action = xcalloc(1, sizeof(*action));
    action->actions = actions;
    action->generation = actions->newest;
    action->generation->calls++;
    action->next = actions->all;
    if (action->next) {
        action->next->prev = action;
    }
    actions->all = action;
    action->call = *call;
    action->done = done;
    action->ctx = ctx;
    static const struct task_owner owner = {posted, task_ended, lend};
    bool shadow = !actions->live || !call->mode || strcmp(call->mode, "live") != 0;
    struct slice args[] = {
        slice_of(call->name), slice_of(shadow ? "shadow" : NULL), {call->args, call->args_len}};
    action->task = task_start(action->generation->vm, "run", args, ARRAY_LEN(args), &owner, action);
    task_blame(action->task, action->call.instance);
    return action;
}

void action_cancel(struct action *action)
{
    action_free(action);
}

// ---- ops -------------------------------------------------------------------------------------

const struct action_call *op_call(const struct op *op)
{
    return op->action ? &op->action->call : NULL;
}

const struct engine *op_engine(const struct op *op)
{
    return op->actions->engine;
}

bool op_is_live(const struct op *op)
{
    return op->actions->live;
}

struct limits *op_limits(const struct op *op)
{
    return op->actions->limits;
}

void op_free(struct op *op)
{
    if (op->actions) {
        if (op->prev) {
            op->prev->next = op->next;
        } else {
            op->actions->ops = op->next;
        }
        if (op->next) {
            op->next->prev = op->prev;
        }
    }
    if (op->action) {
        op->action->op = NULL;
    }
    loop_timer_free(op->timer);
    json_free(op->doc);
    free(op->id);
    free(op->ask);
    free(op->key);
    free(op->ledger_id);
    free(op->text);
    free(op->more);
    free(op);
}

void op_answer(struct op *op, const char *status, const char *json)
{
    if (op->action) {
        struct slice args[] = {slice_of(op->id), slice_of(status), slice_of(json)};
        task_resume(op->action->task, args, 3);
    }
    op_free(op);
}

void op_fail(struct op *op, const char *code, int http_status, const char *format, ...)
{
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    struct buf out;
    buf_init(&out, 16 << 10);
    buf_printf(&out, "{\"code\":\"%s\",\"attempts\":%d", code, op->tries + 1);
    if (http_status > 0) {
        buf_printf(&out, ",\"status\":%d", http_status);
    }
    buf_adds(&out, ",\"message\":");
    buf_json(&out, message, strlen(message));
    buf_adds(&out, "}");
    op_answer(op, "error", out.data);
    buf_fini(&out);
}

void op_end(struct op *op, enum action_verdict verdict, const char *text, const char *until)
{
    struct action *action = op->action;
    if (action) {
        task_cancel(action->task);
        action->task = NULL;
        finish(action, verdict, text, until);
    }
    op_free(op);
}

void op_take_token(struct op *op, loop_fn *fn)
{
    if (!op->action) {
        op_free(op);
    } else if (limit_is_crowded(op_limits(op), op->provider)) {
        char *why = xprintf("many wait for %s's rate limit", op->provider);
        char *until = op_soon(op_engine(op), CROWD_S + arc4random_uniform(CROWD_S * 1000) / 1000.0);
        op_end(op, ACTION_SUSPENDED, why, until);
        free(why);
        free(until);
    } else {
        op->wait = limit_take(op_limits(op), op->provider, fn, op);
    }
}

static void op_tick(void *ctx)
{
    struct op *op = ctx;
    op->step(op);
}

void op_later(struct op *op, int64_t ms, void (*step)(struct op *op))
{
    if (!op->timer) {
        op->timer = loop_timer_new(op_engine(op)->loop, op_tick, op);
    }
    op->step = step;
    loop_timer_set(op->timer, ms);
}

void op_unit_failed(struct op *op, const struct db_reply *reply, void (*again)(struct op *op))
{
    const struct err *err = db_reply_err(reply);
    // Our own unit, which we were not told of, may have written it just now: then it is read.
    bool met = !op->met && strcmp(err->sqlstate, "23505") == 0;
    op->met |= met;
    if (err->code == ERR_FENCE) {
        op_end(op, ACTION_LOST, "", NULL);
    } else if (db_reply_outcome(reply) == DB_FAILED && !err_passes(err) && !met) {
        op_fail(op, "database", 0, "%s", err->message);
    } else if (!op->action) {
        op_free(op);
    } else {
        op_later(op, UNIT_RETRY_MS, again);
    }
}

struct db_unit *op_unit(const struct op *op)
{
    struct db_unit *unit = db_unit_new();
    if (op_engine(op)->worker) {
        worker_fence(op_engine(op)->worker, unit);
    }
    return unit;
}

const char *op_holder(const struct op *op)
{
    return op_engine(op)->worker ? worker_id(op_engine(op)->worker) : NULL;
}

void op_send(struct op *op, struct db_unit *unit, db_done_fn *done)
{
    pool_send(op_engine(op)->db, unit, done, op);
}

void op_new_id(struct op *op)
{
    free(op->ledger_id);
    op->ledger_id = xcalloc(1, 37);
    uuid_v7(op->ledger_id);
    op->intent_ms = clock_mono_ms();
}

bool op_gate(void *ctx)
{
    const struct op *op = ctx;
    return op->actions && clock_mono_ms() - op->intent_ms < INTENT_YOUNG_MS &&
           (!op_engine(op)->worker || worker_may_send(op_engine(op)->worker));
}

// The length of the UTF-8 sequence at text, 0 when it is none.
static size_t sequence(const unsigned char *text, size_t left)
{
    size_t n = text[0] < 0x80                       ? 1
               : text[0] >= 0xc2 && text[0] <= 0xdf ? 2
               : text[0] >= 0xe0 && text[0] <= 0xef ? 3
               : text[0] >= 0xf0 && text[0] <= 0xf4 ? 4
                                                    : 0;
    if (n > left || (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
        (text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f)) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return n;
}

char *op_utf8(const char *text, size_t len)
{
    char *out = xstrndup(text, len);
    for (size_t at = 0; at < len;) {
        size_t n = sequence((const unsigned char *)text + at, len - at);
        if (n == 0) {
            out[at] = '?';
        }
        at += n ? n : 1;
    }
    return out;
}

bool op_may_try_again(struct op *op)
{
    int64_t retries = RETRIES;
    json_int(op->doc, "retries", &retries);
    bool may = op->action && op->tries < retries;
    op->tries += may;
    return may;
}

int op_timeout_ms(const struct op *op)
{
    int64_t ms = 0; // as fetch has it
    json_int(op->doc, "timeout_ms", &ms);
    return (int)ms;
}
