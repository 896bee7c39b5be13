/* sync_feed.c - the run of one feed.
 *
 *   beginning --cursor--> reading --last page stored--> ending --> done
 *                            '--failed, overtaken-------'
 *
 * An export is a chain of continueFrom; a sorted list goes by modifiedOn, beginning a little before
 * its cursor and then from the last value seen, so that rows which move while it is read are met
 * again; an unsorted list is read whole. While one page is stored the next is fetched; pages are
 * stored in order, each with the cursor after it. */
#include "engine/sync_feed.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/zone.h"
#include "engine/figures.h"
#include "engine/settings.h"
#include "engine/sync_write.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OVERLAP_S = 300, MAX_PATH_LEN = 16 << 10 };
#define FROM_THE_BEGINNING "2000-01-01"

struct fetched { /* a page that was read and waits to be stored */
    struct sync_page *page;
    char *asked, *goes_on; /* cursors before and after; NULL: the beginning */
    char date[64];
    bool last;
};

struct sync_feed {
    const struct engine *engine;
    struct sync_client *client;
    struct sync_plans *plans;
    const struct sync_plan *plan;
    char run[24];
    bool first;      /* the first import has not begun yet */
    char *cursor;    /* after the page fetched last */
    char *since;     /* of a sorted list: what is asked for */
    int page_number; /* of a list */
    struct sync_call *call;
    struct fetched *ready; /* fetched while the one before is stored */
    struct fetched *storing;
    struct sync_write *write;
    bool in_flight, dead;
    bool failed; /* fetching did; err says why, and it ends when what is under way is stored */
    struct sync_progress progress;
    struct err err;
    int64_t began_ms;
    sync_progress_fn *changed;
    void *ctx;
};

static void fetch_next(struct sync_feed *feed);
static void store(struct sync_feed *feed, struct fetched *fetched);

/* ---- times of sorted lists ---- */

/* "2026-03-07T22:00:00.1234567Z" as microseconds; false when it is none. */
static bool read_time(const char *text, int64_t *us)
{
    struct civil c = {0};
    int read = 0;
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &c.year, &c.month, &c.day, &c.hour, &c.minute,
               &c.second, &read) != 6) {
        return false;
    }
    int64_t seconds, fraction = 0, unit = 100000;
    if (text[read] == '.') {
        for (const char *at = text + read + 1; *at >= '0' && *at <= '9'; at++, unit /= 10) {
            fraction += (*at - '0') * unit;
        }
    }
    if (!zone_instant("UTC", &c, &seconds)) {
        return false;
    }
    *us = seconds * 1000000 + fraction;
    return true;
}

/* The cursor less the overlap, as the vendor reads it. Caller frees. */
static char *before(const char *cursor)
{
    int64_t us;
    struct civil c;
    if (!read_time(cursor, &us) || !zone_civil("UTC", us / 1000000 - OVERLAP_S, &c)) {
        return NULL;
    }
    return xprintf("%04d-%02d-%02dT%02d:%02d:%02dZ", c.year, c.month, c.day, c.hour, c.minute,
                   c.second);
}

static bool is_later(const char *a, const char *b)
{
    int64_t at, bt;
    return read_time(a, &at) && (!b || !read_time(b, &bt) || at > bt);
}

/* ---- life ---- */

static void fetched_free(struct fetched *fetched)
{
    if (fetched) {
        sync_page_free(fetched->page);
        free(fetched->asked);
        free(fetched->goes_on);
        free(fetched);
    }
}

static void feed_destroy(struct sync_feed *feed)
{
    sync_plans_free(feed->plans);
    free(feed->cursor);
    free(feed->since);
    free(feed);
}

void sync_feed_free(struct sync_feed *feed)
{
    if (!feed) {
        return;
    }
    sync_call_cancel(feed->call);
    sync_write_cancel(feed->write);
    fetched_free(feed->ready);
    fetched_free(feed->storing);
    if (feed->in_flight) {
        feed->dead = true;
    } else {
        feed_destroy(feed);
    }
}

static void on_ended(void *ctx, const struct db_reply *reply)
{
    struct sync_feed *feed = ctx;
    feed->in_flight = false;
    if (feed->dead) {
        feed_destroy(feed);
        return;
    }
    if (db_reply_outcome(reply) != DB_OK && feed->progress.state == SYNC_DONE) {
        feed->progress.state = SYNC_FAILED;
        feed->err = *db_reply_err(reply);
        err_wrap(&feed->err, "the end of the run of %s can't be recorded", feed->plan->name);
        feed->progress.err = &feed->err;
    }
    static const char *const ends[] = {"running", "done", "failed", "yielded"};
    const struct sync_progress *p = &feed->progress;
    enum log_level level = p->state != SYNC_FAILED      ? LOG_INFO
                           : p->err->code == ERR_CONFIG ? LOG_DEBUG // it is the same for all feeds
                                                        : LOG_ERROR;
    log_write(level, "sync", "feed ended", "entity", p->entity, "state", ends[p->state], "pages",
              log_int(p->pages), "rows", log_int(p->rows), "written", log_int(p->written),
              "rejected", log_int(p->rejected), "ms", log_int(clock_mono_ms() - feed->began_ms),
              "error", p->err ? p->err->message : NULL, NULL);
    feed->changed(feed->ctx, p);
}

static void end(struct sync_feed *feed, enum sync_state state, const struct err *err)
{
    static const char *const names[] = {"running", "done", "failed", "yielded"};
    feed->progress.state = state;
    if (err) {
        memmove(&feed->err, err, sizeof(feed->err)); // it may be the same
        feed->progress.err = &feed->err;
    }
    sync_call_cancel(feed->call);
    feed->call = NULL;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select sync_finish($1::bigint, $2::text, $3::text, $4::text)", 4, feed->run,
                 feed->plan->name, names[state], err ? feed->err.message : NULL);
    feed->in_flight = true;
    pool_send(feed->engine->st, unit, on_ended, feed);
}

/* ---- reading ---- */

static char *path_of_next(struct sync_feed *feed)
{
    const struct sync_plan *plan = feed->plan;
    struct buf path;
    buf_init(&path, MAX_PATH_LEN);
    buf_adds(&path, plan->path);
    if (plan->is_export) {
        const char *from = feed->cursor ? feed->cursor : FROM_THE_BEGINNING;
        buf_adds(&path, "?from=");
        buf_urlencode(&path, from, strlen(from));
    } else {
        buf_printf(&path, "?page=%d&pageSize=%" PRId64, feed->page_number,
                   setting_int(feed->engine->settings, "SYNC_PAGE_SIZE"));
        if (feed->since) {
            buf_adds(&path, "&modifiedOnOrAfter=");
            buf_urlencode(&path, feed->since, strlen(feed->since));
        }
    }
    if (*plan->query) {
        buf_printf(&path, "&%s", plan->query);
    }
    return buf_take(&path);
}

/* Where an export goes on. */
static bool follow_export(struct sync_feed *feed, struct fetched *fetched, struct err *err)
{
    const struct sync_page *page = fetched->page;
    const char *next = page->next ? page->next : feed->cursor;
    if (page->more && (!page->next || (feed->cursor && strcmp(page->next, feed->cursor) == 0))) {
        return err_set(err, ERR_INPUT, "the export of %s says that there is more and not where",
                       feed->plan->name);
    }
    fetched->goes_on = next ? xstrdup(next) : NULL;
    fetched->last = !page->more;
    return true;
}

/* Where a list goes on: from the last row's time where rows come in that order. */
static void follow_list(struct sync_feed *feed, struct fetched *fetched)
{
    const struct sync_page *page = fetched->page;
    char last[64] = "";
    if (feed->plan->sorted && page->count > 0) {
        sync_page_field(page, page->count - 1, "modifiedOn", last, sizeof(last));
    }
    const char *goes_on = *last && is_later(last, feed->cursor) ? last : feed->cursor;
    fetched->goes_on = goes_on ? xstrdup(goes_on) : NULL;
    fetched->last = !page->more || page->count == 0;
    if (*last && is_later(last, feed->since)) {
        free(feed->since);
        feed->since = xstrdup(last);
        feed->page_number = 1;
    } else {
        feed->page_number++;
    }
}

/* No further page comes; the one that is being stored still counts. */
static void fetch_failed(struct sync_feed *feed, const struct err *err)
{
    if (!feed->write) {
        end(feed, SYNC_FAILED, err);
        return;
    }
    feed->failed = true;
    feed->err = *err;
}

static void on_page(void *ctx, const struct sync_answer *answer)
{
    struct sync_feed *feed = ctx;
    struct err err;
    feed->call = NULL;
    if (answer->err) {
        fetch_failed(feed, answer->err);
        return;
    }
    struct fetched *fetched = xcalloc(1, sizeof(*fetched));
    fetched->page = sync_page_read(answer->body, answer->len, &err);
    fetched->asked = feed->cursor ? xstrdup(feed->cursor) : NULL;
    snprintf(fetched->date, sizeof(fetched->date), "%s", answer->date ? answer->date : "now");
    if (!fetched->page || (feed->plan->is_export && !follow_export(feed, fetched, &err))) {
        err_wrap(&err, "reading %s", feed->plan->name);
        fetched_free(fetched);
        fetch_failed(feed, &err);
        return;
    }
    if (!feed->plan->is_export) {
        follow_list(feed, fetched);
    }
    free(feed->cursor);
    feed->cursor = fetched->goes_on ? xstrdup(fetched->goes_on) : NULL;
    if (feed->write) {
        feed->ready = fetched;
    } else {
        store(feed, fetched);
    }
}

static void fetch_next(struct sync_feed *feed)
{
    char *path = path_of_next(feed);
    feed->call = sync_get(feed->client, path, on_page, feed);
    free(path);
}

/* ---- storing ---- */

static void page_stored(struct sync_feed *feed)
{
    struct fetched *stored = feed->storing, *next = feed->ready;
    bool last = stored->last;
    feed->storing = feed->ready = NULL;
    feed->first = false;
    fetched_free(stored);
    feed->progress.pages++;
    feed->changed(feed->ctx, &feed->progress);
    if (feed->failed) {
        end(feed, SYNC_FAILED, &feed->err);
    } else if (last) {
        end(feed, SYNC_DONE, NULL);
    } else if (next) {
        store(feed, next);
    }
}

static void on_written(void *ctx, const struct sync_written_page *result)
{
    struct sync_feed *feed = ctx;
    feed->write = NULL;
    feed->progress.rows += result->rows;
    feed->progress.written += result->written;
    feed->progress.rejected += result->rejected;
    struct stage_figures *stage = &figures()->stages[STAGE_SYNC];
    stage->claimed += result->rows;
    stage->settled += result->outcome == SYNC_WRITTEN ? result->rows - result->rejected : 0;
    stage->failed += result->rejected;
    if (result->outcome == SYNC_WRITTEN) {
        page_stored(feed);
    } else {
        end(feed, result->outcome == SYNC_OVERTAKEN ? SYNC_YIELDED : SYNC_FAILED, result->err);
    }
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Stores a page, and fetches the next one meanwhile. */
static void store(struct sync_feed *feed, struct fetched *fetched)
{
    feed->storing = fetched;
    if (!fetched->last) {
        fetch_next(feed);
    }
    // Nothing new: nothing is written. The first page of all says when the import began.
    if (fetched->page->count == 0 && !feed->first && same_text(fetched->asked, fetched->goes_on)) {
        page_stored(feed);
        return;
    }
    struct sync_target target = {.plans = feed->plans,
                                 .plan = feed->plan,
                                 .run = feed->run,
                                 .asked = fetched->asked,
                                 .goes_on = fetched->goes_on,
                                 .date = fetched->date};
    struct sync_page *page = fetched->page;
    fetched->page = NULL;
    feed->write = sync_write_start(feed->engine, &target, page, on_written, feed);
}

/* ---- beginning ---- */

static void on_begun(void *ctx, const struct db_reply *reply)
{
    struct sync_feed *feed = ctx;
    feed->in_flight = false;
    if (feed->dead) {
        feed_destroy(feed);
        return;
    }
    if (db_reply_outcome(reply) != DB_OK) {
        feed->progress.state = SYNC_FAILED;
        feed->err = *db_reply_err(reply);
        err_wrap(&feed->err, "the run of %s can't begin", feed->plan->name);
        feed->progress.err = &feed->err;
        feed->changed(feed->ctx, &feed->progress);
        return;
    }
    snprintf(feed->run, sizeof(feed->run), "%" PRId64, db_int(reply, 0, 0, 0));
    const char *cursor = db_value(reply, 0, 0, 1);
    feed->cursor = cursor ? xstrdup(cursor) : NULL;
    feed->first = db_bool(reply, 0, 0, 2);
    if (feed->plan->sorted && feed->cursor) {
        feed->since = before(feed->cursor);
    }
    fetch_next(feed);
}

struct sync_feed *sync_feed_start(const struct engine *engine, struct sync_client *client,
                                  struct sync_plans *plans, const struct sync_plan *plan, bool full,
                                  sync_progress_fn *changed, void *ctx)
{
    struct sync_feed *feed = xcalloc(1, sizeof(*feed));
    feed->engine = engine;
    feed->client = client;
    feed->plans = sync_plans_use(plans);
    feed->plan = plan;
    feed->page_number = 1;
    feed->progress.entity = plan->name;
    feed->began_ms = clock_mono_ms();
    feed->changed = changed;
    feed->ctx = ctx;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select run, go_on, first from sync_begin($1::text, $2::boolean)", 2,
                 plan->name, full ? "true" : "false");
    feed->in_flight = true;
    pool_send(engine->st, unit, on_begun, feed);
    return feed;
}
