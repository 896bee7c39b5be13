/* cmd_inbox.c - `moonwright inbox`: what people are asked, and their answers. */
#include "front/ask.h"

#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool list(struct ask *ask, struct err *err)
{
    return ask_rows(
        ask, "nobody is asked anything", err,
        "select id as task, kind || case when shadow then ' (shadow)' else '' end as kind,"
        " role as for, title as what, left(regexp_replace(note, '\\s+', ' ', 'g'), 60)"
        " as text, customer_id as customer, utc(due_at) as due, workflow"
        " from inbox order by due_at nulls last, created_at, id limit 500",
        0);
}

/* {"approved", "by", "text", "note"}, to be freed. */
static char *answer_of(const struct args *args)
{
    static const char *const fields[] = {"--by", "--text", "--note"};
    const char *word = args_word(args, 1);
    struct buf out;
    buf_init(&out, 1u << 20);
    buf_adds(&out, word[0] == 'd'   ? "{\"done\":true"
                   : word[0] == 'y' ? "{\"approved\":true"
                                    : "{\"approved\":false");
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const char *value = args_value(args, fields[i]);
        if (value == NULL)
            continue;
        buf_printf(&out, ",\"%s\":", fields[i] + 2);
        buf_json(&out, value, strlen(value));
    }
    buf_addc(&out, '}');
    return buf_take(&out);
}

static bool answer(struct ask *ask, struct err *err)
{
    char *json = answer_of(ask->args), *task;
    bool ok = ask_value(ask, &task, err, "select answer_named($1, $2::json)", 2,
                        args_word(ask->args, 0), json);
    if (ok && ask->json)
        printf("{\"task\": \"%s\"}\n", task);
    else if (ok)
        printf("the answer of %s is taken\n", task);
    free(task);
    free(json);
    return ok;
}

static const struct option list_options[] = {OPTION_JSON, {0}};
static const struct option answer_options[] = {{"--by", "NAME", "who says so"},
                                               {"--text", "TEXT", "the text as it is to be sent"},
                                               {"--note", "TEXT", "a word on it"},
                                               OPTION_JSON,
                                               {0}};
static const struct verb verbs[] = {{"list", NULL, "what is open", list_options, list, NULL},
                                    {"answer", "TASK yes|no|done",
                                     "an approval is answered yes or no, a to-do done",
                                     answer_options, answer, NULL},
                                    {0}};

const struct command command_inbox = {"inbox", "what people are asked, and their answers", verbs,
                                      true};
