/* retention.c - walks through what is kept, a batch at a time.
 *
 *     rest --RETENTION_INTERVAL_MS--> instances --> events --> records --> rejects --> rest
 *                                        ^  |
 *                                        '--' a batch, and a pause of several times its length
 *
 * What goes when is said by schema/0024: each batch is one transaction. The pauses leave the
 * database to those who work: retention takes a fifth of one connection's time at most. */
#include "engine/retention.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/settings.h"
#include "script/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 200, PAUSE_TIMES = 4, PAUSE_LEAST_MS = 20 };

static const char *const walks[] = {"instances", "events", "records"};
#define REJECTS ARRAY_LEN(walks) /* in ServiceTitan's database */

struct retention {
    const struct engine *engine;
    struct loop_timer *timer;
    size_t at; /* of walks; REJECTS; behind it: at rest */
    int64_t sent_ms, payloads, rows;
    bool asking, stopped;
};

static void rest(struct retention *r)
{
    if (r->payloads > 0 || r->rows > 0) {
        char payloads[24], rows[24];
        snprintf(payloads, sizeof(payloads), "%lld", (long long)r->payloads);
        snprintf(rows, sizeof(rows), "%lld", (long long)r->rows);
        log_info("retention", "removed what was kept long enough", "payloads", payloads, "rows",
                 rows, NULL);
    }
    r->at = 0;
    r->payloads = r->rows = 0;
    loop_timer_set(r->timer, setting_int(r->engine->settings, "RETENTION_INTERVAL_MS"));
}

static bool count(struct retention *r, const char *text)
{
    struct err err;
    int64_t payloads = 0, rows = 0;
    struct json *json = json_parse(text, strlen(text), &err);
    if (json == NULL)
        return false;
    json_int(json, "payloads", &payloads);
    json_int(json, "rows", &rows);
    r->payloads += payloads;
    r->rows += rows;
    bool more = json_bool(json, "more");
    json_free(json);
    return more;
}

static void taken(void *ctx, const struct db_reply *reply)
{
    struct retention *r = ctx;
    r->asking = false;
    if (r->stopped) {
        free(r);
        return;
    }
    if (db_reply_outcome(reply) != DB_OK) {
        log_warn("retention", "nothing was removed, it is tried again later", "error",
                 db_reply_err(reply)->message, NULL);
        rest(r);
        return;
    }
    bool more;
    if (r->at == REJECTS) {
        more = db_int(reply, 0, 0, 0) == BATCH;
        r->rows += db_int(reply, 0, 0, 0);
    } else {
        more = count(r, db_value(reply, 0, 0, 0));
    }
    r->at += !more;
    int64_t pause = (clock_mono_ms() - r->sent_ms) * PAUSE_TIMES;
    if (r->at > REJECTS)
        rest(r);
    else
        loop_timer_set(r->timer, pause > PAUSE_LEAST_MS ? pause : PAUSE_LEAST_MS);
}

static void take(void *ctx)
{
    struct retention *r = ctx;
    const char *payloads = setting(r->engine->settings, "RETENTION_PAYLOAD_DAYS");
    const char *rows = setting(r->engine->settings, "RETENTION_LEDGER_DAYS");
    char n[16];
    snprintf(n, sizeof(n), "%d", BATCH);
    struct db_unit *unit = db_unit_new();
    if (r->at == REJECTS)
        db_unit_addv(unit, "select retain_rejects($1::int, $2::int)", 2, payloads, n);
    else
        db_unit_addv(unit, "select retain($1, $2::int, $3::int, $4::int)", 4, walks[r->at],
                     payloads, rows, n);
    r->asking = true;
    r->sent_ms = clock_mono_ms();
    pool_send(r->at == REJECTS ? r->engine->st : r->engine->db, unit, taken, r);
}

struct retention *retention_start(const struct engine *engine)
{
    struct retention *r = xcalloc(1, sizeof(*r));
    r->engine = engine;
    r->timer = loop_timer_new(engine->loop, take, r);
    /* Not at once: a start has more to do. */
    int64_t first = setting_int(engine->settings, "RETENTION_INTERVAL_MS");
    loop_timer_set(r->timer, first < 60000 ? first : 60000);
    return r;
}

void retention_stop(struct retention *r)
{
    if (r == NULL)
        return;
    loop_timer_free(r->timer);
    r->stopped = true;
    if (!r->asking)
        free(r);
}
