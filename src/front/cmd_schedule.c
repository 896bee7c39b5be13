/* cmd_schedule.c - `moonwright schedule`: when workflows fire by the clock, and when they did. */
#include "front/ask.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/cron.h"
#include "base/mem.h"
#include "base/zone.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 1000
#define TEXT_MAX ((size_t)1 << 20)

static const char *const gaps[] = {"next", "skip"};
static const char *const folds[] = {"first", "last", "both"};

/* A schedule, as it is in force or as it was given. */
struct plan {
    char cron[256], zone[80], gap[8], fold[8], catch_up[8];
    bool found;
    int64_t from; /* fires after this */
};

struct asked {
    const char *workflow; /* NULL: the plan was given */
    struct plan plan;
    const char *from;
    int count;
    bool json;
};

/* "Sun 2026-11-01 01:30 -04:00" */
static void show_local(const char *zone, int64_t at, char out[48])
{
    static const char *const days[] = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
    struct civil c;
    must(zone_civil(zone, at, &c));
    snprintf(out, 48, "%s %04d-%02d-%02d %02d:%02d %c%02d:%02d", days[c.weekday - 1], c.year,
             c.month, c.day, c.hour, c.minute, c.offset < 0 ? '-' : '+', abs(c.offset) / 3600,
             abs(c.offset) / 60 % 60);
}

/* "2026-11-01T01:30:00-04:00", in UTC "2026-11-01T05:30:00Z" */
static void show_iso(const char *zone, int64_t at, char out[48])
{
    struct civil c;
    char offset[16] = "Z";
    must(zone_civil(zone, at, &c));
    if (strcmp(zone, "UTC") != 0)
        snprintf(offset, sizeof(offset), "%c%02d:%02d", c.offset < 0 ? '-' : '+',
                 abs(c.offset) / 3600, abs(c.offset) / 60 % 60);
    snprintf(out, 48, "%04d-%02d-%02dT%02d:%02d:%02d%s", c.year, c.month, c.day, c.hour, c.minute,
             c.second, offset);
}

/* What the clocks do to a fire; for one that they skip, the time that doesn't exist on that day. */
static void explain(const char *zone, const struct cron_fire *fire, char out[120])
{
    struct civil c, before;
    must(zone_civil(zone, fire->at, &c) && zone_civil(zone, fire->at - 86400, &before));
    int minute = c.hour * 60 + c.minute - (c.offset - before.offset) / 60;
    minute = (minute + 1440) % 1440;
    out[0] = '\0';
    if (fire->note == CRON_MOVED)
        snprintf(out, 120, "the clocks skip %02d:%02d on that day: later by the gap", minute / 60,
                 minute % 60);
    else if (fire->note == CRON_SKIPPED)
        snprintf(out, 120, "the clocks skip %02d:%02d on that day: no fire", minute / 60,
                 minute % 60);
    else if (fire->note != CRON_PLAIN)
        snprintf(out, 120, "this time comes twice: the %s",
                 fire->note == CRON_FIRST ? "first" : "second");
}

static int place(const char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return (int)i;
    }
    return -1;
}

static bool read_plan(const struct plan *plan, struct cron *cron, struct cron_policy *policy,
                      struct err *err)
{
    int gap = place(gaps, ARRAY_LEN(gaps), plan->gap);
    int fold = place(folds, ARRAY_LEN(folds), plan->fold);
    if (gap < 0)
        return err_set(err, ERR_INPUT, "--gap is next or skip");
    if (fold < 0)
        return err_set(err, ERR_INPUT, "--fold is first, last or both");
    if (!zone_exists(plan->zone))
        return err_set(err, ERR_INPUT,
                       "there is no time zone \"%s\"; write one such as "
                       "America/New_York",
                       plan->zone);
    *policy = (struct cron_policy){.gap = gap, .fold = fold};
    return cron_parse(plan->cron, cron, err);
}

/* "2026-03-08", "2026-03-08 01:30" on the schedule's clock, or "2026-03-08T06:30:00Z". */
static bool read_time(const char *text, const char *zone, int64_t *at, struct err *err)
{
    struct civil c = {0};
    int end = 0;
    int parts = sscanf(text, "%4d-%2d-%2d%n%*1[T ]%2d:%2d%n:%2d%n", &c.year, &c.month, &c.day, &end,
                       &c.hour, &c.minute, &end, &c.second, &end);
    bool in_utc = parts > 3 && strcmp(text + end, "Z") == 0;
    if ((parts != 3 && parts < 5) || (text[end] && !in_utc) || c.month < 1 || c.month > 12 ||
        c.day < 1 || c.day > 31 || c.hour > 23 || c.minute > 59 || c.second > 59 ||
        !zone_instant(in_utc ? "UTC" : zone, &c, at))
        return err_set(err, ERR_INPUT,
                       "\"%s\" is no time; write 2026-03-08, \"2026-03-08 01:30\" or "
                       "2026-03-08T06:30:00Z",
                       text);
    return true;
}

static void add_plan(struct buf *out, const char *workflow, const struct plan *plan)
{
    buf_addc(out, '{');
    buf_json_member(out, "workflow", workflow);
    buf_json_member(out, "cron", plan->cron);
    buf_json_member(out, "zone", plan->zone);
    buf_json_member(out, "gap", plan->gap);
    buf_json_member(out, "fold", plan->fold);
    buf_json_member(out, "catch_up", plan->catch_up[0] ? plan->catch_up : NULL);
}

static void add_fire(struct buf *out, const struct plan *plan, const struct cron_fire *fire,
                     bool json)
{
    static const char *const notes[] = {NULL, "moved", "skipped", "first", "last"};
    char local[48], utc[48], note[120];
    bool fires = fire->note != CRON_SKIPPED;
    (json ? show_iso : show_local)(plan->zone, fire->at, local);
    show_iso("UTC", fire->at, utc);
    explain(plan->zone, fire, note);
    if (!json) {
        buf_printf(out, "%-28s  %-20s%s%s\n", fires ? local : "-", fires ? utc : "-",
                   *note ? "  " : "", note);
        return;
    }
    buf_addc(out, '{');
    buf_json_member(out, "local", fires ? local : NULL);
    buf_json_member(out, "utc", fires ? utc : NULL);
    buf_json_member(out, "note", notes[fire->note]);
    buf_json_member(out, "explained", *note ? note : NULL);
    buf_addc(out, '}');
}

static bool print_preview(const struct asked *asked, struct err *err)
{
    const struct plan *plan = &asked->plan;
    struct cron cron;
    struct cron_policy policy;
    int64_t at = plan->from;
    if (!read_plan(plan, &cron, &policy, err) ||
        (asked->from && !read_time(asked->from, plan->zone, &at, err)))
        return false;
    at -= asked->from != NULL; /* that very time counts too */
    struct buf out;
    buf_init(&out, TEXT_MAX);
    if (asked->json) {
        add_plan(&out, asked->workflow, plan);
        buf_adds(&out, ",\"fires\":[");
    } else {
        buf_printf(&out, "%s%s\"%s\" on the clock of %s; gap = %s, fold = %s%s%s\n",
                   asked->workflow ? asked->workflow : "", asked->workflow ? ": " : "", plan->cron,
                   plan->zone, plan->gap, plan->fold, *plan->catch_up ? ", catch_up = " : "",
                   plan->catch_up);
    }
    struct cron_fire fire;
    int found = 0;
    for (int lines = 0; found < asked->count && lines < 2 * MOST &&
                        cron_next(&cron, plan->zone, policy, at, &fire);
         lines++, at = fire.at) {
        if (asked->json && lines > 0)
            buf_addc(&out, ',');
        add_fire(&out, plan, &fire, asked->json);
        found += fire.note != CRON_SKIPPED;
    }
    if (asked->json)
        buf_adds(&out, "]}\n");
    else if (found == 0)
        buf_adds(&out, "it never fires\n");
    fputs(out.data, stdout);
    buf_fini(&out);
    return true;
}

static void copy(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text ? text : "");
}

static void take_plan(struct plan *plan, const struct db_reply *reply, int row)
{
    copy(plan->cron, sizeof(plan->cron), db_value(reply, 0, row, 1));
    copy(plan->zone, sizeof(plan->zone), db_value(reply, 0, row, 2));
    copy(plan->gap, sizeof(plan->gap), db_value(reply, 0, row, 3));
    copy(plan->fold, sizeof(plan->fold), db_value(reply, 0, row, 4));
    copy(plan->catch_up, sizeof(plan->catch_up), db_value(reply, 0, row, 5));
}

/* In force now. What is decided and what is due: since then, and for what time. */
static const char schedules[] =
    "select s.workflow, s.spec->>'cron', s.spec->>'zone', s.spec->>'gap', s.spec->>'fold',"
    " s.spec->>'catch_up', floor(extract(epoch from s.reached))::bigint,"
    " floor(extract(epoch from business_now()))::bigint, utc(s.planned),"
    " round(extract(epoch from real_of(s.made) - real_of(s.planned)) * 1000)::bigint,"
    " (select count(*) from workflow_skips k where k.workflow = s.workflow and k.planned > s.since)"
    " from workflow_schedules s where s.ended_at is null and ($1::text is null or s.workflow = $1)"
    " order by s.workflow";

static void on_plan(void *ctx, const struct db_reply *reply)
{
    struct asked *asked = ctx;
    asked->plan.found = db_rows(reply, 0) > 0;
    if (asked->plan.found) {
        take_plan(&asked->plan, reply, 0);
        asked->plan.from = db_int(reply, 0, 0, 7);
    }
}

static void add_row(struct buf *out, const struct db_reply *reply, int row, bool json)
{
    struct plan plan = {0};
    struct cron cron;
    struct cron_policy policy;
    struct cron_fire fire;
    struct err err;
    char local[48] = "never", utc[48] = "";
    const char *last = db_value(reply, 0, row, 8), *late = db_value(reply, 0, row, 9);
    take_plan(&plan, reply, row);
    int64_t after = db_int(reply, 0, row, 6);
    bool found = read_plan(&plan, &cron, &policy, &err);
    do {
        found = found && cron_next(&cron, plan.zone, policy, after, &fire);
        after = fire.at;
    } while (found && fire.note == CRON_SKIPPED);
    bool due = found && fire.at <= db_int(reply, 0, row, 7);
    if (found) {
        (json ? show_iso : show_local)(plan.zone, fire.at, local);
        show_iso("UTC", fire.at, utc);
    }
    if (!json) {
        char *lateness = late ? xprintf("%.1f s", (double)db_int(reply, 0, row, 9) / 1000) : NULL;
        buf_printf(out, "%-24s  %-16s  %-20s  %-8s  %-7s  %-28s  %s%s\n",
                   db_value(reply, 0, row, 0), plan.cron, last ? last : "none yet",
                   late ? lateness : "", db_value(reply, 0, row, 10), local, utc,
                   due ? " (due)" : "");
        free(lateness);
        return;
    }
    add_plan(out, db_value(reply, 0, row, 0), &plan);
    buf_json_member(out, "last", last);
    buf_printf(out, ",\"late_ms\":%s,\"skipped\":%s,\"due\":%s", late ? late : "null",
               db_value(reply, 0, row, 10), due ? "true" : "false");
    buf_json_member(out, "next_local", found ? local : NULL);
    buf_json_member(out, "next", found ? utc : NULL);
    buf_addc(out, '}');
}

static void print_list(void *ctx, const struct db_reply *reply)
{
    bool json = *(bool *)ctx;
    struct buf out;
    buf_init(&out, TEXT_MAX);
    if (json)
        buf_addc(&out, '[');
    else if (db_rows(reply, 0) == 0)
        buf_adds(&out, "no workflow with a schedule is in force\n");
    else
        buf_printf(&out, "%-24s  %-16s  %-20s  %-8s  %-7s  %-28s  %s\n", "WORKFLOW", "CRON",
                   "LAST FIRE (UTC)", "LATE", "SKIPPED", "NEXT FIRE", "(UTC)");
    for (int row = 0; row < db_rows(reply, 0); row++) {
        if (json && row > 0)
            buf_addc(&out, ',');
        add_row(&out, reply, row, json);
    }
    if (json)
        buf_adds(&out, "]\n");
    fputs(out.data, stdout);
    buf_fini(&out);
}

static bool list(struct ask *ask, struct err *err)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, schedules, 1, NULL);
    return session_run(ask->session, unit, print_list, &ask->json, err);
}

static bool read_asked(struct asked *asked, const struct args *args, struct err *err)
{
    const char *count = args_value(args, "-n"), *cron = args_value(args, "--cron");
    const char *zone = args_value(args, "--zone");
    const char *gap = args_value(args, "--gap"), *fold = args_value(args, "--fold");
    *asked = (struct asked){.workflow = args_word(args, 0),
                            .from = args_value(args, "--from"),
                            .count = count ? atoi(count) : 10,
                            .json = args_has(args, "--json"),
                            .plan.from = clock_wall_us() / 1000000};
    if (!asked->workflow == !cron)
        return err_set(err, ERR_INPUT, "preview takes a workflow, or --cron");
    if (asked->workflow && (zone || gap || fold))
        return err_set(err, ERR_INPUT, "--zone, --gap and --fold go with --cron");
    if (asked->count > MOST)
        return err_set(err, ERR_INPUT, "-n is at most %d", MOST);
    if (strlen(cron ? cron : "") >= sizeof(asked->plan.cron))
        return err_set(err, ERR_INPUT, "that is too long for a schedule");
    copy(asked->plan.cron, sizeof(asked->plan.cron), cron);
    copy(asked->plan.zone, sizeof(asked->plan.zone), zone ? zone : "UTC");
    copy(asked->plan.gap, sizeof(asked->plan.gap), gap ? gap : gaps[0]);
    copy(asked->plan.fold, sizeof(asked->plan.fold), fold ? fold : folds[0]);
    return true;
}

static bool preview(struct ask *ask, struct err *err)
{
    struct asked asked;
    if (!read_asked(&asked, ask->args, err)) {
        ask->code = EXIT_USAGE;
        return false;
    }
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, schedules, 1, asked.workflow);
    if (!session_run(ask->session, unit, on_plan, &asked, err))
        return false;
    if (!asked.plan.found)
        return err_set(err, ERR_MISSING,
                       "no workflow '%s' with a schedule is in force; see "
                       "`moonwright schedule list`",
                       asked.workflow);
    if (print_preview(&asked, err))
        return true;
    ask->code = EXIT_USAGE;
    return false;
}

/* A schedule that was given needs no database. */
static int preview_given(struct front *front, const struct args *args)
{
    (void)front;
    struct asked asked;
    struct err err;
    if (!args_has(args, "--cron"))
        return RUN_ASKS;
    if (!read_asked(&asked, args, &err))
        return front_usage(args, err.message);
    return print_preview(&asked, &err) ? EXIT_OK : front_usage(args, err.message);
}

static const struct option list_options[] = {OPTION_JSON, {0}};
static const struct option preview_options[] = {
    {"-n", "N", "how many fires, 10 without"},
    {"--from", "TIME", "from then on: 2026-03-08, \"2026-03-08 01:30\", 2026-03-08T06:30:00Z"},
    {"--cron", "CRON", "of this one, \"30 7 * * 1-5\", instead of a workflow's"},
    {"--zone", "ZONE", "on whose clock; UTC without"},
    {"--gap", "next|skip", "a time that the clocks skip"},
    {"--fold", "first|last|both", "a time that comes twice"},
    OPTION_JSON,
    {0}};
static const struct verb verbs[] = {
    {"list", NULL, "schedules in force, their last fire, how late it was, and the next",
     list_options, list, NULL},
    {"preview", "[WORKFLOW]", "the next fires, on the schedule's clock and in UTC", preview_options,
     preview, preview_given},
    {0}};

const struct command command_schedule = {"schedule", "when workflows fire by the clock", verbs,
                                         true};
