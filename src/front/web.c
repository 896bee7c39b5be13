/* web.c - see web.h.
 *
 *     asked --a look is new enough--> answered
 *       `--> waits --both databases answered, or LATE_MS--> answered */
#include "front/web.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/page.h"
#include "engine/settings.h"
#include "front/deployment.h"
#include "front/migrate.h"

#include <stdlib.h>
#include <string.h>

enum { FRESH_MS = 1000, LATE_MS = 2000, TEXT_MAX = 16 << 20 };

typedef void reply_fn(struct web *web, struct http_request *request);

struct asker {
    struct asker *next;
    struct http_request *request;
    reply_fn *reply;
};

struct web {
    const struct engine *engine;
    struct loop_timer *late;
    struct asker *askers;
    struct deployment *shown, *looking; /* the last whole look, and the one under way */
    int64_t shown_ms;
    int in_flight;
    bool stopped;
    char *expected; /* schema files; NULL: they could not be read */
    double started; /* the database's clock at the first look; 0: there was none */
    bool caught_up; /* what was there at the start was done once */
};

static void web_free(struct web *web)
{
    deployment_fini(web->shown);
    deployment_fini(web->looking);
    free(web->shown);
    free(web->looking);
    free(web->expected);
    free(web);
}

/* ---- answers ---- */

static void reply_json(struct http_request *request, int status, struct buf *body)
{
    buf_addc(body, '\n');
    http_reply(request, status, "application/json", body->data, body->len);
    buf_fini(body);
}

/* A refused file is told of and is no reason to be ill: what was in force goes on. Neither is a
 * database that is away: nobody would mend it by starting us again. */
static void reply_health(struct web *web, struct http_request *request)
{
    const struct deployment *d = web->shown;
    struct buf out;
    buf_init(&out, TEXT_MAX);
    buf_printf(&out, "{\"ok\":true,\"database\":%s,\"refused\":",
               d->engine_known && d->st_known ? "true" : "false");
    buf_adds(&out, d->refusals ? d->refusals : "null");
    buf_addc(&out, '}');
    reply_json(request, 200, &out);
}

/* All workers of the role that are ours do their work, or somebody else's does. */
static bool role_beats(const struct web *web, const char *role, size_t len)
{
    int count, here = 0;
    const struct page *pages = pages_all(&count);
    int64_t silence = setting_int(web->engine->settings, "WORKER_LEASE_MS") / 2;
    for (int i = 0; i < count; i++) {
        if (strlen(pages[i].role) != len || strncmp(pages[i].role, role, len) != 0)
            continue;
        here++;
        if (!pages[i].up || clock_mono_ms() - pages[i].beat_ms > silence)
            return false;
    }
    for (int i = 0; here == 0 && i < web->shown->nmembers; i++) {
        const struct member *m = &web->shown->members[i];
        here = m->alive && strlen(m->role) == len && strncmp(m->role, role, len) == 0;
    }
    return here > 0;
}

/* The roles that must beat: those of the whole deployment, or, unless that is said, of this run. */
static bool add_roles(const struct web *web, struct buf *out)
{
    const char *named = setting(web->engine->settings, "MOONWRIGHT_ROLES");
    struct buf own;
    int count;
    const struct page *pages = pages_all(&count);
    buf_init(&own, 4096);
    for (int i = 0; i < count; i++) {
        if (i == 0 || strcmp(pages[i].role, pages[i - 1].role) != 0)
            buf_printf(&own, "%s,", pages[i].role);
    }
    bool all = true, first = true;
    for (const char *at = *named ? named : own.data; *at;) {
        size_t len = strcspn(at, ", ");
        if (len > 0) {
            bool beats = role_beats(web, at, len);
            buf_adds(out, first ? "" : ",");
            buf_json(out, at, len);
            buf_adds(out, beats ? ":true" : ":false");
            all = all && beats;
            first = false;
        }
        at += len;
        at += strspn(at, ", ");
    }
    buf_fini(&own);
    return all;
}

static void reply_ready(struct web *web, struct http_request *request)
{
    const struct deployment *d = web->shown;
    bool database = d->engine_known && d->st_known;
    bool migrated = database && web->expected && d->pending == 0;
    struct buf roles, out;
    buf_init(&roles, 4096);
    buf_init(&out, TEXT_MAX);
    bool beat = add_roles(web, &roles);
    bool ready = database && migrated && beat && web->caught_up;
    buf_printf(&out,
               "{\"ready\":%s,\"database\":%s,\"migrated\":%s,\"roles\":{%s},\"caught_up\":%s}",
               ready ? "true" : "false", database ? "true" : "false", migrated ? "true" : "false",
               roles.len > 0 ? roles.data : "", web->caught_up ? "true" : "false");
    buf_fini(&roles);
    reply_json(request, ready ? 200 : 503, &out);
}

static void reply_metrics(struct web *web, struct http_request *request)
{
    struct buf out;
    buf_init(&out, TEXT_MAX);
    deployment_metrics(web->shown, &out);
    http_reply(request, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len);
    buf_fini(&out);
}

static void reply_status(struct web *web, struct http_request *request)
{
    struct buf out;
    buf_init(&out, TEXT_MAX);
    deployment_json(web->shown, &out);
    reply_json(request, 200, &out);
}

/* ---- a look ---- */

static void answer_all(struct web *web)
{
    loop_timer_clear(web->late);
    while (web->askers) {
        struct asker *asker = web->askers;
        web->askers = asker->next;
        asker->reply(web, asker->request);
        free(asker);
    }
}

/* All that was there when we began is done, once: then we only lag, as everybody does. */
static void judge_start(struct web *web)
{
    const struct deployment *d = web->shown;
    if (!d->engine_known || !d->st_known)
        return;
    if (web->started == 0)
        web->started = d->now;
    double detect = d->stages[STAGE_DETECT].oldest, execute = d->stages[STAGE_EXECUTE].oldest;
    if ((detect == 0 || detect > web->started) && (execute == 0 || execute > web->started))
        web->caught_up = true;
}

/* The look under way is over, as far as it came. */
static void show(struct web *web)
{
    struct deployment *old = web->shown, *now = web->looking;
    deployment_local(now);
    if (!now->refusals) { /* the last that is known */
        now->refusals = old->refusals;
        old->refusals = NULL;
    }
    web->shown = now;
    web->looking = NULL;
    web->shown_ms = clock_mono_ms();
    deployment_fini(old);
    free(old);
    judge_start(web);
    answer_all(web);
}

/* False: nobody wants it any more. */
static bool arrived(struct web *web)
{
    web->in_flight--;
    if (web->stopped && web->in_flight == 0)
        web_free(web);
    else if (!web->stopped)
        return true;
    return false;
}

static void engine_told(void *ctx, const struct db_reply *reply)
{
    struct web *web = ctx;
    if (!arrived(web))
        return;
    if (web->looking)
        deployment_engine(web->looking, reply);
    if (web->looking && web->in_flight == 0)
        show(web);
}

static void st_told(void *ctx, const struct db_reply *reply)
{
    struct web *web = ctx;
    if (!arrived(web))
        return;
    if (web->looking)
        deployment_st(web->looking, reply);
    if (web->looking && web->in_flight == 0)
        show(web);
}

/* A database hangs: who asked is told of the rest. What still comes is nobody's. */
static void late(void *ctx)
{
    struct web *web = ctx;
    if (web->looking)
        show(web);
    else
        answer_all(web);
}

static void look(struct web *web)
{
    if (web->looking || web->in_flight > 0) /* of a look that was too late */
        return;
    web->looking = xcalloc(1, sizeof(*web->looking));
    if (pool_is_ready(web->engine->db)) {
        web->in_flight++;
        pool_send(web->engine->db, deployment_ask_engine(web->expected), engine_told, web);
    }
    if (pool_is_ready(web->engine->st)) {
        web->in_flight++;
        pool_send(web->engine->st, deployment_ask_st(), st_told, web);
    }
}

static void ask(struct web *web, struct http_request *request, reply_fn *reply, int64_t fresh_ms)
{
    if (web->shown_ms > 0 && clock_mono_ms() - web->shown_ms < fresh_ms) {
        reply(web, request);
        return;
    }
    struct asker *asker = xmalloc(sizeof(*asker));
    *asker = (struct asker){web->askers, request, reply};
    web->askers = asker;
    look(web);
    if (web->in_flight == 0)
        show(web);
    else if (!loop_timer_armed(web->late))
        loop_timer_set(web->late, LATE_MS);
}

static void on_health(void *ctx, struct http_request *request)
{
    ask(ctx, request, reply_health, 0);
}

static void on_ready(void *ctx, struct http_request *request)
{
    ask(ctx, request, reply_ready, FRESH_MS);
}

static void on_metrics(void *ctx, struct http_request *request)
{
    ask(ctx, request, reply_metrics, FRESH_MS);
}

static void on_status(void *ctx, struct http_request *request)
{
    ask(ctx, request, reply_status, FRESH_MS);
}

struct web *web_start(const struct engine *engine, struct http_server *http, struct front *front)
{
    struct web *web = xcalloc(1, sizeof(*web));
    struct err err;
    web->engine = engine;
    web->shown = xcalloc(1, sizeof(*web->shown));
    web->late = loop_timer_new(engine->loop, late, web);
    web->expected = migrate_expects(front->schema_dir, &err);
    if (!web->expected)
        log_error("web", "schema files can't be read: /readyz stays red", "error", err.message,
                  NULL);
    http_route(http, "GET", "/healthz", on_health, web);
    http_route(http, "GET", "/readyz", on_ready, web);
    http_route(http, "GET", "/metrics", on_metrics, web);
    http_route(http, "GET", "/status", on_status, web);
    return web;
}

void web_stop(struct web *web)
{
    if (!web)
        return;
    answer_all(web);
    loop_timer_free(web->late);
    web->stopped = true;
    if (web->in_flight == 0)
        web_free(web);
}
