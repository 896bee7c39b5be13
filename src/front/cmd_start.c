/* cmd_start.c - `moonwright start`: an instance of a workflow, for a customer or for a given event.
 */
#include "front/ask.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOKS = 100 }; /* a tenth of a second each */

/* What the workflow gets: the JSON as it is, or {customer} as ServiceTitan's copy has it. */
static char *event_of(struct ask *ask, struct err *err)
{
    const char *json = args_word(ask->args, 1), *customer = args_value(ask->args, "--customer");
    char *e;
    if ((json != NULL) == (customer != NULL)) {
        err_set(err, ERR_INPUT, "say for whom: --customer ID, or an event in JSON");
        ask->code = EXIT_USAGE;
        return NULL;
    }
    if (json != NULL)
        return xstrdup(json);
    if (customer[strspn(customer, "0123456789")] != '\0' || strlen(customer) > 18) {
        err_set(err, ERR_INPUT, "--customer takes the id of a customer, not \"%s\"", customer);
        ask->code = EXIT_USAGE;
        return NULL;
    }
    if (!ask_elsewhere(front_st_url(ask->front), &e, err, "select snapshot_of('customer', $1)", 1,
                       customer))
        return NULL;
    if (e == NULL)
        err_set(err, ERR_MISSING, "there is no customer %s in the copy of ServiceTitan", customer);
    return e;
}

/* Whether it has begun, if somebody detects. */
static bool wait_for(struct ask *ask, const char *id, char **outcome, struct err *err)
{
    const struct timespec moment = {0, 100000000};
    *outcome = NULL;
    for (int i = 0; i < LOOKS && *outcome == NULL; i++) {
        nanosleep(&moment, NULL);
        if (!ask_value(ask, outcome, err, "select start_outcome($1::uuid)", 1, id))
            return false;
    }
    return true;
}

static bool start(struct ask *ask, struct err *err)
{
    char *e = event_of(ask, err), *id = NULL, *outcome = NULL;
    bool ok = e != NULL && ask_object(ask, e, err) &&
              ask_value(ask, &id, err, "select start_workflow($1, $2::json)", 2,
                        args_word(ask->args, 0), e);
    ok = ok && (args_has(ask->args, "--no-wait") || wait_for(ask, id, &outcome, err));
    if (ok && outcome != NULL && strncmp(outcome, "not started", 11) == 0)
        ok = err_set(err, ERR_REFUSED, "%s", outcome);
    if (ok && ask->json)
        printf("{\"instance\": \"%s\", \"workflow\": \"%s\", \"state\": \"%s\"}\n", id,
               args_word(ask->args, 0), outcome != NULL ? outcome : "asked");
    else if (ok)
        printf("%s  %s: %s\n", id, args_word(ask->args, 0),
               outcome != NULL ? outcome
                               : "asked for; it starts when `moonwright run` comes to it");
    free(outcome);
    free(id);
    free(e);
    return ok;
}

static const struct option options[] = {
    {"--customer", "ID", "for this customer, as the copy of ServiceTitan has them"},
    {"--no-wait", NULL, "don't wait until it has started"},
    OPTION_JSON,
    {0}};
static const struct verb verbs[] = {
    {NULL, "WORKFLOW [JSON]",
     "start a workflow for a customer, or for an event: {\"customer\": {…}}; its key and limits hold",
     options, start, NULL},
    {0}};

const struct command command_start = {"start", "start a workflow by hand", verbs, true};
