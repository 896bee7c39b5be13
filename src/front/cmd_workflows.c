/* cmd_workflows.c - `moonwright workflows`: what is in force and what is refused, a version's
 * files, what changed, and which version runs what. */
#include "front/ask.h"

#include "base/buf.h"
#include "front/fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAUSE_BATCH = 500 };

static void print_leftovers(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    for (int row = 0; row < db_rows(reply, 0); row++)
        printf("%snot in force: %s, whose file is gone; %s of it go on as they are\n",
               row == 0 ? "\n" : "", db_value(reply, 0, row, 0), db_value(reply, 0, row, 1));
}

static void print_refusals(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    for (int row = 0; row < db_rows(reply, 0); row++)
        printf("%srefused: %s (since %s, in %s)\n", row == 0 ? "\n" : "",
               db_value(reply, 0, row, 0), db_value(reply, 0, row, 1), db_value(reply, 0, row, 2));
}

static bool list(struct ask *ask, struct err *err)
{
    if (!ask_rows(ask, "no workflow is in force yet: start `moonwright run`", err,
                  "select * from workflow_list order by workflow", 0))
        return false;
    if (ask->json)
        return true;
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit, "select workflow, alive from workflow_list where since is null order by 1", 0,
                NULL);
    if (!session_run(ask->session, unit, print_leftovers, NULL, err))
        return false;
    unit = db_unit_new();
    db_unit_add(unit,
                "select message, to_char(since at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC',"
                " tree from workflow_refusals order by file, tree",
                0, NULL);
    return session_run(ask->session, unit, print_refusals, NULL, err);
}

static bool refused(struct ask *ask, struct err *err)
{
    return ask_rows(ask, "no file is refused", err,
                    "select file, line, message, utc(since) as since, tree from workflow_refusals"
                    " order by file, tree",
                    0);
}

/* ---- versions ---- */

struct found {
    int id, version;
    bool there, active;
};

static void take_version(void *ctx, const struct db_reply *reply)
{
    struct found *found = ctx;
    found->there = db_rows(reply, 0) > 0;
    if (!found->there)
        return;
    found->id = (int)db_int(reply, 0, 0, 0);
    found->version = (int)db_int(reply, 0, 0, 1);
    found->active = db_bool(reply, 0, 0, 2);
}

/* The version of this number; without one the active one, or the newest. */
static bool find(struct session *session, const char *name, const char *version,
                 struct found *found, struct err *err)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select d.id, d.version, d.active from workflow_definitions d where d.name = $1"
                 " and ($2::text is null or d.version::text = $2)"
                 " order by d.active desc, d.version desc limit 1",
                 2, name, version);
    if (!session_run(session, unit, take_version, found, err))
        return false;
    if (found->there)
        return true;
    return version ? err_set(err, ERR_MISSING, "there is no version %s of '%s'", version, name)
                   : err_set(err, ERR_MISSING, "there is no workflow '%s'", name);
}

/* What the active version is compared with: the newest other one that instances still run, else
 * the one that was in force before. */
static bool find_before(struct session *session, const char *name, int to, struct found *found,
                        struct err *err)
{
    char id[16];
    snprintf(id, sizeof(id), "%d", to);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select d.id, d.version, d.active from workflow_definitions d"
                 " left join versions_alive() a on a.definition = d.id"
                 " where d.name = $1 and d.id <> $2::int"
                 " order by a.alive > 0 desc nulls last, d.activated_at desc nulls last limit 1",
                 2, name, id);
    return session_run(session, unit, take_version, found, err) &&
           (found->there || err_set(err, ERR_MISSING, "there is only one version of '%s'", name));
}

static void print_files(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    for (int row = 0; row < db_rows(reply, 0); row++)
        printf("\n-- %s\n%s", db_value(reply, 0, row, 0), db_value(reply, 0, row, 1));
}

static bool show(struct ask *ask, struct err *err)
{
    struct session *session = ask->session;
    struct found found;
    char id[16];
    if (!find(session, args_word(ask->args, 0), args_word(ask->args, 1), &found, err))
        return false;
    snprintf(id, sizeof(id), "%d", found.id);
    if (ask->json)
        return ask_rows(
            ask, NULL, err,
            "select d.name as workflow, d.version, d.active, d.sha256, d.trusted, d.api,"
            " utc(d.activated_at) as since, d.declaration, d.files"
            " from workflow_definitions d where d.id = $1::int",
            1, id);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(
        unit,
        "select f.name, f.value from workflow_definitions d, lateral (values"
        " (1, 'workflow', d.name), (2, 'version', d.version::text ||"
        "  case when d.active then ', in force' else '' end),"
        " (3, 'versions', (select string_agg(o.version || case when a.alive > 0 then ' (' || a.alive"
        "    || ' alive)' else '' end, ', ' order by o.version) from workflow_definitions o"
        "    left join versions_alive() a on a.definition = o.id where o.name = d.name)),"
        " (4, 'on', (select string_agg(e.value, ', ') from json_array_elements_text("
        "    case json_typeof(d.declaration->'on') when 'array' then d.declaration->'on'"
        "    else json_build_array(d.declaration->>'on') end) e)), (5, 'class', d.declaration->>'class'),"
        " (6, 'stop_when', (select string_agg((s.value->>'type') || ' (' || (s.value->>'same') ||"
        "    ')', ', ') from json_array_elements(d.declaration->'stop_when') s)),"
        " (6, 'flow', (select string_agg(f.key || ' ' || (f.value #>> '{}'), ', ' order by f.key)"
        "    from json_each(d.declaration) f where f.key in ('key', 'family', 'rate', 'concurrency',"
        "    'debounce', 'batch') or (f.key = 'if_running' and f.value #>> '{}' <> 'skip'))),"
        " (6, 'waiting', (select string_agg(w.n || ' for ' || w.code, ', ' order by w.code)"
        "    from (select q.reason->>'code' as code, count(*) as n from workflow_queue q"
        "          where q.workflow_definition_id = d.id and q.flow = 2 and q.state = 'pending'"
        "            and q.reason is not null group by 1) w)),"
        " (7, 'calls', (select string_agg(c.key || ' { ' || (select string_agg(k.value, ', ')"
        "    from json_array_elements_text(c.value) k) || ' }', ', ' order by c.key)"
        "    from json_each(d.declaration->'calls') c)),"
        " (8, 'since', utc(d.activated_at)), (9, 'sha256', d.sha256),"
        " (10, 'trusted', d.trusted), (11, 'api', d.api::text)) as f (position, name, value)"
        " where d.id = $1::int and f.value <> '' order by f.position",
        1, id);
    if (!session_print_plain(session, unit, NULL, err))
        return false;
    unit = db_unit_new();
    db_unit_addv(unit,
                 "select f.key, f.value #>> '{}' from workflow_definitions d,"
                 " json_each(d.files) f where d.id = $1::int order by f.key",
                 1, id);
    return session_run(session, unit, print_files, NULL, err);
}

static bool diff(struct ask *ask, struct err *err)
{
    struct found from, to;
    const struct args *args = ask->args;
    const char *name = args_word(args, 0);
    bool ok = find(ask->session, name, args_word(args, 2), &to, err) &&
              (args->count > 1 ? find(ask->session, name, args_word(args, 1), &from, err)
                               : find_before(ask->session, name, to.id, &from, err));
    char *text = ok ? fleet_diff(ask->front, ask->session, from.id, to.id, err) : NULL;
    if (text != NULL && ask->json) {
        struct buf out;
        buf_init(&out, (size_t)512 << 20);
        buf_json(&out, text, strlen(text));
        printf("{\"workflow\": \"%s\", \"from\": %d, \"to\": %d, \"diff\": %s}\n", name,
               from.version, to.version, out.data);
        buf_fini(&out);
    } else if (text != NULL)
        printf("%s", text[0] != '\0' ? text : "the files are the same\n");
    free(text);
    return text != NULL;
}

/* ---- changing what runs ---- */

static bool put_in_force(struct ask *ask, const struct found *found, struct err *err)
{
    char id[16];
    snprintf(id, sizeof(id), "%d", found->id);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select activate_version($1::int)", 1, id);
    return session_run(ask->session, unit, NULL, NULL, err);
}

/* {"workflow", "version", WHAT, "checked"}: checked is null where nobody looked. */
static void print_report(const char *name, const struct found *found, const char *what,
                         const struct fleet_report *report)
{
    printf("{\"workflow\": \"%s\", \"version\": %d, %s, \"checked\": ", name, found->version, what);
    if (report->said == NULL)
        printf("null}\n");
    else
        printf("{\"safe\": %d, \"diverges\": %d, \"decide\": %d, \"busy\": %d, \"moved\": %d, "
               "\"instances\": %s}}\n",
               report->safe, report->diverges, report->decide, report->busy, report->moved,
               report->said);
}

static bool activate(struct ask *ask, struct err *err)
{
    const char *name = args_word(ask->args, 0);
    struct fleet_report report = {0};
    struct found found;
    if (!find(ask->session, name, args_word(ask->args, 1), &found, err))
        return false;
    if (found.active && ask->json)
        print_report(name, &found, "\"changed\": false", &report);
    else if (found.active)
        printf("version %d of %s is in force already\n", found.version, name);
    if (found.active)
        return true;
    struct fleet_order fleet = {.workflow = name, .target = found.id, .quiet = ask->json};
    bool check = args_has(ask->args, "--check");
    if (check && !fleet_check(ask->front, ask->session, &fleet, &report, err))
        return false;
    bool ok = report.diverges == 0 && put_in_force(ask, &found, err);
    if (ask->json && (ok || report.diverges > 0))
        print_report(name, &found, ok ? "\"changed\": true" : "\"changed\": false", &report);
    else if (ok)
        printf(
            "version %d of %s is in force for what starts from now on, until its file is saved\n",
            found.version, name);
    free(report.said);
    if (report.diverges > 0)
        return err_set(err, ERR_REFUSED,
                       "%d instances would diverge: nothing was changed (without --check it is put "
                       "in force, and they keep their version)",
                       report.diverges);
    return ok;
}

static bool migrate(struct ask *ask, struct err *err)
{
    const struct args *args = ask->args;
    bool decided = args_has(args, "--decided");
    struct found found;
    struct fleet_report report;
    if (!find(ask->session, args_word(args, 0), args_word(args, 1), &found, err))
        return false;
    struct fleet_order fleet = {.workflow = args_word(args, 0),
                                .target = found.id,
                                .instance = args_value(args, "--instance"),
                                .move = !args_has(args, "--dry-run"),
                                .decided = decided,
                                .quiet = ask->json};
    if (!fleet_check(ask->front, ask->session, &fleet, &report, err))
        return false;
    int left = report.diverges + report.busy + (decided ? 0 : report.decide);
    if (left > 0 || (fleet.move && report.moved < report.safe))
        ask->code = EXIT_REFUSED;
    if (ask->json) {
        print_report(args_word(args, 0), &found,
                     fleet.move ? "\"dry_run\": false" : "\"dry_run\": true", &report);
        free(report.said);
        return true;
    }
    if (report.decide > 0 && !decided)
        printf("--decided moves those that need a decision, too; --instance ID just one\n");
    if (report.moved > 0)
        printf("stuck ones go on with `moonwright instances resume`\n");
    return true;
}

/* ---- pausing ---- */

/* Calls hold_paused() or release_paused() until it finds nothing more; *count of all. */
static bool go_through(struct ask *ask, const char *sql, long *count, struct err *err)
{
    char most[16], *n;
    long now;
    *count = 0;
    snprintf(most, sizeof(most), "%d", PAUSE_BATCH);
    do {
        if (!ask_value(ask, &n, err, sql, 1, most))
            return err_wrap(err,
                            "after %ld instances; the rest is done by the monitor, or by saying"
                            " it again",
                            *count);
        now = strtol(n, NULL, 10);
        free(n);
        *count += now;
    } while (now == PAUSE_BATCH);
    return true;
}

/* The workflow's row is there, or gone, from its commit on; the instances follow in batches. */
static bool pause(struct ask *ask, struct err *err)
{
    const char *name = args_word(ask->args, 0);
    bool pauses = strcmp(ask->args->verb->name, "pause") == 0;
    char *changed;
    long count;
    if (!ask_value(ask, &changed, err,
                   pauses ? "select pause_workflow($1)" : "select resume_workflow($1)", 1, name) ||
        !go_through(ask, pauses ? "select hold_paused($1::int)" : "select release_paused($1::int)",
                    &count, err))
        return false;
    bool news = changed[0] == 't';
    free(changed);
    if (ask->json)
        printf("{\"workflow\": \"%s\", \"paused\": %s, \"changed\": %s, \"instances\": %ld}\n",
               name, pauses ? "true" : "false", news ? "true" : "false", count);
    else if (pauses)
        printf("%s is paused%s: %ld instances are held, new ones wait\n", name,
               news ? "" : " already", count);
    else
        printf("%s goes on%s, with %ld instances: what is due happens now, once\n", name,
               news ? "" : " (it wasn't paused)", count);
    return true;
}

static const struct option json_options[] = {OPTION_JSON, {0}};
static const struct option activate_options[] = {
    {"--check", NULL, "not if live instances would diverge"}, OPTION_JSON, {0}};
static const struct option migrate_options[] = {
    {"--dry-run", NULL, "only say what would be moved"},
    {"--decided", NULL, "those that need a decision, too: it was taken"},
    {"--instance", "ID", "only this one"},
    OPTION_JSON,
    {0}};
static const struct verb verbs[] = {
    {"list", NULL, "what is in force, how many live, what is paused, what is refused", json_options,
     list, NULL},
    {"refused", NULL, "files that are refused as they are now", json_options, refused, NULL},
    {"show", "WORKFLOW [VERSION]", "a version and its files", json_options, show, NULL},
    {"diff", "WORKFLOW [FROM] [TO]", "what changed between two versions", json_options, diff, NULL},
    {"pause", "WORKFLOW",
     "what starts waits, what lives is held before its next step, stops still end it", json_options,
     pause, NULL},
    {"resume", "WORKFLOW", "let all that was held with it go on, and what waited start",
     json_options, pause, NULL},
    {"activate", "WORKFLOW VERSION", "put a version in force, until its file is saved",
     activate_options, activate, NULL},
    {"migrate", "WORKFLOW [VERSION]", "move live instances to a version that fits them",
     migrate_options, migrate, NULL},
    {0}};

const struct command command_workflows = {
    "workflows", "what is in force, refused, paused; versions, and moving instances between them",
    verbs, true};
