/* cmd_workflows.c - `moonwright workflows`: what is in force and what is refused, a version's
 * files, what changed, and which version runs what. */
#include "front/front.h"

#include "front/fleet.h"
#include "front/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char refused_sql[] =
    "select message, to_char(since at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', tree"
    " from workflow_refusals order by file, tree";

static void print_refusals(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    for (int row = 0; row < db_rows(reply, 0); row++)
        printf("%srefused: %s (since %s, in %s)\n", row == 0 ? "\n" : "",
               db_value(reply, 0, row, 0), db_value(reply, 0, row, 1), db_value(reply, 0, row, 2));
}

static bool list(struct session *session, struct err *err)
{
    static const char *const titles[] = {"WORKFLOW", "VERSION", "CLASS", "ON",
                                         "SINCE",    "ALIVE",   "OLDER", "ENDED"};
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit,
                "with alive as materialized (select * from versions_alive())"
                " select d.name, d.version, d.declaration->>'class',"
                " (select string_agg(e.value #>> '{}', ' ') from json_array_elements("
                "   case json_typeof(d.declaration->'on') when 'array' then d.declaration->'on'"
                "   else json_build_array(d.declaration->'on') end) e),"
                " to_char(d.activated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),"
                " coalesce(sum(a.alive), 0), coalesce(sum(a.alive) filter (where o.id <> d.id), 0),"
                " (select count(*) from workflow_instances i"
                "   where i.workflow = d.name and i.finished_at is not null)"
                " from workflow_definitions d"
                " join workflow_definitions o on o.name = d.name"
                " left join alive a on a.definition = o.id"
                " where d.active and d.declaration->>'on' is not null"
                " group by d.id order by d.name",
                0, NULL);
    if (!session_print(session, unit, titles, ARRAY_LEN(titles),
                       "no workflow is in force yet: start `moonwright run`", err))
        return false;
    unit = db_unit_new();
    db_unit_add(unit, refused_sql, 0, NULL);
    return session_run(session, unit, print_refusals, NULL, err);
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
    return version ? err_set(err, ERR_INPUT, "there is no version %s of '%s'", version, name)
                   : err_set(err, ERR_INPUT, "there is no workflow '%s'", name);
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
           (found->there || err_set(err, ERR_INPUT, "there is only one version of '%s'", name));
}

static void print_files(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    for (int row = 0; row < db_rows(reply, 0); row++)
        printf("\n-- %s\n%s", db_value(reply, 0, row, 0), db_value(reply, 0, row, 1));
}

static bool show(struct session *session, const char *name, const char *version, struct err *err)
{
    static const char *const fact[] = {"", ""};
    struct found found;
    char id[16];
    if (!find(session, name, version, &found, err))
        return false;
    snprintf(id, sizeof(id), "%d", found.id);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(
        unit,
        "select f.name, f.value from workflow_definitions d, lateral (values"
        " (1, 'workflow', d.name), (2, 'version', d.version::text ||"
        "  case when d.active then ', in force' else '' end),"
        " (3, 'versions', (select string_agg(o.version || case when a.alive > 0 then ' (' || a.alive"
        "    || ' alive)' else '' end, ', ' order by o.version) from workflow_definitions o"
        "    left join versions_alive() a on a.definition = o.id where o.name = d.name)),"
        " (4, 'on', d.declaration->>'on'), (5, 'class', d.declaration->>'class'),"
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
    if (!session_print(session, unit, fact, 2, NULL, err))
        return false;
    unit = db_unit_new();
    db_unit_addv(unit,
                 "select f.key, f.value #>> '{}' from workflow_definitions d,"
                 " json_each(d.files) f where d.id = $1::int order by f.key",
                 1, id);
    return session_run(session, unit, print_files, NULL, err);
}

static bool diff(struct front *front, struct session *session, int argc, char **argv,
                 struct err *err)
{
    struct found from, to;
    const char *name = argv[2];
    bool ok = find(session, name, argc > 4 ? argv[4] : NULL, &to, err) &&
              (argc > 3 ? find(session, name, argv[3], &from, err)
                        : find_before(session, name, to.id, &from, err));
    return ok && fleet_diff(front, session, from.id, to.id, err);
}

/* ---- changing what runs ---- */

struct order {
    const char *name, *version;
    bool check, dry_run, decided;
    const char *instance;
};

/* activate NAME VERSION [--check], migrate NAME [VERSION] [--dry-run] [--decided] [--instance ID]
 */
static bool read_order(int argc, char **argv, struct order *order)
{
    bool migrate = strcmp(argv[1], "migrate") == 0;
    *order = (struct order){0};
    for (int i = 2; i < argc; i++) {
        if (!migrate && strcmp(argv[i], "--check") == 0)
            order->check = true;
        else if (migrate && strcmp(argv[i], "--dry-run") == 0)
            order->dry_run = true;
        else if (migrate && strcmp(argv[i], "--decided") == 0)
            order->decided = true;
        else if (migrate && strcmp(argv[i], "--instance") == 0 && i + 1 < argc)
            order->instance = argv[++i];
        else if (argv[i][0] == '-' || order->version != NULL)
            return false;
        else if (order->name == NULL)
            order->name = argv[i];
        else
            order->version = argv[i];
    }
    return order->name != NULL && (migrate || order->version != NULL);
}

static bool activate(struct front *front, struct session *session, const struct order *order,
                     struct err *err)
{
    struct found found;
    if (!find(session, order->name, order->version, &found, err))
        return false;
    if (found.active) {
        printf("version %d of %s is in force already\n", found.version, order->name);
        return true;
    }
    struct fleet_order fleet = {.workflow = order->name, .target = found.id};
    struct fleet_report report;
    if (order->check && !fleet_check(front, session, &fleet, &report, err))
        return false;
    if (order->check && report.diverges > 0)
        return err_set(err, ERR_INPUT,
                       "%d instances would diverge: nothing was changed (without --check it is put "
                       "in force, and they keep their version)",
                       report.diverges);
    char id[16];
    snprintf(id, sizeof(id), "%d", found.id);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select activate_version($1::int)", 1, id);
    if (!session_run(session, unit, NULL, NULL, err))
        return false;
    printf("version %d of %s is in force for what starts from now on, until its file is saved\n",
           found.version, order->name);
    return true;
}

static bool migrate(struct front *front, struct session *session, const struct order *order,
                    int *code, struct err *err)
{
    struct found found;
    struct fleet_report report;
    if (!find(session, order->name, order->version, &found, err))
        return false;
    struct fleet_order fleet = {.workflow = order->name,
                                .target = found.id,
                                .instance = order->instance,
                                .move = !order->dry_run,
                                .decided = order->decided};
    if (!fleet_check(front, session, &fleet, &report, err))
        return false;
    int left = report.diverges + report.busy + (order->decided ? 0 : report.decide);
    *code = left > 0 || (fleet.move && report.moved < report.safe) ? EXIT_FAILED : EXIT_OK;
    if (report.decide > 0 && !order->decided)
        printf("--decided moves those that need a decision, too; --instance ID just one\n");
    if (report.moved > 0)
        printf("stuck ones go on with `moonwright instances resume`\n");
    return true;
}

int cmd_workflows(struct front *front, int argc, char **argv)
{
    struct err err;
    const char *verb = argc > 1 ? argv[1] : "list";
    bool is_list = argc <= 2 && strcmp(verb, "list") == 0;
    bool is_show = (argc == 3 || argc == 4) && strcmp(verb, "show") == 0;
    bool is_diff = argc >= 3 && argc <= 5 && strcmp(verb, "diff") == 0;
    bool changes = strcmp(verb, "activate") == 0 || strcmp(verb, "migrate") == 0;
    struct order order = {0};
    int code = EXIT_OK;
    if (changes ? !read_order(argc, argv, &order) : !is_list && !is_show && !is_diff)
        return front_usage("workflows", "it knows: list, show, diff, activate, migrate");
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (session == NULL)
        return front_fail(&err);
    bool ok;
    if (is_list)
        ok = list(session, &err);
    else if (is_show)
        ok = show(session, argv[2], argc > 3 ? argv[3] : NULL, &err);
    else if (is_diff)
        ok = diff(front, session, argc, argv, &err);
    else if (strcmp(verb, "activate") == 0)
        ok = activate(front, session, &order, &err);
    else
        ok = migrate(front, session, &order, &code, &err);
    session_close(session);
    return ok ? code : front_fail(&err);
}
