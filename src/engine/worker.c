/* worker.c - the lease of this process life.
 *
 *     entering --row written--> held --renewed--> held --row gone--> lost
 *
 * Each beat renews the row and looks at those that ran out. A row that was seen with the same beat
 * for a whole lease by our own clock is taken over; one whose process is gone from this very
 * machine, at once. Callbacks of units in flight may come after worker_stop: the struct goes with
 * the last of them. */
#include "engine/worker.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/page.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEASE_MS 30000
#define MAX_OTHERS 64

struct other {
    char id[37];
    int64_t beat, since_ms; /* first seen expired with this beat */
};

struct worker {
    struct loop *loop;
    struct pool *db;
    struct loop_timer *timer;
    char id[37], machine[96];
    char *role;
    int lease_ms, every_ms; /* renewed so often */
    loop_fn *ready, *lost, *taken;
    void *ctx, *taken_ctx;
    bool entered, gone, stopped;
    int in_flight;
    int64_t sent_ms, confirmed_ms;
    int64_t wall_us; /* the database's clock, at 0 of our monotonic one */
    struct other others[MAX_OTHERS];
    size_t nothers;
};

/* ---- which machine, which process ---- */

static bool read_line(const char *path, char *out, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool ok = fgets(out, (int)size, file) != NULL;
    fclose(file);
    if (ok)
        out[strcspn(out, "\n")] = 0;
    return ok;
}

/* Two processes see each other's pids only with the same boot and pid namespace: containers of one
 * image may share the machine id. */
static void machine_name(char *out, size_t size)
{
    char host[64] = "", machine[64] = "", boot[64] = "", space[64] = "";
    gethostname(host, sizeof(host) - 1);
    read_line("/etc/machine-id", machine, sizeof(machine));
    read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    ssize_t n = readlink("/proc/self/ns/pid", space, sizeof(space) - 1);
    space[n > 0 ? n : 0] = 0;
    char *all = xprintf("%s %s %s %s", host, machine, boot, space);
    char hex[65];
    digest_sha256_hex(all, strlen(all), hex);
    free(all);
    snprintf(out, size, "%s %.12s", host, hex);
}

/* When a process began, in clock ticks since boot; 0 when there is none. */
static int64_t process_born(long pid)
{
    char path[64], line[1024];
    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    if (!read_line(path, line, sizeof(line)))
        return 0;
    const char *p = strrchr(line, ')'); /* the name may hold anything */
    for (int field = 2; p && field < 22; field++) {
        p = strchr(p + 1, ' ');
    }
    return p ? strtoll(p, NULL, 10) : 0;
}

/* ---- units ---- */

static bool answered(struct worker *w)
{
    w->in_flight--;
    if (!w->stopped)
        return true;
    if (w->in_flight == 0) {
        free(w->role);
        free(w);
    }
    return false;
}

static void lose(struct worker *w, const char *why)
{
    if (w->gone)
        return;
    w->gone = true;
    loop_timer_clear(w->timer);
    log_error("worker", "the lease is lost, all work is dropped", "worker", w->id, "reason", why,
              NULL);
    w->lost(w->ctx);
}

static void send(struct worker *w, struct db_unit *unit, db_done_fn *done)
{
    w->in_flight++;
    pool_send(w->db, unit, done, w);
}

static void taken_over(void *ctx, const struct db_reply *reply)
{
    struct worker *w = ctx;
    if (!answered(w) || db_reply_outcome(reply) != DB_OK || !db_value(reply, 0, 0, 0))
        return;
    log_warn("worker", "took over from a worker that ended without saying so", "instances",
             db_value(reply, 0, 0, 0), NULL);
    if (w->taken)
        w->taken(w->taken_ctx);
}

static const char wall_sql[] = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";

static void read_wall(struct worker *w, const struct db_reply *reply, int statement)
{
    w->wall_us = db_int(reply, statement, 0, 0) - clock_mono_us();
}

static void take_over(struct worker *w, const char *id, const char *beat)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select takeover($1::uuid, $2::bigint)", 2, id, beat);
    send(w, unit, taken_over);
}

/* Those whose lease ran out, as the database sees it, against what we saw before. */
static void watch_others(struct worker *w, const struct db_reply *reply, int statement)
{
    struct other now[MAX_OTHERS];
    size_t n = 0;
    int64_t ms = clock_mono_ms();
    for (int i = 0; i < db_rows(reply, statement) && n < MAX_OTHERS; i++) {
        struct other *o = &now[n++];
        snprintf(o->id, sizeof(o->id), "%s", db_value(reply, statement, i, 0));
        o->beat = db_int(reply, statement, i, 1);
        o->since_ms = ms;
        for (size_t k = 0; k < w->nothers; k++) {
            if (strcmp(w->others[k].id, o->id) == 0 && w->others[k].beat == o->beat)
                o->since_ms = w->others[k].since_ms;
        }
        if (ms - o->since_ms >= w->lease_ms)
            take_over(w, o->id, db_value(reply, statement, i, 1));
    }
    memcpy(w->others, now, n * sizeof(*now));
    w->nothers = n;
}

static void renewed(void *ctx, const struct db_reply *reply)
{
    struct worker *w = ctx;
    if (!answered(w) || w->gone)
        return;
    loop_timer_set(w->timer, w->every_ms);
    if (db_reply_outcome(reply) != DB_OK) {
        log_warn("worker", "the lease could not be renewed", "worker", w->id, "error",
                 db_reply_err(reply)->message, NULL);
        loop_timer_set(w->timer, w->lease_ms / 30);
        return;
    }
    if (db_rows(reply, 0) == 0) {
        lose(w, "its row is gone or ran out");
        return;
    }
    w->confirmed_ms = w->sent_ms;
    read_wall(w, reply, 2);
    watch_others(w, reply, 1);
}

static void beat(struct worker *w)
{
    char *lease = xprintf("%d", w->lease_ms);
    struct buf counted;
    buf_init(&counted, 8192);
    figures_write(figures(), &counted);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select * from worker_renew($1::uuid, $2::int, $3::json)", 3, w->id, lease,
                 counted.data);
    buf_fini(&counted);
    db_unit_addv(unit,
                 "select id, beat from workflow_workers where id <> $1::uuid "
                 "and (until < clock_timestamp() "
                 "or until > clock_timestamp() + interval '15 minutes') order by until limit 64",
                 1, w->id);
    db_unit_addv(unit, wall_sql, 0);
    free(lease);
    w->sent_ms = clock_mono_ms();
    send(w, unit, renewed);
}

static void entered(void *ctx, const struct db_reply *reply);

static void enter(struct worker *w)
{
    char *lease = xprintf("%d", w->lease_ms);
    char *pid = xprintf("%ld", (long)getpid());
    char *born = xprintf("%lld", (long long)process_born(getpid()));
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select worker_enter($1::uuid, $2, $3::int, $4::bigint, $5, $6::int, $7)", 7,
                 w->id, w->machine, pid, born, w->role, lease,
                 page()->name[0] ? page()->name : w->role);
    db_unit_addv(unit,
                 "select id, pid, born from workflow_workers where machine = $1 "
                 "and id <> $2::uuid",
                 2, w->machine, w->id);
    db_unit_addv(unit, wall_sql, 0);
    /* Before it can run again, by us or others. */
    const struct mark_judging *judging = &page()->dead.judging;
    if (page()->dead.worker[0] && page()->dead.instance[0])
        db_unit_addv(unit, "select bury($1::uuid, $2::uuid, $3)", 3, page()->dead.worker,
                     page()->dead.instance, page()->dead.how);
    else if (page()->dead.worker[0])
        db_unit_addv(unit, "select bury_judging($1::uuid, $2, $3, $4, $5)", 5, page()->dead.worker,
                     judging->part, judging->name, judging->about, page()->dead.how);
    free(lease);
    free(pid);
    free(born);
    w->sent_ms = clock_mono_ms();
    send(w, unit, entered);
}

static void tell_of_the_dead(void)
{
    const struct mark_judging *judging = &page()->dead.judging;
    if (page()->dead.worker[0] && page()->dead.instance[0])
        log_warn("worker", "the life before ended while this instance's Lua was running",
                 "instance", page()->dead.instance, "how", page()->dead.how, NULL);
    else if (page()->dead.worker[0])
        log_warn("worker", "the life before ended while it judged", "name", judging->name, "part",
                 judging->part, "about", judging->about, "how", page()->dead.how, NULL);
    page()->dead.worker[0] = 0;
}

static void entered(void *ctx, const struct db_reply *reply)
{
    struct worker *w = ctx;
    if (!answered(w))
        return;
    if (db_reply_outcome(reply) != DB_OK) {
        log_warn("worker", "could not enter, trying again", "error", db_reply_err(reply)->message,
                 NULL);
        loop_timer_set(w->timer, 500);
        return;
    }
    w->entered = true;
    w->confirmed_ms = w->sent_ms;
    read_wall(w, reply, 2);
    tell_of_the_dead();
    for (int i = 0; i < db_rows(reply, 1); i++) {
        int64_t pid = db_int(reply, 1, i, 1), born = db_int(reply, 1, i, 2);
        bool alive = kill((pid_t)pid, 0) == 0 || errno != ESRCH;
        if (!alive || (born != 0 && process_born((long)pid) != born))
            take_over(w, db_value(reply, 1, i, 0), NULL);
    }
    loop_timer_set(w->timer, w->every_ms);
    log_info("worker", "entered", "worker", w->id, "machine", w->machine, NULL);
    w->ready(w->ctx);
}

static void due(void *ctx)
{
    struct worker *w = ctx;
    if (!w->entered)
        enter(w);
    else if (!w->gone)
        beat(w);
}

/* ---- the outside ---- */

struct worker *worker_start_for(struct loop *loop, struct pool *db, const char *role, int lease_ms,
                                loop_fn *ready, loop_fn *lost, void *ctx)
{
    struct worker *w = xcalloc(1, sizeof(*w));
    w->loop = loop;
    w->db = db;
    w->role = xstrdup(role);
    w->lease_ms = lease_ms > 0 ? lease_ms : LEASE_MS;
    w->every_ms = w->lease_ms / (strcmp(role, "workflow") == 0 ? 6 : 3);
    w->ready = ready;
    w->lost = lost;
    w->ctx = ctx;
    uuid_v7(w->id);
    memcpy(page()->worker, w->id, sizeof(w->id));
    machine_name(w->machine, sizeof(w->machine));
    w->timer = loop_timer_new(loop, due, w);
    enter(w);
    return w;
}

struct worker *worker_start(struct loop *loop, struct pool *db, const char *role, loop_fn *ready,
                            loop_fn *lost, void *ctx)
{
    return worker_start_for(loop, db, role, LEASE_MS, ready, lost, ctx);
}

void worker_on_takeover(struct worker *worker, loop_fn *fn, void *ctx)
{
    worker->taken = fn;
    worker->taken_ctx = ctx;
}

static void left(void *ctx, const struct db_reply *reply)
{
    (void)reply;
    answered(ctx);
}

void worker_stop(struct worker *w)
{
    if (!w)
        return;
    loop_timer_free(w->timer);
    w->stopped = true;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select takeover($1::uuid, null)", 1, w->id);
    send(w, unit, left);
}

const char *worker_id(const struct worker *worker)
{
    return worker->id;
}

void worker_fence(const struct worker *worker, struct db_unit *unit)
{
    db_unit_addv(unit, "select fence($1::uuid)", 1, worker->id);
}

bool worker_may_send(const struct worker *w)
{
    int margin = w->lease_ms / 3 < 10000 ? w->lease_ms / 3 : 10000;
    return w->entered && !w->gone && clock_mono_ms() < w->confirmed_ms + w->lease_ms - margin;
}

int64_t worker_wall_us(const struct worker *w)
{
    return w->wall_us + clock_mono_us();
}
