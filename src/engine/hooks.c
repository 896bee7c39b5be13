/* hooks.c - the signed receivers of vendors' webhooks.
 *
 *     request --signature--> 403
 *        `--> who has the address (ServiceTitan's database) --> one SQL function --> 200 after
 * commit
 *
 * A delivery that was seen before is answered 200 and changes nothing. A database that can't be
 * reached is a 503: the vendor comes again. */
#include "engine/hooks.h"

#include "base/buf.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/trace.h"
#include "engine/outbound.h"
#include "engine/settings.h"
#include "script/json.h"

#include <stdlib.h>
#include <string.h>

#define STATUS_PATH "/hooks/twilio/status"
#define INBOUND_PATH "/hooks/twilio/inbound"
#define SENDGRID_PATH "/hooks/sendgrid"

static const char SQL_BY_ADDRESS[] =
    "select json_agg(snapshot_of('customer', id::text)) from customers_by_address($1) id";
static const char SQL_BY_EVENTS[] =
    "select coalesce(json_object_agg(a.address, (select json_agg(snapshot_of('customer', id::text)) "
    "from customers_by_address(a.address) id)), '{}') from ("
    "select distinct lower(btrim(e->>'email')) as address from json_array_elements($1::json) e "
    "where json_typeof(e) = 'object' and e->>'email' is not null "
    "and e->>'event' in ('unsubscribe', 'group_unsubscribe', 'spamreport')) a";
// What this transaction makes arrive belongs to that trace.
static const char SQL_TRACE[] = "select set_config('moonwright.trace', $1, true)";
static const char SQL_STATUS[] = "select hook_twilio_status($1::json)";
static const char SQL_INBOUND[] =
    "select hook_twilio_inbound(($1::jsonb || jsonb_build_object('customers', $2::jsonb))::json)";
static const char SQL_SENDGRID[] = "select hook_sendgrid($1::json, $2::json, $3::double precision)";

struct hooks {
    const struct engine *engine;
    struct delivery *all;
};

struct delivery { // one request, until it is answered
    struct hooks *hooks;
    struct delivery *next, *prev;
    struct http_request *request; // NULL: answered
    const char *sql, *kind;
    char *body;    // JSON for the SQL function
    char *sent_at; // SendGrid's signed time
    struct trace trace;
    bool twilio;
};

static void delivery_end(struct delivery *delivery, int status)
{
    if (delivery->hooks) {
        if (delivery->prev) {
            delivery->prev->next = delivery->next;
        } else {
            delivery->hooks->all = delivery->next;
        }
        if (delivery->next) {
            delivery->next->prev = delivery->prev;
        }
    }
    if (delivery->request) {
        bool xml = delivery->twilio && status == 200;
        const char *text = xml ? "<Response/>" : status == 200 ? "ok\n" : "not taken\n";
        http_reply(delivery->request, status, xml ? "text/xml" : "text/plain", text, strlen(text));
    }
    free(delivery->body);
    free(delivery->sent_at);
    free(delivery);
}

static struct delivery *delivery_new(struct hooks *hooks, struct http_request *request,
                                     const char *kind, const char *sql)
{
    struct delivery *delivery = xcalloc(1, sizeof(*delivery));
    *delivery = (struct delivery){
        .hooks = hooks, .next = hooks->all, .request = request, .sql = sql, .kind = kind};
    if (hooks->all) {
        hooks->all->prev = delivery;
    }
    hooks->all = delivery;
    if (!trace_parse(http_header(request, "traceparent"), &delivery->trace)) {
        trace_new(&delivery->trace);
    }
    trace_child(&delivery->trace);
    return delivery;
}

static void refuse(struct http_request *request, const char *kind, int status, const char *why)
{
    log_warn("hooks", "webhook refused", "kind", kind, "why", why, "peer", http_peer(request),
             NULL);
    const char *text = status == 403 ? "bad signature\n" : "malformed\n";
    http_reply(request, status, "text/plain", text, strlen(text));
}

// ---- to the database -------------------------------------------------------------------------

static void committed(void *ctx, const struct db_reply *reply)
{
    struct delivery *delivery = ctx;
    int status = 503;
    if (db_reply_outcome(reply) == DB_OK) {
        const char *word = db_value(reply, 1, 0, 0);
        bool stale = word && strcmp(word, "stale") == 0;
        status = stale ? 403 : 200;
        if (stale) {
            log_warn("hooks", "webhook refused", "kind", delivery->kind, "why",
                     "its signed time is more than ten minutes away", NULL);
        } else {
            log_debug("hooks", "webhook taken", "kind", delivery->kind, "trace", delivery->trace.id,
                      "span", delivery->trace.span, NULL);
        }
    } else {
        log_error("hooks", "webhook not taken", "kind", delivery->kind, "error",
                  db_reply_err(reply)->message, "trace", delivery->trace.id, NULL);
    }
    delivery_end(delivery, status);
}

static void take(struct delivery *delivery, const char *customers)
{
    struct db_unit *unit = db_unit_new();
    char trace[TRACE_TEXT];
    trace_write(&delivery->trace, trace);
    db_unit_addv(unit, SQL_TRACE, 1, trace);
    if (delivery->sent_at) {
        db_unit_addv(unit, delivery->sql, 3, delivery->body, customers, delivery->sent_at);
    } else if (customers) {
        db_unit_addv(unit, delivery->sql, 2, delivery->body, customers);
    } else {
        db_unit_addv(unit, delivery->sql, 1, delivery->body);
    }
    pool_send(delivery->hooks->engine->db, unit, committed, delivery);
}

static void got_customers(void *ctx, const struct db_reply *reply)
{
    struct delivery *delivery = ctx;
    if (!delivery->hooks) {
        delivery_end(delivery, 503);
    } else if (db_reply_outcome(reply) != DB_OK) {
        log_error("hooks", "webhook not taken", "kind", delivery->kind, "error",
                  db_reply_err(reply)->message, NULL);
        delivery_end(delivery, 503);
    } else {
        const char *customers = db_value(reply, 0, 0, 0);
        take(delivery, customers ? customers : "null");
    }
}

// ---- Twilio ----------------------------------------------------------------------------------

static int by_name(const void *a, const void *b)
{
    const struct http_pair *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : strcmp(x->value, y->value);
}

// The signature is over the address that Twilio called, which only our settings know, and all
// fields in the order of their names; a value that comes twice counts once.
static bool signed_for(const char *base, const char *path, const char *query,
                       const struct http_pair *pairs, size_t count, const char *token,
                       const char *signature)
{
    struct buf text;
    buf_init(&text, 2 << 20);
    buf_printf(&text, "%s%s%s%s", base, path, *query ? "?" : "", query);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || by_name(&pairs[i - 1], &pairs[i]) != 0) {
            buf_adds(&text, pairs[i].name);
            buf_adds(&text, pairs[i].value);
        }
    }
    char expected[32];
    digest_hmac_sha1_base64(token, text.data, text.len, expected);
    bool good = !text.overflow && digest_equal(expected, signature);
    buf_fini(&text);
    return good;
}

// Twilio may sign the address with its standard port or without.
static bool twilio_signed(const struct engine *engine, struct http_request *request,
                          const char *path, const struct http_pair *pairs, size_t count)
{
    const char *signature = http_header(request, "X-Twilio-Signature");
    const char *token = setting(engine->settings, "TWILIO_AUTH_TOKEN");
    const char *base = setting(engine->settings, "PUBLIC_URL");
    if (!signature || !*token) {
        return false;
    }
    const char *query = http_query(request);
    const char *callback = setting(engine->settings, "TWILIO_STATUS_CALLBACK_URL");
    if (*callback && strcmp(path, STATUS_PATH) == 0) {
        base = callback;
        path = "";
    }
    if (signed_for(base, path, query, pairs, count, token, signature)) {
        return true;
    }
    const char *host = strstr(base, "://");
    if (!host || strchr(host + 3, '/')) {
        return false;
    }
    const char *port = strncmp(base, "https", 5) == 0 ? ":443" : ":80";
    size_t len = strlen(base), tail = strlen(port);
    bool has = len > tail && strcmp(base + len - tail, port) == 0;
    char *other = has ? xstrndup(base, len - tail) : xprintf("%s%s", base, port);
    bool good = signed_for(other, path, query, pairs, count, token, signature);
    free(other);
    return good;
}

static const char *field(const struct http_pair *pairs, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(pairs[i].name, name) == 0) {
            return pairs[i].value;
        }
    }
    return NULL;
}

// The fields that we keep, as JSON. names: {ours, theirs}, ended by NULL.
static char *fields_json(const struct http_pair *pairs, size_t count, const char *const (*names)[2],
                         const char *m)
{
    struct buf out;
    buf_init(&out, 4 << 20);
    buf_adds(&out, "{\"m\":");
    buf_json(&out, m ? m : "", m ? strlen(m) : 0);
    for (; (*names)[0]; names++) {
        const char *value = field(pairs, count, (*names)[1]);
        if (value) {
            char *text = op_utf8(value, strlen(value));
            buf_printf(&out, ",\"%s\":", (*names)[0]);
            buf_json(&out, text, strlen(text));
            free(text);
        }
    }
    buf_adds(&out, "}");
    return buf_take(&out);
}

// NULL: it was answered. Pairs are sorted; the caller frees them.
static struct http_pair *twilio_form(const struct engine *engine, struct http_request *request,
                                     const char *path, size_t *count)
{
    size_t len;
    const char *body = http_body(request, &len);
    struct http_pair *pairs = http_form(body, len, count);
    if (!pairs) {
        refuse(request, path, 400, "not a form");
        return NULL;
    }
    qsort(pairs, *count, sizeof(*pairs), by_name);
    if (!twilio_signed(engine, request, path, pairs, *count)) {
        refuse(request, path, 403, "bad signature");
    } else if (!field(pairs, *count, "MessageSid")) {
        refuse(request, path, 400, "without MessageSid");
    } else {
        return pairs;
    }
    free(pairs);
    return NULL;
}

static void on_status(void *ctx, struct http_request *request)
{
    static const char *const names[][2] = {
        {"sid", "MessageSid"}, {"status", "MessageStatus"}, {"code", "ErrorCode"}, {NULL, NULL}};
    struct hooks *hooks = ctx;
    size_t count, queries;
    struct http_pair *pairs = twilio_form(hooks->engine, request, STATUS_PATH, &count);
    if (!pairs) {
        return;
    }
    const char *query = http_query(request);
    struct http_pair *query_pairs = http_form(query, strlen(query), &queries);
    struct delivery *delivery = delivery_new(hooks, request, "twilio status", SQL_STATUS);
    delivery->twilio = true;
    delivery->body = fields_json(pairs, count, names,
                                 query_pairs ? field(query_pairs, queries, "m") : NULL);
    free(query_pairs);
    if (field(pairs, count, "MessageStatus")) {
        take(delivery, NULL);
    } else {
        delivery_end(delivery, 400);
    }
    free(pairs);
}

static void on_inbound(void *ctx, struct http_request *request)
{
    static const char *const names[][2] = {
        {"sid", "MessageSid"},          {"from", "From"}, {"to", "To"}, {"text", "Body"},
        {"opt_out_type", "OptOutType"}, {NULL, NULL}};
    struct hooks *hooks = ctx;
    size_t count;
    struct http_pair *pairs = twilio_form(hooks->engine, request, INBOUND_PATH, &count);
    if (!pairs) {
        return;
    }
    struct delivery *delivery = delivery_new(hooks, request, "twilio inbound", SQL_INBOUND);
    delivery->twilio = true;
    delivery->body = fields_json(pairs, count, names, NULL);
    const char *from = field(pairs, count, "From");
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_BY_ADDRESS, 1, from ? from : "");
    pool_send(hooks->engine->st, unit, got_customers, delivery);
    free(pairs);
}

// ---- SendGrid --------------------------------------------------------------------------------

static void on_sendgrid(void *ctx, struct http_request *request)
{
    struct hooks *hooks = ctx;
    const char *key = setting(hooks->engine->settings, "SENDGRID_WEBHOOK_PUBLIC_KEY");
    const char *signature = http_header(request, "X-Twilio-Email-Event-Webhook-Signature");
    const char *at = http_header(request, "X-Twilio-Email-Event-Webhook-Timestamp");
    size_t len;
    const char *body = http_body(request, &len);
    struct buf text; // the time and the body as they came, line ends included
    buf_init(&text, 4 << 20);
    buf_adds(&text, at ? at : "");
    buf_add(&text, body, len);
    bool good = signature && at && !text.overflow &&
                digest_verify_ecdsa(key, signature, text.data, text.len);
    buf_fini(&text);
    if (!good) {
        refuse(request, SENDGRID_PATH, 403, "bad signature");
        return;
    }
    struct json *doc = json_parse(body, len, NULL);
    char *events = doc ? json_encode(doc, "") : NULL;
    json_free(doc);
    char *end;
    strtod(at, &end);
    if (!events || events[0] != '[' || *end || end == at) {
        free(events);
        refuse(request, SENDGRID_PATH, 400, "not a list of events");
        return;
    }
    struct delivery *delivery = delivery_new(hooks, request, "sendgrid", SQL_SENDGRID);
    delivery->body = events;
    delivery->sent_at = xstrdup(at);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_BY_EVENTS, 1, events);
    pool_send(hooks->engine->st, unit, got_customers, delivery);
}

// ---- start and stop --------------------------------------------------------------------------

struct hooks *hooks_start(const struct engine *engine, struct http_server *server)
{
    struct hooks *hooks = xcalloc(1, sizeof(*hooks));
    hooks->engine = engine;
    if (*setting(engine->settings, "TWILIO_AUTH_TOKEN") &&
        *setting(engine->settings, "PUBLIC_URL")) {
        http_route(server, "POST", STATUS_PATH, on_status, hooks);
        http_route(server, "POST", INBOUND_PATH, on_inbound, hooks);
    } else {
        log_warn("hooks", "Twilio's receivers are off: they need TWILIO_AUTH_TOKEN and PUBLIC_URL",
                 NULL);
    }
    if (*setting(engine->settings, "SENDGRID_WEBHOOK_PUBLIC_KEY")) {
        http_route(server, "POST", SENDGRID_PATH, on_sendgrid, hooks);
    } else {
        log_warn("hooks", "SendGrid's receiver is off: it needs SENDGRID_WEBHOOK_PUBLIC_KEY", NULL);
    }
    return hooks;
}

void hooks_stop(struct hooks *hooks)
{
    if (!hooks) {
        return;
    }
    for (struct delivery *delivery = hooks->all; delivery; delivery = delivery->next) {
        delivery->hooks = NULL; // its unit still reports, and ends it
        static const char text[] = "stopping\n";
        http_reply(delivery->request, 503, "text/plain", text, strlen(text));
        delivery->request = NULL;
    }
    free(hooks);
}
