/* cmd_workflows.c - `moonwright workflows list`: what is in force. */
#include "front/front.h"

#include "front/session.h"

#include <string.h>

int cmd_workflows(struct front *front, int argc, char **argv)
{
    static const char *const titles[] = {"WORKFLOW", "VERSION", "CLASS", "ON",
                                         "SINCE",    "ALIVE",   "ENDED"};
    struct err err;
    if (argc > 2 || (argc == 2 && strcmp(argv[1], "list") != 0))
        return front_usage("workflows", "it knows only: list");
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (session == NULL)
        return front_fail(&err);
    struct db_unit *unit = db_unit_new();
    db_unit_add(
        unit,
        "select d.name, d.version, d.declaration->>'class',"
        " d.declaration->>'on',"
        " to_char(d.activated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),"
        " (select count(*) from workflow_queue q join workflow_definitions o"
        "   on o.id = q.workflow_definition_id where o.name = d.name),"
        " (select count(*) from workflow_instances i"
        "   where i.workflow = d.name and i.finished_at is not null)"
        " from workflow_definitions d where d.active and d.declaration->>'on' is not null order by d.name",
        0, NULL);
    bool ok = session_print(session, unit, titles, ARRAY_LEN(titles),
                            "no workflow is in force yet: start `moonwright run`", &err);
    session_close(session);
    return ok ? EXIT_OK : front_fail(&err);
}
