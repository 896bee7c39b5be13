/* versions.c - see versions.h.
 *
 *     idle --start, a file changed, another's stamp--> asked what is in force --> (Lua)
 *       ^------------------------------ put in force <-----------------------------'
 *
 * Reading, validating and putting in force are repeatable: a definition is found again by its
 * SHA-256, so a look that is cut short, or that two workers do at once, changes nothing twice. A
 * look that finds that something else was put in force meanwhile begins again.
 *
 * A file that runs too long or takes too much memory while it is loaded kills its VM: it is set
 * aside, and the others are loaded in a new one. A file that vanished is taken for deleted a second
 * later at the earliest: many editors replace a file by way of none. */
#include "engine/versions.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/detect.h"
#include "engine/page.h"
#include "engine/settings.h"
#include "engine/sources.h"
#include "engine/worker.h"
#include "io/watch.h"
#include "script/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX ((size_t)192 << 20)
#define TRY_AGAIN_MS 1000
#define GONE_MS 1000       /* until a file that isn't there was deleted */
#define UNDECIDED_MS 15000 /* until a tree that is new asks again whether it is the only one */
#define POLL_MS 2000       /* how often others are asked for, where they aren't heard */
#define HEARD 5            /* where they are, so much more seldom */

struct versions {
    const struct engine *engine;
    struct versions_events events;
    struct watch *watch;
    struct listener *listener;
    struct loop_timer *timer, *poll;
    char *tree, *trusted;
    bool busy, again, polling, stopped;
    bool told;          /* while it was polling */
    bool looked;        /* a first look has succeeded */
    bool asked;         /* somebody waits for the end of a look */
    int64_t gone_since; /* when a file that this tree had wasn't there, 0: none */
    int64_t stamp;      /* of what our detect VM has */
    struct vm *candidate;
    struct sources sources;
    struct json *loaded; /* what load() said; refusals point into it */
    char *bundle;        /* the actions that were told last */
    struct versions_refusal *refusals;
    size_t refused;
};

static void versions_free(struct versions *v)
{
    vm_free(v->candidate);
    sources_fini(&v->sources);
    json_free(v->loaded);
    free(v->refusals);
    free(v->bundle);
    free(v->trusted);
    free(v->tree);
    free(v);
}

/* Ends a look; the next one begins after so many milliseconds, or -1: when something changes. */
static void done(struct versions *v, int64_t ms)
{
    v->busy = false;
    vm_free(v->candidate);
    v->candidate = NULL;
    if (v->stopped) {
        if (!v->polling)
            versions_free(v);
        return;
    }
    if (v->again || ms >= 0)
        loop_timer_set(v->timer, v->again ? 0 : ms);
    if (v->asked && !v->again) {
        v->asked = false;
        page()->reloads++;
    }
}

static bool answered(struct versions *v, const struct db_reply *reply)
{
    if (!v->stopped && db_reply_outcome(reply) == DB_OK)
        return true;
    const struct err *err = db_reply_err(reply);
    bool raced = db_reply_outcome(reply) == DB_FAILED && strcmp(err->sqlstate, "MWC01") == 0;
    if (!v->stopped && !raced)
        log_warn("versions", "workflows can't be put in force yet", "error", err->message, NULL);
    done(v, raced ? 0 : TRY_AGAIN_MS);
    return false;
}

/* ---- what load() said ---- */

static void keep_refusals(struct versions *v, struct json *loaded)
{
    struct versions_refusal *old = v->refusals;
    size_t old_count = v->refused;
    struct json *old_loaded = v->loaded;
    v->loaded = loaded;
    v->refused = json_count(loaded, "refused");
    v->refusals = xcalloc(v->refused + 1, sizeof(*v->refusals));
    for (size_t i = 0; i < v->refused; i++) {
        struct versions_refusal *r = &v->refusals[i];
        char path[64];
        int64_t line = 0;
        snprintf(path, sizeof(path), "refused.%zu.file", i);
        r->file = json_text(loaded, path);
        snprintf(path, sizeof(path), "refused.%zu.message", i);
        r->message = json_text(loaded, path);
        snprintf(path, sizeof(path), "refused.%zu.line", i);
        json_int(loaded, path, &line);
        r->line = (int)line;
        bool known = false; /* it was said, and nothing about it has changed */
        for (size_t k = 0; k < old_count; k++)
            known = known || strcmp(old[k].message, r->message) == 0;
        if (!known)
            log_error("versions", "a file is refused; what was in force stays", "why", r->message,
                      NULL);
    }
    free(old);
    json_free(old_loaded);
}

/* Tells who runs actions of those in force, if they are others than before. */
static void tell_actions(struct versions *v)
{
    char *bundle = json_encode(v->loaded, "bundle");
    if (v->events.actions && (!v->bundle || !bundle || strcmp(bundle, v->bundle) != 0))
        v->events.actions(v->events.ctx, bundle ? bundle : "{}");
    free(v->bundle);
    v->bundle = bundle;
}

/* ---- put in force ---- */

static void ignored(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    (void)reply;
}

static void in_force(void *ctx, const struct db_reply *reply)
{
    struct versions *v = ctx;
    if (!answered(v, reply))
        return;
    struct err err;
    int last = v->engine->worker ? 2 : 1;
    const char *text = db_value(reply, last, 0, 0);
    struct json *put = json_parse(text, strlen(text), &err);
    must(put);
    char path[32];
    for (size_t i = 0; i < json_count(put, "put"); i++) {
        snprintf(path, sizeof(path), "put.%zu", i);
        log_info("versions", "in force", "workflow", json_text(put, path), NULL);
    }
    for (size_t i = 0; v->gone_since == 0 && i < json_count(v->loaded, "gone"); i++) {
        snprintf(path, sizeof(path), "gone.%zu", i);
        log_info("versions", "no longer in force, its file is gone; what lives goes on", "workflow",
                 json_text(v->loaded, path), NULL);
    }
    char *ids = json_encode(put, "ids");
    const struct slice arg = slice_of(ids);
    bool ok = vm_call(v->candidate, "activate", &arg, 1, NULL, &err);
    bool pending = json_bool(put, "pending");
    int64_t before = v->stamp;
    json_int(put, "stamp", &v->stamp);
    /* Whoever put it in force said that errors are to be judged again; we may have done so, and in
     * vain, with the old rules. */
    bool others = v->looked && v->stamp != before && json_count(put, "put") == 0;
    free(ids);
    json_free(put);
    if (!ok) {
        log_error("versions", "workflows can't be put in force", "error", err.message, NULL);
        done(v, TRY_AGAIN_MS);
        return;
    }
    tell_actions(v);
    struct vm *vm = v->candidate;
    v->candidate = NULL;
    v->looked = true;
    v->events.active(v->events.ctx, vm, v->stamp);
    if (others) {
        struct db_unit *unit = db_unit_new();
        db_unit_add(unit, "select retry_detect_errors()", 0, NULL);
        pool_send(v->engine->db, unit, ignored, NULL);
    }
    done(v, v->gone_since ? GONE_MS : pending ? UNDECIDED_MS : -1);
}

/* What load() said, as versions_put() wants it: without what is only suspected to be gone. */
static char *result_of(struct versions *v, const char *text)
{
    int64_t now = clock_mono_ms();
    bool gone = json_count(v->loaded, "gone") > 0;
    if (gone && v->looked && (!v->gone_since || now - v->gone_since < GONE_MS)) {
        v->gone_since = v->gone_since ? v->gone_since : now;
        /* The last of two equal keys counts in json_to_recordset's ->. */
        return xprintf("%.*s,\"gone\":[]}", (int)strlen(text) - 1, text);
    }
    v->gone_since = 0;
    return xstrdup(text);
}

static void put(struct versions *v, const char *text, const char *stamp)
{
    struct db_unit *unit = db_unit_new();
    const char *me = v->engine->worker ? worker_id(v->engine->worker) : NULL;
    char *look = result_of(v, text);
    if (v->engine->worker)
        worker_fence(v->engine->worker, unit);
    db_unit_add(unit, "select versions_lock()", 0, NULL);
    db_unit_addv(unit, "select versions_put($1, $2::uuid, $3::bigint, $4::json)", 4, v->tree, me,
                 stamp, look);
    free(look);
    pool_send(v->engine->db, unit, in_force, v);
}

/* ---- load ---- */

static void add_field(struct buf *out, const char *name, const char *json)
{
    buf_printf(out, "%s\"%s\":", out->len > 1 ? "," : "", name);
    buf_adds(out, json);
}

/* Builds the candidate from the files and what is in force. out is what its load() says. */
static bool load(struct versions *v, const char *known, struct buf *out, struct err *err)
{
    const struct vm_options options = {.main = "detect",
                                       .lua_dir = v->engine->lua_dir,
                                       .memory = DETECT_MEMORY,
                                       .burst_ms = DETECT_BURST_MS};
    vm_free(v->candidate);
    v->candidate = vm_new(v->engine->loop, &options, err);
    if (!v->candidate)
        return false;
    struct buf input;
    buf_init(&input, TEXT_MAX);
    /* known is an object: ours are put behind its fields */
    buf_add(&input, known, strlen(known) - 1);
    add_field(&input, "sources", v->sources.files.data);
    add_field(&input, "bundle", v->sources.bundle.data);
    buf_printf(&input, ",\"trusted\":\"%s\",\"starting\":%s,\"aside\":{", v->trusted,
               v->looked ? "false" : "true");
    buf_adds(&input, v->sources.aside.data ? v->sources.aside.data : "");
    buf_adds(&input, "}}");
    const struct slice arg = {input.data, input.len};
    bool ok = !input.overflow ? vm_call(v->candidate, "load", &arg, 1, out, err)
                              : err_set(err, ERR_LIMIT, "the files are too large");
    buf_fini(&input);
    return ok;
}

/* The VM was stopped: sets aside the file that it was loading. False: it was none. */
static bool set_aside(struct versions *v, const struct err *why)
{
    struct buf what;
    struct err ignored;
    buf_init(&what, 4096);
    bool found = why->code == ERR_LIMIT && v->candidate &&
                 vm_call(v->candidate, "loading", NULL, 0, &what, &ignored) && what.len > 0;
    if (found) {
        char *message = xprintf("while it was loaded it %s; a file only declares, what is to be "
                                "done goes into run",
                                why->message);
        found = sources_set_aside(&v->sources, what.data, message);
        free(message);
    }
    buf_fini(&what);
    return found;
}

static void known_read(void *ctx, const struct db_reply *reply)
{
    struct versions *v = ctx;
    if (!answered(v, reply))
        return;
    struct err err;
    struct buf out;
    buf_init(&out, TEXT_MAX);
    bool ok;
    while (!(ok = load(v, db_value(reply, 0, 0, 0), &out, &err)) && set_aside(v, &err))
        buf_clear(&out);
    struct json *loaded = ok ? json_parse(out.data, out.len, &err) : NULL;
    if (loaded) {
        keep_refusals(v, loaded);
        put(v, out.data, db_value(reply, 0, 0, 1));
    } else {
        log_error("versions", "the files can't be loaded; what was in force stays", "error",
                  err.message, NULL);
        done(v, -1);
    }
    buf_fini(&out);
}

static void look(void *ctx)
{
    struct versions *v = ctx;
    if (v->busy) {
        v->again = true;
        return;
    }
    v->again = false;
    struct err err;
    if (!sources_read(&v->sources, v->engine, &err)) {
        log_error("versions", "the company's files can't be read; what was in force stays", "error",
                  err.message, NULL);
        loop_timer_set(v->timer, TRY_AGAIN_MS);
        return;
    }
    v->busy = true;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select k.known, k.known->>'stamp' from (select versions_read($1) as known) k", 1,
                 v->tree);
    pool_send(v->engine->db, unit, known_read, v);
}

/* ---- what others put in force ---- */

static void polled(void *ctx, const struct db_reply *reply)
{
    struct versions *v = ctx;
    v->polling = false;
    if (v->stopped) {
        if (!v->busy)
            versions_free(v);
        return;
    }
    if (db_reply_outcome(reply) == DB_OK && v->looked && !v->busy &&
        db_int(reply, 0, 0, 0) != v->stamp)
        look(v);
    int64_t poll = setting_int(v->engine->settings, "EVENT_POLL_INTERVAL_MS");
    poll = poll < POLL_MS ? poll : POLL_MS;
    loop_timer_set(v->poll, v->told ? 0 : pool_hears(v->engine->db) ? poll * HEARD : poll);
}

static void poll_stamp(void *ctx)
{
    struct versions *v = ctx;
    v->told = v->polling;
    if (v->polling)
        return;
    struct db_unit *unit = db_unit_new();
    v->polling = true;
    db_unit_add(unit, "select stamp from workflow_stamp", 0, NULL);
    pool_send(v->engine->db, unit, polled, v);
}

/* ---- life ---- */

/* The hash of the Lua that bodies see beside their files. */
static bool learn_trusted(struct versions *v, struct err *err)
{
    const struct vm_options options = {.main = "body", .lua_dir = v->engine->lua_dir};
    struct vm *vm = vm_new(v->engine->loop, &options, err);
    if (vm)
        v->trusted = xstrdup(vm_trusted(vm));
    vm_free(vm);
    return vm;
}

struct versions *versions_start(const struct engine *engine, const struct versions_events *events,
                                struct err *err)
{
    struct versions *v = xcalloc(1, sizeof(*v));
    v->engine = engine;
    v->events = *events;
    v->tree = sources_tree(engine);
    sources_init(&v->sources);
    if (learn_trusted(v, err)) {
        v->watch = watch_start(engine->loop, engine->workflows_dir, look, v, err);
        if (!v->watch)
            err_wrap(err, "the company's files, where MOONWRIGHT_WORKFLOWS says");
    }
    if (!v->watch) {
        versions_free(v);
        return NULL;
    }
    v->timer = loop_timer_new(engine->loop, look, v);
    v->poll = loop_timer_new(engine->loop, poll_stamp, v);
    v->listener = pool_listen(engine->db, "versions", poll_stamp, v);
    loop_timer_set(v->timer, 0);
    loop_timer_set(v->poll, POLL_MS);
    return v;
}

void versions_stop(struct versions *versions)
{
    if (!versions)
        return;
    watch_stop(versions->watch);
    listener_close(versions->listener);
    loop_timer_free(versions->timer);
    loop_timer_free(versions->poll);
    versions->stopped = true;
    if (!versions->busy && !versions->polling)
        versions_free(versions);
}

void versions_reload(struct versions *versions)
{
    versions->asked = true;
    look(versions);
}

const struct versions_refusal *versions_refused(const struct versions *versions, size_t *count)
{
    *count = versions->refused;
    return versions->refusals;
}
