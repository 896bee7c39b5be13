/* cmd_live.c - `moonwright live`: the company's switch between shadow and real sends. */
#include "front/front.h"

#include "front/session.h"

#include <stdio.h>
#include <string.h>

static void print_live(void *ctx, const struct db_reply *reply)
{
    const struct front *front = ctx;
    bool on = db_rows(reply, 1) > 0 && strcmp(db_value(reply, 1, 0, 0), "on") == 0;
    const char *set = setting(front->settings, "MOONWRIGHT_LIVE");
    printf("live is %s\n", on ? "on: instances that start from now on really send"
                              : "off: new instances run in shadow mode and send nothing");
    if (on && set[0] != '\0' && !setting_on(front->settings, "MOONWRIGHT_LIVE"))
        printf("but MOONWRIGHT_LIVE is 0 here, which always wins\n");
}

int cmd_live(struct front *front, int argc, char **argv)
{
    struct err err;
    const char *word = argc == 2 ? argv[1] : NULL;
    if (argc > 2 || (word != NULL && strcmp(word, "on") != 0 && strcmp(word, "off") != 0))
        return front_usage("live", "it takes on or off");
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (session == NULL)
        return front_fail(&err);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "insert into settings (name, value) select 'live', $1::text where $1 is not null"
                 " on conflict (name) do update set value = excluded.value, changed_at = now()",
                 1, word);
    db_unit_add(unit, "select value from settings where name = 'live'", 0, NULL);
    bool ok = session_run(session, unit, print_live, front, &err);
    session_close(session);
    return ok ? EXIT_OK : front_fail(&err);
}
