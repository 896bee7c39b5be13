/* limit.c - vendors' rate limits, shared by all workers.
 *
 *     idle --take--> drawing --granted--> idle
 *                       `--none left--> sleeping --> drawing
 *
 * A bucket per vendor holds a FIFO of who waits; they own nothing, limits owns the waits. */
#include "engine/limit.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/figures.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char SQL_DRAW[] = "select granted, wait_ms from draw_tokens($1, $2)";
static const char SQL_RESULT[] = "select provider_result($1, $2, $3)";

enum { LOT_MAX = 50, CROWD = 200, RETRY_MS = 500 };

struct limit_wait {
    struct bucket *bucket;
    struct limit_wait *next;
    loop_fn *fn;
    void *ctx;
    int64_t since_ms; // it found no token: since when it waits for one; 0: it didn't have to
};

struct bucket {
    struct limits *limits;
    struct bucket *next;
    char *provider;
    struct limit_wait *first, **last;
    int waiting;
    struct loop_timer *timer;
    bool drawing, failing, orphan; // orphan: limits went away while a draw was under way
};

struct limits {
    const struct engine *engine;
    struct bucket *buckets;
};

struct limits *limits_new(const struct engine *engine)
{
    struct limits *limits = xcalloc(1, sizeof(*limits));
    limits->engine = engine;
    return limits;
}

static void bucket_free(struct bucket *bucket)
{
    free(bucket->provider);
    free(bucket);
}

void limits_free(struct limits *limits)
{
    if (!limits) {
        return;
    }
    for (struct bucket *bucket = limits->buckets, *next; bucket; bucket = next) {
        next = bucket->next;
        for (struct limit_wait *wait = bucket->first, *after; wait; wait = after) {
            after = wait->next;
            free(wait);
        }
        bucket->first = NULL;
        loop_timer_free(bucket->timer);
        bucket->timer = NULL;
        bucket->orphan = true;
        if (!bucket->drawing) {
            bucket_free(bucket);
        }
    }
    free(limits);
}

static void draw(void *ctx);

// Serves as many as there are tokens. A callback may take again or cancel others.
static void serve(struct bucket *bucket, int64_t granted)
{
    while (granted-- > 0 && bucket->first) {
        struct limit_wait *wait = bucket->first;
        bucket->first = wait->next;
        if (!bucket->first) {
            bucket->last = &bucket->first;
        }
        loop_fn *fn = wait->fn;
        void *fn_ctx = wait->ctx;
        if (wait->since_ms) {
            struct provider_figures *f = provider_figures(bucket->provider);
            f->waits++;
            f->wait_ms += clock_mono_ms() - wait->since_ms;
        }
        free(wait);
        bucket->waiting--;
        fn(fn_ctx);
    }
}

static void drawn(void *ctx, const struct db_reply *reply)
{
    struct bucket *bucket = ctx;
    bucket->drawing = false;
    if (bucket->orphan) {
        bucket_free(bucket);
        return;
    }
    int64_t wait_ms = RETRY_MS;
    if (db_reply_outcome(reply) == DB_OK && db_rows(reply, 0) == 1) {
        wait_ms = db_int(reply, 0, 0, 1);
        bucket->drawing = true; // whoever is served and takes again joins the next lot
        serve(bucket, db_int(reply, 0, 0, 0));
        bucket->drawing = false;
    } else if (db_reply_outcome(reply) == DB_FAILED) {
        log_error("limit", "can't draw tokens", "provider", bucket->provider, "error",
                  db_reply_err(reply)->message, NULL);
    }
    int64_t now = bucket->first ? clock_mono_ms() : 0;
    for (struct limit_wait *wait = bucket->first; wait; wait = wait->next) {
        wait->since_ms = wait->since_ms ? wait->since_ms : now;
    }
    if (bucket->first) {
        loop_timer_set(bucket->timer, wait_ms);
    }
}

static void draw(void *ctx)
{
    struct bucket *bucket = ctx;
    if (bucket->drawing || !bucket->first) {
        return;
    }
    char want[16];
    snprintf(want, sizeof(want), "%d", bucket->waiting < LOT_MAX ? bucket->waiting : LOT_MAX);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_DRAW, 2, bucket->provider, want);
    bucket->drawing = true;
    pool_send(bucket->limits->engine->db, unit, drawn, bucket);
}

static struct bucket *bucket_of(struct limits *limits, const char *provider)
{
    struct bucket *bucket = limits->buckets;
    while (bucket && strcmp(bucket->provider, provider) != 0) {
        bucket = bucket->next;
    }
    if (!bucket) {
        bucket = xcalloc(1, sizeof(*bucket));
        bucket->limits = limits;
        bucket->provider = xstrdup(provider);
        bucket->last = &bucket->first;
        bucket->timer = loop_timer_new(limits->engine->loop, draw, bucket);
        bucket->next = limits->buckets;
        limits->buckets = bucket;
    }
    return bucket;
}

struct limit_wait *limit_take(struct limits *limits, const char *provider, loop_fn *fn, void *ctx)
{
    struct bucket *bucket = bucket_of(limits, provider);
    struct limit_wait *wait = xcalloc(1, sizeof(*wait));
    *wait = (struct limit_wait){.bucket = bucket, .fn = fn, .ctx = ctx};
    *bucket->last = wait;
    bucket->last = &wait->next;
    bucket->waiting++;
    if (!bucket->drawing && !loop_timer_armed(bucket->timer)) {
        loop_timer_set(bucket->timer, 0); // those who come in the same turn share a lot
    }
    return wait;
}

void limit_cancel(struct limit_wait *wait)
{
    struct bucket *bucket = wait->bucket;
    struct limit_wait **at = &bucket->first;
    while (*at != wait) {
        at = &(*at)->next;
    }
    *at = wait->next;
    if (bucket->last == &wait->next) {
        bucket->last = at;
    }
    bucket->waiting--;
    free(wait);
}

bool limit_is_crowded(struct limits *limits, const char *provider)
{
    return bucket_of(limits, provider)->waiting >= CROWD;
}

void limit_report(struct limits *limits, const char *provider, bool ok, int64_t pause_ms)
{
    struct bucket *bucket = bucket_of(limits, provider);
    struct provider_figures *f = provider_figures(provider);
    f->calls++;
    f->errors += !ok;
    if (ok && !bucket->failing) {
        return; // nothing to tell
    }
    bucket->failing = !ok;
    char ms[24];
    snprintf(ms, sizeof(ms), "%" PRId64, pause_ms);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_RESULT, 3, provider, ok ? "true" : "false", ms);
    pool_send(limits->engine->db, unit, NULL, NULL);
}
