/* versions.c - see versions.h.
 *
 *     idle --start, a file changed--> asked what is in force --> (Lua) --> put in force --> idle
 *
 * Reading, validating and putting in force are repeatable: a definition is found again by its
 * SHA-256, so a look that is cut short, or that two workers do at once, changes nothing twice. */
#include "engine/versions.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/worker.h"
#include "io/watch.h"
#include "script/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX ((size_t)1 << 20)
#define ALL_MAX ((size_t)32 << 20)
#define TEXT_MAX ((size_t)128 << 20)
#define DETECT_MEMORY ((size_t)160 << 20)
#define DETECT_BURST_MS 1000 /* of a whole batch */
#define TRY_AGAIN_MS 1000

struct versions {
    const struct engine *engine;
    struct versions_events events;
    struct watch *watch;
    struct loop_timer *timer;
    bool busy, again, stopped;
    struct vm *candidate;
    struct buf sources;  /* {"workflows/x.lua": "source", ...} */
    struct json *loaded; /* what load() said; refusals point into it */
    struct versions_refusal *refusals;
    size_t refused;
};

/* ---- reading the files ---- */

static bool is_name(const char *name)
{
    size_t len = strlen(name), stem = len - 4;
    return len > 4 && strcmp(name + stem, ".lua") == 0 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == stem;
}

static bool read_file(struct buf *out, const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > (off_t)FILE_MAX) {
        if (fd >= 0)
            close(fd);
        return err_set(err, ERR_IO, "%s can't be read, or is larger than 1 MB", path);
    }
    char *text = xmalloc(FILE_MAX);
    size_t len = 0;
    ssize_t n;
    while (len < FILE_MAX && (n = read(fd, text + len, FILE_MAX - len)) > 0)
        len += (size_t)n;
    close(fd);
    bool ok = buf_json(out, text, len);
    free(text);
    return ok || err_set(err, ERR_LIMIT, "the files of the company are larger than 32 MB");
}

/* Adds the Lua files of one folder below workflows_dir ("" is that folder itself). */
static bool read_folder(struct versions *v, const char *folder, struct err *err)
{
    char *path = xprintf("%s%s%s", v->engine->workflows_dir, *folder ? "/" : "", folder);
    struct dirent **names;
    int count = scandir(path, &names, NULL, alphasort);
    if (count < 0) {
        bool fine = *folder && errno == ENOENT;
        if (!fine)
            err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        free(path);
        return fine;
    }
    bool ok = true;
    for (int i = 0; i < count; i++) {
        if (ok && is_name(names[i]->d_name)) {
            char *file = xprintf("%s/%s", path, names[i]->d_name);
            buf_printf(&v->sources, "%s\"workflows/%s%s%s\":", v->sources.len > 1 ? "," : "",
                       folder, *folder ? "/" : "", names[i]->d_name);
            ok = read_file(&v->sources, file, err);
            free(file);
        }
        free(names[i]);
    }
    free(names);
    free(path);
    return ok;
}

static bool read_sources(struct versions *v, struct err *err)
{
    buf_clear(&v->sources);
    buf_addc(&v->sources, '{');
    bool ok = read_folder(v, "", err) && read_folder(v, "lib", err) &&
              read_folder(v, "actions", err);
    buf_addc(&v->sources, '}');
    return ok;
}

/* ---- one look ---- */

static void versions_free(struct versions *v)
{
    vm_free(v->candidate);
    buf_fini(&v->sources);
    json_free(v->loaded);
    free(v->refusals);
    free(v);
}

static void done(struct versions *v, bool failed)
{
    v->busy = false;
    vm_free(v->candidate);
    v->candidate = NULL;
    if (v->stopped)
        versions_free(v);
    else if (v->again || failed)
        loop_timer_set(v->timer, v->again ? 0 : TRY_AGAIN_MS);
}

static bool answered(struct versions *v, const struct db_reply *reply)
{
    if (!v->stopped && db_reply_outcome(reply) == DB_OK)
        return true;
    if (!v->stopped)
        log_warn("versions", "workflows can't be put in force yet", "error",
                 db_reply_err(reply)->message, NULL);
    done(v, true);
    return false;
}

static void in_force(void *ctx, const struct db_reply *reply)
{
    struct versions *v = ctx;
    if (!answered(v, reply))
        return;
    int statements = v->engine->worker ? 1 : 0;
    for (int row = 0; row < db_rows(reply, statements); row++)
        log_info("versions", "in force", "workflow", db_value(reply, statements, row, 0),
                 "definition", db_value(reply, statements, row, 1), NULL);
    const char *ids = db_value(reply, statements + 2, 0, 0);
    const struct slice arg = slice_of(ids);
    struct err err;
    if (!vm_call(v->candidate, "activate", &arg, 1, NULL, &err)) {
        log_error("versions", "workflows can't be put in force", "error", err.message, NULL);
        done(v, true);
        return;
    }
    struct vm *vm = v->candidate;
    v->candidate = NULL;
    v->events.active(v->events.ctx, vm);
    done(v, false);
}

static void keep_refusals(struct versions *v, struct json *loaded)
{
    json_free(v->loaded);
    free(v->refusals);
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
        log_error("versions", "a file is refused; what was in force stays", "why", r->message,
                  NULL);
    }
}

/* Builds the candidate from the files and what is in force. out is what its load() says. */
static bool load(struct versions *v, const char *active, struct buf *out, struct err *err)
{
    const struct vm_options options = {.main = "detect",
                                       .lua_dir = v->engine->lua_dir,
                                       .memory = DETECT_MEMORY,
                                       .burst_ms = DETECT_BURST_MS};
    v->candidate = vm_new(v->engine->loop, &options, err);
    if (!v->candidate)
        return false;
    struct buf input;
    buf_init(&input, TEXT_MAX);
    buf_adds(&input, "{\"sources\":");
    buf_add(&input, v->sources.data, v->sources.len);
    buf_adds(&input, ",\"active\":");
    buf_adds(&input, active);
    buf_addc(&input, '}');
    const struct slice arg = {input.data, input.len};
    bool ok = !input.overflow ? vm_call(v->candidate, "load", &arg, 1, out, err)
                              : err_set(err, ERR_LIMIT, "the files are too large");
    buf_fini(&input);
    return ok;
}

static void active_read(void *ctx, const struct db_reply *reply)
{
    struct versions *v = ctx;
    if (!answered(v, reply))
        return;
    struct err err;
    struct buf out;
    buf_init(&out, TEXT_MAX);
    struct json *loaded = NULL;
    if (load(v, db_value(reply, 0, 0, 0), &out, &err))
        loaded = json_parse(out.data, out.len, &err);
    if (!loaded) {
        log_error("versions", "the files can't be loaded; what was in force stays", "error",
                  err.message, NULL);
        buf_fini(&out);
        done(v, false);
        return;
    }
    keep_refusals(v, loaded);
    struct db_unit *unit = db_unit_new();
    if (v->engine->worker)
        worker_fence(v->engine->worker, unit);
    db_unit_addv(unit,
                 "select p.name, put_in_force(p.name, p.sha256, p.files, p.declaration, p.api) "
                 "from json_to_recordset($1::json->'put') as p (name text, sha256 text, "
                 "files json, declaration json, api int, changed boolean) "
                 "where p.changed order by p.name",
                 1, out.data);
    db_unit_addv(unit,
                 "select put_out_of_force(array(select s.value from "
                 "json_array_elements_text($1::json->'still') s)), "
                 "case when exists (select from json_array_elements($1::json->'put') p "
                 "where (p.value->>'changed')::boolean) then retry_detect_errors() end",
                 1, out.data);
    db_unit_add(unit,
                "select coalesce(json_object_agg(name, id), '{}') from workflow_definitions "
                "where active",
                0, NULL);
    buf_fini(&out);
    pool_send(v->engine->db, unit, in_force, v);
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
    if (!read_sources(v, &err)) {
        log_error("versions", "the company's files can't be read; what was in force stays", "error",
                  err.message, NULL);
        return;
    }
    v->busy = true;
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit, "select definitions_in_force()", 0, NULL);
    pool_send(v->engine->db, unit, active_read, v);
}

/* ---- life ---- */

static void changed(void *ctx)
{
    struct versions *v = ctx;
    if (v->events.changed)
        v->events.changed(v->events.ctx);
    look(v);
}

struct versions *versions_start(const struct engine *engine, const struct versions_events *events,
                                struct err *err)
{
    struct versions *v = xcalloc(1, sizeof(*v));
    v->engine = engine;
    v->events = *events;
    buf_init(&v->sources, ALL_MAX);
    v->watch = watch_start(engine->loop, engine->workflows_dir, changed, v, err);
    if (!v->watch) {
        versions_free(v);
        return NULL;
    }
    v->timer = loop_timer_new(engine->loop, look, v);
    loop_timer_set(v->timer, 0);
    return v;
}

void versions_stop(struct versions *versions)
{
    if (!versions)
        return;
    watch_stop(versions->watch);
    loop_timer_free(versions->timer);
    versions->timer = NULL;
    versions->stopped = true;
    if (!versions->busy)
        versions_free(versions);
}

void versions_reload(struct versions *versions)
{
    look(versions);
}

const struct versions_refusal *versions_refused(const struct versions *versions, size_t *count)
{
    *count = versions->refused;
    return versions->refusals;
}
