/* message.c - one text or e-mail: who gets it, whether it may leave, and what became of it.
 *
 *     token -> recipient -> intent --send--> wire -> outcome --> answered
 *                             |                         `--refused, try again--> token
 *                             `--suppressed, sent before--> answered
 *                             `--postponed, held, stopping--> the action's verdict
 *
 * Policy decides in the statement that writes the intent, so nothing above can pass it by. From
 * the intent on the op belongs to the message: it is finished even when its action is cancelled. */
#include "engine/outbound.h"

#include "base/digest.h"
#include "base/log.h"
#include "engine/figures.h"
#include "engine/settings.h"

#include <stdlib.h>
#include <string.h>

static const char SQL_RECIPIENT[] = "select recipient($1::bigint)";
static const char SQL_INTENT[] =
    "select held_message_intent(($1::jsonb || $2::jsonb || jsonb_build_object('id', $3::text, "
    "'recipient', $4::jsonb, 'class', coalesce($1::jsonb->>'class', $2::jsonb->>'class')))::json, "
    "$5::uuid)";
static const char SQL_OUTCOME[] =
    "select message_outcome($1::uuid, x->>'outcome', x->>'provider_id', x->>'code', "
    "x->>'message', (x->>'retryable')::boolean) from (select $2::json as x) q";

enum { OUTCOME_RETRY_MS = 1000 };

static void find_recipient(struct op *op);
static void intend(struct op *op);
static void write_outcome(struct op *op);

static bool is_text(const struct op *op)
{
    return strcmp(op->provider, "twilio") == 0;
}

static void replace(char **at, char *value)
{
    free(*at);
    *at = value;
}

// ---- who -------------------------------------------------------------------------------------

static void got_recipient(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions || !op->action) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        op_unit_failed(op, reply, find_recipient);
    } else { // nobody by that id: there is no address
        const char *found = db_rows(reply, 0) ? db_value(reply, 0, 0, 0) : NULL;
        replace(&op->text, xstrdup(found ? found : "{}"));
        intend(op);
    }
}

static void find_recipient(struct op *op)
{
    const char *customer = json_text(op->doc, "customer_id");
    if (!op->action) {
        op_free(op);
    } else if (!customer) {
        replace(&op->text, xstrdup("null"));
        intend(op);
    } else {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, SQL_RECIPIENT, 1, customer);
        pool_send(op_engine(op)->st, unit, got_recipient, op);
    }
}

static void got_token(void *ctx)
{
    struct op *op = ctx;
    op->wait = NULL;
    find_recipient(op);
}

// The token comes first: nothing queues between intent and wire, and nobody was asked who to write
// to before a vendor's pause of minutes.
void message_start(struct op *op)
{
    const char *channel = json_text(op->doc, "channel");
    must(channel != NULL);
    op->provider = strcmp(channel, "sms") == 0 ? "twilio" : "sendgrid";
    op_take_token(op, got_token);
}

void message_again(struct op *op)
{
    replace(&op->ledger_id, NULL);
    message_start(op);
}

// ---- the request -----------------------------------------------------------------------------

static const char *missing_setting(const struct op *op)
{
    static const char *const texts[] = {"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", NULL};
    static const char *const mails[] = {"SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL", NULL};
    const struct settings *settings = op_engine(op)->settings;
    for (const char *const *name = is_text(op) ? texts : mails; *name; name++) {
        if (!*setting(settings, *name)) {
            return *name;
        }
    }
    bool no_sender = !*setting(settings, "TWILIO_PHONE_NUMBER") &&
                     !*setting(settings, "TWILIO_MESSAGING_SERVICE_SID");
    return is_text(op) && no_sender ? "TWILIO_PHONE_NUMBER" : NULL;
}

static void form_field(struct buf *form, const char *name, const char *value)
{
    buf_printf(form, "%s%s=", form->len ? "&" : "", name);
    buf_urlencode(form, value, strlen(value));
}

static void twilio_form(const struct op *op, const struct json *verdict, struct buf *form)
{
    const struct settings *settings = op_engine(op)->settings;
    const char *service = setting(settings, "TWILIO_MESSAGING_SERVICE_SID");
    const char *callback = setting(settings, "TWILIO_STATUS_CALLBACK_URL");
    const char *public_url = setting(settings, "PUBLIC_URL");
    form_field(form, "To", json_text(verdict, "address"));
    if (*service) {
        form_field(form, "MessagingServiceSid", service);
    } else {
        form_field(form, "From", setting(settings, "TWILIO_PHONE_NUMBER"));
    }
    form_field(form, "Body", json_text(verdict, "text"));
    if (*callback || *public_url) { // our id comes back with each callback
        char *url = *callback ? xprintf("%s?m=%s", callback, op->ledger_id)
                              : xprintf("%s/hooks/twilio/status?m=%s", public_url, op->ledger_id);
        form_field(form, "StatusCallback", url);
        free(url);
    }
}

static void json_field(struct buf *out, const char *before, const char *value)
{
    buf_adds(out, before);
    buf_json(out, value, strlen(value));
}

static void sendgrid_body(const struct op *op, const struct json *verdict, struct buf *out)
{
    const struct settings *settings = op_engine(op)->settings;
    const char *name = setting(settings, "SENDGRID_FROM_NAME");
    const char *html = json_text(op->doc, "html");
    json_field(out, "{\"personalizations\":[{\"to\":[{\"email\":", json_text(verdict, "address"));
    json_field(out, "}]}],\"from\":{\"email\":", setting(settings, "SENDGRID_FROM_EMAIL"));
    if (*name) {
        json_field(out, ",\"name\":", name);
    }
    const char *subject = json_text(verdict, "subject");
    json_field(out, "},\"subject\":", subject ? subject : "");
    json_field(out,
               ",\"content\":[{\"type\":\"text/plain\",\"value\":", json_text(verdict, "text"));
    if (html) {
        json_field(out, "},{\"type\":\"text/html\",\"value\":", html);
    }
    json_field(out, "}],\"custom_args\":{\"moonwright_id\":", op->ledger_id);
    buf_adds(out, "}}");
}

// ---- what the vendor said --------------------------------------------------------------------

// Codes of Twilio that say that this address can't be reached by a text.
static bool says_no_address(const char *code)
{
    static const char *const codes[] = {"21610", "21211", "21614"};
    for (size_t i = 0; code && i < ARRAY_LEN(codes); i++) {
        if (strcmp(code, codes[i]) == 0) {
            return true;
        }
    }
    return false;
}

static char *outcome_json(const char *outcome, const char *provider_id, const char *code,
                          const char *message, bool retryable)
{
    struct buf out;
    buf_init(&out, 16 << 10);
    json_field(&out, "{\"outcome\":", outcome);
    if (provider_id) {
        json_field(&out, ",\"provider_id\":", provider_id);
    }
    if (code) {
        json_field(&out, ",\"code\":", code);
    }
    if (message) {
        buf_adds(&out, ",\"message\":");
        buf_json(&out, message, strnlen(message, 1000));
    }
    buf_adds(&out, retryable ? ",\"retryable\":true}" : "}");
    must(!out.overflow);
    char *text = op_utf8(out.data, out.len); // vendors' words may be anything
    buf_fini(&out);
    return text;
}

// Only what failed before the first byte, and a 4xx, did not happen; anything unclear is in doubt.
static char *judge_answer(const struct op *op, const struct fetch_result *result)
{
    if (result->outcome == FETCH_UNSENT) {
        return outcome_json("refused", NULL, "unsent", result->err.message, true);
    } else if (result->outcome == FETCH_BROKEN) {
        return outcome_json("in_doubt", NULL, "no_answer", result->err.message, false);
    }
    char *status = xprintf("%d", result->status);
    struct json *doc = json_parse(result->body, result->body_len, NULL);
    const char *code = doc ? json_text(doc, "code") : NULL;
    const char *message = doc ? json_text(doc, is_text(op) ? "message" : "errors.0.message") : NULL;
    const char *id = is_text(op) ? (doc ? json_text(doc, "sid") : NULL)
                                 : fetch_header(result, "X-Message-Id");
    bool good = result->status >= 200 && result->status < 300 && (id || !is_text(op));
    bool refused = result->status >= 400 && result->status < 500;
    char *out;
    if (good) {
        out = outcome_json("sent", id, NULL, NULL, false);
    } else if (refused && is_text(op) && says_no_address(code)) {
        out = outcome_json("suppressed", NULL, code, message, false);
    } else if (refused) {
        out = outcome_json("refused", NULL, code ? code : status, message, result->status == 429);
    } else {
        out = outcome_json("in_doubt", NULL, status, message, false);
    }
    json_free(doc);
    free(status);
    log_mask(out); // what the vendor says may repeat our credentials
    return out;
}

static void answered(void *ctx, const struct fetch_result *result)
{
    struct op *op = ctx;
    op->fetch = NULL;
    op_log_answer(op, result);
    int64_t pause = 0;
    bool well = result->outcome == FETCH_ANSWERED && result->status < 500 && result->status != 429;
    if (result->outcome == FETCH_ANSWERED && result->status == 429) {
        pause = op_retry_after_ms(result);
        pause = pause ? pause : op_pause_ms(op->tries, 500);
    }
    limit_report(op_limits(op), op->provider, well, pause);
    figures_outbound(well && result->status < 400);
    replace(&op->more, judge_answer(op, result));
    write_outcome(op);
}

static void send_now(struct op *op, const struct json *verdict)
{
    const char *missing = missing_setting(op);
    if (missing) {
        char *why = xprintf("%s is not set", missing);
        replace(&op->more, outcome_json("refused", NULL, "config", why, false));
        free(why);
        write_outcome(op);
        return;
    }
    const struct settings *settings = op_engine(op)->settings;
    struct buf body, plain, secret;
    buf_init(&body, 1 << 20);
    buf_init(&plain, 4 << 10);
    buf_init(&secret, 8 << 10);
    char *url;
    if (is_text(op)) {
        const char *sid = setting(settings, "TWILIO_ACCOUNT_SID");
        url = xprintf("%s/2010-04-01/Accounts/%s/Messages.json",
                      setting(settings, "TWILIO_BASE_URL"), sid);
        buf_printf(&plain, "%s:%s", sid, setting(settings, "TWILIO_AUTH_TOKEN"));
        buf_adds(&secret, "Authorization: Basic ");
        digest_base64(&secret, plain.data, plain.len);
        twilio_form(op, verdict, &body);
    } else {
        url = xprintf("%s/v3/mail/send", setting(settings, "SENDGRID_BASE_URL"));
        buf_printf(&secret, "Authorization: Bearer %s", setting(settings, "SENDGRID_API_KEY"));
        sendgrid_body(op, verdict, &body);
    }
    op_trace(op, op_call(op));
    const char *headers[] = {secret.data,
                             is_text(op) ? "Content-Type: application/x-www-form-urlencoded"
                                         : "Content-Type: application/json",
                             op->traceparent, NULL};
    struct fetch_request request = {.method = "POST",
                                    .url = url,
                                    .headers = headers,
                                    .body = body.data,
                                    .body_len = body.len,
                                    .timeout_ms = op_timeout_ms(op),
                                    .once = true,
                                    .gate = op_gate};
    must(!body.overflow);
    figures()->stages[STAGE_OUTBOUND].claimed++;
    op->fetch = fetch_start(op_engine(op)->fetcher, &request, answered, op);
    free(url);
    buf_fini(&body);
    buf_fini(&plain);
    buf_fini(&secret);
}

// ---- the ledger ------------------------------------------------------------------------------

static void answer_row(struct op *op, const struct json *row)
{
    struct buf out;
    buf_init(&out, 16 << 10);
    json_field(&out, "{\"status\":", json_text(row, "state"));
    const char *const fields[][2] = {
        {"rule", ",\"reason\":"}, {"time", ",\"time\":"}, {"channel", ",\"channel\":"}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const char *value = json_text(row, fields[i][0]);
        if (value) {
            json_field(&out, fields[i][1], value);
        }
    }
    bool shadow = json_bool(row, "shadow");
    char *id = xprintf("%s%s", shadow ? "shadow:" : "", json_text(row, "id"));
    json_field(&out, ",\"id\":", id);
    buf_adds(&out, shadow ? ",\"shadow\":true}" : "}");
    free(id);
    op_answer(op, "ok", out.data);
    buf_fini(&out);
}

static void said_beforehand(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        op_unit_failed(op, reply, message_again);
    } else {
        message_again(op); // the ledger answers
    }
}

void message_hold(struct op *op, const struct json *row)
{
    const char *rule = json_text(row, "rule");
    bool late = rule && strcmp(rule, "late") == 0;
    const char *declared = json_text(op->doc, "in_doubt");
    if (declared && !late) {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, "select settle_declared($1::uuid, $2)", 2, json_text(row, "id"),
                     declared);
        op_send(op, unit, said_beforehand);
        return;
    }
    struct buf out;
    buf_init(&out, 8 << 10);
    json_field(&out, "{\"code\":", late ? "send_late" : "send_in_doubt");
    json_field(&out, ",\"message\":",
               late ? "it is more than a day late; say whether it should still be sent"
                    : "nobody knows whether it was sent; look at the vendor's log and say so");
    const char *id = json_text(row, "id");
    json_field(&out, ",\"id\":", id ? id : "");
    buf_adds(&out, ",\"can\":[\"sent\",\"not_sent\",\"drop\",\"cancel\"]}");
    op_end(op, ACTION_HELD, out.data, NULL);
    buf_fini(&out);
}

static void act_on_row(struct op *op, const struct json *row)
{
    const char *state = json_text(row, "state");
    const struct settings *settings = op_engine(op)->settings;
    if (strcmp(state, "sent") == 0 || strcmp(state, "suppressed") == 0) {
        answer_row(op, row);
    } else if (strcmp(state, "held") == 0) {
        message_hold(op, row);
    } else if (strcmp(state, "in_doubt") == 0) {
        const char *wait = is_text(op) ? "INDOUBT_LOOK_MS" : "INDOUBT_EMAIL_MS";
        char *until = op_after(json_text(row, "intended_at"),
                               (double)setting_int(settings, wait) / 1000);
        op_end(op, ACTION_SUSPENDED, "send_in_doubt", until);
        free(until);
    } else { // refused: it did not happen
        const char *message = json_text(row, "message");
        const char *code = json_text(row, "code");
        bool retryable = code && (strcmp(code, "unsent") == 0 || strcmp(code, "429") == 0 ||
                                  strcmp(code, "20429") == 0);
        if (retryable && op_may_try_again(op)) {
            op_later(op, op_pause_ms(op->tries, 0), message_again);
        } else {
            op_fail(op, retryable ? "unavailable" : "refused", code ? atoi(code) : 0, "%s: %s",
                    op->provider, message ? message : code);
        }
    }
}

static void outcome_written(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        log_warn("message", "can't write an outcome yet", "message", op->ledger_id, "error",
                 db_reply_err(reply)->message, NULL);
        op_later(op, OUTCOME_RETRY_MS, write_outcome);
    } else {
        struct json *row = json_parse(db_value(reply, 0, 0, 0), db_length(reply, 0, 0, 0), NULL);
        act_on_row(op, row);
        json_free(row);
    }
}

// Unfenced: who knows a fact writes it, and the first one counts.
static void write_outcome(struct op *op)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_OUTCOME, 2, op->ledger_id, op->more);
    op_send(op, unit, outcome_written);
}

static void act_on_verdict(struct op *op, const struct json *doc)
{
    const char *verdict = json_text(doc, "verdict");
    if (strcmp(verdict, "send") == 0 && !op->action) { // cancelled meanwhile: nothing has left
        replace(&op->more, outcome_json("refused", NULL, "unsent", "cancelled", true));
        write_outcome(op);
    } else if (strcmp(verdict, "send") == 0) {
        send_now(op, doc);
    } else if (strcmp(verdict, "already") == 0) {
        answer_row(op, doc);
    } else if (strcmp(verdict, "postponed") == 0) {
        op_end(op, ACTION_SUSPENDED, json_text(doc, "rule"), json_text(doc, "until"));
    } else if (strcmp(verdict, "held") == 0) {
        message_hold(op, doc);
    } else if (strcmp(verdict, "stopping") == 0) {
        op_end(op, ACTION_STOPPING, "", NULL);
    } else if (strcmp(verdict, "lost") == 0) {
        op_end(op, ACTION_NOT_OURS, "", NULL);
    } else {
        indoubt_message(op, doc);
    }
}

static void intended(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (!op->actions) {
        op_free(op);
    } else if (db_reply_outcome(reply) != DB_OK) {
        op_unit_failed(op, reply, intend); // with the same id: if it did happen we are told so
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
    struct db_unit *unit = op_unit(op);
    db_unit_addv(unit, SQL_INTENT, 5, op->ask, op->key, op->ledger_id, op->text, op_holder(op));
    op_send(op, unit, intended);
}
