/* cmd_watch.c - `moonwright watch`: a progress bar while the first import runs, then a line for
 * each event, instance, wait and send, as they come.
 *
 * It asks the tables twice a second for what is newer than the last look, with some overlap because
 * commits are seen out of order; a line that was printed is remembered by its key. */
#include "front/front.h"

#include "base/buf.h"
#include "base/digest.h"
#include "base/mem.h"
#include "front/session.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_MS 500
#define IMPORT_MS 100   /* while the bar moves */
#define SEEN (1u << 17) /* keys remembered; older ones are overwritten */

/* " for Ann Lee": the customer of the event that an instance was started by. */
#define FOR_WHOM                                                               \
    "coalesce(' for ' || (select e.payload->'customer'->>'name' from events e" \
    " where e.id = i.event_id), '')"

/* $1: events settled after this number; $2: the real time of the last look, or null. Columns: key,
 * business time, kind, text, settled number, business time in full. */
static const char news[] =
    "with since as (select coalesce($2::timestamptz, now()) - interval '3 seconds' as at),"
    " fresh as (select * from events where settled > $1::bigint order by settled limit 500)"
    " select key, to_char(at at time zone 'UTC', 'Mon DD HH24:MI'), kind, text, settled, utc(at) from ("
    " select 'e' || id as key, noticed_at as at, 'event' as kind, rpad(type, 22) || ' ' ||"
    "   entity || ' ' || entity_id || coalesce(', ' || (payload->'customer'->>'name'), '') as text,"
    "   settled, 0 as rank from fresh"
    " union all select 'i' || i.id, i.created_at, 'starts', i.workflow ||"
    "   coalesce(' for ' || i.entity || ' ' || i.entity_id, '') ||"
    "   coalesce(', ' || (f.payload->'customer'->>'name'), '') ||"
    "   case when i.mode = 'shadow' then ' (shadow)' else '' end, f.settled, 1"
    "   from fresh f join workflow_instances i on i.event_id = f.id"
    " union all select 'w' || w.instance_id || w.branch || '/' || w.ordinal, w.registered_at,"
    "   'waits', i.workflow || " FOR_WHOM " || case w.kind when 'sleep' then ' sleeps until ' else"
    "   ' waits for an event until ' end || coalesce(to_char(w.deadline at time zone 'UTC',"
    "   'Mon DD HH24:MI'), 'it comes'), null, 2 from since, workflow_waits w join"
    "   workflow_instances i on i.id = w.instance_id where w.registered_at > business_of(since.at)"
    " union all select 'm' || m.id || m.state, coalesce(m.sent_at, m.decided_at),"
    "   case when m.state <> 'sent' then m.state when m.channel = 'sms' then 'text' else 'e-mail'"
    "   end, coalesce(m.address, 'nobody') || ': ' || case when m.state = 'sent' then"
    "   left(replace(coalesce(m.subject, m.body, ''), E'\\n', ' '), 70) else m.channel || ' of ' ||"
    "   m.workflow || coalesce(', ' || m.rule, '') end || case when m.shadow then ' (shadow)' else"
    "   '' end, null, 3 from since, messaging_log m where m.state <> 'intent' and"
    "   coalesce(m.outcome_at, m.intended_at) > since.at"
    " union all select 'r' || d.id, business_of(d.at), 'raised', d.message || ' (' ||"
    "   concat_ws(' ', d.entity, d.entity_id) || ')', null, 6 from since, detect_errors d"
    "   where d.resolved_at is null and d.at > since.at"
    " union all select 'a' || a.id, business_of(a.first_at), 'alert', a.message, null, 7"
    "   from since, system_alerts a where a.first_at > since.at"
    " union all select 'o' || o.id || o.state, o.at, o.provider, o.method || ' ' ||"
    "   regexp_replace(o.url, '^https?://[^/]+', '') || ' ' || coalesce(o.http_status::text,"
    "   o.state) || ' (' || coalesce(o.workflow, '') || case when o.shadow then ', shadow)'"
    "   else ')' end, null, 4 from since, outbound_log o"
    "   where o.state <> 'intent' and coalesce(o.outcome_at, o.intended_at) > since.at"
    " union all select 'f' || i.id, i.finished_at, 'ends', i.workflow || " FOR_WHOM
    "   || ': ' || i.state ||"
    "   coalesce(', ' || coalesce(i.reason, i.error, i.outcome), ''), null, 5"
    "   from since, workflow_instances i where i.finished_at > business_of(since.at)"
    ") t order by at, rank limit 2000";

static const char feeds[] =
    "select count(*), count(completed_at), coalesce(sum(rows_seen), 0) from sync_cursors";

struct watch_state {
    bool terminal, json, imported, barred;
    char settled[24], last[64];
    uint64_t *seen;
    unsigned at;
};

static bool is_new(struct watch_state *w, const char *key)
{
    uint64_t hash = digest_hash64(key, strlen(key)) | 1;
    /* An open table of four ways: what falls out of it is far older than the overlap. */
    uint64_t *slot = &w->seen[(hash >> 8) % (SEEN / 4) * 4];
    for (int i = 0; i < 4; i++) {
        if (slot[i] == hash)
            return false;
    }
    slot[w->at++ % 4] = hash;
    return true;
}

static const char *colour(const struct watch_state *w, const char *kind)
{
    static const struct {
        const char *kind, *code;
    } colours[] = {{"event", "\033[36m"}, {"starts", "\033[34m"},  {"waits", "\033[2m"},
                   {"text", "\033[32m"},  {"e-mail", "\033[32m"},  {"ghl", "\033[35m"},
                   {"ends", "\033[2m"},   {"raised", "\033[31m"},  {"alert", "\033[31m"},
                   {"held", "\033[31m"},  {"in_doubt", "\033[33m"}};
    for (size_t i = 0; w->terminal && i < ARRAY_LEN(colours); i++) {
        if (strcmp(colours[i].kind, kind) == 0)
            return colours[i].code;
    }
    return "";
}

/* One object a line: {at, kind, text}. */
static void print_object(const char *at, const char *kind, const char *text)
{
    struct buf out;
    buf_init(&out, (size_t)64 << 20);
    buf_adds(&out, "{\"at\": ");
    if (at != NULL)
        buf_json(&out, at, strlen(at));
    else
        buf_adds(&out, "null");
    buf_adds(&out, ", \"kind\": ");
    buf_json(&out, kind, strlen(kind));
    buf_adds(&out, ", \"text\": ");
    buf_json(&out, text, strlen(text));
    printf("%s}\n", out.data);
    buf_fini(&out);
}

static void print_news(void *ctx, const struct db_reply *reply)
{
    struct watch_state *w = ctx;
    for (int row = 0; row < db_rows(reply, 0); row++) {
        const char *settled = db_value(reply, 0, row, 4), *kind = db_value(reply, 0, row, 2);
        if (settled != NULL && atoll(settled) > atoll(w->settled))
            snprintf(w->settled, sizeof(w->settled), "%s", settled);
        if (!is_new(w, db_value(reply, 0, row, 0)))
            continue;
        if (w->json) {
            const char *text = db_value(reply, 0, row, 3);
            print_object(db_value(reply, 0, row, 5), kind, text != NULL ? text : "");
            continue;
        }
        if (w->barred && !w->imported) /* the bar makes room, and is drawn again below */
            printf("\r\033[K");
        printf("%s  %s%-10s ", db_value(reply, 0, row, 1), colour(w, kind), kind);
        for (const char *p = db_value(reply, 0, row, 3); p != NULL && *p != '\0'; p++)
            putchar((unsigned char)*p < ' ' || *p == 127 ? ' ' : *p);
        printf("%s\n", w->terminal ? "\033[0m" : "");
    }
    snprintf(w->last, sizeof(w->last), "%s", db_value(reply, 1, 0, 0));
    fflush(stdout);
}

static void print_bar(void *ctx, const struct db_reply *reply)
{
    struct watch_state *w = ctx;
    int total = (int)db_int(reply, 0, 0, 0), done = (int)db_int(reply, 0, 0, 1);
    long long rows = (long long)db_int(reply, 0, 0, 2);
    w->imported = total > 0 && done == total;
    if (w->json && w->imported) {
        char text[96];
        snprintf(text, sizeof(text), "%d feeds, %lld rows", total, rows);
        print_object(NULL, "first import done", text);
    } else if (w->terminal && (total > 0 || w->barred)) {
        printf("\r\033[Kfirst import  [");
        for (int i = 0; i < 30; i++)
            putchar(total > 0 && i < done * 30 / total ? '#' : '.');
        printf("] %d of %d feeds, %lld rows%s", done, total, rows, w->imported ? "\n" : "");
        w->barred = true;
    } else if (w->imported) {
        printf("first import done: %d feeds, %lld rows\n", total, rows);
    }
    fflush(stdout);
}

static bool look(struct watch_state *w, struct session *engine, struct session *st, struct err *err)
{
    struct db_unit *unit;
    if (!w->imported) {
        unit = db_unit_new();
        db_unit_add(unit, feeds, 0, NULL);
        if (!session_run(st, unit, print_bar, w, err))
            return false;
    }
    unit = db_unit_new();
    db_unit_addv(unit, news, 2, w->settled, w->last[0] != '\0' ? w->last : NULL);
    db_unit_add(unit, "select clock_timestamp()", 0, NULL);
    return session_run(engine, unit, print_news, w, err);
}

static int watch(struct front *front, const struct args *args)
{
    struct watch_state w = {.json = args_has(args, "--json"), .settled = "0"};
    struct session *engine = NULL, *st = NULL;
    struct err err;
    int code = EXIT_OK;
    sigset_t signals;
    const char *url = setting(front->settings, "DATABASE_URL");
    w.terminal = !w.json && !args_has(args, "--plain") && isatty(1);
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    w.seen = xcalloc(SEEN, sizeof(*w.seen));
    for (;;) {
        struct timespec pause = {0, (w.imported ? LOOK_MS : IMPORT_MS) * 1000000L};
        if (engine == NULL)
            engine = session_open(url, &err);
        if (st == NULL)
            st = session_open(front_st_url(front), &err);
        /* The database may be away for a while, or not be made yet: then it is looked at again. */
        if (engine != NULL && st != NULL && !look(&w, engine, st, &err)) {
            session_close(engine);
            session_close(st);
            engine = st = NULL;
            if (err.code == ERR_SQL && strcmp(err.sqlstate, "42P01") != 0) {
                code = front_fail(&err);
                break;
            }
        }
        if (sigtimedwait(&signals, NULL, &pause) > 0)
            break;
    }
    session_close(engine);
    session_close(st);
    free(w.seen);
    return code;
}

static const struct option options[] = {{"--plain", NULL, "lines only: no colours, no bar"},
                                        {"--json", NULL, "an object a line: at, kind, text"},
                                        {0}};
static const struct verb verbs[] = {
    {NULL, NULL, "follow what happens, line by line, until Ctrl-C", options, NULL, watch}, {0}};

const struct command command_watch = {"watch", "follow what happens, line by line", verbs, true};
