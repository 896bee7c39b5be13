/* request.c - what a body asked for: beginning it, writing what came of it, handing that over. */
#include "engine/instance_parts.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ELEMENT_MAX (64u << 20)
#define RESULT_MAX (1u << 20) /* of one step */
#define STEPS_MAX 10000
#define HISTORY_MAX ((size_t)16 << 20)

/* ---- making ---- */

/* What is kept of its place: "branch/ordinal". */
static struct slice ordinal_text(const struct request *r)
{
    return slice_of(strrchr(r->step, '/') + 1);
}

/* Copies a text to where *at points, and moves that on. */
static const char *keep(char **at, struct slice text)
{
    if (!text.data)
        return NULL;
    char *kept = *at;
    *at = (char *)mempcpy(kept, text.data, text.len) + 1;
    kept[text.len] = '\0';
    return kept;
}

/* The members of a JSON object, without its braces. */
static struct slice members(struct slice text)
{
    return text.len > 2 ? (struct slice){text.data + 1, text.len - 2} : slice_of("");
}

void request_new(struct instance *in, const struct slice *args, size_t nargs)
{
    static const struct {
        const char *name;
        enum request_kind kind;
        size_t nargs;
        bool ran;
    } kinds[] = {{"step", REQUEST_STEP, 10, false},   {"sleep", REQUEST_SLEEP, 7, false},
                 {"wait", REQUEST_WAIT, 8, false},    {"record", REQUEST_RECORD, 8, false},
                 {"result", REQUEST_RECORD, 8, true}, {"call", REQUEST_CALL, 10, false}};
    size_t k = 0;
    while (k < ARRAY_LEN(kinds) && strcmp(kinds[k].name, args[0].data) != 0) {
        k++;
    }
    must(k < ARRAY_LEN(kinds) && nargs == kinds[k].nargs);
    struct request *r = xcalloc(1, sizeof(*r)), **end = &in->requests;
    r->in = in;
    r->kind = kinds[k].kind;
    r->ran = kinds[k].ran;
    size_t size = args[1].len + args[2].len + 2; /* of step */
    for (size_t i = 1; i < nargs; i++)
        size += args[i].len + 1;
    char *at = r->texts = xmalloc(size);
    r->ordinal = atoi(args[2].data);
    r->step = keep(&at, args[1]);
    at[-1] = '/';
    keep(&at, args[2]);
    r->branch = keep(&at, args[1]);
    r->name = keep(&at, args[3]);
    r->hash = keep(&at, args[4]);
    r->input = keep(&at, args[5]);
    if (r->kind == REQUEST_STEP || r->kind == REQUEST_CALL) {
        r->options = keep(&at, args[6]);
        r->now = keep(&at, args[7]);
        r->due = keep(&at, args[8]);
        r->word = keep(&at, args[9]);
    } else if (r->kind == REQUEST_SLEEP) {
        r->deadline = keep(&at, args[6]);
    } else if (r->kind == REQUEST_WAIT) {
        r->spec = keep(&at, members(args[6]));
        r->deadline = args[7].len ? keep(&at, args[7]) : NULL;
    } else {
        r->output = xstrndup(args[6].data, args[6].len);
        r->outcome = strcmp(args[7].data, "done") == 0     ? "done"
                     : strcmp(args[7].data, "failed") == 0 ? "failed"
                                                           : "note";
    }
    while (*end) {
        end = &(*end)->next;
    }
    *end = r;
}

void request_free(struct request *r)
{
    for (struct request **p = &r->in->requests; *p; p = &(*p)->next) {
        if (*p == r) {
            *p = r->next;
            break;
        }
    }
    if (r->action)
        action_cancel(r->action);
    if (r->note) { /* its answer has nobody to go to */
        r->note->done = instance_note_written;
        r->note->ctx = r->in;
    }
    while (r->candidates) {
        struct candidate *c = r->candidates;
        r->candidates = c->next;
        candidate_free(c);
    }
    free(r->texts);
    free(r->output);
    free(r);
}

/* ---- what was written goes to the body ---- */

/* Why it may not record another step; NULL: it may. What is undone comes on top. */
const char *request_history_full(const struct instance *in)
{
    if (in->stopping)
        return NULL;
    return in->next_seq > STEPS_MAX     ? "it has more than 10,000 steps"
           : in->history >= HISTORY_MAX ? "its history is larger than 16 MB"
                                        : NULL;
}

static void deliver(struct request *r, const char *at, const char *state, const char *output)
{
    struct instance *in = r->in;
    in->history += output ? strlen(output) : 0;
    text_copy(in->last_at, sizeof(in->last_at), at);
    if (!in->leaving && !instance_consider(in) && !in->leaving) {
        const struct slice args[] = {slice_of("done"), slice_of(r->branch), ordinal_text(r),
                                     slice_of(at),     slice_of(state),     slice_of(output)};
        in->turns++;
        task_resume(in->task, args, ARRAY_LEN(args));
    }
    request_free(r);
    instance_pump(in);
}

static void not_ours(struct instance *in)
{
    log_warn("execute", "an instance isn't ours any more", "instance", in->id, NULL);
    instance_gone(in, false);
}

/* True when the note's answer means that the request goes no further. */
static bool ends(struct instance *in, const struct note *note)
{
    switch (note->result) {
    case NOTE_LOST:
        not_ours(in);
        return true;
    case NOTE_DIFFERS:
        log_error("execute", "another step was recorded in this one's place, it is read anew",
                  "instance", in->id, "trace", instance_trace(in), "step", note->name, NULL);
        instance_leave(in, NOTE_RELEASE, xstrdup("\"state\":\"pending\",\"due\":\"now\""));
        return false;
    case NOTE_REFUSED:
        instance_leave_stuck(in, "record_failed", note->error);
        return false;
    default:
        return false;
    }
}

static struct note *new_note(struct request *r, enum note_kind kind, void (*done)(struct note *))
{
    struct note *note = note_new(kind, r->in->id, r->in);
    note->ctx = r;
    note->done = done;
    r->note = note;
    r->state = REQUEST_WRITING;
    r->in->notes++;
    return note;
}

static void step_written(struct note *note)
{
    struct request *r = note->ctx;
    struct instance *in = r->in;
    in->notes--;
    r->note = NULL;
    if (ends(in, note))
        return;
    in->host->steps++;
    if (note->result == NOTE_DONE) {
        const char *state = strcmp(note->state, "failed") == 0 ? "failed" : "done";
        deliver(r, note->at, state, note->output);
        return;
    }
    request_free(r);
    instance_pump(in);
}

/* The note takes the texts, and the output. It outlives the request, or is gone right after it. */
static void write_step(struct request *r, const char *state, char *output)
{
    struct note *note = new_note(r, NOTE_STEP, step_written);
    note->run = r->in->run;
    note->seq = r->in->next_seq++;
    note->ordinal = r->ordinal;
    note->began_us = r->began_us;
    note->watched = r->in->watched;
    note->texts = r->texts;
    r->texts = NULL;
    note->branch = r->branch;
    note->name = r->name;
    note->hash = r->hash;
    note->state = state;
    note->input = r->input;
    note->output = output;
    journal_add(r->in->host->journal, note);
}

/* ---- actions ---- */

static void stops_asked(struct note *note)
{
    struct request *r = note->ctx;
    struct instance *in = r->in;
    in->notes--;
    r->note = NULL;
    if (ends(in, note))
        return;
    r->state = REQUEST_HELD; /* begins again, unless a stop is ours */
    bool any = in->stops != NULL;
    if (!instance_consider(in) && !any && !in->leaving)
        instance_leave_with_reason(in, "waiting", "now", "null");
    instance_pump(in);
}

/* The answer of a call goes to the author's own code, also when a stop is decided on or the
 * instance is leaving: it has begun, and what it comes to is recorded first. Another call doesn't
 * begin. */
static void hand_over(struct request *r, const char *state, const char *text)
{
    struct instance *in = r->in;
    if (in->task) {
        const struct slice args[] = {slice_of("answer"), slice_of(r->branch), slice_of(state),
                                     slice_of(text)};
        in->turns++;
        task_resume(in->task, args, ARRAY_LEN(args));
    }
    request_free(r);
    instance_pump(in);
}

static void acted(void *ctx, enum action_verdict verdict, char *text, const char *until)
{
    struct request *r = ctx;
    struct instance *in = r->in;
    r->action = NULL;
    if (r->kind == REQUEST_CALL && (verdict == ACTION_DONE || verdict == ACTION_FAILED)) {
        hand_over(r, verdict == ACTION_DONE ? "done" : "failed", text);
        free(text);
        return;
    }
    switch (verdict) {
    case ACTION_DONE:
        if (strlen(text) > RESULT_MAX) {
            free(text);
            write_step(r, "failed",
                       xprintf("{\"action\":\"%s\",\"code\":\"refused\",\"attempts\":1,"
                               "\"message\":\"its result is larger than 1 MB: ask for less\"}",
                               r->word));
            return;
        }
        write_step(r, "done", text);
        return;
    case ACTION_FAILED:
        write_step(r, "failed", text);
        return;
    case ACTION_STOPPING:
        free(text);
        journal_add(in->host->journal, new_note(r, NOTE_ASK, stops_asked));
        return;
    case ACTION_NOT_OURS:
        free(text);
        not_ours(in);
        return;
    case ACTION_LOST:
        free(text);
        r->state = REQUEST_WAITING;
        in->host->lost(in->host->ctx);
        return;
    case ACTION_HELD:
        r->state = REQUEST_WAITING;
        instance_warn(in, "stuck", NULL, text);
        instance_leave_with_reason(in, "stuck", NULL, text);
        break;
    case ACTION_SUSPENDED: {
        struct buf reason;
        buf_init(&reason, 64 << 10);
        buf_adds(&reason, "{\"code\":\"postponed\",\"step\":");
        buf_json(&reason, r->name, strlen(r->name));
        buf_adds(&reason, ",\"message\":");
        buf_json(&reason, text, strnlen(text, 16 << 10));
        buf_adds(&reason, ",\"can\":[\"cancel\"]}");
        r->state = REQUEST_WAITING;
        instance_leave_with_reason(in, "waiting", until, reason.data);
        buf_fini(&reason);
        break;
    }
    }
    free(text);
    instance_pump(in);
}

static void begin_action(struct request *r)
{
    struct instance *in = r->in;
    const struct action_call call = {.instance = in->id,
                                     .run = in->run,
                                     .step = r->step,
                                     .name = r->word,
                                     .args = r->input,
                                     .args_len = strlen(r->input),
                                     .options = r->options,
                                     .event = {in->event, in->event_len},
                                     .workflow = in->body->workflow,
                                     .class_ = in->body->class_,
                                     .mode = in->mode,
                                     .now = r->now,
                                     .due = r->due,
                                     .trace = in->trace};
    r->state = REQUEST_ACTING;
    r->began_us = clock_mono_us();
    r->action = action_start(in->host->actions, &call, acted, r);
}

/* ---- sleeps and waits ---- */

static void suspend(struct request *r, const char *chosen);

static void judge(struct request *r)
{
    const struct slice args[] = {slice_of("judge"), slice_of("wait"), slice_of(r->branch),
                                 ordinal_text(r), slice_of(r->candidates->payload)};
    r->state = REQUEST_JUDGING;
    task_resume(r->in->task, args, ARRAY_LEN(args));
}

void request_judged(struct instance *in, const struct slice *args, size_t nargs)
{
    must(nargs == 6);
    struct request *r = in->requests;
    while (r && (r->state != REQUEST_JUDGING || strcmp(r->branch, args[2].data) != 0 ||
                 r->ordinal != atoi(args[3].data))) {
        r = r->next;
    }
    if (!r)
        return;
    const char *verdict = args[5].data;
    struct candidate *c = r->candidates;
    if (in->halting || in->leaving) {
        r->state = REQUEST_HELD;
    } else if (strcmp(verdict, "ours") == 0) {
        char event[37];
        memcpy(event, c->event, sizeof(event));
        suspend(r, event);
        return;
    } else if (strncmp(verdict, "error: ", 7) == 0) {
        r->state = REQUEST_WAITING;
        instance_leave_stuck(in, "script_error", verdict + 7);
    } else {
        r->after = c->settled;
        r->candidates = c->next;
        candidate_free(c);
        if (r->candidates)
            judge(r);
        else
            suspend(r, NULL);
        return;
    }
    instance_pump(in);
}

static void suspended(struct note *note)
{
    struct request *r = note->ctx;
    struct instance *in = r->in;
    in->notes--;
    r->note = NULL;
    if (ends(in, note))
        return;
    switch (note->result) {
    case NOTE_DONE:
        in->host->steps++;
        deliver(r, note->at, "done", note->payload);
        return;
    case NOTE_WAITS:
        if (note->seq) { /* it was released with it */
            instance_gone(in, false);
            return;
        }
        r->state = REQUEST_WAITING;
        instance_consider(in);
        break;
    case NOTE_JUDGE:
        r->candidates = note->candidates;
        note->candidates = NULL;
        r->state = REQUEST_HELD;
        if (!instance_consider(in) && !in->leaving) {
            judge(r);
            return;
        }
        break;
    default:
        request_free(r);
        break;
    }
    instance_pump(in);
}

/* Registers it, or decides it; gives the instance back at once when this is all it waits for. */
static void suspend(struct request *r, const char *chosen)
{
    struct instance *in = r->in;
    bool alone = in->requests == r && !r->next && in->turns == 0;
    while (r->candidates) {
        struct candidate *c = r->candidates;
        r->candidates = c->next;
        candidate_free(c);
    }
    struct note *note = new_note(r, NOTE_SUSPEND, suspended);
    note->flow = alone && in->flow > 0;
    note->gated = r->kind == REQUEST_WAIT || in->watched || note->flow;
    note->seq = alone;
    struct buf out;
    buf_init(&out, ELEMENT_MAX);
    buf_printf(&out,
               "\"kind\":\"%s\",\"run\":%d,\"ordinal\":%d,\"seq\":%d,\"release\":%s,"
               "\"after\":%lld",
               r->kind == REQUEST_WAIT ? "event" : "sleep", in->run, r->ordinal, in->next_seq++,
               alone ? "true" : "false", (long long)r->after);
    buf_json_member(&out, "branch", r->branch);
    buf_json_member(&out, "name", r->name);
    buf_json_member(&out, "hash", r->hash);
    if (chosen)
        buf_json_member(&out, "chosen", chosen);
    if (r->kind == REQUEST_SLEEP)
        buf_json_member(&out, "deadline", r->deadline);
    else
        buf_printf(&out, ",%s", r->spec);
    buf_printf(&out, ",\"input\":%s", r->input);
    note->json = buf_take(&out);
    journal_add(in->host->journal, note);
}

void request_all_wait(struct instance *in)
{
    const char *first = NULL;
    for (struct request *r = in->requests; r; r = r->next) {
        if (r->deadline && (!first || strcmp(r->deadline, first) < 0))
            first = r->deadline;
    }
    char *json = xprintf("\"state\":\"waiting\",\"deadline\":%s%s%s", first ? "\"" : "",
                         first ? first : "null", first ? "\"" : "");
    instance_leave(in, NOTE_RELEASE, json);
    instance_pump(in);
}

void request_begin(struct request *r)
{
    switch (r->kind) {
    case REQUEST_STEP:
    case REQUEST_CALL:
        begin_action(r);
        break;
    case REQUEST_SLEEP:
    case REQUEST_WAIT:
        suspend(r, NULL);
        break;
    case REQUEST_RECORD:
        write_step(r, r->outcome, r->output);
        r->output = NULL;
        break;
    }
}
