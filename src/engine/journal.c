/* journal.c - see journal.h. */
#include "engine/journal.h"

#include "base/log.h"
#include "base/mem.h"
#include "engine/journal_unit.h"
#include "engine/worker.h"

#include <stdlib.h>
#include <string.h>

#define UNIT_NOTES 1000 /* notes of one unit */
#define RETRY_MS 250    /* before a unit is sent again that failed for no fault of its own */
#define ALL SIZE_MAX

struct journal {
    const struct engine *engine;
    struct journal_events events;
    struct loop_timer *retry;
    struct note *first, **end; /* queued */
    struct note *flying[UNIT_NOTES];
    size_t nflying;
    struct unit_plan plan;
    size_t limit;       /* instances per unit while one of them makes units fail */
    int claim, claimed; /* asked for; in the unit under way */
    bool sweep, swept;
    bool busy, deferred, lost, stopped;
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

static void note_free(struct note *note)
{
    free(note->json);
    free(note->branch);
    free(note->name);
    free(note->hash);
    free(note->state);
    free(note->input);
    free(note->output);
    free(note->at);
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
    if (j->busy || j->deferred || j->lost || j->stopped || loop_timer_armed(j->retry))
        return;
    j->deferred = true;
    loop_defer(j->engine->loop, flush, j);
}

void journal_add(struct journal *journal, struct note *note)
{
    note->next = NULL;
    *journal->end = note;
    journal->end = &note->next;
    flush_soon(journal);
}

void journal_claim(struct journal *journal, int n)
{
    journal->claim = n;
    if (n > 0)
        flush_soon(journal);
}

/* Takes notes for a unit: of the first `limit` instances only, in their order. */
static void take(struct journal *j)
{
    const char *seen[UNIT_NOTES];
    size_t nseen = 0;
    struct note **p = &j->first;
    j->nflying = 0;
    while (*p && j->nflying < UNIT_NOTES) {
        struct note *note = *p;
        bool fits = j->limit == ALL;
        for (size_t i = 0; !fits && i < nseen; i++) {
            fits = strcmp(seen[i], note->instance) == 0;
        }
        if (!fits && nseen < j->limit) {
            seen[nseen++] = note->instance;
            fits = true;
        }
        if (!fits) {
            p = &note->next;
            continue;
        }
        *p = note->next;
        j->flying[j->nflying++] = note;
    }
    if (!*p)
        j->end = p;
    for (struct note **e = j->end; *e; e = &(*e)->next) {
        j->end = &(*e)->next;
    }
}

/* Back to the front, as they were. */
static void put_back(struct journal *j)
{
    for (size_t i = j->nflying; i > 0; i--) {
        struct note *note = j->flying[i - 1];
        note->next = j->first;
        if (!j->first)
            j->end = &note->next;
        j->first = note;
    }
    j->nflying = 0;
    if (j->claimed && !j->claim)
        j->claim = j->claimed;
    j->sweep |= j->swept;
}

/* ---- one unit ---- */

static void answered(void *ctx, const struct db_reply *reply);

static void flush(void *ctx)
{
    struct journal *j = ctx;
    j->deferred = false;
    if (j->busy || j->lost || j->stopped || (!j->first && !j->claim))
        return;
    if (!j->first)
        j->limit = ALL; /* whoever made units fail is out of the queue */
    take(j);
    struct unit_ask ask = {.worker = j->engine->worker};
    if (j->limit == ALL) {
        ask.claim = j->claim;
        ask.sweep = j->sweep;
    }
    if (ask.sweep)
        ask.known = j->events.known(j->events.ctx, &ask.nknown);
    j->claimed = ask.claim;
    j->swept = ask.sweep;
    if (ask.claim)
        j->claim = 0;
    if (ask.sweep)
        j->sweep = false;
    if (!j->nflying && !j->claimed)
        return;
    j->busy = true;
    pool_send(j->engine->db, journal_unit_build(j->flying, j->nflying, &ask, &j->plan), answered,
              j);
}

static void committed(struct journal *j, const struct db_reply *reply)
{
    size_t n = j->nflying;
    int claimed = j->claimed;
    struct note *notes[UNIT_NOTES];
    memcpy(notes, j->flying, n * sizeof(*notes));
    struct unit_plan plan = j->plan;
    if (j->limit != ALL)
        j->limit = j->limit > UNIT_NOTES ? ALL : j->limit * 2;
    j->nflying = 0;
    journal_unit_read(notes, n, &plan, reply, &j->events);
    for (size_t i = 0; i < n; i++) {
        if (!j->stopped && notes[i]->done)
            notes[i]->done(notes[i]);
        note_free(notes[i]);
    }
    if (!claimed || j->stopped)
        return;
    int rows = db_rows(reply, plan.claim);
    for (int row = 0; row < rows && !j->stopped; row++) {
        j->events.claimed(j->events.ctx, reply, plan.claim, row);
    }
    if (!j->stopped)
        j->events.claim_done(j->events.ctx, rows);
}

static size_t count_instances(const struct journal *j)
{
    size_t n = 0;
    for (size_t i = 0; i < j->nflying; i++) {
        bool seen = false;
        for (size_t k = 0; !seen && k < i; k++) {
            seen = strcmp(j->flying[k]->instance, j->flying[i]->instance) == 0;
        }
        n += !seen;
    }
    return n;
}

static void refused(struct journal *j, const struct db_reply *reply)
{
    const struct err *err = db_reply_err(reply);
    int statement = db_reply_failed_statement(reply);
    size_t instances = count_instances(j);
    if (j->claimed && (statement == j->plan.claim || instances == 0)) {
        log_error("journal", "claiming failed", "error", err->message, NULL);
        put_back(j);
        j->claim = 0;
        loop_timer_set(j->retry, RETRY_MS * 4);
        return;
    }
    if (instances > 1) {
        log_warn("journal", "a unit was refused, it is halved", "instances",
                 log_int((int64_t)instances), "error", err->message, NULL);
        put_back(j);
        j->limit = instances / 2;
        flush_soon(j);
        return;
    }
    size_t n = j->nflying;
    struct note *notes[UNIT_NOTES];
    memcpy(notes, j->flying, n * sizeof(*notes));
    j->nflying = 0;
    if (j->claimed && !j->claim)
        j->claim = j->claimed;
    j->sweep |= j->swept;
    for (size_t i = 0; i < n; i++) {
        log_error("journal", "a note was refused", "instance", notes[i]->instance, "error",
                  err->message, NULL);
        notes[i]->result = NOTE_REFUSED;
        notes[i]->error = err->message;
        if (!j->stopped && notes[i]->done)
            notes[i]->done(notes[i]);
        note_free(notes[i]);
    }
}

static void free_now(struct journal *j)
{
    put_back(j);
    while (j->first) {
        struct note *note = j->first;
        j->first = note->next;
        note_free(note);
    }
    loop_timer_free(j->retry);
    loop_undefer(j->engine->loop, j);
    free(j);
}

static void answered(void *ctx, const struct db_reply *reply)
{
    struct journal *j = ctx;
    enum db_outcome outcome = db_reply_outcome(reply);
    if (j->stopped) {
        free_now(j);
        return;
    }
    if (outcome == DB_OK) {
        committed(j, reply);
    } else if (db_reply_err(reply)->code == ERR_FENCE) {
        j->lost = true;
        put_back(j);
        j->busy = false;
        j->events.lost(j->events.ctx);
        return;
    } else if (outcome == DB_FAILED && !err_passes(db_reply_err(reply))) {
        refused(j, reply);
    } else {
        log_warn("journal", "a unit is sent again", "error", db_reply_err(reply)->message, NULL);
        /* An unknown claim may have been granted: what we hold is compared with what we know. */
        j->sweep |= outcome == DB_UNKNOWN && j->claimed;
        put_back(j);
        loop_timer_set(j->retry, RETRY_MS);
    }
    j->busy = false;
    if (j->stopped) {
        free_now(j);
        return;
    }
    if (j->first || j->claim)
        flush_soon(j);
}

static void retry_due(void *ctx)
{
    flush_soon(ctx);
}

struct journal *journal_new(const struct engine *engine, const struct journal_events *events)
{
    struct journal *j = xcalloc(1, sizeof(*j));
    j->engine = engine;
    j->events = *events;
    j->end = &j->first;
    j->limit = ALL;
    j->retry = loop_timer_new(engine->loop, retry_due, j);
    return j;
}

void journal_free(struct journal *journal)
{
    if (!journal)
        return;
    journal->stopped = true;
    loop_timer_clear(journal->retry);
    loop_undefer(journal->engine->loop, journal);
    if (!journal->busy)
        free_now(journal);
}
