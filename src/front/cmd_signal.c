/* cmd_signal.c - `moonwright signal`: an event that reaches one instance. */
#include "front/front.h"

#include "front/session.h"

#include <stdio.h>

static void print_told(void *ctx, const struct db_reply *reply)
{
    printf("signal_%s is on its way to %s\n", (const char *)ctx, db_value(reply, 0, 0, 0));
}

int cmd_signal(struct front *front, int argc, char **argv)
{
    struct err err;
    if (argc != 3 && argc != 4)
        return front_usage("signal", "it takes an instance's id and the name of the signal");
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (session == NULL)
        return front_fail(&err);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select signal_instance($1, $2, $3::json)", 3, argv[1], argv[2],
                 argc == 4 ? argv[3] : NULL);
    bool ok = session_run(session, unit, print_told, argv[2], &err);
    session_close(session);
    return ok ? EXIT_OK : front_fail(&err);
}
