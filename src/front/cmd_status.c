/* cmd_status.c - `moonwright status`: how much of everything there is, what the workers did and
 * what waits for them, and what needs a person. */
#include "front/ask.h"

#include "base/buf.h"
#include "base/mem.h"
#include "front/deployment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the database of the st_ tables; the keys are in a fixed order. */
static const char counts[] =
    "select json_build_object("
    " 'rows', (select json_object_agg(name, n order by name) from ("
    "   select 'st_customers' as name, count(*) as n from st_customers"
    "   union all select 'st_contacts', count(*) from st_contacts"
    "   union all select 'st_locations', count(*) from st_locations"
    "   union all select 'st_jobs', count(*) from st_jobs"
    "   union all select 'st_estimates', count(*) from st_estimates"
    "   union all select 'st_invoices', count(*) from st_invoices"
    "   union all select 'st_appointments', count(*) from st_appointments"
    "   union all select 'st_technicians', count(*) from st_technicians"
    "   union all select 'job_technicians', count(*) from job_technicians"
    "   union all select 'st_business_units', count(*) from st_business_units"
    "   union all select 'st_job_types', count(*) from st_job_types"
    "   union all select 'st_campaigns', count(*) from st_campaigns) t),"
    " 'changes', (select count(*) from changes))";

static void take_engine(void *ctx, const struct db_reply *reply)
{
    deployment_engine(ctx, reply);
}

static void take_st(void *ctx, const struct db_reply *reply)
{
    deployment_st(ctx, reply);
}

static bool ask_st_figures(struct ask *ask, struct deployment *d, struct err *err)
{
    struct session *session = session_open(front_st_url(ask->front), err);
    bool ok = session != NULL && session_run(session, deployment_ask_st(), take_st, d, err);
    session_close(session);
    return ok;
}

/* The object without its braces. */
static void print_inner(const char *json)
{
    size_t len = strlen(json);
    const char *start = strchr(json, '{');
    must(len > 2 && start != NULL && json[len - 1] == '}');
    printf("%.*s", (int)(json + len - 1 - (start + 1)), start + 1);
}

/* {"a" : {"b" : 1, "c" : 2}, "d" : 3} as lines, for people. */
static void print_lines(const char *json)
{
    int depth = 0;
    for (const char *p = strchr(json, '{'); p != NULL && *p != '\0'; p++) {
        if (*p == '{') {
            if (++depth == 2)
                printf(" ");
        } else if (*p == '}') {
            depth--;
        } else if (*p == ',' && depth == 1) {
            printf("\n");
            p += p[1] == ' ';
        } else if (*p != '"' && !(*p == ' ' && p[1] == ':')) {
            putchar(*p);
        }
    }
    printf("\n");
}

static bool status(struct ask *ask, struct err *err)
{
    char *rows, *engine = NULL;
    bool ok = ask_elsewhere(front_st_url(ask->front), &rows, err, counts, 0) &&
              ask_value(ask, &engine, err, "select status_counts()", 0);
    struct deployment *d = xcalloc(1, sizeof(*d));
    struct buf figures;
    buf_init(&figures, 4 << 20);
    ok = ok && session_run(ask->session, deployment_ask_engine(NULL), take_engine, d, err) &&
         ask_st_figures(ask, d, err);
    if (ok && ask->json) {
        deployment_json(d, &figures);
        printf("{");
        print_inner(rows);
        printf(", ");
        print_inner(engine);
        printf(", \"figures\": %s}\n", figures.data);
    } else if (ok) {
        deployment_lines(d, &figures);
        print_lines(rows);
        print_lines(engine);
        printf("\n%s", figures.data);
    }
    buf_fini(&figures);
    deployment_fini(d);
    free(d);
    free(rows);
    free(engine);
    return ok;
}

static const struct option options[] = {OPTION_JSON, {0}};
static const struct verb verbs[] = {
    {NULL, NULL, "count what is there, and what needs a person", options, status, NULL}, {0}};

const struct command command_status = {"status", "count what is there", verbs, true};
