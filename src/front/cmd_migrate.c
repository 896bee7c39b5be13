/* cmd_migrate.c - applies schema/NNNN_name.sql in order, each file in one transaction.
 *
 * A file's transaction begins with the insert of its own row into schema_migrations: a second
 * migrator waits there for the first and is then refused by the primary key, which tells it that
 * the file is applied. The first line of a file says to which database it belongs. */
#include "front/migrate.h"

#include "base/buf.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"
#include "front/ask.h"
#include "front/sql_split.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILES_MAX 1000
#define FILE_BYTES_MAX (4 * 1024 * 1024)

enum which { SERVICETITAN = 1, ENGINE = 2 };

struct file {
    int number;
    char *name, *text, *sql; /* sql: the statements, cut apart by NULs */
    char sha256[65];
    int which; /* of enum which, or both */
    bool applied;
};

struct plan {
    struct file files[FILES_MAX];
    int count, fresh;
    bool quiet, json;
    struct err *err;
};

static bool read_text(const char *path, char **text, struct err *err)
{
    FILE *file = fopen(path, "re");
    struct buf buf;
    char chunk[8192];
    size_t n;
    if (file == NULL)
        return err_set(err, ERR_IO, "can't read %s: %s", path, strerror(errno));
    buf_init(&buf, FILE_BYTES_MAX);
    while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
        buf_add(&buf, chunk, n);
    bool ok = !ferror(file) && !buf.overflow && buf.len > 0;
    fclose(file);
    if (!ok)
        err_set(err, ERR_IO, "can't read %s: it is empty or too long", path);
    else
        *text = buf_take(&buf);
    buf_fini(&buf);
    return ok;
}

static int by_number(const void *a, const void *b)
{
    const struct file *x = a, *y = b;
    return (x->number > y->number) - (x->number < y->number);
}

static bool add_file(struct plan *plan, const char *dir, const char *name, struct err *err)
{
    struct file *file = &plan->files[plan->count];
    char path[PATH_MAX];
    if (plan->count == FILES_MAX)
        return err_set(err, ERR_LIMIT, "more than %d files in %s", FILES_MAX, dir);
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (!read_text(path, &file->text, err))
        return false;
    plan->count++;
    file->number = atoi(name);
    file->name = xstrdup(name);
    digest_sha256_hex(file->text, strlen(file->text), file->sha256);
    if (strncmp(file->text, "-- database: servicetitan\n", 26) == 0)
        file->which = SERVICETITAN;
    else if (strncmp(file->text, "-- database: engine\n", 20) == 0)
        file->which = ENGINE;
    else if (strncmp(file->text, "-- database: both\n", 18) == 0)
        file->which = SERVICETITAN | ENGINE;
    else
        return err_set(err, ERR_INPUT, "%s:1: expected '-- database: servicetitan|engine|both'",
                       path);
    return true;
}

static bool read_files(struct plan *plan, const char *dir, struct err *err)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;
    bool ok = true;
    if (folder == NULL)
        return err_set(err, ERR_IO, "can't read %s: %s", dir, strerror(errno));
    while (ok && (entry = readdir(folder)) != NULL) {
        const char *name = entry->d_name;
        size_t len = strlen(name);
        if (strspn(name, "0123456789") == 4 && len > 9 && strcmp(name + len - 4, ".sql") == 0)
            ok = add_file(plan, dir, name, err);
    }
    closedir(folder);
    qsort(plan->files, (size_t)plan->count, sizeof(plan->files[0]), by_number);
    for (int i = 1; ok && i < plan->count; i++) {
        if (plan->files[i].number == plan->files[i - 1].number)
            ok = err_set(err, ERR_INPUT, "%s: %s and %s have the same number", dir,
                         plan->files[i - 1].name, plan->files[i].name);
    }
    if (ok && plan->count == 0)
        ok = err_set(err, ERR_INPUT, "there are no numbered files in %s", dir);
    return ok;
}

static void plan_free(struct plan *plan)
{
    for (int i = 0; i < plan->count; i++) {
        free(plan->files[i].name);
        free(plan->files[i].text);
    }
    free(plan);
}

static void compare_applied(void *ctx, const struct db_reply *reply)
{
    struct plan *plan = ctx;
    for (int row = 0; row < db_rows(reply, 0); row++) {
        int number = (int)db_int(reply, 0, row, 0), i = 0;
        while (i < plan->count && plan->files[i].number != number)
            i++;
        if (i == plan->count) {
            err_set(plan->err, ERR_CONFIG,
                    "the database is newer than this program: it has %s, which moonwright %s "
                    "doesn't know; use the newer program",
                    db_value(reply, 0, row, 1), MOONWRIGHT_VERSION);
            return;
        }
        plan->files[i].applied = true;
        if (strcmp(plan->files[i].sha256, db_value(reply, 0, row, 2)) != 0) {
            err_set(plan->err, ERR_CONFIG,
                    "schema/%s is not the file that was applied to this database: schema files "
                    "only ever get successors",
                    plan->files[i].name);
            return;
        }
    }
}

static bool run_sql(struct session *session, const char *sql, session_fn *fn, void *ctx,
                    struct err *err)
{
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit, sql, 0, NULL);
    return session_run(session, unit, fn, ctx, err);
}

/* What PostgreSQL says to the second of two that create a table at once: by how far the first was.
 */
static bool is_there_already(const char *sqlstate)
{
    static const char *const states[] = {"23505",  /* a row of its catalogue */
                                         "42P07",  /* a table of that name */
                                         "42710"}; /* a row type of that name */
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        if (strcmp(sqlstate, states[i]) == 0)
            return true;
    }
    return false;
}

/* What is applied; two that create the table at once are told apart by trying again. */
static bool read_applied(struct plan *plan, struct session *session, struct err *err)
{
    bool ok = false;
    for (int i = 0; i < plan->count; i++)
        plan->files[i].applied = false;
    for (int attempt = 0; !ok && attempt < 5; attempt++) {
        ok = run_sql(session,
                     "create table if not exists schema_migrations (number int primary key,"
                     " name text not null, sha256 text not null,"
                     " applied_at timestamptz not null default now())",
                     NULL, NULL, err);
        if (!ok && !is_there_already(err->sqlstate))
            return false;
    }
    if (!ok)
        return false;
    struct err refused = {0};
    plan->err = &refused;
    if (!run_sql(session, "select number, name, sha256 from schema_migrations order by number",
                 compare_applied, plan, err))
        return false;
    if (refused.code != ERR_NONE)
        *err = refused;
    return refused.code == ERR_NONE;
}

static int line_of(const char *text, const char *at)
{
    int line = 1;
    for (; text < at; text++)
        line += *text == '\n';
    return line;
}

/* True also when another migrator was faster; file->applied says that it is done. */
static bool apply(struct plan *plan, struct session *session, struct file *file, struct err *err)
{
    char number[16];
    const char *at = file->text, *start;
    size_t len;
    int statements = 0, *lines = xcalloc(strlen(file->text) + 1, sizeof(*lines));
    struct db_unit *unit = db_unit_new();
    snprintf(number, sizeof(number), "%d", file->number);
    db_unit_addv(unit, "insert into schema_migrations (number, name, sha256) values ($1, $2, $3)",
                 3, number, file->name, file->sha256);
    file->sql = xmalloc(strlen(file->text) + 1);
    char *out = file->sql;
    while (sql_next(&at, &start, &len)) {
        /* The unit borrows the text: it lives in a copy with a NUL behind each statement, which
         * has the semicolon's place. */
        memcpy(out, start, len);
        out[len] = '\0';
        lines[++statements] = line_of(file->text, start);
        db_unit_add(unit, out, 0, NULL);
        out += len + (*at == ';');
    }
    bool ok = session_run(session, unit, NULL, NULL, err);
    int failed = session_failed_statement(session);
    file->applied = ok || (failed == 0 && strcmp(err->sqlstate, "23505") == 0);
    if (!file->applied && failed > 0)
        err_wrap(err, "schema/%s:%d", file->name, lines[failed]);
    else if (!file->applied)
        err_wrap(err, "schema/%s", file->name);
    free(lines);
    if (ok) {
        if (plan->json)
            printf("%s\"%s\"", plan->fresh > 0 ? ", " : "", file->name);
        else if (!plan->quiet)
            printf("applied %s\n", file->name);
        plan->fresh++;
    }
    return file->applied;
}

static void keep_text(void *ctx, const struct db_reply *reply)
{
    *(char **)ctx = xstrdup(db_value(reply, 0, 0, 0));
}

/* Lets the read-only login role see the views and nothing else: authors' queries run as it, so one
 * that may do more is refused. */
static bool grant_views(struct session *session, const char *role, struct err *err)
{
    char *sql = xprintf(
        "do $do$ declare v text; begin\n"
        " if not exists (select from pg_roles where rolname = %s) then return; end if;\n"
        " if pg_has_role(%s, current_user, 'member') or exists (select from pg_class c\n"
        "   where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')\n"
        "   and has_table_privilege(%s, c.oid, 'select, insert, update, delete, truncate')) then\n"
        "  raise exception 'MOONWRIGHT_READONLY_URL logs in as %%, who may do more than read"
        " views: give it a login role of its own', %s; end if;\n"
        " if not has_schema_privilege(%s, current_schema(), 'usage') then\n"
        "  execute format('grant usage on schema %%I to %%I', current_schema(), %s); end if;\n"
        " for v in select viewname from pg_views where schemaname = current_schema()\n"
        "   and not has_table_privilege(%s, format('%%I.%%I', schemaname, viewname), 'select')\n"
        " loop execute format('grant select on %%I to %%I', v, %s); end loop;\n"
        "end $do$",
        role, role, role, role, role, role, role, role);
    bool ok = false;
    for (int attempt = 0; !ok && attempt < 10; attempt++) {
        ok = run_sql(session, sql, NULL, NULL, err);
        /* XX000: tuple concurrently updated, by another migrator. */
        if (!ok && strcmp(err->sqlstate, "XX000") != 0)
            break;
        if (!ok)
            usleep(50000);
    }
    free(sql);
    return ok || err_wrap(err, "can't let the read-only role see the views");
}

/* Makes the clock row, once: business time is fixed for a database. */
static bool set_clock(struct session *session, const char *clock, struct err *err)
{
    char business[64], real[64], scale[32];
    bool set = clock[0] != '\0';
    if (set && sscanf(clock, "%63[^@]@%63[^*]*%31[0-9.]", business, real, scale) != 3)
        return err_set(err, ERR_CONFIG,
                       "MOONWRIGHT_CLOCK must be BUSINESS@REAL*SCALE, such as "
                       "2026-06-01T12:00:00Z@2026-11-23T06:00:00Z*30000, not \"%s\"",
                       clock);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "insert into clock (business_origin, real_origin, scale)"
                 " values (coalesce($1::timestamptz, now()), coalesce($2::timestamptz, now()),"
                 " coalesce($3::float8, 1)) on conflict do nothing",
                 3, set ? business : NULL, set ? real : NULL, set ? scale : NULL);
    return session_run(session, unit, NULL, NULL, err) || err_wrap(err, "MOONWRIGHT_CLOCK");
}

static bool migrate_one(struct plan *plan, const char *url, int which, const char *clock,
                        const char *role, struct err *err)
{
    struct session *session = session_open(url, err);
    bool ok = session != NULL && read_applied(plan, session, err);
    for (int i = 0; ok && i < plan->count; i++) {
        struct file *file = &plan->files[i];
        if ((file->which & which) == 0 || file->applied)
            continue;
        ok = apply(plan, session, file, err);
    }
    /* Again, because of what another one applied meanwhile: its files must be ours. */
    ok = ok && read_applied(plan, session, err);
    ok = ok && ((which & ENGINE) == 0 || set_clock(session, clock, err));
    ok = ok && (role == NULL || grant_views(session, role, err));
    session_close(session);
    for (int i = 0; i < plan->count; i++) {
        free(plan->files[i].sql);
        plan->files[i].sql = NULL;
    }
    return ok;
}

/* The name of the role behind MOONWRIGHT_READONLY_URL, as an SQL literal. NULL: it can't be asked.
 */
static char *readonly_role(const struct front *front)
{
    char *role = NULL;
    struct err err;
    const char *url = setting(front->settings, "MOONWRIGHT_READONLY_URL");
    if (url[0] == '\0')
        return NULL;
    struct session *session = session_open(url, &err);
    if (session == NULL ||
        !run_sql(session, "select quote_literal(current_user)", keep_text, &role, &err))
        log_warn("migrate", "the read-only role can't log in: it was given nothing", "error",
                 err.message, NULL);
    session_close(session);
    return role;
}

static bool migrate_with(struct plan *plan, struct front *front, struct err *err)
{
    const char *engine = setting(front->settings, "DATABASE_URL");
    const char *st = setting(front->settings, "SERVICETITAN_DATABASE_URL");
    const char *clock = setting(front->settings, "MOONWRIGHT_CLOCK");
    bool one = st[0] == '\0' || strcmp(st, engine) == 0;
    char *role = NULL;
    bool ok = read_files(plan, front->schema_dir, err);
    if (ok)
        role = readonly_role(front);
    ok = ok && migrate_one(plan, engine, one ? SERVICETITAN | ENGINE : ENGINE, clock, role, err);
    ok = ok && (one || migrate_one(plan, st, SERVICETITAN, clock, role, err));
    free(role);
    return ok;
}

bool migrate_all(struct front *front, bool quiet, struct err *err)
{
    struct plan *plan = xcalloc(1, sizeof(*plan));
    plan->quiet = quiet;
    bool ok = migrate_with(plan, front, err);
    if (ok && plan->fresh == 0 && !quiet)
        printf("the database is up to date\n");
    plan_free(plan);
    return ok;
}

char *migrate_expects(const char *schema_dir, struct err *err)
{
    struct plan *plan = xcalloc(1, sizeof(*plan));
    struct buf out;
    buf_init(&out, FILES_MAX * 128);
    bool ok = read_files(plan, schema_dir, err);
    for (int i = 0; ok && i < plan->count; i++) {
        if (plan->files[i].which & ENGINE)
            buf_printf(&out, "%s{\"number\":%d,\"sha256\":\"%s\"}", out.len > 0 ? "," : "[",
                       plan->files[i].number, plan->files[i].sha256);
    }
    buf_addc(&out, ']');
    plan_free(plan);
    char *text = ok ? buf_take(&out) : NULL;
    buf_fini(&out);
    return text;
}

static int migrate(struct front *front, const struct args *args)
{
    struct err err;
    bool ok;
    if (args_has(args, "--json")) {
        struct plan *plan = xcalloc(1, sizeof(*plan));
        plan->json = true;
        printf("{\"applied\": [");
        ok = migrate_with(plan, front, &err);
        printf("]}\n"); /* also of those before the one that failed */
        plan_free(plan);
    } else
        ok = migrate_all(front, false, &err);
    return ok ? EXIT_OK : front_fail(&err);
}

static const struct option options[] = {OPTION_JSON, {0}};
static const struct verb verbs[] = {
    {NULL, NULL, "bring the database, or both, up to this version", options, NULL, migrate}, {0}};

const struct command command_migrate = {"migrate", "bring the database up to this version", verbs,
                                        true};
