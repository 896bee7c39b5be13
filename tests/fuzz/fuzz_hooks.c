/* fuzz_hooks.c - deliveries to the receivers, with the server and the database stood in for: each
 * is answered exactly once, only a signed one reaches the database, and what reaches it is JSON.
 *
 * The first byte of the input says which receiver, whether the signature fits, and how the database
 * answers; a line of query follows, then the body. */
#include "fuzz.h"

#include "base/digest.h"
#include "base/log.h"
#include "engine/hooks.h"
#include "engine/settings.h"
#include "script/json.h"

#include <stdarg.h>
#include <stdio.h>

enum { SIGNED = 4, BREAKS = 8, STOPS = 16, STALE = 32, TIMED = 64 };

static struct {
    http_fn *fn;
    void *ctx;
} routes[8];
static size_t route_count;

static struct {
    unsigned flags;
    const char *query, *body;
    size_t len;
    int replies, status, statements;
    db_done_fn *done;
    void *ctx;
} now;

// clang-format off
void __wrap_http_route(struct http_server *, const char *, const char *, http_fn *, void *);
const char *__wrap_http_header(const struct http_request *, const char *);
const char *__wrap_http_query(const struct http_request *);
const char *__wrap_http_peer(const struct http_request *);
const char *__wrap_http_body(struct http_request *, size_t *);
void __wrap_http_reply(struct http_request *, int, const char *, const char *, size_t);
void __wrap_db_unit_addv(struct db_unit *, const char *, int, ...);
void __wrap_pool_send(struct pool *, struct db_unit *, db_done_fn *, void *);
enum db_outcome __wrap_db_reply_outcome(const struct db_reply *);
const struct err *__wrap_db_reply_err(const struct db_reply *);
const char *__wrap_db_value(const struct db_reply *, int, int, int);
bool __wrap_digest_equal(const char *, const char *);
bool __wrap_digest_verify_ecdsa(const char *, const char *, const void *, size_t);
void __wrap_log_write(enum log_level, const char *, const char *, ...);
// clang-format on

void __wrap_http_route(struct http_server *server, const char *method, const char *path,
                       http_fn *fn, void *ctx)
{
    (void)server, (void)method, (void)path;
    must(route_count < ARRAY_LEN(routes));
    routes[route_count].fn = fn;
    routes[route_count++].ctx = ctx;
}

const char *__wrap_http_header(const struct http_request *request, const char *name)
{
    (void)request;
    return strstr(name, "Timestamp") ? (now.flags & TIMED ? now.query : "1700000000") : "signature";
}

const char *__wrap_http_query(const struct http_request *request)
{
    (void)request;
    return now.query;
}

const char *__wrap_http_peer(const struct http_request *request)
{
    (void)request;
    return "127.0.0.1";
}

const char *__wrap_http_body(struct http_request *request, size_t *len)
{
    (void)request;
    *len = now.len;
    return now.body;
}

void __wrap_http_reply(struct http_request *request, int status, const char *content_type,
                       const char *body, size_t len)
{
    (void)request, (void)content_type;
    must(strlen(body) == len);
    now.replies++;
    now.status = status;
}

void __wrap_db_unit_addv(struct db_unit *unit, const char *sql, int nparams, ...)
{
    (void)unit;
    must(now.flags & SIGNED);
    now.statements++;
    va_list args;
    va_start(args, nparams);
    for (int i = 0; i < nparams; i++) {
        const char *text = va_arg(args, const char *);
        char place[24];
        snprintf(place, sizeof(place), "$%d::json", i + 1);
        if (strstr(sql, place)) {
            struct json *json = json_parse(text, strlen(text), NULL);
            must(json);
            // SendGrid's is a list; nothing else may get as far as an SQL that goes through one.
            must(i > 0 || text[0] == '[' || !(strstr(sql, "sendgrid") || strstr(sql, "elements")));
            json_free(json);
        }
    }
    va_end(args);
}

void __wrap_pool_send(struct pool *pool, struct db_unit *unit, db_done_fn *done, void *ctx)
{
    (void)pool;
    db_unit_free(unit);
    must(!now.done);
    now.done = done;
    now.ctx = ctx;
}

enum db_outcome __wrap_db_reply_outcome(const struct db_reply *reply)
{
    (void)reply;
    return now.flags & BREAKS && (now.statements > 1 || now.len % 2) ? DB_FAILED : DB_OK;
}

const struct err *__wrap_db_reply_err(const struct db_reply *reply)
{
    (void)reply;
    static const struct err err = {.code = ERR_CONN, .message = "the server is gone"};
    return &err;
}

const char *__wrap_db_value(const struct db_reply *reply, int statement, int row, int column)
{
    (void)reply, (void)statement, (void)row, (void)column;
    return now.statements > 1 && now.flags & STALE ? "stale" : now.flags & STALE ? NULL : "[]";
}

bool __wrap_digest_equal(const char *a, const char *b)
{
    return a && b && now.flags & SIGNED;
}

bool __wrap_digest_verify_ecdsa(const char *key, const char *signature, const void *data,
                                size_t len)
{
    (void)data, (void)len;
    return key && signature && now.flags & SIGNED;
}

void __wrap_log_write(enum log_level level, const char *module, const char *message, ...)
{
    (void)level, (void)module, (void)message;
}

static struct hooks *start(void)
{
    static struct engine engine;
    static struct settings *settings;
    if (!settings) {
        must(setenv("TWILIO_AUTH_TOKEN", "token-of-the-test", 1) == 0);
        must(setenv("PUBLIC_URL", "https://hooks.example", 1) == 0);
        must(setenv("SENDGRID_WEBHOOK_PUBLIC_KEY", "key-of-the-test", 1) == 0);
        must(settings = settings_load(NULL, NULL));
        engine.settings = settings;
    }
    route_count = 0;
    struct hooks *hooks = hooks_start(&engine, NULL);
    must(route_count == 3);
    return hooks;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const uint8_t *line = memchr(data + 1, '\n', size - 1);
    size_t head = line ? (size_t)(line - data - 1) : size - 1;
    char *query = fuzz_text(data + 1, head);
    size_t len = line ? size - head - 2 : 0;
    char *body = xmalloc(len + 1);
    memcpy(body, line ? line + 1 : data, len);
    body[len] = '\0';
    memset(&now, 0, sizeof(now));
    now.flags = data[0];
    now.query = query;
    now.body = body;
    now.len = len;
    struct hooks *hooks = start();
    struct http_request *request = (struct http_request *)body; // nobody looks inside
    size_t which = (data[0] & 3) % 3;
    routes[which].fn(routes[which].ctx, request);
    if (now.flags & STOPS) {
        hooks_stop(hooks);
        hooks = NULL;
    }
    while (now.done) {
        db_done_fn *done = now.done;
        now.done = NULL;
        done(now.ctx, NULL);
    }
    must(now.replies == 1);
    must(now.status != 200 || (now.flags & SIGNED && now.statements > 0));
    hooks_stop(hooks);
    free(query);
    free(body);
    return 0;
}
