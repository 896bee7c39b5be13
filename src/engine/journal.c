/* journal.c - see journal.h. */
#include "engine/journal.h"

#include "base/log.h"
#include "base/mem.h"
#include "engine/journal_unit.h"
#include "engine/worker.h"

#include <stdlib.h>
#include <string.h>

#define UNIT_NOTES 300 /* notes of one unit */
#define FLIGHTS 2      /* units under way */
#define SECOND 150     /* notes that are worth a unit while another one is under way */
#define RETRY_MS 250   /* before a unit is sent again that failed for no fault of its own */
#define SWEEP_MS 5000  /* between the sweeps that follow a claim whose outcome is unknown */
#define SWEEPS 3
#define ALL SIZE_MAX

/* A unit under way. */
struct flight {
    struct journal *journal;
    struct note *notes[UNIT_NOTES];
    const char *ids[UNIT_NOTES]; /* their instances, sorted */
    size_t n;
    struct unit_plan plan;
    int claim;
    bool sweep;
    bool alone; /* no other goes beside it */
    bool busy;
};

struct journal {
    const struct engine *engine;
    struct journal_events events;
    struct loop_timer *retry, *again; /* for units; for a claim that was refused */
    struct loop_timer *late;          /* for the next sweep */
    int sweeps;                       /* that are still to come */
    struct note *first, **end;        /* queued */
    size_t queued;
    size_t staying; /* notes whose instances go on after them */
    struct flight flights[FLIGHTS];
    size_t limit; /* instances per unit while one of them makes units fail */
    int claim;    /* asked for, and not in a unit under way */
    int refused;  /* of a claim, to be asked again */
    bool hurried; /* the claim waits for no notes */
    bool sweep;
    bool deferred, lost, stopped;
};

void candidate_free(struct candidate *candidate)
{
    if (candidate)
        free(candidate->payload);
    free(candidate);
}

struct note *note_new(enum note_kind kind, const char *instance, void *owner)
{
    struct note *note = xcalloc(1, sizeof(*note));
    note->kind = kind;
    memcpy(note->instance, instance, strnlen(instance, sizeof(note->instance) - 1));
    note->owner = owner;
    return note;
}

static bool stays(const struct note *note)
{
    return note->kind != NOTE_FINISH && note->kind != NOTE_RELEASE;
}

static void note_free(struct note *note)
{
    free(note->json);
    free(note->texts);
    free(note->output);
    free(note->payload);
    while (note->candidates) {
        struct candidate *c = note->candidates;
        note->candidates = c->next;
        candidate_free(c);
    }
    free(note);
}

/* ---- the queue ---- */

static void flush(void *ctx);

static void flush_soon(struct journal *j)
{
    if (j->deferred || j->lost || j->stopped || loop_timer_armed(j->retry))
        return;
    j->deferred = true;
    loop_defer(j->engine->loop, flush, j);
}

void journal_add(struct journal *journal, struct note *note)
{
    note->next = NULL;
    *journal->end = note;
    journal->end = &note->next;
    journal->queued++;
    journal->staying += stays(note);
    flush_soon(journal);
}

size_t journal_notes(const struct journal *journal)
{
    return journal->staying;
}

void journal_claim(struct journal *journal, int n, bool hurried)
{
    journal->claim = n;
    journal->hurried = hurried;
    if (n > 0 && hurried)
        flush_soon(journal);
}

bool journal_hurry(struct journal *journal)
{
    if (journal->claim > 0 && !journal->hurried)
        journal_claim(journal, journal->claim, true);
    return journal->claim > 0;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Whether a note of this instance is under way. */
static bool is_flying(const struct journal *j, const char *id)
{
    for (size_t i = 0; i < FLIGHTS; i++) {
        const struct flight *f = &j->flights[i];
        if (f->busy && bsearch(&id, f->ids, f->n, sizeof(*f->ids), by_id))
            return true;
    }
    return false;
}

/* Takes notes for a unit, in their order: of the first `limit` instances only, and of none that
 * another unit is about. */
static void take(struct journal *j, struct flight *f)
{
    const char *seen[UNIT_NOTES];
    size_t nseen = 0;
    struct note **p = &j->first;
    f->n = 0;
    while (*p && f->n < UNIT_NOTES) {
        struct note *note = *p;
        bool fits = j->limit == ALL;
        for (size_t i = 0; !fits && i < nseen; i++) {
            fits = strcmp(seen[i], note->instance) == 0;
        }
        if (!fits && nseen < j->limit) {
            seen[nseen++] = note->instance;
            fits = true;
        }
        if (!fits || is_flying(j, note->instance)) {
            p = &note->next;
            continue;
        }
        *p = note->next;
        if (!note->next)
            j->end = p;
        f->ids[f->n] = note->instance;
        f->notes[f->n++] = note;
    }
    j->queued -= f->n;
    qsort(f->ids, f->n, sizeof(*f->ids), by_id);
}

/* What the unit was to claim is still to be claimed. */
static void claim_again_of(struct journal *j, const struct flight *f)
{
    if (f->claim && !j->claim)
        j->claim = f->claim;
    j->hurried |= j->claim > 0;
}

/* Back to the front, as they were. */
static void put_back(struct journal *j, struct flight *f, bool again)
{
    for (size_t i = f->n; i > 0; i--) {
        struct note *note = f->notes[i - 1];
        note->again |= again;
        note->next = j->first;
        if (!j->first)
            j->end = &note->next;
        j->first = note;
    }
    j->queued += f->n;
    f->n = 0;
    claim_again_of(j, f);
    j->sweep |= f->sweep;
}

/* ---- one unit ---- */

static void answered(void *ctx, const struct db_reply *reply);

/* The flight that may begin now. While units are halved, and for a sweep, one goes alone: the sweep
 * would give back what a claim beside it was granted. */
static struct flight *next_flight(struct journal *j)
{
    struct flight *idle = NULL;
    bool busy = false, alone = j->limit != ALL || j->sweep;
    for (size_t i = 0; i < FLIGHTS; i++) {
        struct flight *f = &j->flights[i];
        busy |= f->busy;
        alone |= f->busy && f->alone;
        if (!f->busy)
            idle = f;
    }
    if (!busy)
        return j->first || j->sweep || (j->claim && j->hurried) ? idle : NULL;
    return !alone && j->queued >= SECOND ? idle : NULL;
}

static bool send_unit(struct journal *j, struct flight *f)
{
    struct unit_ask ask = {.worker = j->engine->worker};
    take(j, f);
    f->alone = j->limit != ALL || j->sweep;
    f->claim = f->sweep = 0;
    if (j->limit == ALL) {
        f->claim = ask.claim = j->claim;
        f->sweep = ask.sweep = j->sweep;
        j->claim = 0;
        j->sweep = false;
    }
    if (f->n == 0 && f->claim == 0 && !f->sweep)
        return false;
    if (ask.sweep)
        ask.known = j->events.known(j->events.ctx, &ask.nknown);
    for (size_t i = 0; i < f->n; i++) {
        ask.again |= f->notes[i]->again;
    }
    f->busy = true;
    pool_send_in_order(j->engine->db, journal_unit_build(f->notes, f->n, &ask, &f->plan), answered,
                       f);
    return true;
}

static void flush(void *ctx)
{
    struct journal *j = ctx;
    struct flight *f;
    if (!j->lost && !j->stopped)
        j->events.sending(j->events.ctx);
    j->deferred = false;
    if (j->lost || j->stopped)
        return;
    if (!j->first)
        j->limit = ALL; /* whoever made units fail is out of the queue */
    while ((f = next_flight(j)) && send_unit(j, f)) {
    }
}

/* The end of a note. */
static void tell(struct journal *j, struct note *note)
{
    j->staying -= stays(note);
    if (!j->stopped && note->done)
        note->done(note);
    note_free(note);
}

static void committed(struct journal *j, struct flight *f, const struct db_reply *reply)
{
    size_t n = f->n;
    if (j->limit != ALL)
        j->limit = j->limit > UNIT_NOTES ? ALL : j->limit * 2;
    f->n = 0;
    journal_unit_read(f->notes, n, &f->plan, reply, &j->events);
    for (size_t i = 0; i < n; i++) {
        tell(j, f->notes[i]);
    }
    if (!f->claim || j->stopped)
        return;
    int rows = db_rows(reply, f->plan.claim);
    for (int row = 0; row < rows && !j->stopped; row++) {
        j->events.claimed(j->events.ctx, reply, f->plan.claim, row);
    }
    if (!j->stopped)
        j->events.claim_done(j->events.ctx, rows);
}

static size_t count_instances(const struct flight *f)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) {
        n += i == 0 || strcmp(f->ids[i - 1], f->ids[i]) != 0;
    }
    return n;
}

/* One instance's notes, which the database will never take. */
static void give_up(struct journal *j, struct flight *f, const struct err *err)
{
    size_t n = f->n;
    f->n = 0;
    claim_again_of(j, f);
    j->sweep |= f->sweep;
    for (size_t i = 0; i < n; i++) {
        struct note *note = f->notes[i];
        log_error("journal", "a note was refused", "instance", note->instance, "error",
                  err->message, NULL);
        note->result = NOTE_REFUSED;
        note->error = err->message;
        tell(j, note);
    }
}

/* A step that is there already: the unit was written before, or somebody else wrote in its place.
 */
static bool is_written_before(const struct flight *f, const struct err *err)
{
    bool again = false;
    for (size_t i = 0; i < f->n; i++) {
        again |= f->notes[i]->again;
    }
    return !again && strcmp(err->sqlstate, "23505") == 0;
}

static void refused(struct journal *j, struct flight *f, const struct db_reply *reply)
{
    const struct err *err = db_reply_err(reply);
    int statement = db_reply_failed_statement(reply);
    size_t instances = count_instances(f);
    if (is_written_before(f, err)) {
        log_warn("journal", "a unit meets what is there already, it is sent again", "error",
                 err->message, NULL);
        put_back(j, f, true);
    } else if (f->claim && (statement == f->plan.claim || instances == 0)) {
        log_error("journal", "claiming failed", "error", err->message, NULL);
        put_back(j, f, false);
        j->refused = j->claim;
        j->claim = 0; /* the notes go without it */
        loop_timer_set(j->again, RETRY_MS * 4);
    } else if (instances > 1) {
        log_warn("journal", "a unit was refused, it is halved", "instances",
                 log_int((int64_t)instances), "error", err->message, NULL);
        put_back(j, f, false);
        j->limit = instances / 2;
    } else {
        give_up(j, f, err);
    }
}

/* False while a unit is under way: its answer comes here. */
static bool free_when_idle(struct journal *j)
{
    for (size_t i = 0; i < FLIGHTS; i++) {
        if (j->flights[i].busy)
            return false;
    }
    for (size_t i = 0; i < FLIGHTS; i++) {
        put_back(j, &j->flights[i], false);
    }
    while (j->first) {
        struct note *note = j->first;
        j->first = note->next;
        note_free(note);
    }
    loop_timer_free(j->retry);
    loop_timer_free(j->again);
    loop_timer_free(j->late);
    loop_undefer(j->engine->loop, j);
    free(j);
    return true;
}

/* An unknown claim may have been granted: what we hold is compared with what we know. PostgreSQL
 * may still be at it, and grant it behind our first look. */
static void sweep_from_now(struct journal *j)
{
    j->sweep = true;
    j->sweeps = SWEEPS;
    loop_timer_set(j->late, SWEEP_MS);
}

static void sweep_late(void *ctx)
{
    struct journal *j = ctx;
    j->sweep = true;
    if (--j->sweeps > 1)
        loop_timer_set(j->late, SWEEP_MS * 4);
    flush_soon(j);
}

static void answered(void *ctx, const struct db_reply *reply)
{
    struct flight *f = ctx;
    struct journal *j = f->journal;
    enum db_outcome outcome = db_reply_outcome(reply);
    if (j->stopped || j->lost) {
        f->busy = false;
        if (j->stopped)
            free_when_idle(j);
        return;
    }
    if (outcome == DB_OK) {
        committed(j, f, reply);
    } else if (db_reply_err(reply)->code == ERR_FENCE) {
        j->lost = true;
        f->busy = false;
        j->events.lost(j->events.ctx);
        return;
    } else if (outcome == DB_FAILED && !err_passes(db_reply_err(reply))) {
        refused(j, f, reply);
    } else {
        log_warn("journal", "a unit is sent again", "error", db_reply_err(reply)->message, NULL);
        if (outcome == DB_UNKNOWN && f->claim)
            sweep_from_now(j);
        put_back(j, f, outcome == DB_UNKNOWN);
        loop_timer_set(j->retry, RETRY_MS);
    }
    f->busy = false;
    if (!j->stopped)
        j->events.settled(j->events.ctx);
    if (j->stopped)
        free_when_idle(j);
    else if (j->first || j->claim || j->sweep)
        flush_soon(j);
}

static void retry_due(void *ctx)
{
    flush_soon(ctx);
}

static void claim_again(void *ctx)
{
    struct journal *j = ctx;
    journal_claim(j, j->refused, true);
}

struct journal *journal_new(const struct engine *engine, const struct journal_events *events)
{
    struct journal *j = xcalloc(1, sizeof(*j));
    j->engine = engine;
    j->events = *events;
    j->end = &j->first;
    j->limit = ALL;
    for (size_t i = 0; i < FLIGHTS; i++) {
        j->flights[i].journal = j;
    }
    j->retry = loop_timer_new(engine->loop, retry_due, j);
    j->again = loop_timer_new(engine->loop, claim_again, j);
    j->late = loop_timer_new(engine->loop, sweep_late, j);
    return j;
}

void journal_free(struct journal *journal)
{
    if (!journal)
        return;
    journal->stopped = true;
    loop_timer_clear(journal->retry);
    loop_timer_clear(journal->again);
    loop_timer_clear(journal->late);
    loop_undefer(journal->engine->loop, journal);
    free_when_idle(journal);
}
