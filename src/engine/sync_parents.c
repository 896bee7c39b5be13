/* sync_parents.c - the consumer of parent_requests.
 *
 *   idle --told, or time--> looking --none--> idle
 *                              '--some--> fetching (side by side, one per kind) --all--> looking
 *
 * A request is answered in the database only after its rows are stored, found or not; until then it
 * stays and is asked for again. */
#include "engine/sync_parents.h"

#include "base/log.h"
#include "base/mem.h"
#include "engine/settings.h"
#include "engine/sync_write.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { POLL_MS = 5000, AFTER_FAILURE_MS = 30000, MAX_PATH_LEN = 16 << 10 };

struct request { /* up to 50 ids of one kind */
    struct sync_parents *parents;
    struct request *next;
    const struct sync_plan *plan; /* NULL: nothing of this kind can be fetched */
    char *kind, *ids;
    int page_number;
    bool more;
    struct sync_call *call;
    struct sync_write *write;
};

struct sync_parents {
    const struct engine *engine;
    struct sync_client *client;
    struct sync_plans *plans;
    struct listener *listener;
    struct loop_timer *timer;
    struct request *requests;
    int units; /* under way */
    bool looking;
    bool told;   /* while it was busy */
    bool failed; /* one of the requests did */
    bool dead;
};

static void look(void *ctx);
static void fetch(struct request *request);

static void parents_destroy(struct sync_parents *parents)
{
    sync_plans_free(parents->plans);
    free(parents);
}

static void request_free(struct request *request)
{
    struct request **at = &request->parents->requests;
    while (*at != request) {
        at = &(*at)->next;
    }
    *at = request->next;
    sync_call_cancel(request->call);
    sync_write_cancel(request->write);
    free(request->kind);
    free(request->ids);
    free(request);
}

/* After a unit: true when nobody is there any more. */
static bool unit_done(struct sync_parents *parents)
{
    parents->units--;
    if (parents->dead && parents->units == 0) {
        parents_destroy(parents);
        return true;
    }
    return parents->dead;
}

static void request_done(struct request *request)
{
    struct sync_parents *parents = request->parents;
    request_free(request);
    if (!parents->requests) {
        loop_timer_set(parents->timer, parents->failed ? AFTER_FAILURE_MS : 0);
    }
}

static void request_failed(struct request *request, const struct err *err)
{
    log_warn("sync", "rows could not be fetched by id", "entity", request->kind, "reason",
             err->message, NULL);
    request->parents->failed = true;
    request_done(request);
}

static void on_answered(void *ctx, const struct db_reply *reply)
{
    struct sync_parents *parents = ctx;
    if (!unit_done(parents) && db_reply_outcome(reply) != DB_OK) {
        log_warn("sync", "an answer could not be recorded", "reason", db_reply_err(reply)->message,
                 NULL);
    }
}

/* All pages are stored: who asked may go on. Sent on any connection: what is looked up next is
 * harmless when it comes first. */
static void answer(struct request *request)
{
    struct sync_parents *parents = request->parents;
    char *array = xprintf("{%s}", request->ids);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select parents_answered($1::text, $2::bigint[])", 2, request->kind, array);
    free(array);
    parents->units++;
    pool_send(parents->engine->st, unit, on_answered, parents);
    request_done(request);
}

static void on_written(void *ctx, const struct sync_written_page *result)
{
    struct request *request = ctx;
    request->write = NULL;
    if (result->outcome != SYNC_WRITTEN) {
        request_failed(request, result->err);
    } else if (request->more) {
        request->page_number++;
        fetch(request);
    } else {
        answer(request);
    }
}

static void on_page(void *ctx, const struct sync_answer *result)
{
    struct request *request = ctx;
    struct err err;
    request->call = NULL;
    if (result->err) {
        request_failed(request, result->err);
        return;
    }
    struct sync_page *page = sync_page_read(result->body, result->len, &err);
    if (!page) {
        request_failed(request, &err);
        return;
    }
    request->more = page->more && page->count > 0;
    struct sync_target target = {.plans = request->parents->plans, .plan = request->plan};
    request->write = sync_write_start(request->parents->engine, &target, page, on_written, request);
}

static void fetch(struct request *request)
{
    const struct sync_plan *plan = request->plan;
    struct buf path;
    buf_init(&path, MAX_PATH_LEN);
    buf_printf(&path, "%s?%s=%s&page=%d&pageSize=%" PRId64, plan->id_path, plan->id_parameter,
               request->ids, request->page_number,
               setting_int(request->parents->engine->settings, "SYNC_PAGE_SIZE"));
    if (*plan->id_query) {
        buf_printf(&path, "&%s", plan->id_query);
    }
    request->call = sync_get(request->parents->client, path.data, on_page, request);
    buf_fini(&path);
}

static void request_start(struct sync_parents *parents, const char *kind, const char *ids)
{
    struct request *request = xcalloc(1, sizeof(*request));
    request->parents = parents;
    request->plan = sync_plan_of(parents->plans, kind);
    request->kind = xstrdup(kind);
    request->ids = xstrdup(ids);
    request->page_number = 1;
    request->next = parents->requests;
    parents->requests = request;
    log_debug("sync", "rows are fetched by id", "entity", kind, "ids", ids, NULL);
    if (request->plan && request->plan->id_path) {
        fetch(request);
    } else {
        answer(request);
    }
}

static void on_wanted(void *ctx, const struct db_reply *reply)
{
    struct sync_parents *parents = ctx;
    parents->looking = false;
    if (unit_done(parents)) {
        return;
    }
    parents->failed = false;
    bool ok = db_reply_outcome(reply) == DB_OK;
    int rows = ok ? db_rows(reply, 0) : 0;
    for (int i = 0; i < rows; i++) {
        request_start(parents, db_value(reply, 0, i, 0), db_value(reply, 0, i, 1));
    }
    if (!parents->requests) {
        loop_timer_set(parents->timer, parents->told ? 0 : POLL_MS);
    }
    parents->told = false;
}

static void look(void *ctx)
{
    struct sync_parents *parents = ctx;
    if (parents->looking || parents->requests) {
        parents->told = true;
        return;
    }
    parents->looking = true;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select entity, ids from parents_wanted()", 0);
    parents->units++;
    pool_send(parents->engine->st, unit, on_wanted, parents);
}

static void on_told(void *ctx)
{
    struct sync_parents *parents = ctx;
    if (parents->failed && loop_timer_armed(parents->timer)) {
        return; // what failed is asked for again in a while
    }
    look(parents);
}

struct sync_parents *sync_parents_start(const struct engine *engine, struct sync_client *client,
                                        struct sync_plans *plans)
{
    struct sync_parents *parents = xcalloc(1, sizeof(*parents));
    parents->engine = engine;
    parents->client = client;
    parents->plans = sync_plans_use(plans);
    parents->timer = loop_timer_new(engine->loop, look, parents);
    parents->listener = pool_listen(engine->st, "sync", on_told, parents);
    loop_timer_set(parents->timer, 0);
    return parents;
}

void sync_parents_stop(struct sync_parents *parents)
{
    if (!parents) {
        return;
    }
    while (parents->requests) {
        request_free(parents->requests);
    }
    listener_close(parents->listener);
    loop_timer_free(parents->timer);
    parents->dead = true;
    if (parents->units == 0) {
        parents_destroy(parents);
    }
}
