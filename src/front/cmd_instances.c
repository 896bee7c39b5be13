/* cmd_instances.c - `moonwright instances`: a list, and one instance's timeline. */
#include "front/front.h"

#include "front/session.h"

#include <stdio.h>
#include <string.h>

/* What an instance is, as lines of name and value. */
static const char facts[] =
    "select name, value from (select * from instances where id::text like $1 || '%' limit 1) i,"
    " lateral (values (1, 'instance', i.id::text), (2, 'workflow', i.workflow),"
    "  (3, 'state', i.state), (4, 'mode', i.mode),"
    "  (5, 'about', concat_ws(' ', i.entity, i.entity_id)), (6, 'customer', i.customer_id::text),"
    "  (7, 'started', utc(i.created_at)), (8, 'next look', to_char(i.due at time zone 'UTC',"
    "   'YYYY-MM-DD HH24:MI:SS\" (real time)\"')), (9, 'finished', utc(i.finished_at)),"
    "  (10, 'outcome', i.outcome), (11, 'reason', i.reason), (12, 'stuck', i.stuck::text),"
    "  (13, 'error', i.error)) as f (position, name, value)"
    " where value is not null order by position";

/* Steps, notes, waits and messages in the order in which they happened, by business time. */
static const char timeline[] =
    "with one as (select id from workflow_instances where id::text like $1 || '%' limit 1)"
    " select to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'), what, detail from ("
    "  select s.at, 1 as rank, s.seq, s.name || case s.state when 'done' then '' else"
    "   ' ' || s.state end as what, left(coalesce(s.output::text, ''), 200) as detail"
    "   from workflow_step_executions s, one where s.workflow_instance_id = one.id"
    "  union all select n.at, 0, n.ordinal, 'note', n.text"
    "   from workflow_notes n, one where n.instance_id = one.id"
    "  union all select w.registered_at, 2, w.ordinal, 'waits: ' || w.kind,"
    "   coalesce('until ' || utc(w.deadline), 'for ever')"
    "   from workflow_waits w, one where w.instance_id = one.id"
    " ) t order by at, rank, seq";

static bool list(struct session *session, const char *state, const char *workflow, struct err *err)
{
    static const char *const titles[] = {"INSTANCE", "WORKFLOW", "STATE", "MODE",
                                         "ABOUT",    "STARTED",  "NEXT",  "WHY"};
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select id, workflow, state, mode, concat_ws(' ', entity, entity_id),"
                 " to_char(created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),"
                 " to_char(business_of(due) at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),"
                 " coalesce(stuck->>'message', reason, error, outcome) from instances"
                 " where ($1::text is null or state = $1) and ($2::text is null or workflow = $2)"
                 " order by created_at desc, id desc limit 200",
                 2, state, workflow);
    return session_print(session, unit, titles, ARRAY_LEN(titles), "no such instance", err);
}

static bool show(struct session *session, const char *id, struct err *err)
{
    static const char *const fact[] = {"", ""};
    static const char *const line[] = {"WHEN (UTC)", "WHAT", ""};
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, facts, 1, id);
    if (!session_print(session, unit, fact, 2, NULL, err))
        return err->code != ERR_INPUT ? false
                                      : err_set(err, ERR_INPUT, "there is no instance '%s'", id);
    printf("\n");
    unit = db_unit_new();
    db_unit_addv(unit, timeline, 1, id);
    return session_print(session, unit, line, 3, "nothing has happened in it yet", err);
}

int cmd_instances(struct front *front, int argc, char **argv)
{
    struct err err;
    const char *verb = argc > 1 ? argv[1] : "list", *state = NULL, *workflow = NULL;
    bool is_show = strcmp(verb, "show") == 0 && argc == 3;
    if (!is_show && strcmp(verb, "list") != 0)
        return front_usage("instances", "it knows: list, show ID");
    for (int i = 2; !is_show && i < argc; i += 2) {
        if (i + 1 < argc && strcmp(argv[i], "--state") == 0)
            state = argv[i + 1];
        else if (i + 1 < argc && strcmp(argv[i], "--workflow") == 0)
            workflow = argv[i + 1];
        else
            return front_usage("instances", "list takes --state and --workflow");
    }
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (session == NULL)
        return front_fail(&err);
    bool ok = is_show ? show(session, argv[2], &err) : list(session, state, workflow, &err);
    session_close(session);
    return ok ? EXIT_OK : front_fail(&err);
}
