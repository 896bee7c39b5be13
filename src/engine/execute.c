/* execute.c - the loop of a worker that runs instances: it claims what is due while it has room,
 * and sleeps until the next is. What becomes of each is in instance.c. */
#include "engine/execute.h"

#include "base/log.h"
#include "base/mem.h"
#include "engine/bodies.h"
#include "engine/instance.h"
#include "engine/journal.h"
#include "engine/settings.h"
#include "engine/worker.h"

#include <stdlib.h>

#define MAX_LIVE 2000 /* instances under way at once */
#define AT_HAND 600   /* those that could go on at once: more only make the memory colder */
#define CLAIM 200     /* of one unit */
#define POLL_MS 1000
#define HEARD 5    /* where hints are heard we look so much more seldom */
#define LEAST_MS 5 /* what is due may be another worker's claim that isn't committed */

struct execute {
    const struct engine *engine;
    struct instance_host host;
    struct listener *listener;
    struct loop_timer *timer;
    loop_fn *lost, *idle;
    void *ctx, *idle_ctx;
    struct instance *instances;
    const char **ids; /* for the journal's sweep */
    int live, asking; /* next_due() questions under way */
    int asked;        /* how many the claim under way may bring */
    bool hungry;      /* something may be due */
    bool again;       /* we were told so while a claim was under way, which may not have seen it */
    bool sated; /* the last claim brought some and left room: what it didn't see is in no hurry */
    bool expected; /* at the timer something is due; else we only look */
    bool claiming, draining, gone, stopped;
    int64_t claimed, finished;
};

/* Room for those that wait for the outside is one thing, for those that are written or run now
 * another. Those whose end is written now are replaced by the unit that writes it. */
static int room_of(const struct execute *x)
{
    int live = MAX_LIVE - x->live;
    int now = AT_HAND - (int)journal_notes(x->host.journal) - (int)loop_deferred(x->engine->loop);
    return x->live == 0 || live < now ? live : now;
}

static void feed(struct execute *x)
{
    if (!x->hungry || x->claiming || x->draining || x->gone || x->stopped)
        return;
    int room = room_of(x);
    if (room < CLAIM / 4)
        return;
    x->claiming = true;
    x->asked = room < CLAIM ? room : CLAIM;
    journal_claim(x->host.journal, x->asked, !x->sated);
    if (x->sated) { /* it travels with the steps of those, which would wait for its answer */
        x->expected = true;
        loop_timer_set(x->timer, LEAST_MS);
    }
}

void execute_poke(struct execute *execute)
{
    execute->hungry = true;
    execute->sated = false;
    if (execute->claiming)
        execute->again |= !journal_hurry(execute->host.journal);
    else
        feed(execute);
}

static void poke(void *ctx)
{
    execute_poke(ctx);
}

/* ---- when to look again ----
 *
 * A hint, or the time at which something is due, leads to a claim. In between we only look, in case
 * there are no hints: looking writes nothing. */

static void due_known(void *ctx, const struct db_reply *reply)
{
    struct execute *x = ctx;
    x->asking--;
    if (x->stopped) {
        if (x->asking == 0)
            free(x);
        return;
    }
    int64_t ms = x->engine->settings ? setting_int(x->engine->settings, "EXECUTE_POLL_INTERVAL_MS")
                                     : POLL_MS;
    ms *= pool_hears(x->engine->db) ? HEARD : 1;
    x->expected = false;
    if (db_reply_outcome(reply) == DB_OK && db_value(reply, 0, 0, 0)) {
        int64_t next = db_int(reply, 0, 0, 0);
        x->expected = next < ms;
        ms = next < ms ? next : ms;
        ms = ms > LEAST_MS ? ms : LEAST_MS;
    }
    loop_timer_set(x->timer, ms);
}

static void ask_due(struct execute *x)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select next_due()", 0);
    x->asking++;
    pool_send(x->engine->db, unit, due_known, x);
}

static void time_is_up(void *ctx)
{
    struct execute *x = ctx;
    if (x->expected)
        execute_poke(x);
    else
        ask_due(x);
}

/* ---- the journal's events ---- */

static void claimed(void *ctx, const struct db_reply *reply, int statement, int row)
{
    struct execute *x = ctx;
    struct instance *in = instance_start(&x->host, reply, statement, row);
    struct instance_link *link = instance_link(in);
    link->next = x->instances;
    if (x->instances)
        instance_link(x->instances)->prev = in;
    x->instances = in;
    x->live++;
    x->claimed++;
}

static void claim_done(void *ctx, int rows)
{
    struct execute *x = ctx;
    x->claiming = false;
    x->hungry = rows > 0 || x->again;
    x->again = false;
    x->sated = rows > 0 && rows < x->asked;
    if (rows == 0) { /* not now: what was claimed before has its steps to write */
        x->expected = false;
        loop_timer_set(x->timer, LEAST_MS);
    }
    feed(x);
}

static void may_claim(void *ctx)
{
    feed(ctx);
}

static const char *const *known(void *ctx, size_t *n)
{
    struct execute *x = ctx;
    free(x->ids);
    x->ids = xcalloc((size_t)x->live + 1, sizeof(*x->ids));
    *n = 0;
    for (struct instance *in = x->instances; in; in = instance_link(in)->next) {
        x->ids[(*n)++] = instance_id(in);
    }
    return x->ids;
}

static void lose(void *ctx)
{
    struct execute *x = ctx;
    if (x->gone)
        return;
    x->gone = true;
    x->lost(x->ctx);
}

static void gone(void *ctx, struct instance *instance, bool finished)
{
    struct execute *x = ctx;
    struct instance_link *link = instance_link(instance);
    if (link->prev)
        instance_link(link->prev)->next = link->next;
    else
        x->instances = link->next;
    if (link->next)
        instance_link(link->next)->prev = link->prev;
    link->next = link->prev = NULL;
    x->live--;
    x->finished += finished;
    if (x->live == 0)
        actions_rest(x->host.actions);
    if (!finished || instance_frees_others(instance))
        x->hungry = true; /* it, or what waited for it, may be due sooner than our timer */
    if (x->live == 0 && x->draining && x->idle) {
        loop_defer(x->engine->loop, x->idle, x->idle_ctx);
        x->idle = NULL;
    }
    feed(x);
}

/* ---- the outside ---- */

struct execute *execute_start(const struct engine *engine, struct actions *actions, loop_fn *lost,
                              void *ctx)
{
    struct execute *x = xcalloc(1, sizeof(*x));
    x->engine = engine;
    x->lost = lost;
    x->ctx = ctx;
    x->host = (struct instance_host){.engine = engine,
                                     .actions = actions,
                                     .bodies = bodies_new(engine),
                                     .gone = gone,
                                     .lost = lose,
                                     .ctx = x};
    const struct journal_events events = {.stop = instance_stop,
                                          .claimed = claimed,
                                          .claim_done = claim_done,
                                          .settled = may_claim,
                                          .sending = may_claim,
                                          .known = known,
                                          .lost = lose,
                                          .ctx = x};
    x->host.journal = journal_new(engine, &events);
    x->timer = loop_timer_new(engine->loop, time_is_up, x);
    x->listener = pool_listen(engine->db, "work", poke, x);
    worker_on_takeover(engine->worker, poke, x);
    execute_poke(x);
    return x;
}

void execute_stop(struct execute *x)
{
    if (!x)
        return;
    x->stopped = true;
    worker_on_takeover(x->engine->worker, NULL, NULL);
    listener_close(x->listener);
    loop_timer_free(x->timer);
    journal_free(x->host.journal);
    while (x->instances) {
        struct instance *in = x->instances;
        x->instances = instance_link(in)->next;
        instance_discard(in);
    }
    bodies_free(x->host.bodies);
    free(x->ids);
    if (x->asking == 0)
        free(x);
}

void execute_drain(struct execute *execute, loop_fn *idle, void *ctx)
{
    execute->draining = true;
    journal_claim(execute->host.journal, 0, false);
    execute->idle = idle;
    execute->idle_ctx = ctx;
    if (execute->live == 0) {
        loop_defer(execute->engine->loop, idle, ctx);
        execute->idle = NULL;
    }
}

struct execute_stats execute_stats(const struct execute *execute)
{
    return (struct execute_stats){.claimed = execute->claimed,
                                  .finished = execute->finished,
                                  .steps = execute->host.steps,
                                  .live = execute->live};
}
