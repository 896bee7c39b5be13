/* journal_unit.c - see journal_unit.h. The hot path (steps, plain ends) travels in binary arrays,
 * the rest as one JSON list per kind. */
#include "engine/journal_unit.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX (256u << 20)

/* The notes of one kind, with the arrays their statement is made of. */
struct group {
    struct note **notes;
    size_t n;
};

static struct group pick(struct arena *arena, struct note *const *notes, size_t n,
                         enum note_kind kind)
{
    struct group g = {arena_alloc(arena, (n + 1) * sizeof(struct note *)), 0};
    for (size_t i = 0; i < n; i++) {
        if (notes[i]->kind == kind)
            g.notes[g.n++] = notes[i];
    }
    return g;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct instances of notes, in the order of their ids. */
static const char **owners(struct arena *arena, struct note *const *notes, size_t n, size_t *count)
{
    const char **ids = arena_alloc(arena, (n + 1) * sizeof(char *));
    for (size_t i = 0; i < n; i++) {
        ids[i] = notes[i]->instance;
    }
    qsort(ids, n, sizeof(*ids), by_text);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || strcmp(ids[kept - 1], ids[i]) != 0)
            ids[kept++] = ids[i];
    }
    *count = kept;
    return ids;
}

static const char **texts(struct arena *arena, const struct group *g, size_t offset)
{
    const char **out = arena_alloc(arena, g->n * sizeof(char *));
    for (size_t i = 0; i < g->n; i++) {
        out[i] = *(char **)((char *)g->notes[i] + offset);
    }
    return out;
}

static int32_t *ints(struct arena *arena, const struct group *g, size_t offset)
{
    int32_t *out = arena_alloc(arena, g->n * sizeof(int32_t));
    for (size_t i = 0; i < g->n; i++) {
        out[i] = *(int *)((char *)g->notes[i] + offset);
    }
    return out;
}

static const char **instances(struct arena *arena, const struct group *g)
{
    const char **out = arena_alloc(arena, (g->n + 1) * sizeof(char *));
    for (size_t i = 0; i < g->n; i++) {
        out[i] = g->notes[i]->instance;
    }
    return out;
}

/* Until now, in tenths of a ms, so that the time at which a step is recorded tells when it began.
 */
static int32_t *tooks(struct arena *arena, const struct group *g)
{
    int32_t *out = arena_alloc(arena, g->n * sizeof(int32_t));
    int64_t now = clock_mono_us();
    for (size_t i = 0; i < g->n; i++) {
        int64_t took = g->notes[i]->began_us ? (now - g->notes[i]->began_us) / 100 : 0;
        out[i] = took < INT32_MAX ? (int32_t)took : INT32_MAX;
    }
    return out;
}

/* What record() takes for granted where the array is empty. */
struct usual {
    bool run, branch, ordinal, state;
};

static struct usual usual(const struct group *g, bool again)
{
    struct usual u = {!again, !again, !again, !again};
    for (size_t i = 0; i < g->n; i++) {
        const struct note *note = g->notes[i];
        if (strcmp(note->state, "note") == 0)
            return (struct usual){false, false, false, false};
        u.run &= note->run == 1;
        u.branch &= note->branch[0] == 0;
        u.ordinal &= note->ordinal == note->seq;
        u.state &= strcmp(note->state, "done") == 0;
    }
    return u;
}

#define TEXTS(field) texts(arena, g, offsetof(struct note, field))
#define INTS(field) ints(arena, g, offsetof(struct note, field))

static void add_steps(struct arena *arena, struct db_unit *unit, const char *me, bool again,
                      const struct group *g)
{
    size_t count = 0;
    const char **watched = arena_alloc(arena, (g->n + 1) * sizeof(char *));
    for (size_t i = 0; i < g->n; i++) {
        if (g->notes[i]->watched)
            watched[count++] = g->notes[i]->instance;
    }
    struct usual u = usual(g, again);
    int16_t *runs = arena_alloc(arena, g->n * sizeof(int16_t));
    for (size_t i = 0; i < g->n; i++) {
        runs[i] = (int16_t)g->notes[i]->run;
    }
    db_unit_begin(unit, "select * from record($1::uuid, $2::boolean, $3::uuid[], $4::uuid[], "
                        "$5::smallint[], $6::int[], $7::text[], $8::int[], $9::text[], "
                        "$10::text[], $11::text[], $12::json[], $13::json[], $14::int[])");
    db_param_text(unit, me);
    db_param_text(unit, again ? "t" : "f");
    db_param_uuids(unit, count, watched);
    db_param_uuids(unit, g->n, instances(arena, g));
    db_param_int2s(unit, u.run ? 0 : g->n, runs);
    db_param_int4s(unit, g->n, INTS(seq));
    db_param_texts(unit, u.branch ? 0 : g->n, TEXTS(branch));
    db_param_int4s(unit, u.ordinal ? 0 : g->n, INTS(ordinal));
    db_param_texts(unit, u.state ? 0 : g->n, TEXTS(state));
    db_param_texts(unit, g->n, TEXTS(name));
    db_param_texts(unit, g->n, TEXTS(hash));
    db_param_jsons(unit, g->n, TEXTS(input));
    db_param_jsons(unit, g->n, TEXTS(output));
    db_param_int4s(unit, g->n, tooks(arena, g));
}

/* One statement with a JSON list of the notes' elements. */
static void add_list(struct db_unit *unit, const char *sql, const char *me, const struct group *g)
{
    struct buf list;
    buf_init(&list, LIST_MAX);
    buf_addc(&list, '[');
    for (size_t i = 0; i < g->n; i++) {
        buf_printf(&list, "%s{\"i\":%zu,\"instance\":\"%s\",", i ? "," : "", i,
                   g->notes[i]->instance);
        buf_adds(&list, g->notes[i]->json);
        buf_addc(&list, '}');
    }
    buf_addc(&list, ']');
    db_unit_addv(unit, sql, 2, me, list.overflow ? "too long" : list.data);
    buf_fini(&list);
}

static void add_not_ours(struct arena *arena, struct db_unit *unit, const char *me,
                         const struct group *g)
{
    const char **events = arena_alloc(arena, g->n * sizeof(char *));
    int64_t *settled = arena_alloc(arena, g->n * sizeof(int64_t));
    for (size_t i = 0; i < g->n; i++) {
        events[i] = g->notes[i]->event;
        settled[i] = g->notes[i]->settled;
    }
    db_unit_begin(unit, "select stop_not_ours($1::uuid, $2::uuid[], $3::uuid[], $4::bigint[])");
    db_param_text(unit, me);
    db_param_uuids(unit, g->n, instances(arena, g));
    db_param_uuids(unit, g->n, events);
    db_param_int8s(unit, g->n, settled);
}

static void add_finish(struct arena *arena, struct db_unit *unit, const char *me,
                       const struct group *g)
{
    struct buf results;
    buf_init(&results, LIST_MAX);
    buf_addc(&results, '{');
    for (size_t i = 0; i < g->n; i++) {
        if (g->notes[i]->json)
            buf_printf(&results, "%s\"%s\":{%s}", results.len > 1 ? "," : "", g->notes[i]->instance,
                       g->notes[i]->json);
    }
    buf_addc(&results, '}');
    db_unit_begin(unit, "select finish($1::uuid, $2::uuid[], $3::jsonb)");
    db_param_text(unit, me);
    db_param_uuids(unit, g->n, instances(arena, g));
    db_param_text(unit, results.len > 2 ? results.data : NULL);
    buf_fini(&results);
}

/* Tells flow control who may have been given back or ended in this unit: behind those statements.
 */
static bool add_left(struct arena *arena, struct db_unit *unit, struct note *const *notes, size_t n)
{
    const char **ids = arena_alloc(arena, (n + 1) * sizeof(char *));
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (notes[i]->flow)
            ids[count++] = notes[i]->instance;
    }
    if (count == 0)
        return false;
    db_unit_begin(unit, "select flow_left($1::uuid[])");
    db_param_uuids(unit, count, ids);
    return true;
}

static void add_begin(struct arena *arena, struct db_unit *unit, const char *me,
                      const struct group *g)
{
    db_unit_begin(unit, "select * from flow_begin($1::uuid, $2::uuid[])");
    db_param_text(unit, me);
    db_param_uuids(unit, g->n, instances(arena, g));
}

/* Who is asked for stops: those that go on after this unit. record() asks those of the steps. */
static bool goes_on(const struct note *note)
{
    return note->kind == NOTE_SUSPEND || note->kind == NOTE_BEGIN || note->kind == NOTE_ASK;
}

static bool add_stops(struct arena *arena, struct db_unit *unit, struct note *const *notes,
                      size_t n)
{
    struct note **asking = arena_alloc(arena, (n + 1) * sizeof(struct note *));
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (goes_on(notes[i]))
            asking[count++] = notes[i];
    }
    if (count == 0)
        return false;
    size_t distinct;
    const char **ids = owners(arena, asking, count, &distinct);
    db_unit_begin(unit, "select * from stop_candidates($1::uuid[])");
    db_param_uuids(unit, distinct, ids);
    return true;
}

struct db_unit *journal_unit_build(struct note *const *notes, size_t n, const struct unit_ask *ask,
                                   struct unit_plan *plan)
{
    struct arena *arena = arena_new();
    struct db_unit *unit = db_unit_new();
    const char *me = worker_id(ask->worker);
    int next = 0;
    *plan = (struct unit_plan){-1, -1, -1, -1, -1, -1, -1, -1};
    worker_fence(ask->worker, unit);
    next++;
    bool gated = false;
    for (size_t i = 0; i < n; i++) {
        gated |= notes[i]->gated;
    }
    if (gated) {
        db_unit_addv(unit, "select lock_gate()", 0);
        next++;
    }
    struct group g = pick(arena, notes, n, NOTE_STEP);
    if (g.n) {
        add_steps(arena, unit, me, ask->again, &g);
        plan->step = next++;
    }
    g = pick(arena, notes, n, NOTE_NOT_OURS);
    if (g.n) {
        add_not_ours(arena, unit, me, &g);
        next++;
    }
    g = pick(arena, notes, n, NOTE_SUSPEND);
    if (g.n) {
        add_list(unit, "select * from suspend($1::uuid, $2::json)", me, &g);
        plan->suspend = next++;
    }
    g = pick(arena, notes, n, NOTE_STOPPING);
    if (g.n) {
        add_list(unit, "select * from stopping($1::uuid, $2::json)", me, &g);
        plan->stopping = next++;
    }
    g = pick(arena, notes, n, NOTE_RELEASE);
    if (g.n) {
        add_list(unit, "select * from release($1::uuid, $2::json)", me, &g);
        plan->release = next++;
    }
    g = pick(arena, notes, n, NOTE_FINISH);
    if (g.n) {
        add_finish(arena, unit, me, &g);
        plan->finish = next++;
    }
    if (add_left(arena, unit, notes, n))
        next++;
    g = pick(arena, notes, n, NOTE_BEGIN);
    if (g.n) {
        add_begin(arena, unit, me, &g);
        plan->begin = next++;
    }
    if (add_stops(arena, unit, notes, n))
        plan->stops = next++;
    if (ask->sweep) {
        db_unit_begin(unit, "select release_unknown($1::uuid, $2::uuid[])");
        db_param_text(unit, me);
        db_param_uuids(unit, ask->nknown, ask->known);
        next++;
    }
    if (ask->claim > 0) {
        db_unit_begin(unit, "select * from claim($1::uuid, $2::int)");
        db_param_text(unit, me);
        db_param_int(unit, ask->claim);
        plan->claim = next++;
    }
    arena_free(arena);
    return unit;
}

/* ---- reading ---- */

static struct note *find(struct note *const *notes, size_t n, enum note_kind kind, const char *id,
                         int seq)
{
    for (size_t i = 0; i < n; i++) {
        struct note *note = notes[i];
        if (note->kind == kind && strcmp(note->instance, id) == 0 && (seq < 0 || note->seq == seq))
            return note;
    }
    return NULL;
}

static struct candidate *candidate_of(const struct db_reply *reply, int s, int row, int event,
                                      int settled, int payload)
{
    struct candidate *c = xcalloc(1, sizeof(*c));
    const char *id = db_value(reply, s, row, event), *text = db_value(reply, s, row, payload);
    memcpy(c->event, id, strnlen(id, sizeof(c->event) - 1));
    c->settled = db_int(reply, s, row, settled);
    c->payload = xstrdup(text ? text : "{}");
    return c;
}

/* What asks the owner of one of these notes to stop: of a step, or of those asked for apart. */
static void tell_stop(struct note *const *notes, size_t n, bool steps, const char *id,
                      struct candidate *c, const struct journal_events *events)
{
    for (size_t i = 0; i < n; i++) {
        bool asked = steps ? notes[i]->kind == NOTE_STEP : goes_on(notes[i]);
        if (asked && strcmp(notes[i]->instance, id) == 0) {
            events->stop(notes[i]->owner, c);
            return;
        }
    }
    candidate_free(c);
}

static void set_at(struct note *note, const char *at)
{
    text_copy(note->at, sizeof(note->at), at);
}

static void read_step(struct note *const *notes, size_t n, const struct db_reply *reply, int s,
                      int row)
{
    const char *what = db_value(reply, s, row, 0), *id = db_value(reply, s, row, 1);
    if (strcmp(what, "lost") == 0) {
        for (size_t i = 0; i < n; i++) {
            if (notes[i]->kind == NOTE_STEP && strcmp(notes[i]->instance, id) == 0)
                notes[i]->result = NOTE_LOST;
        }
        return;
    }
    struct note *note = find(notes, n, NOTE_STEP, id, (int)db_int(reply, s, row, 2));
    if (!note)
        return;
    set_at(note, db_value(reply, s, row, 3));
    if (strcmp(what, "differs") == 0)
        note->result = NOTE_DIFFERS;
}

static void read_steps(struct note *const *notes, size_t n, const struct db_reply *reply, int s,
                       const struct journal_events *events)
{
    const char *at = db_value(reply, s, 0, 3);
    for (size_t i = 0; i < n; i++) {
        if (notes[i]->kind == NOTE_STEP)
            set_at(notes[i], at);
    }
    for (int row = 1; row < db_rows(reply, s); row++) {
        if (strcmp(db_value(reply, s, row, 0), "stop") != 0) {
            read_step(notes, n, reply, s, row);
            continue;
        }
        struct candidate *c = candidate_of(reply, s, row, 4, 6, 7);
        c->judged = db_bool(reply, s, row, 5);
        tell_stop(notes, n, true, db_value(reply, s, row, 1), c, events);
    }
}

static void read_suspended(struct note *const *notes, size_t n, const struct db_reply *reply, int s)
{
    struct arena *arena = arena_new();
    struct group g = pick(arena, notes, n, NOTE_SUSPEND);
    for (int row = 0; row < db_rows(reply, s); row++) {
        size_t i = (size_t)db_int(reply, s, row, 0);
        if (i >= g.n)
            continue;
        struct note *note = g.notes[i];
        const char *result = db_value(reply, s, row, 1), *at = db_value(reply, s, row, 2);
        if (strcmp(result, "lost") == 0) {
            note->result = NOTE_LOST;
        } else if (strcmp(result, "done") == 0) {
            note->result = NOTE_DONE;
            set_at(note, at);
            note->payload = xstrdup(db_value(reply, s, row, 5));
        } else if (strcmp(result, "judge") == 0) {
            note->result = NOTE_JUDGE;
            struct candidate **end = &note->candidates;
            while (*end) {
                end = &(*end)->next;
            }
            *end = candidate_of(reply, s, row, 3, 4, 5);
        } else {
            note->result = NOTE_WAITS;
        }
    }
    arena_free(arena);
}

static void read_lost(struct note *const *notes, size_t n, enum note_kind kind,
                      const struct db_reply *reply, int s)
{
    for (int row = 0; row < db_rows(reply, s); row++) {
        struct note *note = find(notes, n, kind, db_value(reply, s, row, 0), -1);
        if (note)
            note->result = NOTE_LOST;
    }
}

static void read_stops(struct note *const *notes, size_t n, const struct db_reply *reply, int s,
                       const struct journal_events *events)
{
    for (int row = 0; row < db_rows(reply, s); row++) {
        const char *id = db_value(reply, s, row, 0);
        struct candidate *c = candidate_of(reply, s, row, 1, 4, 3);
        c->judged = db_bool(reply, s, row, 2);
        tell_stop(notes, n, false, id, c, events);
    }
}

void journal_unit_read(struct note *const *notes, size_t n, const struct unit_plan *plan,
                       const struct db_reply *reply, const struct journal_events *events)
{
    for (size_t i = 0; i < n; i++) {
        notes[i]->result = NOTE_DONE;
    }
    if (plan->step >= 0)
        read_steps(notes, n, reply, plan->step, events);
    if (plan->suspend >= 0)
        read_suspended(notes, n, reply, plan->suspend);
    if (plan->stopping >= 0)
        read_lost(notes, n, NOTE_STOPPING, reply, plan->stopping);
    if (plan->release >= 0)
        read_lost(notes, n, NOTE_RELEASE, reply, plan->release);
    if (plan->begin >= 0)
        read_lost(notes, n, NOTE_BEGIN, reply, plan->begin);
    if (plan->stops >= 0)
        read_stops(notes, n, reply, plan->stops, events);
}
