/* bodies.c - see bodies.h.
 *
 *     absent --get--> loading --read, compiled--> ready | broken --unused, too many--> absent
 *
 * A broken one is tried again by the next that asks, one second later at the earliest; at once when
 * it was the database that could not be asked. */
#include "engine/bodies.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "script/json.h"
#include "script/vm.h"

#include <stdlib.h>
#include <string.h>

#define KEPT 64                /* versions that nobody uses */
#define VM_MEMORY (256u << 20) /* of all instances of a version together */
#define TRY_AGAIN_MS 1000

struct waiter {
    struct waiter *next;
    body_fn *fn;
    void *ctx;
};

struct entry {
    struct body body; /* first: a body is its entry */
    struct bodies *bodies;
    struct entry *next;
    struct waiter *waiters, **end;
    bool loading, answering;
    int users;
    int64_t used_ms, loaded_ms; /* 0: never */
};

struct bodies {
    const struct engine *engine;
    struct entry *entries;
    int in_flight;
    bool stopped;
};

struct bodies *bodies_new(const struct engine *engine)
{
    struct bodies *b = xcalloc(1, sizeof(*b));
    b->engine = engine;
    return b;
}

static void entry_clear(struct entry *e)
{
    vm_free(e->body.vm);
    free(e->body.workflow);
    free(e->body.class_);
    e->body.vm = NULL;
    e->body.workflow = e->body.class_ = NULL;
}

static void entry_free(struct entry *e)
{
    entry_clear(e);
    while (e->waiters) {
        struct waiter *w = e->waiters;
        e->waiters = w->next;
        free(w);
    }
    loop_undefer(e->bodies->engine->loop, e);
    free(e);
}

static void free_all(struct bodies *b)
{
    while (b->entries) {
        struct entry *e = b->entries;
        b->entries = e->next;
        entry_free(e);
    }
    free(b);
}

void bodies_free(struct bodies *bodies)
{
    if (!bodies)
        return;
    bodies->stopped = true;
    for (struct entry *e = bodies->entries; e; e = e->next) {
        entry_clear(e);
    }
    if (bodies->in_flight == 0)
        free_all(bodies);
}

static void drop_unused(struct bodies *b)
{
    for (;;) {
        struct entry **oldest = NULL;
        int unused = 0;
        for (struct entry **p = &b->entries; *p; p = &(*p)->next) {
            struct entry *e = *p;
            if (e->users || e->loading || e->waiters)
                continue;
            unused++;
            if (!oldest || e->used_ms < (*oldest)->used_ms)
                oldest = p;
        }
        if (unused <= KEPT)
            return;
        struct entry *e = *oldest;
        *oldest = e->next;
        entry_free(e);
    }
}

/* Hands the body to all who wait. None of them asks for another from inside. */
static void answer(void *ctx)
{
    struct entry *e = ctx;
    e->answering = false;
    while (e->waiters && !e->loading) {
        struct waiter *w = e->waiters;
        e->waiters = w->next;
        if (!e->waiters)
            e->end = &e->waiters;
        e->users++;
        w->fn(w->ctx, &e->body);
        free(w);
    }
}

static void answer_later(struct entry *e)
{
    if (!e->answering && !e->loading && e->waiters) {
        e->answering = true;
        loop_defer(e->bodies->engine->loop, answer, e);
    }
}

static bool load(struct entry *e, const char *name, const char *bundle, size_t len)
{
    const struct engine *engine = e->bodies->engine;
    const struct vm_options options = {
        .main = "body", .lua_dir = engine->lua_dir, .memory = VM_MEMORY};
    struct body *body = &e->body;
    body->workflow = xstrdup(name);
    body->vm = vm_new(engine->loop, &options, &body->err);
    if (!body->vm)
        return false;
    struct buf out;
    buf_init(&out, 1u << 20);
    const struct slice arg = {bundle, len};
    bool ok = vm_call(body->vm, "load", &arg, 1, &out, &body->err);
    struct json *facts = ok ? json_parse(out.data, out.len, &body->err) : NULL;
    buf_fini(&out);
    if (!facts) {
        vm_free(body->vm);
        body->vm = NULL;
        return false;
    }
    const char *class_ = json_text(facts, "class");
    body->class_ = xstrdup(class_ ? class_ : "marketing");
    body->on_stop = json_bool(facts, "on_stop");
    body->undoes = json_bool(facts, "undoes");
    json_free(facts);
    return true;
}

static void loaded(void *ctx, const struct db_reply *reply)
{
    struct entry *e = ctx;
    struct bodies *b = e->bodies;
    b->in_flight--;
    if (b->stopped) {
        if (b->in_flight == 0)
            free_all(b);
        return;
    }
    e->loading = false;
    e->used_ms = e->loaded_ms = clock_mono_ms();
    entry_clear(e);
    if (db_reply_outcome(reply) != DB_OK)
        e->body.err = *db_reply_err(reply);
    else if (db_rows(reply, 0) == 0)
        err_set(&e->body.err, ERR_INPUT, "there is no workflow definition %d", e->body.id);
    else
        load(e, db_value(reply, 0, 0, 0), db_value(reply, 0, 0, 1), db_length(reply, 0, 0, 1));
    if (!e->body.vm)
        log_error("execute", "a version can't be loaded", "definition", log_int(e->body.id),
                  "error", e->body.err.message, NULL);
    answer_later(e);
}

static void fetch(struct entry *e)
{
    char *id = xprintf("%d", e->body.id);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select d.name, json_build_object('name', d.name, 'files', d.files, "
                 "'actions', d.declaration->'actions', 'events', d.declaration->'events', "
                 "'company', d.declaration->'company') from workflow_definitions d "
                 "where d.id = $1::int",
                 1, id);
    free(id);
    e->loading = true;
    e->bodies->in_flight++;
    pool_send(e->bodies->engine->db, unit, loaded, e);
}

void bodies_get(struct bodies *b, int definition, body_fn *fn, void *ctx)
{
    struct entry *e = b->entries;
    while (e && e->body.id != definition) {
        e = e->next;
    }
    if (!e) {
        drop_unused(b);
        e = xcalloc(1, sizeof(*e));
        e->bodies = b;
        e->body.id = definition;
        e->end = &e->waiters;
        e->next = b->entries;
        b->entries = e;
    }
    struct waiter *w = xcalloc(1, sizeof(*w));
    w->fn = fn;
    w->ctx = ctx;
    *e->end = w;
    e->end = &w->next;
    bool stale = !e->body.vm && e->users == 0 &&
                 (e->loaded_ms == 0 || err_passes(&e->body.err) ||
                  clock_mono_ms() - e->loaded_ms > TRY_AGAIN_MS);
    if (!e->loading && stale)
        fetch(e);
    answer_later(e);
}

void bodies_put(struct bodies *b, struct body *body)
{
    (void)b;
    struct entry *e = (struct entry *)body;
    must(e->users > 0);
    e->users--;
    e->used_ms = clock_mono_ms();
    if (e->users == 0 && e->body.vm)
        vm_rest(e->body.vm);
}

void bodies_forget(struct bodies *b, void *ctx)
{
    for (struct entry *e = b->entries; e; e = e->next) {
        struct waiter **p = &e->waiters;
        while (*p) {
            struct waiter *w = *p;
            if (w->ctx == ctx) {
                *p = w->next;
                free(w);
            } else {
                p = &w->next;
            }
        }
        e->end = p;
    }
}
