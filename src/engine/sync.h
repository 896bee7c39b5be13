/* sync.h - copying ServiceTitan into the st_ tables.
 *
 * sync_start is the role: runs by SYNC_INCREMENTAL_CRON and SYNC_FULL_CRON, and rows that others
 * ask for by id. sync_run_once is one run, for the command line. Both may go on side by side, in
 * any number of processes: a page and its cursor are one transaction that only one of them can
 * commit.
 */
#ifndef ENGINE_SYNC_H
#define ENGINE_SYNC_H

#include "engine/engine.h"

struct sync;     /* the role */
struct sync_run; /* one run of some feeds, side by side */

enum sync_state {
    SYNC_RUNNING,
    SYNC_DONE,   /* all there was has been read */
    SYNC_FAILED, /* err says why; the next run goes on at the same place */
    SYNC_YIELDED /* another run took the cursor further and goes on from there */
};

struct sync_progress { /* of one feed; valid during the call */
    const char *entity;
    enum sync_state state;
    int64_t pages, rows, written, rejected;
    const struct err *err; /* set when it failed */
};

typedef void sync_progress_fn(void *ctx, const struct sync_progress *progress);
/* err is NULL when every feed was read; else the first failure. The run is freed afterwards. */
typedef void sync_done_fn(void *ctx, const struct err *err);

/* NULL: err says which setting is missing, or what is wrong with a declaration. */
struct sync *sync_start(const struct engine *engine, struct err *err);
void sync_stop(struct sync *sync);

/* Runs all feeds, or those named; full reads them again from the beginning. progress (may be NULL)
 * is called after each page and when a feed ends. NULL: err says why it could not begin. */
struct sync_run *sync_run_once(const struct engine *engine, const char *const *entities,
                               size_t count, bool full, sync_progress_fn *progress,
                               sync_done_fn *done, void *ctx, struct err *err);
void sync_run_cancel(struct sync_run *run); /* done is not called; cursors stay where they are */

#endif
