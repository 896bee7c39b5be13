/* cmd_sends.c - `moonwright sends`: the ledger, and a person's word on what is in doubt. */
#include "front/ask.h"

#include <stdio.h>
#include <stdlib.h>

static bool list(struct ask *ask, struct err *err)
{
    bool held = args_has(ask->args, "--held");
    const char *limit = args_value(ask->args, "--limit");
    return ask_rows(
        ask, held ? "nothing is held or in doubt" : "nothing was sent yet", err,
        "select send, workflow, by, \"to\", state, why, status, utc(at) as when, instance"
        " from send_list where not $1::boolean or state in ('in_doubt', 'held', 'intent')"
        " order by at desc, send desc limit $2::int",
        2, held ? "true" : "false", limit != NULL ? limit : "200");
}

static bool settle(struct ask *ask, struct err *err)
{
    char *said;
    if (!ask_value(ask, &said, err, "select settle_named($1, $2)", 2, args_word(ask->args, 0),
                   args_word(ask->args, 1)))
        return false;
    if (ask->json)
        printf("%s\n", said);
    else
        printf("settled as %s\n", args_word(ask->args, 1));
    free(said);
    return true;
}

static const struct option list_options[] = {
    {"--held", NULL, "only what waits for a person, or to be found out"},
    {"--limit", "N", "so many (200)"},
    OPTION_JSON,
    {0}};
static const struct option settle_options[] = {OPTION_JSON, {0}};
static const struct verb verbs[] = {
    {"list", NULL, "what was sent, postponed or suppressed, and by which rule", list_options, list,
     NULL},
    {"settle", "SEND sent|not_sent|drop",
     "say what became of a send that is held; not_sent: it is made now", settle_options, settle,
     NULL},
    {0}};

const struct command command_sends = {"sends", "the ledger of what was sent", verbs, true};
