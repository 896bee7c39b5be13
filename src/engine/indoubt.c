/* indoubt.c - a send whose outcome nobody wrote down: it may be out, or not.
 *
 *     too young --> the step is suspended until it may be looked for (a callback may settle it
 * first) text      --> Twilio's list of that number's messages: sent | nothing, twice: not sent |
 * held e-mail    --> there is no list: after its event was waited for, held
 *
 * The judgement is SQL's (message_lookup); a held send waits for a person or a late callback. */
#include "engine/outbound.h"

#include "base/digest.h"
#include "base/log.h"
#include "engine/settings.h"

#include <stdlib.h>
#include <string.h>

static const char SQL_LOOKUP[] = "select message_lookup($1::uuid, $2::json, $3)";
static const char SQL_HOLD[] = "select outbound_hold($1::uuid, 'in_doubt')";

enum { LOOK_RETRY_S = 30 };
#define SECOND_LOOK 0.65 // of the second look's age, after the first one at the earliest

static void suspend(struct op *op, const char *since, double seconds)
{
    char *until = since ? op_after(since, seconds) : op_soon(op_engine(op), seconds);
    op_end(op, ACTION_SUSPENDED, "send_in_doubt", until);
    free(until);
}

static double look_after(const struct op *op, const char *name)
{
    return (double)setting_int(op_engine(op)->settings, name) / 1000;
}

static void held(struct op *op)
{
    char *text = xprintf("{\"id\":\"%s\",\"rule\":\"in_doubt\"}", op->ledger_id);
    struct json *row = json_parse(text, strlen(text), NULL);
    message_hold(op, row);
    json_free(row);
    free(text);
}

static void judged(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions || !op->action) {
        op_free(op);
        return;
    }
    const char *verdict = db_reply_outcome(reply) == DB_OK ? db_value(reply, 0, 0, 0) : "again";
    log_info("indoubt", "looked for a send", "message", op->ledger_id, "found", verdict, NULL);
    if (strcmp(verdict, "again") == 0) {
        suspend(op, NULL, SECOND_LOOK * look_after(op, "INDOUBT_LOOK_AGAIN_MS"));
    } else if (strcmp(verdict, "held") == 0) {
        held(op);
    } else {
        message_again(op); // the ledger knows now; policy is asked again before a new attempt
    }
}

static void listed(void *ctx, const struct fetch_result *result)
{
    struct op *op = ctx;
    op->fetch = NULL;
    if (!op->action) {
        op_free(op);
        return;
    }
    struct json *doc = result->outcome == FETCH_ANSWERED && result->status == 200
                           ? json_parse(result->body, result->body_len, NULL)
                           : NULL;
    if (!doc) {
        log_warn("indoubt", "can't look for a send", "message", op->ledger_id, "error",
                 result->outcome == FETCH_ANSWERED ? result->body : result->err.message, NULL);
        suspend(op, NULL, LOOK_RETRY_S);
        return;
    }
    json_free(doc);
    char *again = xprintf("%f", look_after(op, "INDOUBT_LOOK_AGAIN_MS"));
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_LOOKUP, 3, op->ledger_id, result->body, again);
    free(again);
    op_send(op, unit, judged);
}

static void look(void *ctx)
{
    struct op *op = ctx;
    op->wait = NULL;
    if (!op->action) {
        op_free(op);
        return;
    }
    const struct settings *settings = op_engine(op)->settings;
    const char *sid = setting(settings, "TWILIO_ACCOUNT_SID");
    struct buf url, plain, secret;
    buf_init(&url, 4 << 10);
    buf_init(&plain, 4 << 10);
    buf_init(&secret, 8 << 10);
    buf_printf(&url, "%s/2010-04-01/Accounts/%s/Messages.json?PageSize=200&To=",
               setting(settings, "TWILIO_BASE_URL"), sid);
    buf_urlencode(&url, op->text, strlen(op->text));
    buf_printf(&plain, "%s:%s", sid, setting(settings, "TWILIO_AUTH_TOKEN"));
    buf_adds(&secret, "Authorization: Basic ");
    digest_base64(&secret, plain.data, plain.len);
    op_trace(op, op_call(op));
    const char *headers[] = {secret.data, op->traceparent, NULL};
    struct fetch_request request = {.method = "GET", .url = url.data, .headers = headers};
    op->fetch = fetch_start(op_engine(op)->fetcher, &request, listed, op);
    buf_fini(&url);
    buf_fini(&plain);
    buf_fini(&secret);
}

static void mail_held(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        op_unit_failed(op, reply, message_again);
    } else {
        held(op);
    }
}

void indoubt_message(struct op *op, const struct json *verdict)
{
    const char *since = json_text(verdict, "intended_at");
    const char *address = json_text(verdict, "address");
    double age = atof(json_text(verdict, "age"));
    int64_t looks = 0;
    json_int(verdict, "looks", &looks);
    bool text = strcmp(op->provider, "twilio") == 0;
    double wait = look_after(op, !text       ? "INDOUBT_EMAIL_MS"
                                 : looks > 0 ? "INDOUBT_LOOK_AGAIN_MS"
                                             : "INDOUBT_LOOK_MS");
    free(op->ledger_id);
    op->ledger_id = xstrdup(json_text(verdict, "id"));
    if (age < wait) {
        suspend(op, since, wait);
    } else if (!text) {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, SQL_HOLD, 1, op->ledger_id);
        op_send(op, unit, mail_held);
    } else {
        free(op->text);
        op->text = xstrdup(address ? address : "");
        op->wait = limit_take(op_limits(op), op->provider, look, op);
    }
}
