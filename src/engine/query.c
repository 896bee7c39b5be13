/* query.c - a query of an action: our own tables', ServiceTitan's, or an author's on the views.
 *
 * {db, sql, params}: parameters are $1, $2, ... as text, [{v: text or absent}]. An author's query
 * runs on the login role that may only read views, as one statement, and answers {rows: [...]} of
 * at most 10,000 rows; ours answer {value: ...}, the one value of the one row. db "own" is for
 * those that write: behind the fence, so that only who holds the instance does. db "setting" is a
 * variable of the environment, for the company's own actions. */
#include "engine/outbound.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 10000, PARAMS_MAX = 64, VIEW_TRIES = 20 };

static void answer_setting(struct op *op, const char *name)
{
    const char *value = getenv(name);
    struct buf out;
    buf_init(&out, 1 << 20);
    buf_adds(&out, "{\"value\":");
    if (value) {
        buf_json(&out, value, strlen(value));
    } else {
        buf_adds(&out, "null");
    }
    buf_adds(&out, "}");
    op_answer(op, "ok", out.data);
    buf_fini(&out);
}

// A script's query may itself be what is too large or too slow: it is not tried for ever.
static bool may_pass(struct op *op, const struct db_reply *reply)
{
    const struct err *err = db_reply_err(reply);
    if (db_reply_outcome(reply) != DB_FAILED) {
        return true;
    }
    bool views = strcmp(json_text(op->doc, "db"), "views") == 0;
    return err_passes(err) &&
           (!views || (strcmp(err->sqlstate, "57014") != 0 && ++op->tries < VIEW_TRIES));
}

static void got_rows(void *ctx, const struct db_reply *reply)
{
    struct op *op = ctx;
    if (db_reply_outcome(reply) == DB_FAILED && db_reply_err(reply)->code == ERR_FENCE) {
        op_end(op, ACTION_LOST, "", NULL);
        return;
    }
    if (!op->actions || !op->action) {
        op_free(op);
        return;
    }
    if (db_reply_outcome(reply) != DB_OK && may_pass(op, reply)) {
        op_unit_failed(op, reply, query_start);
        return;
    }
    if (db_reply_outcome(reply) != DB_OK) {
        op_fail(op, "query", 0, "%s", db_reply_err(reply)->message);
        return;
    }
    const char *db = json_text(op->doc, "db");
    bool views = strcmp(db, "views") == 0;
    int last = strcmp(db, "own") == 0 && op_engine(op)->worker ? 1 : 0; // after the fence
    if (views && db_int(reply, 0, 0, 1) > ROWS_MAX) {
        op_fail(op, "query", 0, "the query has more than 10,000 rows; ask for fewer with limit");
        return;
    }
    struct buf out;
    buf_init(&out, 32 << 20);
    const char *value = db_rows(reply, last) ? db_value(reply, last, 0, 0) : NULL;
    buf_adds(&out, "{\"value\":");
    buf_add(&out, value ? value : "null", value ? db_length(reply, last, 0, 0) : 4);
    buf_adds(&out, "}");
    if (out.overflow) {
        op_fail(op, "query", 0, "the query's rows are larger than 32 MB");
    } else {
        op_answer(op, "ok", out.data);
    }
    buf_fini(&out);
}

// A script's text becomes a subquery: only a query fits, and a semicolon or a second one does not.
static char *as_rows(const char *sql)
{
    size_t len = strlen(sql);
    while (len > 0 && strchr("; \t\r\n", sql[len - 1])) {
        len--;
    }
    return xprintf("select coalesce(json_agg(r), '[]'), count(*) from (select * from (%.*s\n) q "
                   "limit %d) r",
                   (int)len, sql, ROWS_MAX + 1);
}

void query_start(struct op *op)
{
    const struct engine *engine = op_engine(op);
    const char *db = json_text(op->doc, "db");
    const char *sql = json_text(op->doc, "sql");
    if (strcmp(db, "setting") == 0) {
        answer_setting(op, sql);
        return;
    }
    bool views = strcmp(db, "views") == 0;
    bool own = strcmp(db, "own") == 0;
    struct pool *pool = views                              ? engine->readonly
                        : own || strcmp(db, "engine") == 0 ? engine->db
                                                           : engine->st;
    if (!pool) {
        op_fail(op, "query", 0,
                "db.* needs a login role that may only read views: set MOONWRIGHT_READONLY_URL");
        return;
    }
    const char *values[PARAMS_MAX];
    size_t n = json_count(op->doc, "params");
    if (n > PARAMS_MAX) {
        op_fail(op, "query", 0, "a query has at most %d parameters", PARAMS_MAX);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        char path[32];
        snprintf(path, sizeof(path), "params.%zu.v", i);
        values[i] = json_text(op->doc, path);
    }
    char *text = views ? as_rows(sql) : xstrdup(sql);
    struct db_unit *unit = own ? op_unit(op) : db_unit_new();
    db_unit_add_once(unit, text, (int)n, values);
    free(text);
    pool_send(pool, unit, got_rows, op);
}
