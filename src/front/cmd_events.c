/* cmd_events.c - `moonwright events`: what was noticed, what didn't start or not as it came, what
 * raised while it was looked at, and an event of a person's word. */
#include "front/ask.h"

#include "base/buf.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool starts(struct ask *ask, struct err *err)
{
    const char *limit = args_value(ask->args, "--limit");
    return ask_rows(
        ask, "every start was made as it came", err,
        "select workflow, event, start, because, utc(at) as when, detail from start_list"
        " where ($1::text is null or event = $1) order by id desc limit $2::int",
        2, args_value(ask->args, "--type"), limit != NULL ? limit : "100");
}

static bool list(struct ask *ask, struct err *err)
{
    const char *limit = args_value(ask->args, "--limit");
    if (!ask_rows(
            ask, "no event yet", err,
            "select event, type, about, customer, \"of\", started, not_started from event_list"
            " where ($1::text is null or type = $1) order by settled desc limit $2::int",
            2, args_value(ask->args, "--type"), limit != NULL ? limit : "100"))
        return false;
    if (ask->json)
        return true;
    printf("\n");
    if (!starts(ask, err))
        return false;
    printf("\n");
    return ask_rows(ask, "nothing raised", err,
                    "select * from raised_list order by error limit 100", 0);
}

static bool raised(struct ask *ask, struct err *err)
{
    return ask_rows(ask, "nothing raised", err, "select * from raised_list order by error", 0);
}

static bool retry(struct ask *ask, struct err *err)
{
    struct buf ids;
    buf_init(&ids, 1u << 16);
    for (int i = 0; i < ask->args->count; i++) {
        const char *id = ask->args->words[i];
        size_t digits = strspn(id, "0123456789");
        if (digits == 0 || digits > 18 || id[digits] != '\0') {
            buf_fini(&ids);
            ask->code = EXIT_USAGE;
            return err_set(err, ERR_INPUT, "\"%s\" is not the number of an error", id);
        }
        buf_printf(&ids, "%s%s", i > 0 ? "," : "{", id);
    }
    if (ids.len > 0)
        buf_addc(&ids, '}');
    char *count;
    bool ok = ask_value(ask, &count, err, "select judge_again($1::bigint[])", 1,
                        ids.len > 0 ? ids.data : NULL);
    buf_fini(&ids);
    if (ok && ask->json)
        printf("{\"retried\": %s}\n", count);
    else if (ok && strcmp(count, "0") != 0)
        printf("%s will be judged again\n", count);
    else if (ok && ask->args->count > 0)
        ok = err_set(err, ERR_MISSING, "no such error is open; see `moonwright events raised`");
    else if (ok)
        printf("there is nothing to judge again; see `moonwright events list`\n");
    free(count);
    return ok;
}

/* {customer = …, data = …}: with the customer's snapshot where only an id is given. */
static bool emit(struct ask *ask, struct err *err)
{
    const char *customer = args_value(ask->args, "--customer"), *data = args_word(ask->args, 1);
    const char *of = args_value(ask->args, "--of");
    char *snapshot = NULL, *subject = NULL, *payload = NULL, what[32] = "customer";
    if (customer != NULL && of != NULL) {
        ask->code = EXIT_USAGE;
        return err_set(err, ERR_INPUT, "--customer ID is --of customer:ID: one of the two");
    }
    size_t cut = of != NULL ? strcspn(of, ":") : 0;
    if (of != NULL && (of[cut] != ':' || cut >= sizeof(what))) {
        ask->code = EXIT_USAGE;
        return err_set(err, ERR_INPUT, "--of takes what it is about, as in job:4711");
    }
    if (of != NULL) {
        snprintf(what, sizeof(what), "%.*s", (int)cut, of);
        customer = of + cut + 1;
    }
    if (customer != NULL && (customer[0] == '\0' || strlen(customer) > 18 ||
                             customer[strspn(customer, "0123456789")] != '\0')) {
        ask->code = EXIT_USAGE;
        return err_set(err, ERR_INPUT, "\"%s\" is no id", customer);
    }
    if (!ask_object(ask, data, err))
        return false;
    if (customer != NULL) {
        if (!ask_elsewhere(front_st_url(ask->front), &snapshot, err, "select snapshot_of($1, $2)",
                           2, what, customer))
            return false;
        if (snapshot == NULL)
            return err_set(err, ERR_MISSING, "there is no %s %s in the copy of ServiceTitan", what,
                           customer);
    }
    bool ok = ask_value(ask, &payload, err,
                        "select case when $1::jsonb is null then $2::jsonb else $1::jsonb ||"
                        " coalesce(jsonb_build_object('data', $2::jsonb), '{}') end",
                        2, snapshot, data) &&
              ask_value(ask, &subject, err, "select emit_by_hand($1, $2::json)", 2,
                        args_word(ask->args, 0), payload != NULL ? payload : "{}");
    if (ok && ask->json)
        printf("{\"event\": \"%s\", \"of\": \"%s\"}\n", args_word(ask->args, 0), subject);
    else if (ok)
        printf("%s is told\n", args_word(ask->args, 0));
    free(subject);
    free(payload);
    free(snapshot);
    return ok;
}

static const struct option list_options[] = {
    {"--type", "EVENT", "of this type"}, {"--limit", "N", "so many (100)"}, OPTION_JSON, {0}};
static const struct option json_options[] = {OPTION_JSON, {0}};
static const struct option emit_options[] = {
    {"--customer", "ID", "about this customer, as the copy of ServiceTitan has them"},
    {"--of", "TEXT", "about something else: job:4711"},
    OPTION_JSON,
    {0}};
static const struct verb verbs[] = {
    {"list", NULL, "the newest events, what each started or why not, and what raised", list_options,
     list, NULL},
    {"starts", NULL, "what didn't start, or not as it came, and why", list_options, starts, NULL},
    {"raised", NULL, "changes and events on which the company's Lua raised", json_options, raised,
     NULL},
    {"retry", "[ID...]", "judge what raised again, all of it or these", json_options, retry, NULL},
    {"emit", "EVENT [JSON]",
     "tell an event that is declared manual; JSON is its data, or all of it without an id",
     emit_options, emit, NULL},
    {0}};

const struct command command_events = {"events", "events, and changes that raised", verbs, true};
