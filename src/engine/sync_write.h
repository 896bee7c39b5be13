/* sync_write.h - storing one page: rows and cursor in one transaction, bad rows set aside. */
#ifndef ENGINE_SYNC_WRITE_H
#define ENGINE_SYNC_WRITE_H

#include "engine/sync_page.h"
#include "engine/sync_plan.h"

struct sync_write;

struct sync_target { /* copied */
    struct sync_plans *plans;
    const struct sync_plan *plan;
    const char *run;     /* its number; NULL: rows by id, which belong to no run */
    const char *asked;   /* the cursor the page was asked with; NULL: the beginning */
    const char *goes_on; /* the cursor after it */
    const char *date;    /* the vendor's clock: an HTTP date, or "now" */
};

enum sync_written { SYNC_WRITTEN, SYNC_OVERTAKEN, SYNC_NOT_WRITTEN };

struct sync_written_page { /* valid during the call */
    enum sync_written outcome;
    int64_t rows, written, rejected;
    const struct err *err; /* set when it is SYNC_NOT_WRITTEN */
};
typedef void sync_written_fn(void *ctx, const struct sync_written_page *result);

/* Takes the page. done is called once. */
struct sync_write *sync_write_start(const struct engine *engine, const struct sync_target *target,
                                    struct sync_page *page, sync_written_fn *done, void *ctx);
void sync_write_cancel(struct sync_write *write); /* NULL is fine; what was sent may still land */

#endif
