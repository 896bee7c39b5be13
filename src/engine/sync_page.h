/* sync_page.h - one page of ServiceTitan's answer, cut up but not read: its rows go to PostgreSQL
 * as they came, so that ids and money stay exact. */
#ifndef ENGINE_SYNC_PAGE_H
#define ENGINE_SYNC_PAGE_H

#include "base/buf.h"
#include "base/err.h"

struct sync_page {
    char *text;          /* the whole answer; the page's own copy */
    bool more;           /* hasMore */
    char *next;          /* continueFrom, or NULL */
    size_t count;        /* rows */
    size_t *begin, *end; /* where in text each row is */
};

/* Copies the answer, replaces what PostgreSQL can't store (the escape \u0000, bytes that are no
 * UTF-8) and finds the rows. NULL: this isn't a page, err says why. */
struct sync_page *sync_page_read(const char *text, size_t len, struct err *err);
void sync_page_free(struct sync_page *page); /* NULL is fine */

/* Rows from `from` to before `to` as a JSON array. */
bool sync_page_rows(const struct sync_page *page, size_t from, size_t to, struct buf *out);
/* A top-level scalar of row i as text, without quotes; "" when it isn't there. */
void sync_page_field(const struct sync_page *page, size_t i, const char *name, char *out,
                     size_t size);

#endif
