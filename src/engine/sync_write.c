/* sync_write.c - one page into the database.
 *
 *   whole page + cursor --ok--> done
 *        | data error
 *        v
 *   halves, without cursor --data error--> halves of them ... one row --> st_rejects
 *        | all stored
 *        v
 *   cursor alone --ok--> done
 *
 * Whatever is repeated after a crash is the same again: rows that are there already change nothing,
 * and a reject is one row however often. A transaction whose outcome is unknown is sent again; when
 * the cursor then isn't where it was, it had landed. */
#include "engine/sync_write.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_TRIES = 10, PAUSE_MS = 200, MAX_UNIT = 80 << 20 };

struct range {
    size_t from, to;
};

struct sync_write {
    const struct engine *engine;
    struct sync_plans *plans;
    const struct sync_plan *plan;
    struct sync_page *page;
    struct arena *arena;
    const char *run, *asked, *goes_on, *date;
    struct range stack[MAX_DEPTH]; /* what is still to be stored */
    int depth;
    bool split;   /* the page is stored in pieces; its cursor comes last */
    bool unknown; /* the last transaction may have landed */
    bool dead;    /* cancelled while a unit is under way */
    bool in_flight;
    int tries;
    char reason[1024]; /* why the row under way is rejected */
    int64_t rows, written, rejected;
    struct loop_timer *timer;
    sync_written_fn *done;
    void *ctx;
};

static void send_next(void *ctx);
static void on_stored(void *ctx, const struct db_reply *reply);
static void on_rejected(void *ctx, const struct db_reply *reply);

static const char *keep(struct arena *arena, const char *text)
{
    return text ? arena_strdup(arena, text) : NULL;
}

struct sync_write *sync_write_start(const struct engine *engine, const struct sync_target *target,
                                    struct sync_page *page, sync_written_fn *done, void *ctx)
{
    struct sync_write *write = xcalloc(1, sizeof(*write));
    write->engine = engine;
    write->plans = sync_plans_use(target->plans);
    write->plan = target->plan;
    write->page = page;
    write->arena = arena_new();
    write->run = keep(write->arena, target->run);
    write->asked = keep(write->arena, target->asked);
    write->goes_on = keep(write->arena, target->goes_on);
    write->date = keep(write->arena, target->date);
    write->stack[write->depth++] = (struct range){0, page->count};
    write->timer = loop_timer_new(engine->loop, send_next, write);
    write->done = done;
    write->ctx = ctx;
    send_next(write);
    return write;
}

static void write_free(struct sync_write *write)
{
    loop_timer_free(write->timer);
    sync_page_free(write->page);
    sync_plans_free(write->plans);
    arena_free(write->arena);
    free(write);
}

void sync_write_cancel(struct sync_write *write)
{
    if (!write) {
        return;
    }
    if (write->in_flight) {
        write->dead = true;
        loop_timer_clear(write->timer);
    } else {
        write_free(write);
    }
}

static void finish(struct sync_write *write, enum sync_written outcome, const struct err *err)
{
    struct sync_written_page result = {.outcome = outcome,
                                       .rows = write->rows,
                                       .written = write->written,
                                       .rejected = write->rejected,
                                       .err = err};
    write->done(write->ctx, &result);
    write_free(write);
}

/* Whether this unit, when it lands, makes the page complete. */
static bool completes(const struct sync_write *write)
{
    return !write->split || write->depth == 0;
}

/* Sends the piece on top of the stack, or the cursor alone when nothing is left. */
static void send_next(void *ctx)
{
    struct sync_write *write = ctx;
    struct range piece = write->depth ? write->stack[write->depth - 1] : (struct range){0, 0};
    struct buf rows;
    buf_init(&rows, MAX_UNIT);
    sync_page_rows(write->page, piece.from, piece.to, &rows);
    bool complete = completes(write) && write->run;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, write->plan->upsert, 7, rows.data, write->run, write->plan->name,
                 write->asked, write->goes_on, write->run ? write->date : NULL,
                 complete ? "true" : "false");
    buf_fini(&rows);
    write->in_flight = true;
    pool_send(write->engine->st, unit, on_stored, write);
}

/* Sets the row aside that can't be stored. */
static void send_reject(struct sync_write *write, size_t row)
{
    char id[64];
    sync_page_field(write->page, row, "id", id, sizeof(id));
    size_t len = write->page->end[row] - write->page->begin[row];
    char *raw = xstrndup(write->page->text + write->page->begin[row], len);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select sync_reject($1::bigint, $2::text, $3::text, $4::text, $5::text)", 5,
                 write->run, write->plan->name, id, raw, write->reason);
    free(raw);
    log_warn("sync", "a row can't be stored; it is in st_rejects", "entity", write->plan->name,
             "id", id, "reason", write->reason, NULL);
    write->in_flight = true;
    pool_send(write->engine->st, unit, on_rejected, write);
}

static bool is_class(const struct err *err, const char *classes)
{
    for (; *classes; classes += 2) {
        if (strncmp(err->sqlstate, classes, 2) == 0) {
            return true;
        }
    }
    return false;
}

/* The database is away or busy: the same again, later. False: it was tried often enough. */
static bool try_later(struct sync_write *write, enum db_outcome outcome, const struct err *err)
{
    bool busy = outcome == DB_FAILED && is_class(err, "084053555758");
    if ((outcome == DB_FAILED && !busy) || ++write->tries > MAX_TRIES) {
        return false;
    }
    write->unknown |= outcome == DB_UNKNOWN;
    loop_timer_set(write->timer, (int64_t)PAUSE_MS * write->tries * write->tries);
    return true;
}

static void piece_done(struct sync_write *write)
{
    bool complete = completes(write);
    write->tries = 0;
    write->unknown = false;
    if (complete) {
        finish(write, SYNC_WRITTEN, NULL);
        return;
    }
    write->depth--;
    send_next(write);
}

/* The data of this piece is at fault: it is halved, or its one row is rejected. */
static void piece_failed(struct sync_write *write, const struct err *err)
{
    struct range piece = write->stack[write->depth - 1];
    write->split = true;
    if (piece.to - piece.from == 1) {
        memcpy(write->reason, err->message, sizeof(write->reason));
        send_reject(write, piece.from);
        return;
    }
    size_t middle = piece.from + (piece.to - piece.from) / 2;
    write->stack[write->depth - 1] = (struct range){middle, piece.to};
    must(write->depth < MAX_DEPTH);
    write->stack[write->depth++] = (struct range){piece.from, middle};
    send_next(write);
}

static void on_stored(void *ctx, const struct db_reply *reply)
{
    struct sync_write *write = ctx;
    write->in_flight = false;
    if (write->dead) {
        write_free(write);
        return;
    }
    enum db_outcome outcome = db_reply_outcome(reply);
    if (outcome == DB_OK) {
        write->rows += db_int(reply, 0, 0, 1);
        write->written += db_int(reply, 0, 0, 2);
        piece_done(write);
        return;
    }
    struct err err = *db_reply_err(reply);
    bool moved = outcome == DB_FAILED && strcmp(err.sqlstate, "MWS01") == 0;
    if (moved && write->unknown) { // it was our own transaction that moved the cursor
        finish(write, SYNC_WRITTEN, NULL);
    } else if (moved) {
        finish(write, SYNC_OVERTAKEN, NULL);
    } else if (outcome == DB_FAILED && write->depth > 0 && is_class(&err, "2223") &&
               write->stack[write->depth - 1].to > write->stack[write->depth - 1].from) {
        piece_failed(write, &err);
    } else if (!try_later(write, outcome, &err)) {
        err_wrap(&err, "a page of %s can't be stored", write->plan->name);
        finish(write, SYNC_NOT_WRITTEN, &err);
    }
}

static void on_rejected(void *ctx, const struct db_reply *reply)
{
    struct sync_write *write = ctx;
    write->in_flight = false;
    if (write->dead) {
        write_free(write);
        return;
    }
    enum db_outcome outcome = db_reply_outcome(reply);
    if (outcome == DB_OK) {
        write->rejected++;
        write->rows++;
        write->depth--;
        write->tries = 0;
        send_next(write);
        return;
    }
    struct err err = *db_reply_err(reply);
    if (!try_later(write, outcome, &err)) { // the piece is sent again, and rejected again
        err_wrap(&err, "a row of %s can't be set aside", write->plan->name);
        finish(write, SYNC_NOT_WRITTEN, &err);
    }
}
