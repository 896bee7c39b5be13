/* cmd_signal.c - `moonwright signal`: an event that reaches one instance. */
#include "front/ask.h"

#include <stdio.h>
#include <stdlib.h>

static bool signal_it(struct ask *ask, struct err *err)
{
    const struct args *args = ask->args;
    char *id;
    if (!ask_object(ask, args_word(args, 2), err) ||
        !ask_value(ask, &id, err, "select signal_instance($1, $2, $3::json)", 3, args_word(args, 0),
                   args_word(args, 1), args_word(args, 2)))
        return false;
    if (ask->json)
        printf("{\"instance\": \"%s\", \"event\": \"signal_%s\"}\n", id, args_word(args, 1));
    else
        printf("signal_%s is on its way to %s\n", args_word(args, 1), id);
    free(id);
    return true;
}

static const struct option options[] = {OPTION_JSON, {0}};
static const struct verb verbs[] = {{NULL, "ID NAME [JSON]",
                                     "send an event signal_NAME, with data, to one instance",
                                     options, signal_it, NULL},
                                    {0}};

const struct command command_signal = {"signal", "send an event signal_NAME to one instance", verbs,
                                       true};
