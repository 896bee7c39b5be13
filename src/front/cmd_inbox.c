/* cmd_inbox.c - `moonwright inbox`: what people are asked, and their answers. */
#include "front/front.h"

#include "base/buf.h"
#include "front/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool list(struct session *session, struct err *err)
{
    static const char *const titles[] = {"TASK", "KIND",     "FOR",       "WHAT",
                                         "TEXT", "CUSTOMER", "DUE (UTC)", "WORKFLOW"};
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit,
                "select id, kind || case when shadow then ' (shadow)' else '' end, role, title,"
                " left(regexp_replace(note, '\\s+', ' ', 'g'), 60), customer_id,"
                " to_char(due_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), workflow"
                " from inbox order by due_at nulls last, created_at, id limit 500",
                0, NULL);
    return session_print(session, unit, titles, ARRAY_LEN(titles), "nobody is asked anything", err);
}

static void print_taken(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    printf("the answer of %s is taken\n", db_value(reply, 0, 0, 0));
}

/* {"approved", "by", "text", "note"} of the words after the id; NULL: they make no sense. */
static char *answer_of(int count, char **words)
{
    static const char *const verdicts[] = {"yes", "no", "done"};
    static const char *const fields[] = {"--by", "--text", "--note"};
    size_t verdict = 0;
    while (verdict < ARRAY_LEN(verdicts) && strcmp(words[0], verdicts[verdict]) != 0)
        verdict++;
    if (verdict == ARRAY_LEN(verdicts) || count % 2 == 0)
        return NULL;
    struct buf out;
    buf_init(&out, 1u << 20);
    static const char *const begins[] = {"\"approved\":true", "\"approved\":false",
                                         "\"done\":true"};
    buf_printf(&out, "{%s", begins[verdict]);
    for (int i = 1; i < count; i += 2) {
        size_t k = 0;
        while (k < ARRAY_LEN(fields) && strcmp(words[i], fields[k]) != 0)
            k++;
        if (k == ARRAY_LEN(fields)) {
            buf_fini(&out);
            return NULL;
        }
        buf_printf(&out, ",\"%s\":", fields[k] + 2);
        buf_json(&out, words[i + 1], strlen(words[i + 1]));
    }
    buf_addc(&out, '}');
    return buf_take(&out);
}

static bool answer(struct session *session, const char *task, const char *json, struct err *err)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select answer_named($1, $2::json)", 2, task, json);
    return session_run(session, unit, print_taken, NULL, err);
}

int cmd_inbox(struct front *front, int argc, char **argv)
{
    struct err err;
    const char *verb = argc > 1 ? argv[1] : "list";
    bool answers = strcmp(verb, "answer") == 0;
    char *json = answers && argc > 3 ? answer_of(argc - 3, argv + 3) : NULL;
    if (answers && json == NULL)
        return front_usage("inbox", "answer takes a task's id and: yes, no or done");
    if (!answers && (strcmp(verb, "list") != 0 || argc > 2))
        return front_usage("inbox", "it knows: list, answer");
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    bool ok = session != NULL;
    if (ok)
        ok = answers ? answer(session, argv[2], json, &err) : list(session, &err);
    session_close(session);
    free(json);
    return ok ? EXIT_OK : front_fail(&err);
}
