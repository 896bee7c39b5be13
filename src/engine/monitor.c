/* monitor.c - the health checks, every HEALTH_CHECK_INTERVAL_MS.
 *
 *     wait --timer--> ask ServiceTitan's database --> check and tell in the engine's --> prune
 *       ^-------------------------------------------------------------------------------'
 *
 * A finding is (kind, subject): the first time it makes a row of system_alerts, then it counts it
 * up, and when it is no longer found the row is resolved. What is older than anybody needs is
 * pruned, in small batches, and what was begun and left half is brought to its end. All limits here
 * are real time. */
#include "engine/monitor.h"

#include "base/log.h"
#include "base/mem.h"
#include "engine/settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PRUNED_AT_ONCE = 1000 };

struct monitor {
    const struct engine *engine;
    struct loop_timer *timer;
    bool asking; /* a unit is under way: its callback still comes */
    bool stopped, down;
};

/* In the database of the st_ tables: findings as one json array. $1: after how many ms a copy is
 * stale; $2: whether ServiceTitan is connected at all. */
static const char st_checks[] =
    "select coalesce(json_agg(json_build_object('kind', kind, 'subject', subject,"
    " 'severity', severity, 'message', message)), '[]') from ("
    " select 'sync' as kind, entity as subject, 'error' as severity,"
    "  case when completed_at is null then entity || ' was never copied completely'"
    "   else entity || ' was last copied completely at ' || to_char(completed_at at time zone 'UTC',"
    "    'YYYY-MM-DD HH24:MI') || ' UTC' end as message"
    "  from sync_cursors c where $2::boolean"
    "   and coalesce(completed_at, (select min(l.started_at) from st_sync_log l"
    "    where l.entity = c.entity)) < now() - $1::bigint * interval '1 millisecond'"
    " union all select 'rejects', entity, 'warning', count(*) || ' rows of ' || entity ||"
    "  ' could not be stored: ' || min(error) from st_rejects where resolved_at is null"
    "  group by entity"
    " union all select 'changes', 'backlog', 'error', count(*) || ' changes wait to be looked at,"
    " the oldest since ' || to_char(min(noticed_at) at time zone 'UTC', 'HH24:MI') || ' UTC'"
    "  from changes having min(noticed_at) < now() - interval '20 minutes'"
    ") f";

/* In the engine's: its own findings and those handed over as $1, told and resolved in one go. */
static const char engine_checks[] =
    "with found as ("
    " select kind, subject, severity, message from json_to_recordset($1::json)"
    "  as f (kind text, subject text, severity text, message text)"
    " union all select 'worker', role || ' on ' || machine, 'error', count(*) ||"
    "  ' workers ended without a word and nobody took their work'"
    "  from workflow_workers where until < now() - interval '2 minutes' group by role, machine"
    " union all select 'work', 'backlog', 'error', count(*) || ' instances are due and not held'"
    "  from workflow_queue where worker is null and due < now() - interval '5 minutes'"
    "  having count(*) > 0"
    " union all select 'stuck', coalesce(reason->>'code', 'unknown'), 'error', count(*) ||"
    "  ' instances are stuck: ' || coalesce(min(reason->>'message'), 'see `instances list`')"
    "  from workflow_queue where reason is not null and state = 'stuck' group by 2"
    " union all select 'raised', coalesce(workflow, rule, 'detection'), 'error', count(*) ||"
    "  ' changes raised: ' || min(message) from detect_errors where resolved_at is null group by 2"
    " union all select 'sends', 'held', 'error', count(*) || ' sends wait for a person: see"
    " `sends list --held`' from messaging_log where state = 'held' having count(*) > 0"
    " union all select kind, subject, severity, message from missed_fires()"
    " union all select 'database', 'old transaction', 'warning', count(*) ||"
    "  ' transactions are open for more than 10 minutes' from pg_stat_activity"
    "  where datname = current_database() and xact_start < now() - interval '10 minutes'"
    "  having count(*) > 0"
    "), told as ("
    " insert into system_alerts (kind, subject, severity, message)"
    " select distinct on (kind, subject) kind, subject, severity, message from found"
    " on conflict (kind, subject) where resolved_at is null do update"
    "  set last_at = now(), count = system_alerts.count + 1, message = excluded.message,"
    "   severity = excluded.severity"
    " returning kind, subject, message, count"
    "), healed as ("
    " update system_alerts a set resolved_at = now() where a.resolved_at is null"
    "  and not exists (select from found f where f.kind = a.kind and f.subject = a.subject)"
    " returning a.kind, a.subject, a.message"
    ") select 'told' as what, kind, subject, message from told where count = 1"
    " union all select 'healed', kind, subject, message from healed";

static bool settled(struct monitor *monitor, const struct db_reply *reply)
{
    monitor->asking = false;
    if (monitor->stopped) {
        free(monitor);
        return false;
    }
    if (db_reply_outcome(reply) != DB_OK) {
        log_error("monitor", "the database does not answer", "error", db_reply_err(reply)->message,
                  NULL);
        monitor->down = true;
        loop_timer_set(monitor->timer,
                       setting_int(monitor->engine->settings, "HEALTH_CHECK_INTERVAL_MS"));
        return false;
    }
    if (monitor->down)
        log_info("monitor", "the database answers again", NULL);
    monitor->down = false;
    return true;
}

static void rest(struct monitor *monitor)
{
    loop_timer_set(monitor->timer,
                   setting_int(monitor->engine->settings, "HEALTH_CHECK_INTERVAL_MS"));
}

static void prune(struct monitor *monitor);

static void on_pruned(void *ctx, const struct db_reply *reply)
{
    struct monitor *monitor = ctx;
    if (!settled(monitor, reply))
        return;
    if (db_int(reply, 0, 0, 0) == PRUNED_AT_ONCE || db_int(reply, 1, 0, 0) == PRUNED_AT_ONCE)
        prune(monitor);
    else
        rest(monitor);
}

static void prune(struct monitor *monitor)
{
    char most[16];
    snprintf(most, sizeof(most), "%d", PRUNED_AT_ONCE);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select prune_deliveries($1::int)", 1, most);
    /* Whoever paused a workflow, or let it go on, may have died in the middle. */
    db_unit_addv(unit, "select greatest(hold_paused($1::int), release_paused($1::int))", 1, most);
    monitor->asking = true;
    pool_send(monitor->engine->db, unit, on_pruned, monitor);
}

static void on_told(void *ctx, const struct db_reply *reply)
{
    struct monitor *monitor = ctx;
    if (!settled(monitor, reply))
        return;
    for (int row = 0; row < db_rows(reply, 0); row++) {
        bool healed = strcmp(db_value(reply, 0, row, 0), "healed") == 0;
        log_write(healed ? LOG_INFO : LOG_WARN, "monitor", healed ? "healed" : "alert", "kind",
                  db_value(reply, 0, row, 1), "subject", db_value(reply, 0, row, 2), "why",
                  db_value(reply, 0, row, 3), NULL);
    }
    prune(monitor);
}

static void on_st(void *ctx, const struct db_reply *reply)
{
    struct monitor *monitor = ctx;
    if (!settled(monitor, reply))
        return;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, engine_checks, 1, db_value(reply, 0, 0, 0));
    monitor->asking = true;
    pool_send(monitor->engine->db, unit, on_told, monitor);
}

static void check(void *ctx)
{
    struct monitor *monitor = ctx;
    const struct settings *settings = monitor->engine->settings;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, st_checks, 2, setting(settings, "SYNC_STALE_MS"),
                 setting(settings, "SERVICE_TITAN_CLIENT_ID")[0] != '\0' ? "true" : "false");
    monitor->asking = true;
    pool_send(monitor->engine->st, unit, on_st, monitor);
}

struct monitor *monitor_start(const struct engine *engine)
{
    struct monitor *monitor = xcalloc(1, sizeof(*monitor));
    monitor->engine = engine;
    monitor->timer = loop_timer_new(engine->loop, check, monitor);
    /* Not at once: at start everything is late. */
    int64_t first = setting_int(engine->settings, "HEALTH_CHECK_INTERVAL_MS");
    loop_timer_set(monitor->timer, first < 30000 ? first : 30000);
    return monitor;
}

void monitor_stop(struct monitor *monitor)
{
    if (monitor == NULL)
        return;
    loop_timer_free(monitor->timer);
    monitor->timer = NULL;
    monitor->stopped = true;
    if (!monitor->asking)
        free(monitor);
}
