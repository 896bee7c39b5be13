/* deployment.c - gathers a deployment's figures; see deployment.h. */
#include "front/deployment.h"

#include "base/clock.h"
#include "base/mem.h"
#include "engine/page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char SQL_MEMBERS[] =
    "select id, coalesce(name, role), role, machine, until > clock_timestamp(), figures, pid"
    " from workflow_workers order by machine, name, started_at limit 256";
static const char SQL_BACKLOG[] =
    "select stage, waiting, coalesce(extract(epoch from oldest), 0) from engine_backlog()";
static const char SQL_STUCK[] =
    "select coalesce(reason->>'code', 'unknown'), count(*) from workflow_queue"
    " where reason is not null and state = 'stuck' group by 1 order by 2 desc, 1 limit 32";
static const char SQL_SCHEDULES[] =
    "select workflow, extract(epoch from real_of(planned)), extract(epoch from real_of(made))"
    " from workflow_schedules where ended_at is null and made is not null"
    " order by workflow limit 256";
static const char SQL_REST[] =
    "select extract(epoch from clock_timestamp()), (select count(*) from workflow_refusals),"
    " refusals()::text, (select count(*) from json_to_recordset(coalesce($1::json, '[]'))"
    "  as f (number int, sha256 text) where not exists (select from schema_migrations m"
    "  where m.number = f.number and m.sha256 = f.sha256))";
/* Changes that wait for their parents are nobody's delay but ServiceTitan's. */
static const char SQL_CHANGES[] =
    "select count(*), coalesce(extract(epoch from min(noticed_at)), 0) from (select noticed_at"
    " from changes where retry_at is null or retry_at <= clock_timestamp()"
    " order by seq limit 100000) c";
static const char SQL_SYNC[] =
    "select count(*), coalesce(extract(epoch from min(completed_at)), 0) from sync_cursors";

void deployment_fini(struct deployment *d)
{
    if (!d)
        return;
    free(d->refusals);
    d->refusals = NULL;
}

struct db_unit *deployment_ask_engine(const char *expected)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, SQL_REST, 1, expected);
    db_unit_add(unit, SQL_MEMBERS, 0, NULL);
    db_unit_add(unit, SQL_BACKLOG, 0, NULL);
    db_unit_add(unit, SQL_STUCK, 0, NULL);
    db_unit_add(unit, SQL_SCHEDULES, 0, NULL);
    return unit;
}

struct db_unit *deployment_ask_st(void)
{
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit, SQL_CHANGES, 0, NULL);
    db_unit_add(unit, SQL_SYNC, 0, NULL);
    return unit;
}

static double number(const struct db_reply *reply, int statement, int row, int column)
{
    const char *text = db_value(reply, statement, row, column);
    return text ? strtod(text, NULL) : 0;
}

static void add_waiting(struct deployment *d, enum stage stage, int64_t waiting, double oldest)
{
    d->stages[stage].waiting += waiting;
    if (oldest > 0 && (d->stages[stage].oldest == 0 || oldest < d->stages[stage].oldest))
        d->stages[stage].oldest = oldest;
}

static void read_member(struct member *member, const struct db_reply *reply, int row)
{
    snprintf(member->name, sizeof(member->name), "%s", db_value(reply, 1, row, 1));
    snprintf(member->role, sizeof(member->role), "%s", db_value(reply, 1, row, 2));
    snprintf(member->machine, sizeof(member->machine), "%s", db_value(reply, 1, row, 3));
    snprintf(member->pid, sizeof(member->pid), "%s", db_value(reply, 1, row, 6));
    member->alive = db_bool(reply, 1, row, 4);
    figures_read(&member->figures, db_value(reply, 1, row, 5));
}

/* The page of a fellow is newer than its row. */
static void refresh(struct member *member, const char *worker)
{
    int count;
    const struct page *pages = pages_all(&count);
    for (int i = 0; i < count; i++) {
        if (pages[i].name[0] && worker && strcmp(pages[i].worker, worker) == 0)
            member->figures = pages[i].figures;
    }
}

void deployment_engine(struct deployment *d, const struct db_reply *reply)
{
    if (db_reply_outcome(reply) != DB_OK)
        return;
    d->engine_known = true;
    d->now = number(reply, 0, 0, 0);
    d->refused = db_int(reply, 0, 0, 1);
    free(d->refusals);
    d->refusals = xstrdup(db_value(reply, 0, 0, 2));
    d->pending = db_int(reply, 0, 0, 3);
    d->nmembers = 0;
    for (int row = 0; row < db_rows(reply, 1) && d->nmembers < MEMBERS_MAX; row++) {
        struct member *member = &d->members[d->nmembers++];
        read_member(member, reply, row);
        refresh(member, db_value(reply, 1, row, 0));
    }
    for (int row = 0; row < db_rows(reply, 2); row++) {
        for (int stage = 0; stage < STAGES; stage++) {
            if (strcmp(stage_name((enum stage)stage), db_value(reply, 2, row, 0)) == 0)
                add_waiting(d, (enum stage)stage, db_int(reply, 2, row, 1),
                            number(reply, 2, row, 2));
        }
    }
    d->nstuck = 0;
    for (int row = 0; row < db_rows(reply, 3) && d->nstuck < CODES_MAX; row++) {
        snprintf(d->stuck[d->nstuck].code, sizeof(d->stuck[0].code), "%s",
                 db_value(reply, 3, row, 0));
        d->stuck[d->nstuck++].count = db_int(reply, 3, row, 1);
    }
    d->nschedules = 0;
    for (int row = 0; row < db_rows(reply, 4) && d->nschedules < SCHEDULES_MAX; row++) {
        int at = d->nschedules++;
        snprintf(d->schedules[at].workflow, sizeof(d->schedules[0].workflow), "%s",
                 db_value(reply, 4, row, 0));
        d->schedules[at].planned = number(reply, 4, row, 1);
        d->schedules[at].made = number(reply, 4, row, 2);
    }
}

void deployment_st(struct deployment *d, const struct db_reply *reply)
{
    if (db_reply_outcome(reply) != DB_OK)
        return;
    d->st_known = true;
    add_waiting(d, STAGE_DETECT, db_int(reply, 0, 0, 0), number(reply, 0, 0, 1));
    /* A copy is always as old as its last complete reading. */
    add_waiting(d, STAGE_SYNC, 0, number(reply, 1, 0, 1));
}

void deployment_local(struct deployment *d)
{
    int count;
    const struct page *pages = pages_all(&count);
    if (d->engine_known)
        return; /* they are among the rows */
    d->now = (double)clock_wall_us() / 1e6;
    for (int i = 0; i < count && d->nmembers < MEMBERS_MAX; i++) {
        struct member *member = &d->members[d->nmembers++];
        memset(member, 0, sizeof(*member));
        snprintf(member->name, sizeof(member->name), "%s", pages[i].name);
        snprintf(member->role, sizeof(member->role), "%s", pages[i].role);
        member->alive = pages[i].up;
        member->figures = pages[i].figures;
    }
}

double deployment_lag(const struct deployment *d, int stage)
{
    double lag = d->stages[stage].oldest > 0 ? d->now - d->stages[stage].oldest : 0;
    return lag > 0 ? lag : 0;
}
