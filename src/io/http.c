/* http.c - the HTTP server, on evhttp.
 *
 *     accepted --> handler --> http_reply --> written, or the client is gone --> freed
 *
 * A request belongs to whoever handles it until http_reply. evhttp does not tell that a client has
 * gone before the reply is written; a reply to nobody is dropped. The server counts a request until
 * its reply is written, and frees itself only when none is left: evhttp_free would take the
 * connections, and what is still to be written, with it. */
#include "io/http.h"

#include "base/log.h"
#include "base/mem.h"
#include "io/loop_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADERS_MAX = 16 << 10, BODY_MAX = 1 << 20, TIMEOUT_S = 30 };

struct route {
    struct route *next;
    char *method, *path; // path without the "*"
    size_t len;
    bool is_prefix;
    http_fn *fn;
    void *ctx;
};

struct http_server {
    struct loop *loop;
    struct evhttp *http;
    struct evhttp_bound_socket *bound; // NULL: stopping
    struct route *routes;
    size_t requests; // under way
    int port;
};

struct http_request {
    struct http_server *server;
    struct evhttp_request *evhttp; // evhttp's, which frees it after the reply
    struct evhttp_connection *connection;
    char *path, *query, *peer, *body;
    bool is_head;
};

static const char *method_name(enum evhttp_cmd_type type)
{
    switch (type) {
    case EVHTTP_REQ_GET:
        return "GET";
    case EVHTTP_REQ_POST:
        return "POST";
    case EVHTTP_REQ_HEAD:
        return "HEAD";
    case EVHTTP_REQ_PUT:
        return "PUT";
    case EVHTTP_REQ_DELETE:
        return "DELETE";
    case EVHTTP_REQ_OPTIONS:
        return "OPTIONS";
    case EVHTTP_REQ_PATCH:
        return "PATCH";
    case EVHTTP_REQ_TRACE:
    case EVHTTP_REQ_CONNECT:
        break;
    }
    return "?";
}

// ---- the end of a request and of the server --------------------------------------------------

static void server_end(struct http_server *server)
{
    evhttp_free(server->http);
    for (struct route *route = server->routes, *next; route; route = next) {
        next = route->next;
        free(route->method);
        free(route->path);
        free(route);
    }
    free(server);
}

static void end_if_drained(void *ctx)
{
    struct http_server *server = ctx;
    if (server->requests == 0) {
        server_end(server);
    }
}

static void request_end(struct http_request *request)
{
    struct http_server *server = request->server;
    free(request->path);
    free(request->query);
    free(request->peer);
    free(request->body);
    free(request);
    server->requests--;
    if (!server->bound && server->requests == 0) {
        loop_undefer(server->loop, server); // evhttp is on the stack: not now
        loop_defer(server->loop, end_if_drained, server);
    }
}

static void on_written(struct evhttp_request *evhttp, void *arg)
{
    (void)evhttp;
    struct http_request *request = arg;
    evhttp_connection_set_closecb(request->connection, NULL, NULL);
    request_end(request);
}

static void on_closed(struct evhttp_connection *connection, void *arg)
{
    evhttp_connection_set_closecb(connection, NULL, NULL);
    request_end(arg);
}

void http_reply(struct http_request *request, int status, const char *content_type,
                const char *body, size_t len)
{
    struct evhttp_request *evhttp = request->evhttp;
    must(evhttp); // answered once
    request->evhttp = NULL;
    request->connection = evhttp_request_get_connection(evhttp);
    if (!request->connection) {
        evhttp_send_reply(evhttp, status, NULL, NULL); // only frees it
        request_end(request);
        return;
    }
    struct evkeyvalq *headers = evhttp_request_get_output_headers(evhttp);
    if (content_type) {
        evhttp_add_header(headers, "Content-Type", content_type);
    }
    if (!request->server->bound) {
        evhttp_add_header(headers, "Connection", "close");
    }
    struct evbuffer *out = evbuffer_new();
    must(out);
    if (request->is_head) {
        char text[24];
        snprintf(text, sizeof(text), "%zu", len);
        evhttp_add_header(headers, "Content-Length", text);
    } else if (len > 0) {
        must(evbuffer_add(out, body, len) == 0);
    }
    evhttp_request_set_on_complete_cb(evhttp, on_written, request);
    evhttp_connection_set_closecb(request->connection, on_closed, request);
    evhttp_send_reply(evhttp, status, NULL, out);
    evbuffer_free(out);
}

static void reply_text(struct http_request *request, int status, const char *text)
{
    http_reply(request, status, "text/plain; charset=utf-8", text, strlen(text));
}

// ---- routes ----------------------------------------------------------------------------------

void http_route(struct http_server *server, const char *method, const char *path, http_fn *fn,
                void *ctx)
{
    struct route *route = xcalloc(1, sizeof(*route));
    size_t len = strlen(path);
    route->is_prefix = len > 0 && path[len - 1] == '*';
    route->len = route->is_prefix ? len - 1 : len;
    route->method = xstrdup(method);
    route->path = xstrndup(path, route->len);
    route->fn = fn;
    route->ctx = ctx;
    route->next = server->routes;
    server->routes = route;
}

static bool route_matches(const struct route *route, const char *path)
{
    return route->is_prefix ? strncmp(path, route->path, route->len) == 0
                            : strcmp(path, route->path) == 0;
}

// The longest match; an exact one is longer than a prefix of the same length. HEAD is a GET
// without the body. *other: the path has routes for other methods.
static const struct route *find_route(const struct http_server *server, const char *method,
                                      const char *path, bool *other)
{
    const struct route *best = NULL;
    const char *as = strcmp(method, "HEAD") == 0 ? "GET" : method;
    *other = false;
    for (const struct route *route = server->routes; route; route = route->next) {
        if (!route_matches(route, path)) {
            continue;
        }
        if (strcmp(route->method, as) != 0 && strcmp(route->method, method) != 0) {
            *other = true;
        } else if (!best || route->len > best->len ||
                   (route->len == best->len && best->is_prefix && !route->is_prefix)) {
            best = route;
        }
    }
    return best;
}

static void on_request(struct evhttp_request *evhttp, void *arg)
{
    struct http_server *server = arg;
    struct http_request *request = xcalloc(1, sizeof(*request));
    request->server = server;
    request->evhttp = evhttp;
    server->requests++;
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(evhttp);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    const char *query = uri ? evhttp_uri_get_query(uri) : NULL;
    size_t len = 0;
    request->path = path ? evhttp_uridecode(path, 0, &len) : NULL;
    request->query = xstrdup(query ? query : "");
    request->is_head = evhttp_request_get_command(evhttp) == EVHTTP_REQ_HEAD;
    char *peer = NULL;
    ev_uint16_t port;
    evhttp_connection_get_peer(evhttp_request_get_connection(evhttp), &peer, &port);
    request->peer = xstrdup(peer ? peer : "");
    if (!server->bound) {
        reply_text(request, 503, "stopping\n");
        return;
    }
    if (!request->path || strlen(request->path) != len) {
        reply_text(request, 400, "malformed path\n");
        return;
    }
    bool other;
    const struct route *route = find_route(server, http_method(request), request->path, &other);
    if (route) {
        route->fn(route->ctx, request);
    } else if (other) {
        reply_text(request, 405, "method not allowed\n");
    } else {
        reply_text(request, 404, "not found\n");
    }
}

// ---- the request -----------------------------------------------------------------------------

const char *http_method(const struct http_request *request)
{
    return method_name(evhttp_request_get_command(request->evhttp));
}

const char *http_path(const struct http_request *request)
{
    return request->path;
}

const char *http_query(const struct http_request *request)
{
    return request->query;
}

const char *http_header(const struct http_request *request, const char *name)
{
    return evhttp_find_header(evhttp_request_get_input_headers(request->evhttp), name);
}

const char *http_body(struct http_request *request, size_t *len)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(request->evhttp);
    size_t size = evbuffer_get_length(in);
    if (!request->body) {
        request->body = xmalloc(size + 1);
        must(evbuffer_copyout(in, request->body, size) == (ev_ssize_t)size);
        request->body[size] = 0;
    }
    if (len) {
        *len = size;
    }
    return request->body;
}

const char *http_peer(const struct http_request *request)
{
    return request->peer;
}

// ---- forms -----------------------------------------------------------------------------------

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

// Decodes into out, which has room for len + 1 bytes; returns what follows the NUL, or NULL.
static char *decode(char *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = text[i] == '+' ? ' ' : text[i];
        if (c == '%') {
            int high = len - i > 2 ? hex_digit(text[i + 1]) : -1;
            int low = len - i > 2 ? hex_digit(text[i + 2]) : -1;
            if (high < 0 || low < 0) {
                return NULL;
            }
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == 0) {
            return NULL; // the values are C strings
        }
        *out++ = c;
    }
    *out++ = 0;
    return out;
}

struct http_pair *http_form(const char *text, size_t len, size_t *count)
{
    size_t parts = 1;
    for (size_t i = 0; i < len; i++) {
        parts += text[i] == '&';
    }
    // A part of n bytes needs n + 1 with its NULs: "=" gives way to one of them.
    struct http_pair *pairs = xmalloc(parts * sizeof(*pairs) + len + 1);
    char *out = (char *)(pairs + parts);
    *count = 0;
    for (const char *at = text, *end = text + len; at < end;) {
        const char *stop = memchr(at, '&', (size_t)(end - at));
        stop = stop ? stop : end;
        const char *equals = memchr(at, '=', (size_t)(stop - at));
        if (stop > at) {
            struct http_pair *pair = &pairs[(*count)++];
            pair->name = out;
            pair->value = "";
            out = decode(out, at, (size_t)((equals ? equals : stop) - at));
            if (out && equals) {
                pair->value = out;
                out = decode(out, equals + 1, (size_t)(stop - equals - 1));
            }
            if (!out) {
                free(pairs);
                *count = 0;
                return NULL;
            }
        }
        at = stop + 1;
    }
    return pairs;
}

// ---- the server ------------------------------------------------------------------------------

static bool is_address(const char *host)
{
    unsigned char address[16];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static int bound_port(struct evhttp_bound_socket *bound)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    int fd = evhttp_bound_socket_get_fd(bound);
    must(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

static bool listen_on(struct http_server *server, const char *host, int port, struct err *err)
{
    if (!is_address(host) || port < 0 || port > 65535) {
        return err_set(err, ERR_CONFIG,
                       "can't listen on '%s' port %d: an address such as "
                       "127.0.0.1 and a port up to 65535 are needed",
                       host, port);
    }
    errno = 0;
    server->bound = evhttp_bind_socket_with_handle(server->http, host, (ev_uint16_t)port);
    if (!server->bound) {
        return errno == EADDRINUSE
                   ? err_set(err, ERR_IO, "port %d of %s is in use by another program", port, host)
                   : err_set(err, ERR_IO, "can't listen on %s port %d: %s", host, port,
                             strerror(errno));
    }
    server->port = bound_port(server->bound);
    return true;
}

struct http_server *http_server_new(struct loop *loop, const char *host, int port,
                                    const struct http_limits *limits, struct err *err)
{
    struct http_limits given = limits ? *limits : (struct http_limits){0};
    struct http_server *server = xcalloc(1, sizeof(*server));
    server->loop = loop;
    server->http = evhttp_new(loop_base(loop));
    must(server->http);
    evhttp_set_max_headers_size(server->http,
                                (ev_ssize_t)(given.max_headers ? given.max_headers : HEADERS_MAX));
    evhttp_set_max_body_size(server->http,
                             (ev_ssize_t)(given.max_body ? given.max_body : BODY_MAX));
    evhttp_set_timeout(server->http, given.timeout_s ? given.timeout_s : TIMEOUT_S);
    evhttp_set_allowed_methods(server->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
                                                 EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                                 EVHTTP_REQ_PATCH | EVHTTP_REQ_OPTIONS);
    // A body that is too large is read and dropped, so that its sender sees the 413.
    evhttp_set_flags(server->http, EVHTTP_SERVER_LINGERING_CLOSE);
    evhttp_set_default_content_type(server->http, NULL);
    evhttp_set_gencb(server->http, on_request, server);
    if (!listen_on(server, host, port, err)) {
        server_end(server);
        return NULL;
    }
    return server;
}

int http_server_port(const struct http_server *server)
{
    return server->port;
}

void http_server_free(struct http_server *server)
{
    if (!server) {
        return;
    }
    evhttp_del_accept_socket(server->http, server->bound);
    server->bound = NULL;
    if (server->requests == 0) {
        server_end(server);
    }
}
