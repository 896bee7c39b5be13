/* cmd_sends.c - `moonwright sends`: the ledger, and a person's word on what is in doubt. */
#include "front/front.h"

#include "front/session.h"

#include <stdio.h>
#include <string.h>

static bool list(struct session *session, bool held, struct err *err)
{
    static const char *const titles[] = {"SEND",  "WORKFLOW", "BY",     "TO",
                                         "STATE", "WHY",      "STATUS", "WHEN (UTC)"};
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select id, workflow, by, who, state, why, status,"
                 " to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') from ("
                 " select id, workflow, channel || case when shadow then ' (shadow)' else '' end"
                 "   as by, address as who, state, rule as why, status, decided_at as at"
                 "   from messaging_log"
                 " union all select id, workflow, provider || case when shadow then ' (shadow)'"
                 "   else '' end, method || ' ' || url, state, error_message, http_status::text, at"
                 "   from outbound_log) s"
                 " where not $1::boolean or state in ('in_doubt', 'held', 'intent')"
                 " order by at desc, id desc limit 200",
                 1, held ? "true" : "false");
    return session_print(session, unit, titles, ARRAY_LEN(titles),
                         held ? "nothing is held or in doubt" : "nothing was sent yet", err);
}

struct asked {
    int found;
    char full[64];
};

static void keep_id(void *ctx, const struct db_reply *reply)
{
    struct asked *asked = ctx;
    asked->found = db_rows(reply, 0);
    if (asked->found == 1)
        snprintf(asked->full, sizeof(asked->full), "%s", db_value(reply, 0, 0, 0));
}

static void print_settled(void *ctx, const struct db_reply *reply)
{
    const char *word = db_value(reply, 0, 0, 0);
    (void)ctx;
    printf("%s\n", word != NULL ? word : "nothing changed");
}

static bool settle(struct session *session, const char *id, const char *verdict, struct err *err)
{
    struct asked asked = {0};
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select id from messaging_log where starts_with(id::text, $1) union all"
                 " select id from outbound_log where starts_with(id::text, $1) limit 2",
                 1, id);
    if (!session_run(session, unit, keep_id, &asked, err))
        return false;
    if (asked.found == 0)
        return err_set(err, ERR_INPUT, "there is no send '%s'; see `moonwright sends list`", id);
    if (asked.found > 1)
        return err_set(err, ERR_INPUT, "several sends begin with '%s': give more of the id", id);
    unit = db_unit_new();
    db_unit_addv(unit, "select settle_send($1::uuid, $2)", 2, asked.full, verdict);
    return session_run(session, unit, print_settled, NULL, err);
}

int cmd_sends(struct front *front, int argc, char **argv)
{
    struct err err;
    const char *verb = argc > 1 ? argv[1] : "list";
    bool is_settle = strcmp(verb, "settle") == 0;
    bool held = argc == 3 && strcmp(argv[2], "--held") == 0;
    if (is_settle &&
        (argc != 4 || (strcmp(argv[3], "sent") != 0 && strcmp(argv[3], "not_sent") != 0 &&
                       strcmp(argv[3], "drop") != 0)))
        return front_usage("sends", "settle takes the send's id and: sent, not_sent or drop");
    if (!is_settle && (strcmp(verb, "list") != 0 || (argc > 2 && !held)))
        return front_usage("sends", "it knows: list [--held], settle ID VERDICT");
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (session == NULL)
        return front_fail(&err);
    bool ok = is_settle ? settle(session, argv[2], argv[3], &err) : list(session, held, &err);
    session_close(session);
    return ok ? EXIT_OK : front_fail(&err);
}
