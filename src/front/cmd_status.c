/* cmd_status.c - `moonwright status`: how much of everything there is, what the workers did and what
 * waits for them, and what needs a person. */
#include "front/front.h"

#include "base/mem.h"
#include "front/deployment.h"
#include "front/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One json object; the keys are in a fixed order. */
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
    "   union all select 'st_campaigns', count(*) from st_campaigns) t))";

static const char engine_counts[] =
    "select json_build_object("
    " 'events', coalesce((select json_object_agg(type, n order by type) from"
    "   (select type, count(*) as n from events group by type) t), '{}'),"
    " 'instances', coalesce((select json_object_agg(state, n order by state) from"
    "   (select state, count(*) as n from instances group by state) t), '{}'),"
    " 'sent', json_build_object("
    "   'sms', (select count(*) from messaging_log where channel = 'sms' and state = 'sent'"
    "            and not shadow),"
    "   'email', (select count(*) from messaging_log where channel = 'email' and state = 'sent'"
    "            and not shadow)),"
    " 'ghl', json_build_object('contacts', (select count(*) from ghl_contacts),"
    "   'opportunities', (select count(*) from ghl_opportunities)),"
    " 'held', (select count(*) from messaging_log where state in ('held', 'in_doubt')),"
    " 'arrivals', (select count(*) from arrivals),"
    " 'due', (select count(*) from workflow_queue where due <= now() or worker is not null),"
    " 'raised', (select count(*) from detect_errors where resolved_at is null),"
    " 'alerts', (select count(*) from system_alerts where resolved_at is null),"
    " 'business', utc(business_now()))";

static const char backlog[] = "select json_build_object('changes', (select count(*) from changes))";

struct text {
    char value[16384];
};

static void keep(void *ctx, const struct db_reply *reply)
{
    struct text *text = ctx;
    snprintf(text->value, sizeof(text->value), "%s", db_value(reply, 0, 0, 0));
}

static bool ask(const char *url, const char *sql, struct text *text, struct err *err)
{
    struct session *session = session_open(url, err);
    if (session == NULL)
        return false;
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit, sql, 0, NULL);
    bool ok = session_run(session, unit, keep, text, err);
    session_close(session);
    return ok;
}

static void take_engine(void *ctx, const struct db_reply *reply)
{
    deployment_engine(ctx, reply);
}

static void take_st(void *ctx, const struct db_reply *reply)
{
    deployment_st(ctx, reply);
}

static bool ask_deployment(const char *url, struct db_unit *unit, session_fn *take,
                           struct deployment *d, struct err *err)
{
    struct session *session = session_open(url, err);
    if (session == NULL) {
        db_unit_free(unit);
        return false;
    }
    bool ok = session_run(session, unit, take, d, err);
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

int cmd_status(struct front *front, int argc, char **argv)
{
    static struct text rows, engine, waiting;
    struct err err;
    bool json = argc == 2 && strcmp(argv[1], "--json") == 0;
    if (argc > 1 && !json)
        return front_usage("status", "it takes --json");
    const char *url = setting(front->settings, "DATABASE_URL");
    const char *st = setting(front->settings, "SERVICETITAN_DATABASE_URL");
    if (st[0] == '\0')
        st = url;
    if (!ask(st, counts, &rows, &err) || !ask(st, backlog, &waiting, &err) ||
        !ask(url, engine_counts, &engine, &err))
        return front_fail(&err);
    struct deployment *d = xcalloc(1, sizeof(*d));
    if (!ask_deployment(url, deployment_ask_engine(NULL), take_engine, d, &err) ||
        !ask_deployment(st, deployment_ask_st(), take_st, d, &err)) {
        free(d);
        return front_fail(&err);
    }
    struct buf figures;
    buf_init(&figures, 4 << 20);
    if (json)
        deployment_json(d, &figures);
    else
        deployment_lines(d, &figures);
    if (json) {
        printf("{");
        print_inner(rows.value);
        printf(", ");
        print_inner(engine.value);
        printf(", ");
        print_inner(waiting.value);
        printf(", \"figures\": %s}\n", figures.data);
    } else {
        print_lines(rows.value);
        print_lines(engine.value);
        print_lines(waiting.value);
        printf("\n%s", figures.data);
    }
    buf_fini(&figures);
    deployment_fini(d);
    free(d);
    return EXIT_OK;
}
