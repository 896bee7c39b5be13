/* cmd_live.c - `moonwright live`: the company's switch between shadow and real sends. */
#include "front/ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool live(struct ask *ask, struct err *err)
{
    const struct settings *settings = ask->front->settings;
    char *value = NULL;
    if (!ask_value(ask, &value, err, "select live_switch($1)", 1, args_word(ask->args, 0)))
        return false;
    bool on = value != NULL && strcmp(value, "on") == 0;
    bool never = setting(settings, "MOONWRIGHT_LIVE")[0] != '\0' &&
                 !setting_on(settings, "MOONWRIGHT_LIVE");
    free(value);
    if (ask->json) {
        printf("{\"live\": %s, \"never_here\": %s}\n", on ? "true" : "false",
               never ? "true" : "false");
        return true;
    }
    printf("live is %s\n", on ? "on: instances that start from now on really send"
                              : "off: new instances run in shadow mode and send nothing");
    if (on && never)
        printf("but MOONWRIGHT_LIVE is 0 here, which always wins\n");
    return true;
}

static const struct option options[] = {OPTION_JSON, {0}};
static const struct verb verbs[] = {{NULL, "[on|off]",
                                     "whether new instances really send; without a word: say so",
                                     options, live, NULL},
                                    {0}};

const struct command command_live = {"live", "whether new instances really send", verbs, true};
