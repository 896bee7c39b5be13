/* journal.h - what instances want written, gathered into units: group commit.
 *
 *     note --added--> queued --unit sent--> flying --committed--> done(result)
 *                       ^---- refused, unsent, unknown: sent again ----'
 *
 * A unit is: fence, gate, steps, waits, releases, ends, the question for stops, and a claim for
 * more. Two may be under way, on one connection: the database does one while we do what the answer
 * of the other allows. They never hold notes of the same instance, so that one may fail and the
 * other not, in whatever order: notes of one instance stay in theirs. A unit whose outcome is
 * unknown is sent again, every statement of it finds what it did before; one that the database
 * refuses is halved until the instance whose data it is stands alone. */
#ifndef ENGINE_JOURNAL_H
#define ENGINE_JOURNAL_H

#include "engine/engine.h"

struct journal;

enum note_kind {
    NOTE_STEP,     /* a finished step */
    NOTE_SUSPEND,  /* a sleep or a wait: json is an element of suspend() without its i */
    NOTE_RELEASE,  /* json is an element of release() */
    NOTE_STOPPING, /* json is an element of stopping() */
    NOTE_NOT_OURS, /* a stop event that is not ours */
    NOTE_FINISH,   /* json is the instance's part of finish()'s results; NULL: plainly done */
    NOTE_BEGIN,    /* may its body go on? NOTE_LOST: it was given back instead */
    NOTE_ASK       /* nothing: only the question for stops */
};

enum note_result {
    NOTE_DONE,    /* written; for a step and a decided wait, at and payload are set */
    NOTE_LOST,    /* this worker doesn't hold the instance (any more) */
    NOTE_DIFFERS, /* another step was recorded in its place */
    NOTE_JUDGE,   /* a wait with candidates for Lua */
    NOTE_WAITS,   /* registered, and released if that was asked */
    NOTE_REFUSED  /* the database refuses it for good: error says why */
};

struct candidate {
    struct candidate *next;
    bool judged;
    int64_t settled;
    char event[37];
    char *payload;
};
void candidate_free(struct candidate *candidate);

struct note {
    enum note_kind kind;
    char instance[37];
    void *owner;                     /* whose note: the ctx of `stop` */
    void (*done)(struct note *note); /* the note is freed after it */
    void *ctx;
    bool gated; /* the unit locks the gate */
    bool flow;  /* flow control is told if it is given back or ends; needs gated */
    bool again; /* the journal's: it may have been written already */
    char *json;
    /* NOTE_STEP: its texts are in `texts`, or constant; that and output are the note's */
    int run, seq, ordinal;
    bool watched;     /* it had stop subscriptions when it was claimed */
    int64_t began_us; /* clock_mono_us(); 0: nothing was called */
    char *texts, *output;
    const char *branch, *name, *hash, *state, *input;
    /* NOTE_NOT_OURS */
    char event[37];
    int64_t settled;
    /* the answer */
    enum note_result result;
    char at[24]; /* business time, UTC text */
    char *payload;
    struct candidate *candidates; /* oldest first */
    const char *error;
    struct note *next; /* the journal's */
};

struct journal_events {
    /* A stop candidate of a note's owner; called before the done of the notes of its unit. The
     * candidate is the receiver's. */
    void (*stop)(void *owner, struct candidate *candidate);
    /* One row of claim(), see schema/0004_execute.sql; called after the dones. */
    void (*claimed)(void *ctx, const struct db_reply *reply, int statement, int row);
    void (*claim_done)(void *ctx, int rows); /* after the last row */
    void (*settled)(void *ctx);              /* a unit is answered, all of it was told */
    void (*sending)(void *ctx);              /* a unit may go: the last moment to claim with it */
    /* The instances that we know we hold: an array of *n ids, valid until the next call. */
    const char *const *(*known)(void *ctx, size_t *n);
    void (*lost)(void *ctx); /* the lease is gone; called once, nothing is called after it */
    void *ctx;
};

struct journal *journal_new(const struct engine *engine, const struct journal_events *events);
void journal_free(struct journal *journal); /* forgets what isn't written; no done is called */

struct note *note_new(enum note_kind kind, const char *instance, void *owner);
void journal_add(struct journal *journal, struct note *note);
/* Queued or under way, but for those by which an instance leaves. */
size_t journal_notes(const struct journal *journal);
/* The next unit also claims up to n instances (0: no); a unit is made for it only when it has no
 * time to wait for notes. */
void journal_claim(struct journal *journal, int n, bool hurried);
/* A claim that waits for notes goes now. False: none does. */
bool journal_hurry(struct journal *journal);

#endif
