/* cmd_events.c - `moonwright events`: what was noticed, what didn't start or not as it came, and what
 * raised while it was looked at. */
#include "front/front.h"

#include "front/session.h"

#include <stdio.h>
#include <string.h>

static bool list(struct session *session, const char *type, struct err *err)
{
    static const char *const titles[] = {"EVENT", "TYPE", "ABOUT", "CUSTOMER", "OF", "STARTED"};
    static const char *const starts[] = {"WORKFLOW", "EVENT", "START", "BECAUSE", "WHEN", "DETAIL"};
    static const char *const raised[] = {"ERROR", "WHERE", "ABOUT", "SINCE", "MESSAGE"};
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select e.id, e.type, e.entity || ' ' || e.entity_id, e.customer_id,"
                 " to_char(e.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),"
                 " (select string_agg(i.workflow, ' ' order by i.workflow)"
                 "   from workflow_instances i where i.event_id = e.id)"
                 " from events e where $1::text is null or e.type = $1"
                 " order by e.settled desc limit 100",
                 1, type);
    if (!session_print(session, unit, titles, ARRAY_LEN(titles), "no event yet", err))
        return false;
    printf("\n");
    unit = db_unit_new();
    db_unit_addv(unit,
                 "select k.workflow, coalesce(e.type, 'schedule'), k.outcome, k.reason,"
                 " to_char(k.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),"
                 " left(coalesce(nullif(k.detail::text, '{}'), ''), 120)"
                 " from workflow_skips k left join events e on e.id = k.event_id"
                 " where $1::text is null or e.type = $1 order by k.id desc limit 100",
                 1, type);
    if (!session_print(session, unit, starts, ARRAY_LEN(starts), "every start was made as it came",
                       err))
        return false;
    printf("\n");
    unit = db_unit_new();
    db_unit_add(unit,
                "select id, coalesce(workflow, rule), concat_ws(' ', entity, entity_id),"
                " to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), message"
                " from detect_errors where resolved_at is null order by id limit 100",
                0, NULL);
    return session_print(session, unit, raised, ARRAY_LEN(raised), "nothing raised", err);
}

static void print_retried(void *ctx, const struct db_reply *reply)
{
    long long count = db_int(reply, 0, 0, 0);
    (void)ctx;
    if (count > 0)
        printf("%lld will be judged again\n", count);
    else
        printf("there is nothing to judge again; see `moonwright events list`\n");
}

static bool retry(struct session *session, int count, char **ids, struct err *err)
{
    struct db_unit *unit = db_unit_new();
    char list[2048] = "{";
    size_t len = 1;
    for (int i = 0; i < count; i++) {
        size_t digits = strspn(ids[i], "0123456789");
        if (digits == 0 || ids[i][digits] != '\0' || len + digits + 3 > sizeof(list)) {
            db_unit_free(unit);
            return err_set(err, ERR_INPUT, "\"%s\" is not the number of an error", ids[i]);
        }
        len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", i > 0 ? "," : "", ids[i]);
    }
    snprintf(list + len, sizeof(list) - len, "}");
    db_unit_addv(unit, "select retry_detect_errors($1::bigint[])", 1, count > 0 ? list : NULL);
    return session_run(session, unit, print_retried, NULL, err);
}

int cmd_events(struct front *front, int argc, char **argv)
{
    struct err err;
    const char *verb = argc > 1 ? argv[1] : "list", *type = NULL;
    bool is_retry = strcmp(verb, "retry") == 0;
    if (argc == 4 && strcmp(verb, "list") == 0 && strcmp(argv[2], "--type") == 0)
        type = argv[3];
    else if (!is_retry && (strcmp(verb, "list") != 0 || argc > 2))
        return front_usage("events", "it knows: list [--type T], retry [ID...]");
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (session == NULL)
        return front_fail(&err);
    bool ok = is_retry ? retry(session, argc - 2, argv + 2, &err) : list(session, type, &err);
    session_close(session);
    return ok ? EXIT_OK : front_fail(&err);
}
