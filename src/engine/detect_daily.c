/* detect_daily.c - daily rules: rows that fulfil a condition today, each an event once.
 *
 *     due? --> the condition, on the views --> which are new? --> their snapshots --> judge, settle
 *
 * The day of a rule is written down with its last batch, so a rule that is cut short is asked
 * again; what it had found by then are events already. The query is the company's, which makes it
 * configuration; it runs on the read-only login when there is one. */
#include "engine/detect_round.h"

#include "base/log.h"
#include "engine/settings.h"
#include "script/json.h"

#include <stdlib.h>
#include <string.h>

#define ROWS 500

void detect_daily_fini(struct detect_daily *daily)
{
    free(daily->rule);
    free(daily->of);
    free(daily->day);
    free(daily->sql);
    free(daily->rows);
    free(daily->live_since);
    free(daily->last);
    *daily = (struct detect_daily){0};
}

static char *copy(const char *text)
{
    return text ? xstrdup(text) : NULL;
}

void detect_place_forget(struct detect_place *place)
{
    free(place->whose);
    free(place->last);
    *place = (struct detect_place){0};
}

void detect_daily_settled(struct detect *d)
{
    if (!d->daily.under_way)
        return;
    detect_place_forget(&d->place);
    d->place.whose = xprintf("%s %s", d->daily.rule, d->daily.day);
    d->place.last = copy(d->daily.last);
}

/* Where to go on; NULL: at the beginning. */
static const char *place_of(const struct detect *d)
{
    char *whose = xprintf("%s %s", d->daily.rule, d->daily.day);
    bool ours = d->place.whose && strcmp(d->place.whose, whose) == 0;
    free(whose);
    return ours ? d->place.last : NULL;
}

static void snapshots_read(void *ctx, const struct db_reply *reply)
{
    struct detect *d = ctx;
    if (!detect_answered(d, reply))
        return;
    const struct detect_daily *daily = &d->daily;
    buf_clear(&d->input);
    buf_printf(&d->input,
               "{\"now\":\"%s\",\"parent_wait_ms\":0,\"daily\":{\"rule\":\"%s\","
               "\"day\":\"%s\",\"last\":%s,",
               d->now, daily->rule, daily->day, daily->more ? "false" : "true");
    if (daily->live_since)
        buf_printf(&d->input, "\"live_since\":\"%s\",", daily->live_since);
    buf_adds(&d->input, "\"rows\":");
    buf_adds(&d->input, db_value(reply, 0, 0, 0));
    buf_adds(&d->input, "}}");
    d->read_changes = 0;
    d->daily.under_way = true;
    detect_judge(d);
}

static void new_found(void *ctx, const struct db_reply *reply)
{
    struct detect *d = ctx;
    if (!detect_answered(d, reply))
        return;
    d->daily.more = db_bool(reply, 0, 0, 0);
    d->daily.last = copy(db_value(reply, 0, 0, 2));
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select coalesce(json_agg(json_build_object('id', r.id, 'once', r.once, "
                 "'snapshot', snapshot_of($1, r.id))), '[]') "
                 "from json_to_recordset($2::json) as r (id text, once text)",
                 2, d->daily.of, db_value(reply, 0, 0, 1));
    pool_send(d->engine->st, unit, snapshots_read, d);
}

static void since_read(void *ctx, const struct db_reply *reply)
{
    struct detect *d = ctx;
    if (!detect_answered(d, reply))
        return;
    struct detect_daily *daily = &d->daily;
    daily->live_since = copy(db_rows(reply, 0) ? db_value(reply, 0, 0, 0) : NULL);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select (n->>'more')::boolean, n->'rows', n->'last' "
                 "from daily_new($1, $2, $3::json, $4::timestamptz, $5::int, $6::json) n",
                 6, daily->rule, daily->of, daily->rows, daily->history ? NULL : daily->live_since,
                 "500", place_of(d));
    pool_send(d->engine->db, unit, new_found, d);
}

static void rows_read(void *ctx, const struct db_reply *reply)
{
    struct detect *d = ctx;
    if (!d->stopped && db_reply_outcome(reply) == DB_FAILED &&
        db_reply_err(reply)->code == ERR_SQL) {
        // The company's condition is wrong: said once a day, and nothing else is held up.
        log_error("detect", "the condition of a daily rule is refused", "rule", d->daily.rule,
                  "error", db_reply_err(reply)->message, NULL);
        buf_clear(&d->input);
        buf_printf(&d->input,
                   "{\"now\":\"%s\",\"parent_wait_ms\":0,\"daily\":{\"rule\":\"%s\","
                   "\"day\":\"%s\",\"last\":true,\"rows\":[],\"refused\":",
                   d->now, d->daily.rule, d->daily.day);
        buf_json(&d->input, db_reply_err(reply)->message, strlen(db_reply_err(reply)->message));
        buf_adds(&d->input, "}}");
        detect_judge(d);
        return;
    }
    if (!detect_answered(d, reply))
        return;
    d->daily.rows = xstrdup(db_value(reply, 0, 0, 0));
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select to_char(live_since at time zone 'UTC', "
                 "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from sync_cursors "
                 "where entity = feed_of($1)",
                 1, d->daily.of);
    pool_send(d->engine->st, unit, since_read, d);
}

void detect_daily(struct detect *d)
{
    struct buf out;
    struct err err;
    const struct slice args[] = {slice_of(d->now), slice_of(d->days)};
    buf_init(&out, 1 << 20);
    detect_daily_fini(&d->daily);
    struct json *due = NULL;
    if (!vm_call(d->vm, "daily", args, ARRAY_LEN(args), &out, &err))
        log_error("detect", "daily rules can't be read", "error", err.message, NULL);
    else if (out.len > 0)
        due = json_parse(out.data, out.len, &err);
    buf_fini(&out);
    if (!due) {
        detect_rest(d, INT64_MAX);
        return;
    }
    d->daily.rule = copy(json_text(due, "rule"));
    d->daily.of = copy(json_text(due, "of"));
    d->daily.day = copy(json_text(due, "day"));
    d->daily.sql = copy(json_text(due, "sql"));
    d->daily.history = json_bool(due, "history");
    json_free(due);
    struct db_unit *unit = db_unit_new();
    const char *params[] = {d->daily.day};
    db_unit_add_once(unit, d->daily.sql, 1, params);
    pool_send(d->engine->readonly ? d->engine->readonly : d->engine->st, unit, rows_read, d);
}
