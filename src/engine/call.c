/* call.c - one HTTP call of an action, with the ledger for those that change something.
 *
 *     read:   token -> wire -> answered | again
 *     write:  token -> intent -> wire -> outcome -> answered
 *                        |                  |--refused before it happened--> again
 *                        |                  |--unknown, idempotent--> again
 *                        |                  `--unknown, once--> suspended until it may be looked
 * for
 *                        |--made before--> answered with what was recorded
 *                        `--unknown since long--> Lua: "in_doubt"; it looks, and settles it
 *
 * Credentials are added here, by provider; no script sees them. */
#include "engine/outbound.h"

#include "base/log.h"
#include "engine/figures.h"
#include "engine/settings.h"
#include "io/address.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char SQL_INTENT[] =
    "select held_call_intent(($1::jsonb || $2::jsonb)::json, $3::uuid)";
static const char SQL_OUTCOME[] =
    "select call_outcome($1::uuid, $2, $3::int, $4, $5, $6::boolean, $7)";

enum { MAX_ANSWER = 1 << 20, OUTCOME_RETRY_MS = 1000 };

static void take_token(struct op *op);
static void send_now(struct op *op);
static void intend(struct op *op);
static void write_outcome(struct op *op);

static bool is_effect(const struct op *op, const char *effect)
{
    const char *is = json_text(op->doc, "effect");
    return is && strcmp(is, effect) == 0;
}

// ---- where to --------------------------------------------------------------------------------

// The host of a URL is on the list of those that actions may call, or of a provider we know.
static bool host_allowed(const char *list, const char *host, size_t len)
{
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ", ");
        if (n == len && strncasecmp(at, host, n) == 0) {
            return true;
        }
        at += n;
        at += strspn(at, ", ");
    }
    return false;
}

static bool find_provider(struct op *op, char **url)
{
    const struct settings *settings = op_engine(op)->settings;
    const char *path = json_text(op->doc, "path");
    if (path) {
        const char *missing = !*setting(settings, "GHL_API_KEY")       ? "GHL_API_KEY"
                              : !*setting(settings, "GHL_LOCATION_ID") ? "GHL_LOCATION_ID"
                                                                       : NULL;
        op->provider = "ghl";
        if (missing && op_is_live(op)) {
            op_fail(op, "refused", 0, "%s is not set", missing);
            return false;
        }
        *url = xprintf("%s%s", setting(settings, "GHL_BASE_URL"), path);
        return true;
    }
    const char *address = json_text(op->doc, "url");
    const char *host = address ? strstr(address, "://") : NULL;
    host = host ? host + 3 : "";
    size_t len = strcspn(host, "/?#");
    if (!len || memchr(host, '@', len) ||
        !host_allowed(setting(settings, "MOONWRIGHT_HTTP_HOSTS"), host, len)) {
        op_fail(op, "refused", 0, "%.*s is not one of MOONWRIGHT_HTTP_HOSTS", (int)len, host);
        return false;
    }
    op->provider = "http";
    *url = xstrdup(address);
    return true;
}

void call_start(struct op *op)
{
    char *url = NULL;
    if (find_provider(op, &url)) {
        op->text = url;
        take_token(op);
    }
}

static void got_token(void *ctx)
{
    struct op *op = ctx;
    op->wait = NULL;
    if (!op->action) {
        op_free(op);
    } else if (is_effect(op, "read")) {
        send_now(op);
    } else {
        intend(op);
    }
}

static void take_token(struct op *op)
{
    op_take_token(op, got_token);
}

static void try_again(struct op *op)
{
    free(op->ledger_id);
    op->ledger_id = NULL;
    take_token(op);
}

// ---- the answer ------------------------------------------------------------------------------

static void answer(struct op *op, const char *status, const char *code, int http_status,
                   const char *body, const char *message)
{
    struct buf out;
    buf_init(&out, 8 << 20);
    buf_printf(&out, "{\"status\":%d,\"attempts\":%d", http_status, op->tries + 1);
    if (code) {
        buf_printf(&out, ",\"code\":\"%s\"", code);
    }
    if (message) {
        buf_adds(&out, ",\"message\":");
        buf_json(&out, message, strnlen(message, 1000));
    }
    if (op->ledger_id) {
        buf_printf(&out, ",\"id\":\"%s\"", op->ledger_id);
    }
    buf_adds(&out, ",\"body\":");
    buf_json(&out, body ? body : "", body ? strlen(body) : 0);
    buf_adds(&out, "}");
    if (out.overflow) {
        op_fail(op, "refused", http_status, "%s answered more than can be kept", op->provider);
    } else {
        op_answer(op, status, out.data);
    }
    buf_fini(&out);
}

static void give_up(struct op *op, int status, const char *message)
{
    op_fail(op, "unavailable", status, "%s: %s", op->provider, message);
}

// An answer, and what it means. `more` keeps its body until it is written.
struct verdict {
    const char *outcome; // done, refused, in_doubt
    bool retryable;
    char message[256];
};

static void judge(const struct fetch_result *result, struct verdict *verdict)
{
    *verdict = (struct verdict){.outcome = "in_doubt"};
    if (result->outcome != FETCH_ANSWERED) {
        bool unsent = result->outcome == FETCH_UNSENT;
        verdict->outcome = unsent ? "refused" : "in_doubt";
        // What is wrong in itself stays so.
        verdict->retryable = unsent && result->err.code != ERR_INPUT;
        snprintf(verdict->message, sizeof(verdict->message), "%.200s", result->err.message);
        return;
    }
    if (result->status >= 200 && result->status < 300) {
        verdict->outcome = "done";
        return;
    }
    if (result->status >= 400 && result->status < 500) {
        verdict->outcome = "refused";
        verdict->retryable = result->status == 429;
    }
    snprintf(verdict->message, sizeof(verdict->message), "HTTP %d: %.200s", result->status,
             result->body);
}

static void act_on(struct op *op, const char *outcome, bool retryable, int status, const char *body,
                   const char *message)
{
    bool again = retryable || (strcmp(outcome, "in_doubt") == 0 && !is_effect(op, "once"));
    if (strcmp(outcome, "done") == 0) {
        answer(op, "ok", NULL, status, body, NULL);
    } else if (again && op_may_try_again(op)) {
        op_later(op, op_pause_ms(op->tries, 0), try_again);
    } else if (again) {
        give_up(op, status, message);
    } else if (strcmp(outcome, "refused") == 0) {
        answer(op, "error", "refused", status, body, message);
    } else { // once, and nobody knows: looked for when the vendor's search has caught up
        char *until = op_soon(
            op_engine(op), (double)setting_int(op_engine(op)->settings, "INDOUBT_GHL_MS") / 1000);
        op_end(op, ACTION_SUSPENDED, "call_in_doubt", until);
        free(until);
    }
}

static void outcome_written(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        log_warn("call", "can't write an outcome yet", "call", op->ledger_id, "error",
                 db_reply_err(reply)->message, NULL);
        op_later(op, OUTCOME_RETRY_MS, write_outcome);
    } else {
        struct json *doc = json_parse(op->more, strlen(op->more), NULL);
        int64_t status = 0;
        json_int(doc, "status", &status);
        act_on(op, json_text(doc, "outcome"), json_bool(doc, "retryable"), (int)status,
               json_text(doc, "body"), json_text(doc, "message"));
        json_free(doc);
    }
}

static void write_outcome(struct op *op)
{
    struct json *doc = json_parse(op->more, strlen(op->more), NULL);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_OUTCOME, 7, op->ledger_id, json_text(doc, "outcome"),
                 json_text(doc, "status"), json_text(doc, "body"), json_text(doc, "message"),
                 json_bool(doc, "retryable") ? "true" : "false", "answer");
    json_free(doc);
    op_send(op, unit, outcome_written);
}

static void keep_outcome(struct op *op, const struct verdict *verdict, int status, const char *body)
{
    struct buf out;
    buf_init(&out, 8 << 20);
    buf_printf(&out,
               "{\"outcome\":\"%s\",\"status\":%d,\"retryable\":%s,\"message\":", verdict->outcome,
               status, verdict->retryable ? "true" : "false");
    buf_json(&out, verdict->message, strlen(verdict->message));
    buf_adds(&out, ",\"body\":");
    buf_json(&out, body, strlen(body));
    buf_adds(&out, "}");
    must(!out.overflow);
    free(op->more);
    op->more = op_utf8(out.data, out.len); // vendors' error pages may be anything
    buf_fini(&out);
}

static void judged(struct op *op, const struct fetch_result *result);

/* An error page may repeat our credentials, and it is kept and shown to people. */
static void answered(void *ctx, const struct fetch_result *result)
{
    struct op *op = ctx;
    struct fetch_result shown = *result;
    char *page = result->status >= 400 ? xstrndup(result->body, result->body_len) : NULL;
    if (page) {
        log_mask(page);
        shown.body = page;
        shown.body_len = strlen(page);
    }
    op->fetch = NULL;
    op_log_answer(op, result);
    judged(op, &shown);
    free(page);
}

static void judged(struct op *op, const struct fetch_result *result)
{
    struct verdict verdict;
    judge(result, &verdict);
    bool busy = result->outcome == FETCH_ANSWERED && result->status == 429;
    bool well = result->outcome == FETCH_ANSWERED && result->status < 500 && !busy;
    int64_t pause = busy ? op_retry_after_ms(result) : 0;
    limit_report(op_limits(op), op->provider, well,
                 busy && !pause ? op_pause_ms(op->tries, 500) : pause);
    if (is_effect(op, "read")) {
        act_on(op, verdict.outcome, verdict.retryable, result->status, result->body,
               verdict.message);
        return;
    }
    figures_outbound(well && result->status < 400);
    keep_outcome(op, &verdict, result->status, result->body);
    write_outcome(op);
}

static void send_now(struct op *op)
{
    const struct settings *settings = op_engine(op)->settings;
    const char *body = json_text(op->doc, "body");
    const char *names[8];
    char *kept[2] = {0};
    size_t n = 0;
    names[n++] = "Accept: application/json";
    if (body) {
        names[n++] = "Content-Type: application/json";
    }
    if (strcmp(op->provider, "ghl") == 0) {
        kept[0] = xprintf("Authorization: Bearer %s", setting(settings, "GHL_API_KEY"));
        kept[1] = xprintf("Version: %s", setting(settings, "GHL_API_VERSION"));
        names[n++] = kept[0];
        names[n++] = kept[1];
    } else if (json_text(op->doc, "authorization")) {
        kept[0] = xprintf("Authorization: %s", json_text(op->doc, "authorization"));
        names[n++] = kept[0];
    }
    op_trace(op, op_call(op));
    names[n++] = op->traceparent;
    names[n] = NULL;
    bool write = !is_effect(op, "read");
    // A company's script says where to. An address of our own network is meant when it is listed as
    // one; a name must not lead there.
    const char *host = strstr(op->text, "://");
    host = host ? host + 3 : op->text;
    bool public_only = strcmp(op->provider, "http") == 0 &&
                       !address_is_literal(host, *host == '[' ? strcspn(host, "]") + 1
                                                              : strcspn(host, ":/?#"));
    struct fetch_request request = {.method = json_text(op->doc, "method"),
                                    .url = op->text,
                                    .headers = names,
                                    .body = body,
                                    .body_len = body ? strlen(body) : 0,
                                    .timeout_ms = op_timeout_ms(op),
                                    .max_body = MAX_ANSWER,
                                    .public_only = public_only,
                                    .once = write,
                                    .gate = write ? op_gate : NULL};
    figures()->stages[STAGE_OUTBOUND].claimed += write;
    op->fetch = fetch_start(op_engine(op)->fetcher, &request, answered, op);
    free(kept[0]);
    free(kept[1]);
}

// ---- the intent ------------------------------------------------------------------------------

static void said_beforehand(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        op_unit_failed(op, reply, take_token);
    } else {
        try_again(op); // the ledger answers
    }
}

static void held(struct op *op, const char *id)
{
    if (json_text(op->doc, "in_doubt")) {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, "select settle_declared($1::uuid, $2)", 2, id,
                     json_text(op->doc, "in_doubt"));
        op_send(op, unit, said_beforehand);
        return;
    }
    char *reason = xprintf("{\"code\":\"send_in_doubt\",\"message\":\"nobody knows whether %s did "
                           "it; look there and say so\",\"id\":\"%s\",\"can\":[\"sent\","
                           "\"not_sent\",\"drop\",\"cancel\"]}",
                           op->provider, id);
    op_end(op, ACTION_HELD, reason, NULL);
    free(reason);
}

static void in_doubt(struct op *op, const struct json *doc)
{
    double wait = (double)setting_int(op_engine(op)->settings, "INDOUBT_GHL_MS") / 1000;
    free(op->ledger_id);
    op->ledger_id = xstrdup(json_text(doc, "id"));
    if (atof(json_text(doc, "age")) < wait) {
        char *until = op_after(json_text(doc, "intended_at"), wait);
        op_end(op, ACTION_SUSPENDED, "call_in_doubt", until);
        free(until);
    } else {
        answer(op, "error", "in_doubt", 0, NULL, "its outcome is unknown");
    }
}

static void act_on_verdict(struct op *op, const struct json *doc)
{
    const char *verdict = json_text(doc, "verdict");
    int64_t status = 0;
    json_int(doc, "status", &status);
    if (strcmp(verdict, "send") == 0 && op->action) {
        send_now(op);
    } else if (strcmp(verdict, "send") == 0) { // cancelled meanwhile: nothing has left
        struct verdict none = {.outcome = "refused", .retryable = true, .message = "cancelled"};
        keep_outcome(op, &none, 0, "");
        write_outcome(op);
    } else if (strcmp(verdict, "already") == 0) {
        const char *state = json_text(doc, "state");
        bool dropped = state && strcmp(state, "suppressed") == 0;
        answer(op, dropped ? "error" : "ok", dropped ? "dropped" : NULL, (int)status,
               json_text(doc, "response"), dropped ? "it was dropped" : NULL);
    } else if (strcmp(verdict, "shadow") == 0) {
        op_answer(op, "ok", "{\"status\":200,\"body\":\"\",\"shadow\":true}");
    } else if (strcmp(verdict, "held") == 0) {
        held(op, json_text(doc, "id"));
    } else if (strcmp(verdict, "stopping") == 0) {
        op_end(op, ACTION_STOPPING, "", NULL);
    } else if (strcmp(verdict, "lost") == 0) {
        op_end(op, ACTION_NOT_OURS, "", NULL);
    } else {
        in_doubt(op, doc);
    }
}

static void intended(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        op_unit_failed(op, reply, intend);
    } else {
        int at = op_engine(op)->worker ? 1 : 0;
        struct json *doc = json_parse(db_value(reply, at, 0, 0), db_length(reply, at, 0, 0), NULL);
        act_on_verdict(op, doc);
        json_free(doc);
    }
}

static void intend(struct op *op)
{
    if (!op->ledger_id) {
        op_new_id(op);
    }
    struct buf ask;
    buf_init(&ask, 4 << 20);
    buf_printf(&ask, "{\"id\":\"%s\",\"provider\":\"%s\",\"url\":", op->ledger_id, op->provider);
    buf_json(&ask, op->text, strcspn(op->text, "?"));
    const char *const fields[][2] = {{"as", ",\"call\":"},
                                     {"effect", ",\"effect\":"},
                                     {"method", ",\"method\":"},
                                     {"body", ",\"request\":"}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const char *value = json_text(op->doc, fields[i][0]);
        if (value) {
            buf_adds(&ask, fields[i][1]);
            buf_json(&ask, value, strlen(value));
        }
    }
    buf_adds(&ask, "}");
    if (ask.overflow) {
        op_fail(op, "refused", 0, "the request is larger than 4 MB");
    } else {
        struct db_unit *unit = op_unit(op);
        db_unit_addv(unit, SQL_INTENT, 3, ask.data, op->key, op_holder(op));
        op_send(op, unit, intended);
    }
    buf_fini(&ask);
}

// ---- what Lua found out about a call in doubt ------------------------------------------------

static void settled(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        op_unit_failed(op, reply, call_settle);
    } else {
        op_answer(op, "ok", "{}");
    }
}

/* {id, outcome = done | not_sent | held, body} */
void call_settle(struct op *op)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_OUTCOME, 7, json_text(op->doc, "id"), json_text(op->doc, "outcome"),
                 "200", json_text(op->doc, "body"), NULL, "false", "look-up");
    op_send(op, unit, settled);
}
