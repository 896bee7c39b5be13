/* deployment_print.c - the three printers of a deployment: Prometheus, JSON, lines. */
#include "front/deployment.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Which process: two supervisors of one machine may use the same names. */
#define WORKER(m) "worker", (m)->name, "machine", (m)->machine, "pid", (m)->pid

/* ---- Prometheus' text format, 0.0.4 ---- */

static void family(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP moonwright_%s %s\n# TYPE moonwright_%s %s\n", name, help, name, type);
}

static void add_label_value(struct buf *out, const char *value)
{
    for (const char *c = value; *c; c++) {
        if (*c == '\n')
            buf_adds(out, "\\n");
        else if (*c == '"' || *c == '\\')
            buf_printf(out, "\\%c", *c);
        else
            buf_addc(out, *c);
    }
}

/* Labels are pairs of strings, ended by NULL. */
static void __attribute__((sentinel)) sample(struct buf *out, const char *name, double value, ...)
{
    va_list labels;
    const char *separator = "{";
    buf_printf(out, "moonwright_%s", name);
    va_start(labels, value);
    for (const char *label; (label = va_arg(labels, const char *)) != NULL;) {
        buf_printf(out, "%s%s=\"", separator, label);
        add_label_value(out, va_arg(labels, const char *));
        buf_addc(out, '"');
        separator = ",";
    }
    va_end(labels);
    buf_printf(out, "%s %.15g\n", *separator == ',' ? "}" : "", value);
}

static void print_stages(const struct deployment *d, struct buf *out)
{
    static const struct {
        const char *name, *help;
        size_t at;
    } counters[] = {{"stage_claimed_total", "What a stage has taken up.",
                     offsetof(struct stage_figures, claimed)},
                    {"stage_settled_total", "What a stage has brought to its end.",
                     offsetof(struct stage_figures, settled)},
                    {"stage_failed_total", "What raised, was refused, is in doubt or got stuck.",
                     offsetof(struct stage_figures, failed)}};
    for (size_t c = 0; c < sizeof(counters) / sizeof(counters[0]); c++) {
        family(out, counters[c].name, "counter", counters[c].help);
        for (int i = 0; i < d->nmembers; i++) {
            const struct member *m = &d->members[i];
            for (int stage = 0; stage < STAGES; stage++) {
                const char *of = (const char *)&m->figures.stages[stage] + counters[c].at;
                sample(out, counters[c].name, (double)*(const int64_t *)of, "stage",
                       stage_name((enum stage)stage), WORKER(m), NULL);
            }
        }
    }
    if (!d->engine_known || !d->st_known)
        return;
    family(out, "stage_waiting", "gauge", "What waits for a stage, up to 100000.");
    for (int stage = 0; stage < STAGES; stage++) {
        if (stage != STAGE_SYNC)
            sample(out, "stage_waiting", (double)d->stages[stage].waiting, "stage",
                   stage_name((enum stage)stage), NULL);
    }
    family(out, "stage_lag_seconds", "gauge",
           "Age of the oldest that waits; of sync, of its oldest copy.");
    for (int stage = 0; stage < STAGES; stage++) {
        sample(out, "stage_lag_seconds", deployment_lag(d, stage), "stage",
               stage_name((enum stage)stage), NULL);
    }
    family(out, "stage_oldest_timestamp_seconds", "gauge",
           "Since when the oldest waits; absent when nothing does.");
    for (int stage = 0; stage < STAGES; stage++) {
        if (d->stages[stage].oldest > 0)
            sample(out, "stage_oldest_timestamp_seconds", d->stages[stage].oldest, "stage",
                   stage_name((enum stage)stage), NULL);
    }
}

static const struct {
    const char *name, *type, *help;
    size_t at;
    double unit; /* of one of it, in what is printed */
} words[] = {{"events_total", "counter", "Events settled by detection.",
              offsetof(struct figures, events), 1},
             {"instances_started_total", "counter", "Instances begun by detection.",
              offsetof(struct figures, started), 1},
             {"steps_total", "counter", "Steps recorded.", offsetof(struct figures, steps), 1},
             {"instances_live", "gauge", "Instances under way right now.",
              offsetof(struct figures, live), 1},
             {"loop_lag_seconds", "gauge", "The latest that a timer of the event loop was, lately.",
              offsetof(struct figures, loop_lag_us), 1e-6},
             {"pool_connections", "gauge", "Connections to the databases.",
              offsetof(struct figures, connections), 1},
             {"pool_connections_ready", "gauge", "Those that are up.",
              offsetof(struct figures, connections_ready), 1},
             {"pool_units_in_flight", "gauge", "Units sent or queued, not answered.",
              offsetof(struct figures, units), 1},
             {"worker_resident_bytes", "gauge", "Memory of the worker process.",
              offsetof(struct figures, resident_bytes), 1}};

static double word_of(const struct figures *figures, size_t i)
{
    return (double)*(const int64_t *)((const char *)figures + words[i].at) * words[i].unit;
}

static void print_words(const struct deployment *d, struct buf *out)
{
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        family(out, words[i].name, words[i].type, words[i].help);
        for (int k = 0; k < d->nmembers; k++) {
            const struct member *m = &d->members[k];
            sample(out, words[i].name, word_of(&m->figures, i), WORKER(m), NULL);
        }
    }
}

static void print_providers(const struct deployment *d, struct buf *out)
{
    static const struct {
        const char *name, *help;
        size_t at;
        double unit;
    } counters[] = {{"provider_calls_total", "Requests to a vendor, answered or not.",
                     offsetof(struct provider_figures, calls), 1},
                    {"provider_errors_total", "Those answered by 5xx or 429, or not at all.",
                     offsetof(struct provider_figures, errors), 1},
                    {"provider_waits_total",
                     "Requests that had to wait for the vendor's rate limit.",
                     offsetof(struct provider_figures, waits), 1},
                    {"provider_wait_seconds_total", "How long they waited.",
                     offsetof(struct provider_figures, wait_ms), 1e-3}};
    for (size_t c = 0; c < sizeof(counters) / sizeof(counters[0]); c++) {
        family(out, counters[c].name, "counter", counters[c].help);
        for (int i = 0; i < d->nmembers; i++) {
            const struct member *m = &d->members[i];
            for (int k = 0; k < PROVIDERS_MAX && m->figures.providers[k].name[0]; k++) {
                const char *of = (const char *)&m->figures.providers[k] + counters[c].at;
                sample(out, counters[c].name, (double)*(const int64_t *)of * counters[c].unit,
                       "provider", m->figures.providers[k].name, WORKER(m), NULL);
            }
        }
    }
}

static void print_schedules(const struct deployment *d, struct buf *out)
{
    family(out, "schedule_drift_seconds", "gauge",
           "How long after its time the last fire of a schedule was made.");
    for (int i = 0; i < d->nschedules; i++) {
        double drift = d->schedules[i].made - d->schedules[i].planned;
        sample(out, "schedule_drift_seconds", drift > 0 ? drift : 0, "workflow",
               d->schedules[i].workflow, NULL);
    }
    family(out, "schedule_last_fire_timestamp_seconds", "gauge",
           "For when the last fire of a schedule was planned.");
    for (int i = 0; i < d->nschedules; i++) {
        sample(out, "schedule_last_fire_timestamp_seconds", d->schedules[i].planned, "workflow",
               d->schedules[i].workflow, NULL);
    }
}

void deployment_metrics(const struct deployment *d, struct buf *out)
{
    family(out, "database_up", "gauge", "1: the database answers.");
    sample(out, "database_up", d->engine_known, "database", "engine", NULL);
    sample(out, "database_up", d->st_known, "database", "servicetitan", NULL);
    print_stages(d, out);
    print_words(d, out);
    print_providers(d, out);
    family(out, "lease", "gauge", "1: this worker renews its lease; 0: it ran out.");
    for (int i = 0; i < d->nmembers; i++) {
        const struct member *m = &d->members[i];
        sample(out, "lease", m->alive, "role", m->role, WORKER(m), NULL);
    }
    if (!d->engine_known)
        return;
    family(out, "refused_files", "gauge", "Files of the company that are refused as they are.");
    sample(out, "refused_files", (double)d->refused, NULL);
    family(out, "instances_stuck", "gauge", "Instances that wait for a person, by reason.");
    for (int i = 0; i < d->nstuck; i++) {
        sample(out, "instances_stuck", (double)d->stuck[i].count, "code", d->stuck[i].code, NULL);
    }
    print_schedules(d, out);
}

/* ---- JSON ---- */

static struct stage_figures stage_total(const struct deployment *d, int stage)
{
    struct stage_figures sum = {0, 0, 0};
    for (int i = 0; i < d->nmembers; i++) {
        const struct stage_figures *s = &d->members[i].figures.stages[stage];
        sum.claimed += s->claimed;
        sum.settled += s->settled;
        sum.failed += s->failed;
    }
    return sum;
}

static void add_text(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "\"%s\":", name);
    buf_json(out, value, strlen(value));
}

void deployment_json(const struct deployment *d, struct buf *out)
{
    buf_printf(out, "{\"database\":{\"engine\":%s,\"servicetitan\":%s},\"stages\":{",
               d->engine_known ? "true" : "false", d->st_known ? "true" : "false");
    for (int i = 0; i < STAGES; i++) {
        struct stage_figures sum = stage_total(d, i);
        buf_printf(out,
                   "%s\"%s\":{\"claimed\":%" PRId64 ",\"settled\":%" PRId64 ",\"failed\":%" PRId64
                   ",\"waiting\":%" PRId64 ",\"lag_seconds\":%.3f}",
                   i ? "," : "", stage_name((enum stage)i), sum.claimed, sum.settled, sum.failed,
                   d->stages[i].waiting, deployment_lag(d, i));
    }
    buf_adds(out, "},\"workers\":[");
    for (int i = 0; i < d->nmembers; i++) {
        struct member m = d->members[i];
        buf_adds(out, i ? ",{" : "{");
        add_text(out, "name", m.name);
        buf_addc(out, ',');
        add_text(out, "role", m.role);
        buf_addc(out, ',');
        add_text(out, "machine", m.machine);
        buf_printf(out, ",\"alive\":%s,\"figures\":", m.alive ? "true" : "false");
        figures_write(&m.figures, out);
        buf_addc(out, '}');
    }
    buf_adds(out, "],\"stuck\":{");
    for (int i = 0; i < d->nstuck; i++) {
        buf_adds(out, i ? "," : "");
        buf_json(out, d->stuck[i].code, strlen(d->stuck[i].code));
        buf_printf(out, ":%" PRId64, d->stuck[i].count);
    }
    buf_printf(out, "},\"refused_files\":%" PRId64 "}", d->refused);
}

/* ---- lines for people ---- */

void deployment_lines(const struct deployment *d, struct buf *out)
{
    buf_printf(out, "%-9s %10s %10s %10s %10s %8s\n", "STAGE", "CLAIMED", "SETTLED", "FAILED",
               "WAITING", "LAG");
    for (int i = 0; i < STAGES; i++) {
        struct stage_figures sum = stage_total(d, i);
        buf_printf(out, "%-9s %10" PRId64 " %10" PRId64 " %10" PRId64 " %10" PRId64 " %7.0fs\n",
                   stage_name((enum stage)i), sum.claimed, sum.settled, sum.failed,
                   d->stages[i].waiting, deployment_lag(d, i));
    }
    buf_printf(out, "\n%-14s %-9s %5s %7s %8s  %s\n", "WORKER", "ROLE", "BEATS", "MEMORY", "LIVE",
               "MACHINE");
    for (int i = 0; i < d->nmembers; i++) {
        const struct member *m = &d->members[i];
        buf_printf(out, "%-14s %-9s %5s %4.0f MB %8" PRId64 "  %s\n", m->name, m->role,
                   m->alive ? "yes" : "NO", (double)m->figures.resident_bytes / 1048576,
                   m->figures.live, m->machine);
    }
    for (int i = 0; i < d->nstuck; i++) {
        buf_printf(out, "%sstuck: %s %" PRId64 "\n", i ? "" : "\n", d->stuck[i].code,
                   d->stuck[i].count);
    }
    if (d->refused > 0)
        buf_printf(out, "\nrefused files: %" PRId64 ", see `moonwright workflows list`\n",
                   d->refused);
}
