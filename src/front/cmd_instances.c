/* cmd_instances.c - `moonwright instances`: find them, look at one, and tell one or many what to
 * do.
 *
 * Many are chosen by what a list is filtered by. They are read once, counted and agreed to, and
 * then told in batches, each a unit; each answers for itself, and one that has moved on is left
 * alone. */
#include "front/ask.h"

#include "base/buf.h"
#include "base/mem.h"
#include "front/fleet.h"
#include "script/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 100, TRIES = 5, BULK_MOST = 100000, BUSY_TRIES = 300 };

#define STATES \
    "pending|running|sleeping|waiting|stopping|stuck|paused|live|done|stopped|failed|cancelled"
#define FILTERS                                                         \
    {"--state", STATES, "live: all that have not ended"},               \
        {"--workflow", "WORKFLOW", "of this workflow"},                 \
        {"--mode", "live|shadow", "that send, or that don't"},          \
        {"--customer", "TEXT", "part of a name or e-mail, or an id"},   \
        {"--phone", "TEXT", "part of a number"},                        \
        {"--address", "TEXT", "part of a street, city or ZIP"},         \
        {"--job", "TEXT", "part of a job's number"},                    \
        {"--estimate", "TEXT", "part of an estimate's number or name"}, \
        {"--error", "TEXT", "part of what is wrong, or why it ended"},  \
    {                                                                   \
        "--since", "TIME", "started since: 2026-06-01, or 7d ago"       \
    }

static const struct option list_options[] = {
    FILTERS,
    {"--newest", NULL, "the newest first, instead of the stuck ones"},
    {"--limit", "N", "so many at once (50)"},
    {"--after", "ID", "go on behind the last one of the page before"},
    OPTION_JSON,
    {0}};
static const struct option show_options[] = {OPTION_JSON, {0}};
static const struct option many_options[] = {FILTERS, OPTION_YES, OPTION_JSON, {0}};
static const struct option restart_options[] = {
    {"--from", "STEP", "the step's number, name or place in the timeline; without: the beginning"},
    OPTION_YES,
    OPTION_JSON,
    {0}};

/* ---- choosing ---- */

static void put(struct buf *out, const char *key, const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    buf_printf(out, "%s\"%s\":", out->len > 1 ? "," : "", key);
    buf_json(out, value, strlen(value));
}

static const char *const searched[] = {"--customer", "--phone", "--address", "--job", "--estimate"};
static const char *const filters[] = {"--state",    "--workflow", "--mode",
                                      "--customer", "--phone",    "--address",
                                      "--job",      "--estimate", "--error"};

/* Ids of what is searched for by name, from the copy of ServiceTitan; NULL without a search. */
static bool find_known(struct ask *ask, const char *text, char **known, struct err *err)
{
    struct buf q;
    bool any = text != NULL;
    buf_init(&q, 1u << 16);
    buf_addc(&q, '{');
    for (size_t i = 0; i < ARRAY_LEN(searched); i++) {
        put(&q, searched[i] + 2, args_value(ask->args, searched[i]));
        any |= args_has(ask->args, searched[i]);
    }
    put(&q, "text", text);
    buf_addc(&q, '}');
    *known = NULL;
    bool ok = !any || ask_elsewhere(front_st_url(ask->front), known, err,
                                    "select find_ids($1::json)", 1, q.data);
    buf_fini(&q);
    return ok;
}

/* --since as business time. */
static bool read_since(struct ask *ask, char **since, struct err *err)
{
    const char *text = args_value(ask->args, "--since");
    *since = NULL;
    if (text == NULL)
        return true;
    if (!ask_value(ask, since, err, "select since_of($1)", 1, text))
        return false;
    if (*since == NULL)
        ask->code = EXIT_USAGE;
    return *since != NULL || err_set(err, ERR_INPUT,
                                     "--since takes a time (2026-06-01, 2026-06-01T14:00:00Z) or an"
                                     " age (90m, 12h, 7d), not \"%s\"",
                                     text);
}

/* The question to instances_found(), to be freed. */
static bool question(struct ask *ask, const char *text, const char *limit, const char *after,
                     bool newest, char **json, struct err *err)
{
    char *known, *since = NULL;
    bool ok = find_known(ask, text, &known, err) && read_since(ask, &since, err);
    struct buf q;
    buf_init(&q, 16u << 20);
    buf_addc(&q, '{');
    for (size_t i = 0; i < ARRAY_LEN(filters); i++)
        put(&q, filters[i] + 2, args_value(ask->args, filters[i]));
    put(&q, "text", text);
    put(&q, "since", since);
    put(&q, "limit", limit);
    put(&q, "after", after);
    if (newest)
        put(&q, "newest", "true");
    if (known != NULL)
        buf_printf(&q, ",\"known\":%s", known);
    buf_addc(&q, '}');
    free(known);
    free(since);
    *json = ok ? buf_take(&q) : NULL;
    buf_fini(&q);
    return ok;
}

static bool list(struct ask *ask, struct err *err)
{
    const struct args *args = ask->args;
    const char *limit = args_value(args, "--limit"), *after = args_value(args, "--after");
    char *q;
    limit = limit != NULL ? limit : "50";
    if (!question(ask, args_word(args, 0), limit, after, args_has(args, "--newest"), &q, err))
        return false;
    bool ok = ask_rows(ask, "no such instance", err, "select * from instances_list($1::json)", 1,
                       q);
    const char *last;
    if (ok && !ask->json && session_printed(ask->session, &last) == atoi(limit))
        printf("\nthe next ones: --after %s\n", last);
    free(q);
    return ok;
}

/* The whole id of what begins so; NULL: err says why. */
static char *named(struct ask *ask, const char *prefix, struct err *err)
{
    char *id;
    return ask_value(ask, &id, err, "select instance_named($1)", 1, prefix) ? id : NULL;
}

static bool show(struct ask *ask, struct err *err)
{
    char *id = named(ask, args_word(ask->args, 0), err), *json;
    if (id == NULL)
        return false;
    bool ok;
    if (ask->json) {
        ok = ask_value(ask, &json, err, "select instance_show($1::uuid)", 1, id);
        if (ok)
            printf("%s\n", json);
        free(json);
    } else {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, "select name, value from instance_facts($1::uuid)", 1, id);
        ok = session_print_plain(ask->session, unit, NULL, err);
        printf("\n");
        ok = ok && ask_rows(ask, "nothing has happened in it yet", err,
                            "select coalesce(data->>'seq', '') as step, at, run, what, detail"
                            " from instance_timeline($1::uuid)",
                            1, id);
    }
    free(id);
    return ok;
}

/* ---- telling ---- */

struct telling {
    struct ask *ask;
    const char *verb;
    struct buf out; /* of --json: the answers without their brackets */
    long done, left;
};

static void take_answers(void *ctx, const struct db_reply *reply)
{
    struct telling *t = ctx;
    for (int row = 0; row < db_rows(reply, 0); row++) {
        bool done = db_bool(reply, 0, row, 1);
        t->done += done;
        t->left += !done;
        if (t->ask->json)
            buf_printf(&t->out, "%s%s", t->out.len > 0 ? ",\n " : "", db_value(reply, 0, row, 0));
        else
            printf("%s  %-24s %s\n", db_value(reply, 0, row, 2),
                   db_value(reply, 0, row, 3) != NULL ? db_value(reply, 0, row, 3) : "",
                   db_value(reply, 0, row, 4));
    }
}

/* Tells one batch. A worker's unit and ours may have waited for each other: then ours was undone.
 */
static bool tell_batch(struct telling *t, const char *batch, struct err *err)
{
    const char *only = args_value(t->ask->args, "--state");
    for (int tries = 1;; tries++) {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit,
                     "select a, (a->>'done')::boolean, a->>'instance', a->>'workflow', a->>'says'"
                     " from instances_act($1::uuid[], $2, $3) a",
                     3, batch, t->verb, only);
        if (session_run(t->ask->session, unit, take_answers, t, err))
            return true;
        if (tries == TRIES || strncmp(err->sqlstate, "40", 2) != 0)
            return err_wrap(err, "%ld were done, then", t->done);
    }
}

/* Ids separated by commas, a batch at a time. */
static bool tell(struct telling *t, const char *ids, struct err *err)
{
    for (const char *at = ids; *at != '\0';) {
        const char *end = at;
        for (int n = 0; n < BATCH && *end != '\0'; n++)
            end += strcspn(end, ",") + (end[strcspn(end, ",")] == ',');
        char *batch = xprintf("{%.*s}", (int)(end - at - (end[-1] == ',')), at);
        bool told = tell_batch(t, batch, err);
        free(batch);
        if (!told)
            return false;
        at = end;
    }
    return true;
}

/* The instances that are meant, by ids or by filters; *count of them. NULL: err says why. */
static char *chosen(struct ask *ask, long *count, struct err *err)
{
    const struct args *args = ask->args;
    bool filtered = args_has(args, "--since");
    for (size_t i = 0; i < ARRAY_LEN(filters); i++)
        filtered |= args_has(args, filters[i]);
    if (filtered == (args->count > 0)) {
        err_set(err, ERR_INPUT, "say which: ids, or one or more of the filters");
        ask->code = EXIT_USAGE;
        return NULL;
    }
    struct buf ids;
    buf_init(&ids, 8u << 20);
    *count = args->count;
    for (int i = 0; i < args->count; i++) {
        char *id = named(ask, args->words[i], err);
        if (id == NULL) {
            buf_fini(&ids);
            return NULL;
        }
        buf_printf(&ids, "%s%s", i > 0 ? "," : "", id);
        free(id);
    }
    if (!filtered)
        return buf_take(&ids);
    buf_fini(&ids);
    char *q, *list = NULL, most[16];
    snprintf(most, sizeof(most), "%d", BULK_MOST);
    if (!question(ask, NULL, most, NULL, true, &q, err))
        return NULL;
    bool ok = ask_value(ask, &list, err,
                        "select string_agg(f.id::text, ',' order by f.nth)"
                        " from instances_found($1::json) f",
                        1, q);
    free(q);
    if (ok && list == NULL)
        err_set(err, ERR_MISSING, "no instance is like that");
    *count = list != NULL ? ((long)strlen(list) + 1) / 37 : 0;
    return list;
}

static bool act(struct ask *ask, struct err *err)
{
    struct telling t = {.ask = ask, .verb = ask->args->verb->name};
    long count = 0;
    char *ids = chosen(ask, &count, err);
    if (ids == NULL)
        return false;
    char asking[128];
    snprintf(asking, sizeof(asking), "This will %s %ld instances%s", t.verb, count,
             count == BULK_MOST ? ", and there are more" : "");
    buf_init(&t.out, 64u << 20);
    bool ok = (count == 1 && ask->args->count == 1) || ask_agreed(ask, count, asking, err);
    ok = ok && tell(&t, ids, err);
    if (ask->json && (ok || t.out.len > 0))
        printf("[%s]\n", t.out.len > 0 ? t.out.data : "");
    else if (ok && count > 1)
        printf("%ld done, %ld left alone\n", t.done, t.left);
    if (ok && t.left > 0)
        ask->code = EXIT_REFUSED;
    buf_fini(&t.out);
    free(ids);
    return ok;
}

/* ---- restarting ---- */

static void print_plan(const struct json *plan)
{
    int64_t kept = 0, children = 0;
    json_int(plan, "kept", &kept);
    json_int(plan, "children", &children);
    fprintf(stderr,
            "%s begins again at %s: %lld steps before it stay as they are,"
            " %zu are dropped and run anew.\n",
            json_text(plan, "instance"), json_text(plan, "step"), (long long)kept,
            json_count(plan, "dropped"));
    for (size_t i = 0; i < json_count(plan, "sent"); i++) {
        static const char *const keys[] = {"at", "what", "to"};
        char path[32];
        fprintf(stderr, "  went out, and will go out again:");
        for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
            snprintf(path, sizeof(path), "sent.%zu.%s", i, keys[k]);
            const char *value = json_text(plan, path);
            fprintf(stderr, " %s", value != NULL ? value : "");
        }
        fprintf(stderr, "\n");
    }
    if (children > 0)
        fprintf(stderr, "  %lld children that the dropped steps have started are stopped.\n",
                (long long)children);
}

/* The plan as one that can be carried out; NULL: err says why not. One that a worker holds is
 * paused first, and waited for. */
static char *plan_of(struct ask *ask, const char *id, struct err *err)
{
    const struct timespec moment = {0, 100000000};
    for (int tries = 0;; tries++) {
        char *plan, *ignored;
        if (!ask_value(ask, &plan, err, "select restart_plan($1::uuid, $2)", 2, id,
                       args_value(ask->args, "--from")))
            return NULL;
        struct json *json = json_parse(plan, strlen(plan), err);
        const char *refused = json != NULL ? json_text(json, "refused") : "it can't be read";
        bool busy = json != NULL && json_bool(json, "busy");
        if (refused != NULL && (!busy || tries == BUSY_TRIES))
            err_set(err, ERR_REFUSED, "%s can't begin again: %s", id, refused);
        json_free(json);
        if (refused == NULL)
            return plan;
        free(plan);
        if (!busy || tries == BUSY_TRIES)
            return NULL;
        if (tries == 0) {
            if (!ask_value(ask, &ignored, err, "select pause_instance($1::uuid)", 1, id))
                return NULL;
            free(ignored);
        }
        nanosleep(&moment, NULL);
    }
}

static bool restart_one(struct ask *ask, const char *prefix, struct buf *out, struct err *err)
{
    char *id = named(ask, prefix, err), *plan = id != NULL ? plan_of(ask, id, err) : NULL;
    struct json *json = plan != NULL ? json_parse(plan, strlen(plan), err) : NULL;
    bool ok = json != NULL;
    if (ok) {
        long sent = (long)json_count(json, "sent");
        print_plan(json);
        ok = ask_agreed(ask, sent > 0 ? sent : 1,
                        sent > 0 ? "So many sends go out once more" : "This can't be taken back",
                        err);
    }
    char *done = NULL, *stops = NULL;
    if (ok && json_bool(json, "ended")) {
        stops = fleet_stops(ask->front, ask->session, id, err);
        ok = stops != NULL;
    }
    ok = ok &&
         ask_value(ask, &done, err, "select restart_instance($1::json, $2::json)", 2, plan, stops);
    if (ok && (done == NULL || done[0] != 't'))
        ok = err_set(err, ERR_REFUSED, "%s has gone on meanwhile: nothing was changed, look again",
                     id);
    if (ok && ask->json)
        buf_printf(out, "%s%s", out->len > 0 ? ",\n " : "", plan);
    else if (ok)
        printf("%s  begins again at %s\n", id, json_text(json, "step"));
    json_free(json);
    free(stops);
    free(done);
    free(plan);
    free(id);
    return ok;
}

static bool restart(struct ask *ask, struct err *err)
{
    struct buf out;
    bool ok = true;
    buf_init(&out, 16u << 20);
    for (int i = 0; ok && i < ask->args->count; i++)
        ok = restart_one(ask, ask->args->words[i], &out, err);
    if (ask->json && ok)
        printf("[%s]\n", out.data);
    buf_fini(&out);
    return ok;
}

static const struct verb verbs[] = {
    {"list", "[TEXT]", "the stuck ones first, then the newest; TEXT is looked for in everything",
     list_options, list, NULL},
    {"show", "ID", "one, with its timeline, what it waits for and what it can be told",
     show_options, show, NULL},
    {"cancel", "[ID...]", "end them: on_stop and what compensates run first", many_options, act,
     NULL},
    {"pause", "[ID...]", "hold them before their next step; their clocks go on", many_options, act,
     NULL},
    {"resume", "[ID...]", "let paused and stuck ones go on; what is due happens now, once",
     many_options, act, NULL},
    {"retry", "[ID...]", "let stuck ones do the step again that failed", many_options, act, NULL},
    {"restart", "ID...", "begin again at a step: it and what comes behind it run and send anew",
     restart_options, restart, NULL},
    {0}};

const struct command command_instances = {
    "instances", "running and past instances: find them, look at them, tell them what to do", verbs,
    true};
