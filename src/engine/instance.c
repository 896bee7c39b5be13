/* instance.c - one instance under way: its body (a task), what the body asked for, and its end.
 *
 *     loading --body is there--> running --nothing but waits left--> leaving --written--> gone
 *                                   |  ^                                ^
 *            a stop that is ours    v  | on_stop                        | stuck, ended
 *                                 halting --what is on the wire is recorded--+
 *
 * A request is what the body asked for: held until it may begin, acting (an action), writing (a
 * note), waiting, judged. Nothing begins while a stop is decided on or the instance is leaving;
 * what has begun is awaited and recorded first. Only when the last of it is written is the task
 * dropped and the instance given back. Requests and how they begin are in request.c. */
#include "engine/instance_parts.h"

#include "base/buf.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/mark.h"
#include "base/mem.h"
#include "engine/figures.h"
#include "script/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct task_owner owner;

/* ---- leaving ---- */

void instance_gone(struct instance *in, bool finished)
{
    struct instance_host *host = in->host;
    host->gone(host->ctx, in, finished);
    instance_free(in);
}

static void left(struct note *note)
{
    struct instance *in = note->ctx;
    in->notes--;
    if (note->result == NOTE_REFUSED && note->kind == NOTE_FINISH) {
        in->left = false;
        instance_leave_stuck(in, "record_failed", note->error);
        instance_pump(in);
        return;
    }
    if (note->result == NOTE_REFUSED && !in->refused) {
        in->refused = true;
        in->left = false;
        instance_leave_stuck(in, "release_failed", note->error);
        instance_pump(in);
        return;
    }
    if (note->result == NOTE_REFUSED)
        log_error("execute", "an instance could not be given back; its worker's end frees it",
                  "instance", in->id, "error", note->error, NULL);
    instance_gone(in, note->kind == NOTE_FINISH);
}

/* The first reason to leave counts, but for being stuck, which outranks a wait. */
void instance_leave(struct instance *in, enum note_kind kind, char *json)
{
    if (in->leaving && (in->leaving_kind == NOTE_FINISH || kind == NOTE_RELEASE)) {
        free(json);
        return;
    }
    free(in->leaving_json);
    in->leaving = true;
    in->leaving_kind = kind;
    in->leaving_json = json;
}

void instance_leave_with_reason(struct instance *in, const char *state, const char *due,
                                const char *reason)
{
    char *json = xprintf("\"state\":\"%s\",\"due\":%s%s%s,\"reason\":%s", state, due ? "\"" : "",
                         due ? due : "null", due ? "\"" : "", reason);
    bool stuck = strcmp(state, "stuck") == 0;
    figures()->stages[STAGE_EXECUTE].failed += stuck;
    if (stuck && in->leaving && in->leaving_kind == NOTE_RELEASE)
        in->leaving = false;
    instance_leave(in, NOTE_RELEASE, json);
}

void instance_leave_stuck(struct instance *in, const char *code, const char *message)
{
    struct buf reason;
    buf_init(&reason, 64 << 10);
    buf_printf(&reason, "{\"code\":\"%s\",\"message\":", code);
    buf_json(&reason, message, strnlen(message, 16 << 10));
    buf_adds(&reason, ",\"can\":[\"retry\",\"cancel\"]}");
    instance_warn(in, "stuck", code, message);
    in->leaving = false;
    instance_leave_with_reason(in, "stuck", NULL, reason.data);
    buf_fini(&reason);
}

static bool awaits_event(const struct instance *in)
{
    for (const struct request *r = in->requests; r; r = r->next) {
        if (r->kind == REQUEST_WAIT)
            return true;
    }
    return false;
}

static void leave_now(struct instance *in)
{
    struct note *note = note_new(in->leaving_kind, in->id, in);
    note->json = in->leaving_json;
    note->flow = in->flow > 0;
    note->gated = note->flow ||
                  (in->leaving_kind == NOTE_RELEASE && (in->watched || awaits_event(in)));
    note->done = left;
    note->ctx = in;
    in->leaving_json = NULL;
    in->leaving = false;
    in->left = true;
    instance_drop_task(in);
    in->notes++;
    journal_add(in->host->journal, note);
}

void instance_drop_task(struct instance *in)
{
    if (in->task)
        task_cancel(in->task);
    in->task = NULL;
    in->turns = in->expected = 0;
    while (in->requests) {
        request_free(in->requests);
    }
}

/* ---- stops ---- */

static void start_body(struct instance *in, const char *phase, const char *by);

/* {"state", "reason"} of an instance that is stopped by an event of this name. */
static char *stopped_json(const char *name)
{
    struct buf out;
    buf_init(&out, 4096);
    buf_printf(&out, "\"state\":\"%s\",\"reason\":",
               strcmp(name, "cancelled") == 0 ? "cancelled" : "stopped");
    buf_json(&out, name, strlen(name));
    return buf_take(&out);
}

static void stopping_written(struct note *note)
{
    struct instance *in = note->ctx;
    in->notes--;
    if (note->result != NOTE_DONE) {
        instance_gone(in, false);
        return;
    }
    in->stopping = true;
    if (in->body->undoes) { /* what there is to undo comes from the whole record: it is read anew */
        instance_leave(in, NOTE_RELEASE, xstrdup("\"state\":\"pending\",\"due\":\"now\""));
        instance_pump(in);
        return;
    }
    start_body(in, "on_stop", in->halt->payload);
}

/* Nothing of the body is under way any more: on_stop, or the end. */
static void halt_now(struct instance *in)
{
    struct candidate *by = in->halt;
    struct err err;
    struct json *json = json_parse(by->payload, strlen(by->payload), &err);
    const char *name = json ? json_text(json, "name") : NULL;
    name = name ? name : "stop";
    instance_drop_task(in);
    in->halting = false;
    in->leaving = false; /* a stop ends one that would be stuck or wait, too */
    free(in->leaving_json);
    in->leaving_json = NULL;
    if (strcmp(name, "paused") == 0) {
        instance_leave_with_reason(in, "paused", NULL,
                                   "{\"code\":\"paused\",\"message\":\"paused by a person\","
                                   "\"can\":[\"resume\",\"cancel\"]}");
    } else if (!in->body->on_stop && !in->body->undoes) {
        instance_leave(in, NOTE_FINISH, stopped_json(name));
    } else {
        struct buf reason;
        buf_init(&reason, 4096);
        buf_adds(&reason, "\"reason\":{\"code\":\"stopping\",\"name\":");
        buf_json(&reason, name, strlen(name));
        if (by->event[0])
            buf_printf(&reason, ",\"by\":\"%s\"", by->event);
        buf_addc(&reason, '}');
        struct note *note = note_new(NOTE_STOPPING, in->id, in);
        note->json = buf_take(&reason);
        note->done = stopping_written;
        note->ctx = in;
        in->notes++;
        journal_add(in->host->journal, note);
        json_free(json);
        return;
    }
    json_free(json);
    instance_pump(in);
}

void instance_note_written(struct note *note)
{
    struct instance *in = note->ctx;
    in->notes--;
    if (in->left && in->notes == 0 && in->orphan)
        instance_free(in);
}

static void not_ours(struct instance *in, const struct candidate *c)
{
    struct note *note = note_new(NOTE_NOT_OURS, in->id, in);
    memcpy(note->event, c->event, sizeof(note->event));
    note->settled = c->settled;
    note->done = instance_note_written;
    note->ctx = in;
    in->notes++;
    journal_add(in->host->journal, note);
}

static const char *now_of(const struct instance *in, const char *phase)
{
    return strcmp(phase, "on_stop") == 0 ? in->last_at : in->created;
}

/* Whether a candidate stops us: by the word of its `when`, if it has one. */
static bool is_ours(struct instance *in, const struct candidate *c)
{
    if (!c->judged)
        return true;
    struct buf verdict;
    struct err err;
    buf_init(&verdict, 64);
    const struct slice args[] = {
        slice_of(in->id), slice_of(in->created), {in->event, in->event_len}, slice_of(c->payload)};
    mark_set(in->id);
    crash_point("judge", in->id);
    bool ok = vm_call(in->body->vm, "judge", args, ARRAY_LEN(args), &verdict, &err);
    mark_clear();
    bool ours = ok && strcmp(verdict.data, "ours") == 0;
    if (!ok)
        instance_leave_stuck(in, "stop_error", err.message);
    else if (!ours)
        not_ours(in, c);
    buf_fini(&verdict);
    return ours;
}

void instance_stop(void *instance, struct candidate *candidate)
{
    struct instance *in = instance;
    struct candidate **end = &in->stops;
    while (*end) {
        if (strcmp((*end)->event, candidate->event) == 0 && candidate->event[0]) {
            candidate_free(candidate);
            return;
        }
        end = &(*end)->next;
    }
    *end = candidate;
}

/* Looks at what may stop us; true: something does, or looking failed. */
bool instance_consider(struct instance *in)
{
    while (in->stops && !in->halt && !in->stopping) {
        struct candidate *c = in->stops;
        in->stops = c->next;
        c->next = NULL;
        if (is_ours(in, c)) {
            in->halt = c;
            in->halting = true;
        } else {
            candidate_free(c);
            if (in->leaving)
                return true;
        }
    }
    return in->halting;
}

/* ---- the body ---- */

static void start_body(struct instance *in, const char *phase, const char *by)
{
    const struct slice args[] = {slice_of(in->id), slice_of(in->steps), slice_of(phase),
                                 slice_of(now_of(in, phase)), slice_of(by)};
    in->turns = 1;
    in->expected = -1;
    in->task = task_start(in->body->vm, "run", args, ARRAY_LEN(args), &owner, in);
    task_blame(in->task, in->id);
    free(in->steps);
    in->steps = NULL;
}

void instance_turn_over(struct instance *in)
{
    if (in->turns > 0)
        in->turns--;
    in->expected = -1;
    instance_pump(in);
}

/* "state":…,"outcome":…,"reason":…,"value":… of the body's own word about its end. */
static char *end_json(const struct json *result)
{
    struct buf out;
    buf_init(&out, 1u << 20);
    static const char *const fields[] = {"state", "outcome", "reason"};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const char *value = json_text(result, fields[i]);
        if (!value)
            continue;
        buf_printf(&out, "%s\"%s\":", out.len ? "," : "", fields[i]);
        buf_json(&out, value, strlen(value));
    }
    char *value = json_encode(result, "value");
    if (value)
        buf_printf(&out, ",\"value\":%s", value);
    free(value);
    return buf_take(&out);
}

static void body_returned(struct instance *in, const char *text, size_t len)
{
    static const char plain[] = "{\"state\":\"done\"}";
    if (len == sizeof(plain) - 1 && memcmp(text, plain, len) == 0) {
        instance_leave(in, NOTE_FINISH, NULL);
        return;
    }
    struct err err;
    struct json *result = json_parse(text, len, &err);
    const char *state = result ? json_text(result, "state") : NULL;
    if (!state) {
        instance_leave_stuck(in, "script_error", "the body ended without a state");
    } else if (strcmp(state, "stuck") == 0) {
        char *reason = json_encode(result, "reason");
        instance_warn(in, "stuck", NULL, reason);
        instance_leave_with_reason(in, "stuck", NULL, reason);
        free(reason);
    } else if (strcmp(state, "continue") == 0) {
        char *event = json_encode(result, "event");
        instance_leave(in, NOTE_RELEASE,
                       xprintf("\"state\":\"pending\",\"due\":\"now\",\"continue\":%s", event));
        free(event);
    } else {
        instance_leave(in, NOTE_FINISH, end_json(result));
    }
    json_free(result);
}

/* Its function waits for ever, and was left: what it comes to is known. */
static void body_left(struct instance *in, const char *text, size_t len)
{
    char *kept = xstrndup(text, len);
    task_cancel(in->task);
    in->task = NULL;
    body_returned(in, kept, len);
    free(kept);
    in->turns = 0;
    instance_pump(in);
}

static void posted(void *ctx, struct task *task, const struct slice *args, size_t nargs)
{
    struct instance *in = ctx;
    (void)task;
    const char *what = nargs ? args[0].data : "";
    if (strcmp(what, "batch") == 0) {
        in->expected = atoi(args[1].data);
        if (in->expected == 0)
            instance_turn_over(in);
    } else if (strcmp(what, "diverged") == 0) {
        instance_warn(in, "the body asks for something else than was recorded", "diverged",
                      args[1].data);
        instance_leave_with_reason(in, "stuck", NULL, args[1].data);
        instance_turn_over(in);
    } else if (strcmp(what, "ended") == 0) {
        body_left(in, args[1].data, args[1].len);
    } else if (strcmp(what, "verdict") == 0) {
        request_judged(in, args, nargs);
    } else {
        request_new(in, args, nargs);
        if (in->expected < 0 || --in->expected == 0)
            instance_turn_over(in);
    }
}

static void body_done(void *ctx, struct task *task, enum task_status status, const char *result,
                      size_t len)
{
    struct instance *in = ctx;
    (void)task;
    in->task = NULL;
    if (status == TASK_RETURNED)
        body_returned(in, result, len);
    else
        instance_leave_stuck(in, status == TASK_KILLED ? "budget" : "script_error", result);
    in->turns = 0;
    instance_pump(in);
}

static struct slice lend(void *ctx, const char *name)
{
    const struct instance *in = ctx;
    must(strcmp(name, "event") == 0);
    return (struct slice){in->event, in->event_len};
}

static const struct task_owner owner = {posted, body_done, lend};

/* ---- going on ---- */

static void task_waits_for_nothing(struct instance *in)
{
    instance_leave_stuck(in, "script_error", "the body waits for nothing");
    leave_now(in);
}

/* Does what can be done next. May free the instance. */
void instance_pump(struct instance *in)
{
    if (in->left)
        return;
    bool may_begin = !in->halting && !in->leaving;
    for (struct request *r = in->requests, *next; r; r = next) {
        next = r->next;
        if (r->state != REQUEST_HELD || !(may_begin || r->ran))
            continue;
        const char *full = request_history_full(in);
        if (full)
            instance_leave_stuck(in, "history", full);
        else
            request_begin(r);
        may_begin = !full;
    }
    bool busy = in->turns > 0;
    for (struct request *r = in->requests; r; r = r->next) {
        busy |= r->state == REQUEST_ACTING || r->state == REQUEST_WRITING;
        if (!in->halting && !in->leaving)
            busy |= r->state == REQUEST_HELD || r->state == REQUEST_JUDGING;
    }
    if (busy)
        return;
    if (in->halting && !(in->leaving && in->leaving_kind == NOTE_FINISH))
        halt_now(in);
    else if (in->leaving)
        leave_now(in);
    else if (in->requests && in->task)
        request_all_wait(in);
    else if (in->task)
        task_waits_for_nothing(in);
}

void instance_run(struct instance *in)
{
    start_body(in, "run", NULL);
}

void instance_body_there(void *ctx, struct body *body)
{
    struct instance *in = ctx;
    in->waits_body = false;
    in->body = body;
    if (!body->vm) {
        if (err_passes(&body->err)) { /* nothing is wrong with the version */
            instance_leave(in, NOTE_RELEASE, xstrdup("\"state\":\"pending\",\"due\":\"now\""));
        } else {
            instance_leave_stuck(in, "version", body->err.message);
        }
    } else if (in->stopping) {
        start_body(in, "on_stop", in->halt ? in->halt->payload : "{\"name\":\"stop\"}");
        return;
    } else if (instance_consider(in)) {
        /* it stops, or its stop's `when` failed */
    } else if (in->idle) { /* stuck or paused, woken for a stop that wasn't ours */
        instance_leave(in, NOTE_RELEASE, xstrdup("\"keep\":true"));
    } else {
        if (in->flow > 1)
            flow_ask(in);
        else
            instance_run(in);
        return;
    }
    instance_pump(in);
}

void instance_free(struct instance *in)
{
    in->left = true;
    instance_drop_task(in);
    if (in->waits_body)
        bodies_forget(in->host->bodies, in);
    if (in->body)
        bodies_put(in->host->bodies, in->body);
    in->waits_body = false;
    in->body = NULL;
    if (in->notes > 0) { /* the last of its notes frees it */
        in->orphan = true;
        return;
    }
    while (in->stops) {
        struct candidate *c = in->stops;
        in->stops = c->next;
        candidate_free(c);
    }
    candidate_free(in->halt);
    free(in->mode);
    free(in->trace);
    free(in->event);
    free(in->steps);
    free(in->leaving_json);
    free(in);
}

void instance_discard(struct instance *in)
{
    in->notes = 0; /* the journal has forgotten them */
    for (struct request *r = in->requests; r; r = r->next) {
        r->note = NULL;
    }
    instance_free(in);
}

const char *instance_id(const struct instance *instance)
{
    return instance->id;
}

bool instance_frees_others(const struct instance *instance)
{
    return instance->flow > 0;
}

struct instance_link *instance_link(struct instance *instance)
{
    return &instance->link;
}
