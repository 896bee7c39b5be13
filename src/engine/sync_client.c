/* sync_client.c - calls in a queue, sent as tokens and pauses allow.
 *
 *   call:   waiting --pump--> sent --answer--> done
 *              ^-----pause------'
 *   access: none --ask--> asking --ok--> held --early or 401--> none
 *                            '--refused--> every call fails with the reason
 *
 * The client owns its calls; a call's owner may cancel it until it was told. */
#include "engine/sync_client.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/figures.h"
#include "engine/settings.h"
#include "script/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    MAX_TRIES = 10,
    FIRST_TRIES = 4, /* when the server never answered anything: a wrong address, most likely */
    FIRST_PAUSE_MS = 500,
    MAX_PAUSE_MS = 30000,
    TELL_MS = 5000, /* between two lines about it */
    MAX_RETRY_AFTER_S = 300,
    EARLY_MS = 60000, /* so long before its end an access token is replaced */
    MAX_PAGE = 64 << 20,
    TIMEOUT_MS = 110000 /* the vendor gives up after 100 s */
};

struct sync_call {
    struct sync_client *client;
    struct sync_call *next;
    char *path;
    sync_answer_fn *done;
    void *ctx;
    struct fetch *fetch;
    int64_t not_before; /* by the monotonic clock */
    int64_t held_ms;    /* since when the rate limit holds it back; 0: it doesn't */
    int tries;
    int access;   /* which access token it was sent with */
    bool renewed; /* it was refused once already */
};

struct sync_client {
    const struct engine *engine;
    struct loop_timer *timer;
    struct sync_call *calls; /* in the order in which they were made */
    char *api, *auth_url, *app_key;
    char *access_token; /* the whole header; NULL: none */
    char *masked[2];    /* the tokens that the log hides: this one and the one before */
    int access;         /* counts access tokens */
    int64_t access_until;
    struct fetch *asking;
    int ask_tries;
    int64_t ask_not_before;
    double tokens, per_second;
    int64_t filled_at;
    int64_t paused_until; /* 429: everybody waits */
    bool answered;        /* ServiceTitan has answered something */
    int64_t tell_at;      /* a repetition is told of from here on */
    unsigned jitter;
};

static void pump(void *ctx);

/* ---- making and ending ---- */

static bool check_settings(const struct engine *engine, struct err *err)
{
    static const char *const needed[] = {"SERVICE_TITAN_CLIENT_ID", "SERVICE_TITAN_CLIENT_SECRET",
                                         "SERVICE_TITAN_TENANT_ID", "SERVICE_TITAN_APP_KEY"};
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        if (!*setting(engine->settings, needed[i])) {
            return err_set(err, ERR_CONFIG,
                           "%s is not set: without it nothing can be copied from "
                           "ServiceTitan",
                           needed[i]);
        }
    }
    const char *tenant = setting(engine->settings, "SERVICE_TITAN_TENANT_ID");
    if (tenant[strspn(tenant, "0123456789")]) {
        return err_set(err, ERR_CONFIG, "SERVICE_TITAN_TENANT_ID is \"%s\", which is not a number",
                       tenant);
    }
    return true;
}

static char *without_slash(const char *url)
{
    size_t len = strlen(url);
    while (len > 0 && url[len - 1] == '/') {
        len--;
    }
    return xstrndup(url, len);
}

struct sync_client *sync_client_new(const struct engine *engine, struct err *err)
{
    if (!check_settings(engine, err)) {
        return NULL;
    }
    struct sync_client *client = xcalloc(1, sizeof(*client));
    client->engine = engine;
    client->timer = loop_timer_new(engine->loop, pump, client);
    client->api = without_slash(setting(engine->settings, "SERVICE_TITAN_API_URL"));
    char *auth = without_slash(setting(engine->settings, "SERVICE_TITAN_AUTH_URL"));
    bool whole = strstr(auth, "/connect/token") != NULL;
    client->auth_url = xprintf("%s%s", auth, whole ? "" : "/connect/token");
    free(auth);
    client->app_key = xprintf("ST-App-Key: %s", setting(engine->settings, "SERVICE_TITAN_APP_KEY"));
    // What is saved up and what comes in within one second stay below the vendor's limit.
    client->per_second = (double)setting_int(engine->settings, "SYNC_REQUESTS_PER_SECOND") * 5 / 6;
    client->filled_at = clock_mono_ms();
    client->tokens = 1;
    client->jitter = (unsigned)clock_wall_us();
    return client;
}

static void free_call(struct sync_call *call)
{
    free(call->path);
    free(call);
}

static void unlink_call(struct sync_call *call)
{
    struct sync_call **at = &call->client->calls;
    while (*at != call) {
        at = &(*at)->next;
    }
    *at = call->next;
}

void sync_call_cancel(struct sync_call *call)
{
    if (!call) {
        return;
    }
    if (call->fetch) {
        fetch_cancel(call->fetch);
    }
    unlink_call(call);
    free_call(call);
}

void sync_client_free(struct sync_client *client)
{
    if (!client) {
        return;
    }
    while (client->calls) {
        sync_call_cancel(client->calls);
    }
    if (client->asking) {
        fetch_cancel(client->asking);
    }
    loop_timer_free(client->timer);
    free(client->api);
    free(client->auth_url);
    free(client->app_key);
    free(client->access_token);
    free(client->masked[0]);
    free(client->masked[1]);
    free(client);
}

struct sync_call *sync_get(struct sync_client *client, const char *path, sync_answer_fn *done,
                           void *ctx)
{
    struct sync_call *call = xcalloc(1, sizeof(*call));
    call->client = client;
    call->path = xstrdup(path);
    call->done = done;
    call->ctx = ctx;
    struct sync_call **at = &client->calls;
    while (*at) {
        at = &(*at)->next;
    }
    *at = call;
    loop_timer_set(client->timer, 0);
    return call;
}

/* ---- ends of a call ---- */

static void finish(struct sync_call *call, const struct sync_answer *answer)
{
    unlink_call(call);
    call->done(call->ctx, answer);
    free_call(call);
}

static void fail(struct sync_call *call, const struct err *err)
{
    struct sync_answer answer = {.err = err, .body = ""};
    finish(call, &answer);
}

/* Half to once and a half of the pause that comes next. */
static int64_t pause_ms(struct sync_client *client, int tries)
{
    int64_t pause = FIRST_PAUSE_MS;
    for (int i = 1; i < tries && pause < MAX_PAUSE_MS; i++) {
        pause *= 2;
    }
    pause = pause > MAX_PAUSE_MS ? MAX_PAUSE_MS : pause;
    client->jitter = client->jitter * 1103515245u + 12345u;
    return pause / 2 + (int64_t)(client->jitter >> 8) % (pause + 1);
}

static void again(struct sync_call *call, const struct err *err, int64_t wait_ms)
{
    struct sync_client *client = call->client;
    if (call->tries >= (client->answered ? MAX_TRIES : FIRST_TRIES)) {
        fail(call, err);
        return;
    }
    int64_t now = clock_mono_ms();
    if (now >= client->tell_at) { /* all feeds have the same trouble */
        client->tell_at = now + TELL_MS;
        log_warn("sync", "ServiceTitan is asked again", "path", call->path, "reason", err->message,
                 "in_ms", log_int(wait_ms), "try", log_int(call->tries + 1), NULL);
    }
    call->not_before = now + wait_ms;
    loop_timer_set(client->timer, 0);
}

/* What ServiceTitan says about an error, if it says it in JSON: its title or message. */
static void reason_of(const struct fetch_result *result, char *out, size_t size)
{
    struct json *json = json_parse(result->body, result->body_len, NULL);
    const char *text = json ? json_text(json, "title") : NULL;
    text = text || !json ? text : json_text(json, "message");
    text = text || !json ? text : json_text(json, "error");
    snprintf(out, size, "%s%.200s", text ? ": " : "", text ? text : "");
    json_free(json);
}

static int64_t retry_after_ms(const struct fetch_result *result)
{
    const char *text = fetch_header(result, "Retry-After");
    long seconds = text ? strtol(text, NULL, 10) : 1;
    seconds = seconds < 1 ? 1 : seconds > MAX_RETRY_AFTER_S ? MAX_RETRY_AFTER_S : seconds;
    return seconds * 1000;
}

static bool is_json(const struct fetch_result *result)
{
    const char *at = result->body + strspn(result->body, " \t\r\n");
    return *at == '{' || *at == '[';
}

static void refused(struct sync_call *call, const struct fetch_result *result)
{
    char reason[256];
    struct err err;
    reason_of(result, reason, sizeof(reason));
    const char *hint = "";
    if (result->status == 404) {
        hint = "; are SERVICE_TITAN_TENANT_ID and SERVICE_TITAN_API_URL right?";
    } else if (result->status == 401 || result->status == 403) {
        hint = "; are SERVICE_TITAN_APP_KEY and SERVICE_TITAN_TENANT_ID right, and may the app "
               "read this?";
    } else if (strstr(call->path, "/export/")) {
        hint = "; if it no longer knows this place, `moonwright sync NAME --full` begins anew";
    }
    err_set(&err, ERR_INPUT, "ServiceTitan refused GET %s with %d%s%s", call->path, result->status,
            reason, hint);
    fail(call, &err);
}

static void drop_access(struct sync_client *client)
{
    free(client->access_token);
    client->access_token = NULL;
}

static void on_answer(void *ctx, const struct fetch_result *result)
{
    struct sync_call *call = ctx;
    struct sync_client *client = call->client;
    struct err err;
    call->fetch = NULL;
    bool well = result->outcome == FETCH_ANSWERED && result->status < 500 && result->status != 429;
    provider_figures("servicetitan")->calls++;
    provider_figures("servicetitan")->errors += !well;
    if (result->outcome != FETCH_ANSWERED) {
        err_set(&err, ERR_CONN, "ServiceTitan does not answer at %s: %s", client->api,
                result->err.message);
        again(call, &err, pause_ms(client, call->tries));
        return;
    }
    client->answered = true;
    if (result->status == 200 && is_json(result)) {
        struct sync_answer answer = {
            .body = result->body, .len = result->body_len, .date = fetch_header(result, "Date")};
        finish(call, &answer);
    } else if (result->status == 401 && !call->renewed) {
        call->renewed = true;
        if (call->access == client->access) {
            drop_access(client);
        }
        loop_timer_set(client->timer, 0);
    } else if (result->status == 429) {
        int64_t wait = retry_after_ms(result);
        err_set(&err, ERR_LIMIT, "ServiceTitan's rate limit is reached");
        client->paused_until = clock_mono_ms() + wait;
        again(call, &err, wait);
    } else if (result->status >= 500 || result->status == 408 || result->status == 200) {
        err_set(&err, ERR_CONN, "ServiceTitan answered GET %s with %d%s", call->path,
                result->status, is_json(result) ? "" : " and a page that is not JSON");
        again(call, &err, pause_ms(client, call->tries));
    } else {
        refused(call, result);
    }
}

/* ---- the access token ---- */

/* Nobody gets an access token now: every call that waits for one fails. */
static void fail_waiting(struct sync_client *client, const struct err *err)
{
    for (;;) {
        struct sync_call *call = client->calls;
        while (call && call->fetch) {
            call = call->next;
        }
        if (!call) {
            return;
        }
        fail(call, err);
    }
}

static bool keep_access(struct sync_client *client, const struct fetch_result *result,
                        struct err *err)
{
    struct json *json = json_parse(result->body, result->body_len, err);
    const char *token = json ? json_text(json, "access_token") : NULL;
    int64_t lifetime = 900;
    if (json) {
        json_int(json, "expires_in", &lifetime);
    }
    if (token) {
        log_forget_secret(client->masked[1]);
        free(client->masked[1]);
        client->masked[1] = client->masked[0];
        client->masked[0] = xstrdup(token);
        log_add_secret(token);
        client->access_token = xprintf("Authorization: Bearer %s", token);
        client->access++;
        int64_t early = lifetime * 1000 / 4 < EARLY_MS ? lifetime * 1000 / 4 : EARLY_MS;
        client->access_until = clock_mono_ms() + lifetime * 1000 - early;
        client->ask_tries = 0;
    }
    json_free(json);
    return token ||
           err_set(err, ERR_INPUT, "%s answered without an access_token", client->auth_url);
}

static void on_access(void *ctx, const struct fetch_result *result)
{
    struct sync_client *client = ctx;
    struct err err;
    client->asking = NULL;
    bool answered = result->outcome == FETCH_ANSWERED;
    client->answered |= answered;
    if (answered && result->status == 200 && keep_access(client, result, &err)) {
        loop_timer_set(client->timer, 0);
        return;
    }
    if (answered && (result->status == 400 || result->status == 401 || result->status == 403)) {
        char reason[256];
        struct json *json = json_parse(result->body, result->body_len, NULL);
        const char *code = json ? json_text(json, "error") : NULL;
        snprintf(reason, sizeof(reason), "%.100s", code ? code : "no reason given");
        json_free(json);
        err_set(&err, ERR_CONFIG,
                "ServiceTitan refused SERVICE_TITAN_CLIENT_ID/SECRET (%s): check both in the "
                "environment or .env, and that they belong to %s",
                reason, client->auth_url);
        fail_waiting(client, &err);
        return;
    }
    if (!answered) {
        err_set(&err, ERR_CONN, "ServiceTitan's token server does not answer at %s: %s",
                client->auth_url, result->err.message);
    } else if (result->status != 200) {
        err_set(&err, ERR_CONN, "ServiceTitan's token server %s answered %d", client->auth_url,
                result->status);
    }
    if (client->ask_tries >= (client->answered ? MAX_TRIES : FIRST_TRIES)) {
        client->ask_tries = 0;
        fail_waiting(client, &err);
        return;
    }
    int64_t wait = answered && result->status == 429 ? retry_after_ms(result)
                                                     : pause_ms(client, client->ask_tries);
    log_warn("sync", "the token server is asked again", "reason", err.message, "in_ms",
             log_int(wait), NULL);
    client->ask_not_before = clock_mono_ms() + wait;
    loop_timer_set(client->timer, 0);
}

static void ask_access(struct sync_client *client)
{
    const struct settings *settings = client->engine->settings;
    static const char *const headers[] = {"Content-Type: application/x-www-form-urlencoded", NULL};
    struct buf body;
    buf_init(&body, 64 << 10);
    buf_adds(&body, "grant_type=client_credentials&client_id=");
    const char *id = setting(settings, "SERVICE_TITAN_CLIENT_ID");
    const char *secret = setting(settings, "SERVICE_TITAN_CLIENT_SECRET");
    buf_urlencode(&body, id, strlen(id));
    buf_adds(&body, "&client_secret=");
    buf_urlencode(&body, secret, strlen(secret));
    struct fetch_request request = {.method = "POST",
                                    .url = client->auth_url,
                                    .headers = headers,
                                    .body = body.data,
                                    .body_len = body.len};
    client->ask_tries++;
    client->asking = fetch_start(client->engine->fetcher, &request, on_access, client);
    buf_fini(&body);
}

/* ---- sending ---- */

static void send_call(struct sync_call *call)
{
    struct sync_client *client = call->client;
    char *url = xprintf("%s%s", client->api, call->path);
    const char *headers[] = {client->access_token, client->app_key, "Accept: application/json",
                             NULL};
    struct fetch_request request = {.method = "GET",
                                    .url = url,
                                    .headers = headers,
                                    .timeout_ms = TIMEOUT_MS,
                                    .max_body = MAX_PAGE};
    if (call->held_ms) {
        provider_figures("servicetitan")->waits++;
        provider_figures("servicetitan")->wait_ms += clock_mono_ms() - call->held_ms;
        call->held_ms = 0;
    }
    call->tries++;
    call->access = client->access;
    call->fetch = fetch_start(client->engine->fetcher, &request, on_answer, call);
    free(url);
}

static void refill(struct sync_client *client, int64_t now)
{
    double most = client->per_second / 5 < 1 ? 1 : client->per_second / 5;
    client->tokens += (double)(now - client->filled_at) * client->per_second / 1000;
    client->tokens = client->tokens > most ? most : client->tokens;
    client->filled_at = now;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Sends what may be sent and sets the timer to when more may be. */
static void pump(void *ctx)
{
    struct sync_client *client = ctx;
    int64_t now = clock_mono_ms(), wake = INT64_MAX;
    if (client->access_token && now >= client->access_until) {
        drop_access(client);
    }
    refill(client, now);
    for (struct sync_call *call = client->calls; call; call = call->next) {
        int64_t at = later(call->not_before, client->paused_until);
        if (call->fetch || (!client->access_token && client->asking)) {
            continue;
        }
        if (!client->access_token) {
            at = later(at, client->ask_not_before);
            if (at <= now) {
                ask_access(client);
                continue;
            }
        } else if (client->tokens < 1) {
            at = later(at, now + 1 + (int64_t)((1 - client->tokens) * 1000 / client->per_second));
        }
        if (at > now) {
            bool limited = client->access_token && at > call->not_before;
            call->held_ms = limited && !call->held_ms ? now : call->held_ms;
            wake = at < wake ? at : wake;
            continue;
        }
        client->tokens -= 1;
        send_call(call);
    }
    if (wake != INT64_MAX) {
        loop_timer_set(client->timer, wake - now);
    }
}
