/* http.h - the HTTP server: routes, limits, and replies that may come later, each exactly once. */
#ifndef IO_HTTP_H
#define IO_HTTP_H

#include "base/err.h"
#include "io/loop.h"

#include <stddef.h>

struct http_server;
struct http_request; /* lives until it is answered */
typedef void http_fn(void *ctx, struct http_request *request);

struct http_limits {
    size_t max_headers; /* bytes; 0: 16 kB */
    size_t max_body;    /* bytes; 0: 1 MB; a larger one is answered 413 */
    int timeout_s;      /* of a connection without traffic; 0: 30 */
};

/* host is an address such as "127.0.0.1"; port 0 takes a free one. NULL: err says why. */
struct http_server *http_server_new(struct loop *loop, const char *host, int port,
                                    const struct http_limits *limits, struct err *err);
int http_server_port(const struct http_server *server);
/* Stops accepting, then frees once every request under way was answered. */
void http_server_free(struct http_server *server);

/* path is exact, or a prefix when it ends with "*"; the longest match wins. Without a match the
 * answer is 404, with one of another method 405. */
void http_route(struct http_server *server, const char *method, const char *path, http_fn *fn,
                void *ctx);

const char *http_method(const struct http_request *request);
const char *http_path(const struct http_request *request);  /* decoded, without the query */
const char *http_query(const struct http_request *request); /* as it came, "" when absent */
const char *http_header(const struct http_request *request, const char *name); /* or NULL */
const char *http_body(struct http_request *request, size_t *len); /* terminated as well */
const char *http_peer(const struct http_request *request);        /* the peer's address */

/* A decoded form or query string ("a=1&b=2"), pairs in their order. Caller frees with one free().
 */
struct http_pair {
    const char *name, *value;
};
struct http_pair *http_form(const char *text, size_t len, size_t *count); /* NULL: malformed */

void http_reply(struct http_request *request, int status, const char *content_type,
                const char *body, size_t len);

#endif
