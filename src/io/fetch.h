/* fetch.h - outbound HTTP on curl's multi interface.
 *
 * A request that must not be repeated (`once`) gets one attempt: libcurl by itself re-sends a POST
 * when a kept-alive connection drops before the answer. Its `gate`, asked right before the first
 * byte leaves, may still stop it. No redirects, no automatic retries. */
#ifndef IO_FETCH_H
#define IO_FETCH_H

#include "base/err.h"
#include "io/loop.h"

#include <stddef.h>

enum fetch_outcome {
    FETCH_ANSWERED, /* a whole answer came, whatever its status */
    FETCH_UNSENT,   /* failed before the first byte of the request left: it did not happen */
    FETCH_BROKEN    /* sent, in part or whole, and no whole answer: it may have happened */
};

struct fetch_request {
    const char *method; /* "GET", "POST", ... */
    const char *url;
    const char *const *headers; /* "Name: value", NULL at the end; may be NULL */
    const char *body;           /* NULL for none */
    size_t body_len;
    int timeout_ms;   /* whole request; 0: 30,000 */
    size_t max_body;  /* of the answer; 0: 16 MB */
    bool public_only; /* only to addresses of the world: not to ones of our own networks */
    bool once;
    bool (*gate)(void *ctx); /* only with once; false: don't send (FETCH_UNSENT) */
};

struct fetch_result {
    enum fetch_outcome outcome;
    struct err err;   /* set unless FETCH_ANSWERED */
    int status;       /* 0 unless FETCH_ANSWERED */
    const char *body; /* terminated; "" when empty */
    size_t body_len;
    const void *headers; /* for fetch_header */
    int64_t ms;          /* how long it took */
};

struct fetcher; /* curl multi on a loop */
struct fetch;   /* one request under way */
typedef void fetch_done_fn(void *ctx, const struct fetch_result *result); /* valid in the call */

struct fetcher *fetcher_new(struct loop *loop, struct err *err); /* NULL: this libcurl won't do */
void fetcher_free(struct fetcher *fetcher);                      /* cancels what is under way */
/* Everything is copied. ctx is also the gate's ctx. */
struct fetch *fetch_start(struct fetcher *fetcher, const struct fetch_request *request,
                          fetch_done_fn *done, void *ctx);
void fetch_cancel(struct fetch *fetch);
/* The last value of a header (name without case), or NULL. Valid in the callback. */
const char *fetch_header(const struct fetch_result *result, const char *name);

#endif
