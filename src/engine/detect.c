/* detect.c - see detect.h.
 *
 *     idle --timer, poke--> turn --ours--> read --> (Lua) --> settle --one database--> idle, or
 * again
 *                                                               `--two--> drop -----^
 *     nothing to settle: idle, by way of a daily rule (detect_daily.c) when one is due
 *     a schedule is due: its fires are what is judged (detect_schedule.c)
 *
 * A round reads, judges and settles; nothing is kept between rounds, so any failure simply begins
 * the next one. A batch that PostgreSQL refuses for its data, or that takes too much memory, is
 * halved down to the one change or arrival that is wrong, which becomes a row of detect_errors. */
#include "engine/detect_round.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mark.h"
#include "engine/settings.h"
#include "engine/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 500
#define TEXT_MAX ((size_t)256 << 20)
#define AGAIN_MS 1000 /* after a failure */
#define POSTPONED_MS 2000
#define OUTRUN_MS 5000 /* then the rules we have must do: the newer ones can't be loaded here */
#define SOON_MS 20     /* a look for more, behind what a batch has begun */

static void begin(void *ctx);

/* Ends a round: the next one begins after so many milliseconds, or when something is told. */
void detect_rest(struct detect *d, int64_t ms)
{
    int64_t poll = setting_int(d->engine->settings, "EVENT_POLL_INTERVAL_MS");
    d->busy = false;
    if (d->stopped) {
        detect_free(d);
        return;
    }
    if (d->schedule.wake_ms != INT64_MAX) {
        int64_t left = d->schedule.wake_ms - clock_mono_ms();
        ms = left > ms ? ms : left > 0 ? left : 0;
    }
    loop_timer_set(d->timer, d->poked ? 0 : ms < poll ? ms : poll);
}

/* True: the reply is to be used. Else the round is over. */
bool detect_answered(struct detect *d, const struct db_reply *reply)
{
    if (d->stopped) {
        detect_free(d);
        return false;
    }
    if (db_reply_outcome(reply) == DB_OK)
        return true;
    const struct err *err = db_reply_err(reply);
    if (err->code == ERR_FENCE) {
        d->busy = false;
        d->poked = false;
        loop_timer_clear(d->timer);
        d->gone = true; // what lost does may free us
        d->lost(d->ctx);
        return false;
    }
    if (strcmp(err->sqlstate, "MWC01") != 0)
        log_warn("detect", "a round failed", "error", err->message, NULL);
    detect_rest(d, AGAIN_MS);
    return false;
}

/* ---- settle ---- */

/* A batch is settled: where it was full there is more, else the instances it started go first. */
static void rest_settled(struct detect *d)
{
    bool more = d->full || d->limit < BATCH;
    detect_rest(d, d->postponed && !d->consumed ? POSTPONED_MS : more ? 0 : SOON_MS);
}

static void dropped(void *ctx, const struct db_reply *reply)
{
    struct detect *d = ctx;
    if (detect_answered(d, reply))
        rest_settled(d);
}

static void halve(struct detect *d, const struct err *err)
{
    if (d->limit > 1) {
        d->limit /= 2;
        d->set_aside = false;
    } else {
        d->set_aside = true; // the next round consumes this one as an error
        err_set(&d->aside, ERR_SCRIPT, "%s", err->message);
    }
    log_warn("detect", "a batch is taken in smaller parts", "size", log_int(d->limit), "error",
             err->message, NULL);
    detect_rest(d, 0);
}

static void settled(void *ctx, const struct db_reply *reply)
{
    struct detect *d = ctx;
    const struct err *err = db_reply_err(reply);
    bool refused = db_reply_outcome(reply) == DB_FAILED && err->code == ERR_SQL;
    // Class 22 and 23: the data; 54: too large. Everything else may pass.
    if (refused && !d->stopped &&
        (!strncmp(err->sqlstate, "22", 2) || !strncmp(err->sqlstate, "23", 2) ||
         !strncmp(err->sqlstate, "54", 2))) {
        halve(d, err);
        return;
    }
    bool outrun = refused && !strcmp(err->sqlstate, "MWC01");
    if (d->checked && (!outrun || !d->outrun_ms))
        d->outrun_ms = outrun ? clock_mono_ms() : 0;
    if (!detect_answered(d, reply))
        return;
    int last = (d->engine->one_database ? 4 : 2) + d->fires + d->checked;
    d->stats.batches++;
    d->stats.changes += d->read_changes;
    d->stats.arrivals += d->read_arrivals;
    d->stats.events += db_int(reply, last, 0, 0);
    d->stats.started += db_int(reply, last, 0, 1);
    d->stats.errors += db_int(reply, last, 0, 3);
    bool told = db_int(reply, last, 0, 1) > 0 || db_int(reply, last, 0, 2) > 0;
    d->set_aside = d->blamed = false;
    detect_daily_settled(d);
    d->full = d->read_changes >= d->limit || d->read_arrivals >= d->limit || d->read_retries ||
              d->read_changes + d->read_arrivals == 0;
    d->limit = d->limit * 2 < BATCH ? d->limit * 2 : BATCH;
    if (told && d->settled)
        d->settled(d->ctx);
    if (d->engine->one_database || !(d->consumed || d->postponed)) {
        rest_settled(d);
        return;
    }
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select drop_changes($1::bigint[])", 1, d->consume);
    db_unit_addv(unit, "select postpone_changes($1::bigint[])", 1, d->postpone);
    pool_send(d->engine->st, unit, dropped, d);
}

/* Sends the settling unit. judged is what batch() returned: three lines. */
static void settle(struct detect *d, char *judged)
{
    char *postpone = strchr(judged, '\n');
    char *batch = postpone ? strchr(postpone + 1, '\n') : NULL;
    must(batch);
    *postpone++ = *batch++ = '\0';
    free(d->consume);
    free(d->postpone);
    d->consume = xstrdup(judged);
    d->postpone = xstrdup(postpone);
    d->consumed = strcmp(d->consume, "{}") != 0 || d->read_arrivals || d->read_retries;
    d->postponed = strcmp(d->postpone, "{}") != 0;

    struct db_unit *unit = db_unit_new();
    worker_fence(d->engine->worker, unit);
    db_unit_add(unit, "select lock_gate()", 0, NULL);
    bool was = d->checked;
    d->checked = !d->outrun_ms || clock_mono_ms() - d->outrun_ms < OUTRUN_MS;
    if (was && !d->checked)
        log_warn("detect", "what was put in force isn't loaded here; the rules from before go on",
                 NULL);
    if (d->checked) {
        char stamp[24];
        snprintf(stamp, sizeof(stamp), "%lld", (long long)d->stamp);
        db_unit_addv(unit, "select rules_in_force($1::bigint)", 1, stamp);
    }
    if (d->engine->one_database) {
        db_unit_addv(unit, "select consume_changes($1::bigint[])", 1, d->consume);
        db_unit_addv(unit, "select postpone_changes($1::bigint[])", 1, d->postpone);
    }
    if (d->fires)
        db_unit_addv(unit, "select settle_schedules($1::json->'schedules')", 1, batch);
    db_unit_addv(unit,
                 "select (s->>'events')::bigint, (s->>'started')::bigint, (s->>'woken')::bigint, "
                 "(s->>'errors')::bigint from settle($1::json) s",
                 1, batch);
    pool_send(d->engine->db, unit, settled, d);
}

/* ---- judge ---- */

/* An evaluation took too long: it is found, and left out when the batch comes again. False: it
 * was none of the company's. */
static bool blame(struct detect *d, const struct err *why)
{
    struct buf out;
    struct err ignored;
    const struct slice arg = slice_of(why->message);
    buf_init(&out, 4096);
    bool found = why->code == ERR_LIMIT && vm_call(d->vm, "blame", &arg, 1, &out, &ignored) &&
                 out.len > 0;
    if (found)
        log_warn("detect", "an evaluation was stopped", "rule", out.data, "error", why->message,
                 NULL);
    buf_fini(&out);
    return found;
}

/* Lets Lua judge the input of this round. */
void detect_judge(struct detect *d)
{
    struct err err;
    struct buf out;
    buf_init(&out, TEXT_MAX);
    const struct slice args[] = {{d->input.data, d->input.len},
                                 slice_of(d->blamed ? "again" : NULL),
                                 slice_of(d->set_aside ? d->aside.message : NULL),
                                 slice_of(d->deadly)};
    mark_judge("batch", "", 0, "", 0);
    if (d->input.overflow)
        err_set(&err, ERR_INPUT, "the batch is longer than %zu bytes", TEXT_MAX);
    else if (vm_call(d->vm, "batch", args, ARRAY_LEN(args), &out, &err)) {
        mark_judged();
        settle(d, out.data);
        buf_fini(&out);
        return;
    }
    mark_judged();
    buf_fini(&out);
    if (blame(d, &err)) {
        d->blamed = true;
        detect_rest(d, 0);
    } else if (d->limit > 1 || !d->set_aside) {
        halve(d, &err);
    } else {
        log_error("detect", "a batch can't be judged", "error", err.message, NULL);
        detect_rest(d, AGAIN_MS);
    }
}

/* ---- read ---- */

static void changes_read(void *ctx, const struct db_reply *reply)
{
    struct detect *d = ctx;
    if (!detect_answered(d, reply))
        return;
    if (!d->engine->one_database) {
        free(d->reached);
        d->reached = xstrdup(db_value(reply, 1, 0, 0));
    }
    d->read_changes = (int)db_int(reply, 0, 0, 0);
    if (!d->read_changes && !d->read_arrivals && !d->read_retries) {
        detect_daily(d);
        return;
    }
    d->stats.read += d->read_changes + d->read_arrivals;
    buf_adds(&d->input, ",\"changes\":");
    buf_adds(&d->input, db_value(reply, 0, 0, 1));
    buf_addc(&d->input, '}');
    detect_judge(d);
}

/* A limit of one is for finding what is wrong: a change in one round, an arrival in the next. */
static int limit_of(struct detect *d, bool changes)
{
    return d->limit > 1 ? d->limit : d->odd == changes;
}

static void turned(void *ctx, const struct db_reply *reply)
{
    struct detect *d = ctx;
    if (!detect_answered(d, reply))
        return;
    if (!db_bool(reply, 0, 0, 0)) {
        detect_rest(d, INT64_MAX); // another worker detects
        return;
    }
    free(d->now);
    free(d->days);
    free(d->at);
    free(d->deadly);
    const char *deadly = db_value(reply, 4, 0, 2);
    d->deadly = deadly ? xstrdup(deadly) : NULL;
    d->now = xstrdup(db_value(reply, 3, 0, 0));
    d->at = xstrdup(db_value(reply, 3, 0, 1));
    d->days = xstrdup(db_value(reply, 4, 0, 0));
    d->read_changes = 0;
    d->read_arrivals = d->read_retries = false;
    d->daily.under_way = false;
    d->fires = detect_schedule(d, db_value(reply, 4, 0, 1), db_int(reply, 3, 0, 2),
                               strtod(db_value(reply, 3, 0, 3), NULL));
    if (d->fires) {
        detect_judge(d);
        return;
    }
    const char *arrivals = db_value(reply, 1, 0, 0), *retries = db_value(reply, 2, 0, 0);
    d->read_arrivals = (int)db_int(reply, 1, 0, 1);
    d->read_retries = strcmp(retries, "[]") != 0;
    buf_clear(&d->input);
    buf_printf(&d->input, "{\"now\":\"%s\",\"parent_wait_ms\":%s,\"arrivals\":", d->now,
               setting(d->engine->settings, "SYNC_PARENT_WAIT_MS"));
    buf_adds(&d->input, arrivals);
    buf_adds(&d->input, ",\"retries\":");
    buf_adds(&d->input, retries);

    struct db_unit *unit = db_unit_new();
    char *limit = xprintf("%d", limit_of(d, true));
    db_unit_addv(
        unit,
        "select count(*), coalesce(json_agg(json_build_object('seq', c.seq, 'entity', c.entity, "
        "'entity_id', c.entity_id, 'old', c.old, 'new', c.new, 'snapshot', c.snapshot, "
        "'missing', c.missing, 'waiting', c.waiting, "
        "'modified_on', to_char(c.modified_on at time zone 'UTC', "
        "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), "
        "'noticed', to_char(c.noticed_at at time zone 'UTC', "
        "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), "
        "'live_since', to_char(c.live_since at time zone 'UTC', "
        "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), "
        "'age_ms', (extract(epoch from c.age) * 1000)::bigint) order by c.seq), '[]') "
        "from read_changes($1::int, $2::boolean) c",
        2, limit, d->history ? "true" : "false");
    free(limit);
    if (!d->engine->one_database)
        db_unit_addv(unit,
                     "select $1::timestamptz - coalesce((select clock_timestamp() - c.noticed_at "
                     "from changes c order by c.seq limit 1), interval '0')",
                     1, d->at);
    pool_send(d->engine->st, unit, changes_read, d);
}

static void begin(void *ctx)
{
    struct detect *d = ctx;
    if (d->busy || d->gone || !d->vm)
        return;
    d->busy = true;
    d->poked = false;
    d->schedule.wake_ms = INT64_MAX;
    if (!d->set_aside)
        d->odd = !d->odd;
    char *limit = xprintf("%d", limit_of(d, false));
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select detect_turn($1::uuid, $2::timestamptz)", 2,
                 worker_id(d->engine->worker), d->reached);
    db_unit_addv(unit, "select a, json_array_length(a) from read_arrivals($1::int) a", 1, limit);
    db_unit_addv(unit, "select read_retries(least($1::int, 50))", 1, limit);
    db_unit_add(unit,
                "select utc(b), clock_timestamp(), floor(extract(epoch from b) * 1000)::bigint, "
                "(select scale from clock) from business_now() b",
                0, NULL);
    db_unit_add(unit,
                "select coalesce(json_object_agg(rule, day), '{}'), read_schedules(), "
                "judged_no_more() from daily_rules",
                0, NULL);
    free(limit);
    pool_send(d->engine->db, unit, turned, d);
}

/* ---- life ---- */

void detect_poke(struct detect *detect)
{
    detect->poked = true;
    if (!detect->busy && !detect->gone)
        loop_timer_set(detect->timer, 0);
}

static void told(void *ctx)
{
    detect_poke(ctx);
}

struct detect *detect_start(const struct engine *engine, loop_fn *lost, loop_fn *settled_fn,
                            void *ctx)
{
    struct detect *d = xcalloc(1, sizeof(*d));
    d->engine = engine;
    d->lost = lost;
    d->settled = settled_fn;
    d->ctx = ctx;
    d->limit = BATCH;
    d->schedule.wake_ms = INT64_MAX;
    buf_init(&d->input, TEXT_MAX);
    d->timer = loop_timer_new(engine->loop, begin, d);
    d->arrivals = pool_listen(engine->db, "arrivals", told, d);
    d->changes = pool_listen(engine->st, "changes", told, d);
    return d;
}

void detect_free(struct detect *d)
{
    vm_free(d->vm);
    buf_fini(&d->input);
    free(d->consume);
    free(d->postpone);
    free(d->now);
    free(d->days);
    free(d->deadly);
    free(d->at);
    free(d->reached);
    detect_daily_fini(&d->daily);
    detect_place_forget(&d->place);
    detect_schedule_forget(&d->schedule);
    free(d);
}

void detect_stop(struct detect *detect)
{
    if (!detect)
        return;
    listener_close(detect->arrivals);
    listener_close(detect->changes);
    loop_timer_free(detect->timer);
    detect->timer = NULL;
    detect->stopped = true;
    if (!detect->busy)
        detect_free(detect);
}

void detect_use(struct detect *detect, struct vm *vm, int64_t stamp)
{
    vm_free(detect->vm);
    detect->vm = vm;
    detect->stamp = stamp;
    detect->outrun_ms = 0;
    detect_place_forget(&detect->place);
    detect_schedule_forget(&detect->schedule);
    struct buf out;
    struct err err;
    buf_init(&out, 64);
    detect->history = vm_call(vm, "history", NULL, 0, &out, &err) && out.len > 0;
    buf_fini(&out);
    detect_poke(detect);
}

struct detect_stats detect_stats(const struct detect *detect)
{
    return detect->stats;
}
