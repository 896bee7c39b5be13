/* fetch.c - outbound HTTP: curl's multi interface on the loop.
 *
 *     started --> in curl --> finished --> delivered (from the loop) and freed
 *                    '--- cancelled: freed without a word
 *
 * The prereq callback decides what an outcome may claim: libcurl calls it when a connection is
 * ready and no byte of the request was written, on every attempt. Until it let one through, the
 * request is unsent; from then on it may have happened. A `once` request is let through once.
 *
 * curl's timer callback must not call curl; it only sets our timer. HTTP/1.1 only: one request, one
 * connection, so that a fault of one is not the fault of others. */
#include "io/fetch.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/mem.h"
#include "io/address.h"
#include "io/loop_internal.h"

#include <curl/curl.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

enum {
    TIMEOUT_MS = 30000,
    CONNECT_MS = 10000,
    BODY_MAX = 16 << 20,
    HEADERS_MAX = 256 << 10,
    ONCE_IDLE_S = 20 // a connection idle for longer is likelier to drop under a request
};

struct fetcher {
    struct loop *loop;
    CURLM *multi;
    struct loop_timer *timer;
    struct fetch *fetches; // all that are not delivered
    bool in_curl;          // curl's frames are on the stack
    bool swept;            // some were cancelled meanwhile
};

struct fetch {
    struct fetcher *fetcher;
    struct fetch *next, **prev;
    CURL *easy; // NULL once finished
    struct curl_slist *headers;
    char *method, *host, *body;
    bool once, sent, refused, cancelled;
    bool forbidden; // an address of its host is not the world's
    bool (*gate)(void *ctx);
    fetch_done_fn *done;
    void *ctx;
    struct buf answer, answer_headers; // headers: "Name: value" NUL, ...
    int64_t began_ms;
    char error[CURL_ERROR_SIZE];
    struct fetch_result result;
};

struct watched { // a socket of curl's
    struct fetcher *fetcher;
    struct event *event;
};

static void fetch_free(struct fetch *fetch)
{
    *fetch->prev = fetch->next;
    if (fetch->next) {
        fetch->next->prev = fetch->prev;
    }
    if (fetch->easy) {
        curl_multi_remove_handle(fetch->fetcher->multi, fetch->easy);
        curl_easy_cleanup(fetch->easy);
    }
    curl_slist_free_all(fetch->headers);
    buf_fini(&fetch->answer);
    buf_fini(&fetch->answer_headers);
    free(fetch->method);
    free(fetch->host);
    free(fetch->body);
    free(fetch);
}

// ---- the end of a request --------------------------------------------------------------------

static void deliver(void *ctx)
{
    struct fetch *fetch = ctx;
    fetch_done_fn *done = fetch->done;
    fetch->done = NULL; // a cancel from within is too late and harmless
    done(fetch->ctx, &fetch->result);
    fetch_free(fetch);
}

static void finish(struct fetch *fetch)
{
    fetch->result.ms = clock_mono_ms() - fetch->began_ms;
    fetch->result.body = fetch->answer.data;
    fetch->result.body_len = fetch->answer.len;
    fetch->result.headers = fetch;
    loop_defer(fetch->fetcher->loop, deliver, fetch);
}

// A request that is wrong in itself: it fails like any other, later.
static void refuse(struct fetch *fetch, enum err_code code, const char *why)
{
    fetch->result.outcome = FETCH_UNSENT;
    err_set(&fetch->result.err, code, "%s %s: %s", fetch->method, fetch->host, why);
    finish(fetch);
}

// A point where a test may have us die.
static void pass(struct fetch *fetch, const char *kind)
{
    if (crash_armed()) {
        char text[200], *url = NULL;
        curl_easy_getinfo(fetch->easy, CURLINFO_EFFECTIVE_URL, &url);
        snprintf(text, sizeof(text), "%s %.*s", fetch->method, (int)strcspn(url ? url : "", "?"),
                 url ? url : "");
        crash_point(kind, text);
    }
}

static void judge(struct fetch *fetch, CURLcode code)
{
    struct fetch_result *result = &fetch->result;
    bool capped = fetch->answer.overflow || fetch->answer_headers.overflow;
    if (code == CURLE_OK && !capped) {
        long status = 0;
        curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
        result->outcome = FETCH_ANSWERED;
        result->status = (int)status;
        return;
    }
    result->outcome = fetch->sent ? FETCH_BROKEN : FETCH_UNSENT;
    const char *why = fetch->error[0] ? fetch->error : curl_easy_strerror(code);
    enum err_code kind = ERR_CONN;
    if (fetch->refused) {
        kind = ERR_LIMIT;
        why = "held back right before it was sent";
    } else if (fetch->forbidden && code == CURLE_COULDNT_CONNECT) {
        kind = ERR_INPUT;
        why = "it leads to an address that is not public";
    } else if (capped || code == CURLE_FILESIZE_EXCEEDED) {
        kind = ERR_LIMIT;
        why = "the answer is larger than allowed";
    } else if (code == CURLE_ABORTED_BY_CALLBACK) {
        why = "the connection dropped before the answer; a second attempt was stopped";
    } else if (code == CURLE_OPERATION_TIMEDOUT) {
        kind = ERR_TIMEOUT;
    } else if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL) {
        kind = ERR_INPUT;
    }
    err_set(&result->err, kind, "%s %s: %s", fetch->method, fetch->host, why);
    buf_clear(&fetch->answer); // half an answer is none
    buf_clear(&fetch->answer_headers);
}

static void sweep(struct fetcher *fetcher)
{
    if (fetcher->swept) {
        fetcher->swept = false;
        for (struct fetch *fetch = fetcher->fetches, *next; fetch; fetch = next) {
            next = fetch->next;
            if (fetch->cancelled) {
                fetch_free(fetch);
            }
        }
    }
}

static void act(struct fetcher *fetcher, curl_socket_t fd, int what)
{
    int running;
    fetcher->in_curl = true;
    curl_multi_socket_action(fetcher->multi, fd, what, &running);
    fetcher->in_curl = false;
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(fetcher->multi, &left));) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        CURLcode code = message->data.result; // gone with the handle
        struct fetch *fetch = NULL;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&fetch);
        if (fetch->cancelled) {
            continue;
        }
        pass(fetch, "accepted");
        judge(fetch, code);
        curl_multi_remove_handle(fetcher->multi, fetch->easy);
        curl_easy_cleanup(fetch->easy);
        fetch->easy = NULL;
        finish(fetch);
    }
    sweep(fetcher);
}

// ---- curl's callbacks ------------------------------------------------------------------------

static int on_prereq(void *arg, char *remote, char *local, int remote_port, int local_port)
{
    (void)remote, (void)local, (void)remote_port, (void)local_port;
    struct fetch *fetch = arg;
    if (fetch->cancelled || (fetch->once && fetch->sent)) {
        return CURL_PREREQFUNC_ABORT;
    }
    pass(fetch, "gate");
    if (fetch->once && fetch->gate && !fetch->gate(fetch->ctx)) {
        fetch->refused = true;
        return CURL_PREREQFUNC_ABORT;
    }
    if (fetch->cancelled) { // by the gate
        return CURL_PREREQFUNC_ABORT;
    }
    fetch->sent = true;
    pass(fetch, "wire");
    return CURL_PREREQFUNC_OK;
}

// Asked with the address that was looked up, so no answer of a name server gets past it.
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *to)
{
    struct fetch *fetch = arg;
    (void)purpose;
    if (!address_is_public(&to->addr)) {
        fetch->forbidden = true;
        return CURL_SOCKET_BAD;
    }
    return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct fetch *fetch = arg;
    return buf_add(&fetch->answer, data, size * count) ? size * count : CURL_WRITEFUNC_ERROR;
}

static size_t on_header(char *data, size_t size, size_t count, void *arg)
{
    struct fetch *fetch = arg;
    size_t len = size * count, text = len;
    if (len > 5 && memcmp(data, "HTTP/", 5) == 0) {
        buf_clear(&fetch->answer_headers); // what came before was an interim answer's
        return len;
    }
    while (text > 0 && strchr("\r\n\t ", data[text - 1])) {
        text--;
    }
    if (text > 0 && !memchr(data, 0, text)) {
        buf_add(&fetch->answer_headers, data, text);
        buf_addc(&fetch->answer_headers, 0);
    }
    return fetch->answer_headers.overflow ? CURL_WRITEFUNC_ERROR : len;
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    struct watched *watched = arg;
    act(watched->fetcher, fd,
        (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0));
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *of_socket)
{
    (void)easy;
    struct fetcher *fetcher = arg;
    struct watched *watched = of_socket;
    if (what == CURL_POLL_REMOVE) {
        if (watched) {
            event_free(watched->event);
            free(watched);
            curl_multi_assign(fetcher->multi, fd, NULL);
        }
        return 0;
    }
    short mask = (short)(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) |
                         (what & CURL_POLL_OUT ? EV_WRITE : 0));
    if (!watched) {
        watched = xmalloc(sizeof(*watched));
        watched->fetcher = fetcher;
        watched->event = event_new(loop_base(fetcher->loop), fd, mask, on_event, watched);
        must(watched->event);
        curl_multi_assign(fetcher->multi, fd, watched);
    } else {
        event_del(watched->event);
        event_assign(watched->event, loop_base(fetcher->loop), fd, mask, on_event, watched);
    }
    must(event_add(watched->event, NULL) == 0);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    struct fetcher *fetcher = arg;
    if (ms < 0) {
        loop_timer_clear(fetcher->timer);
    } else {
        loop_timer_set(fetcher->timer, ms);
    }
    return 0;
}

static void timer_due(void *ctx)
{
    act(ctx, CURL_SOCKET_TIMEOUT, 0);
}

// ---- starting --------------------------------------------------------------------------------

// The host of a URL, for messages: paths and queries may hold secrets.
static char *host_of(const char *url)
{
    const char *scheme = strstr(url, "://");
    const char *host = scheme ? scheme + 3 : url;
    size_t len = strcspn(host, "/?#");
    for (size_t i = 0; i < len; i++) {
        if (host[i] == '@') {
            host += i + 1;
            len -= i + 1;
            i = (size_t)-1;
        }
    }
    return xstrndup(host, len < 100 ? len : 100);
}

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strncmp(host, "[::1]", 5) == 0 ||
           strncasecmp(host, "localhost", 9) == 0;
}

// What would let a value end its line and begin another header or request.
static bool is_one_line(const char *text)
{
    return !strpbrk(text, "\r\n");
}

static bool set_headers(struct fetch *fetch, const char *const *headers)
{
    struct curl_slist *list = NULL;
    for (size_t i = 0; headers && headers[i]; i++) {
        if (!is_one_line(headers[i])) {
            curl_slist_free_all(list);
            return false;
        }
        struct curl_slist *longer = curl_slist_append(list, headers[i]);
        must(longer);
        list = longer;
    }
    // No "Expect: 100-continue": it delays, and a 417 would make libcurl send the request again.
    fetch->headers = curl_slist_append(list, "Expect:");
    must(fetch->headers);
    curl_easy_setopt(fetch->easy, CURLOPT_HTTPHEADER, fetch->headers);
    return true;
}

static void set_method(struct fetch *fetch, const struct fetch_request *request)
{
    CURL *easy = fetch->easy;
    bool post = strcmp(request->method, "POST") == 0;
    if (request->body || post) {
        fetch->body = xmalloc(request->body_len + 1);
        if (request->body_len > 0) {
            memcpy(fetch->body, request->body, request->body_len);
        }
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, fetch->body);
    }
    if (strcmp(request->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (!post && (request->body || strcmp(request->method, "GET") != 0)) {
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, fetch->method);
    }
}

static void set_options(struct fetch *fetch, const struct fetch_request *request)
{
    CURL *easy = fetch->easy;
    long timeout = request->timeout_ms > 0 ? request->timeout_ms : TIMEOUT_MS;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, (char *)fetch);
    curl_easy_setopt(easy, CURLOPT_URL, request->url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, timeout < CONNECT_MS ? timeout : CONNECT_MS);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->error);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "moonwright/" MOONWRIGHT_VERSION);
    curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)fetch->answer.cap);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_prereq);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, fetch);
    if (fetch->once) {
        curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)ONCE_IDLE_S);
    }
    if (is_loopback(fetch->host)) { // whatever the environment's proxy settings say
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
    }
    if (request->public_only) { // no proxy, and no connection that was opened without being asked
        curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
        curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, fetch);
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
    }
    set_method(fetch, request);
}

struct fetch *fetch_start(struct fetcher *fetcher, const struct fetch_request *request,
                          fetch_done_fn *done, void *ctx)
{
    struct fetch *fetch = xcalloc(1, sizeof(*fetch));
    fetch->fetcher = fetcher;
    fetch->next = fetcher->fetches;
    fetch->prev = &fetcher->fetches;
    if (fetch->next) {
        fetch->next->prev = &fetch->next;
    }
    fetcher->fetches = fetch;
    fetch->method = xstrdup(request->method);
    fetch->host = host_of(request->url);
    fetch->once = request->once;
    fetch->gate = request->gate;
    fetch->done = done;
    fetch->ctx = ctx;
    fetch->began_ms = clock_mono_ms();
    buf_init(&fetch->answer, request->max_body ? request->max_body : BODY_MAX);
    buf_init(&fetch->answer_headers, HEADERS_MAX);
    fetch->easy = curl_easy_init();
    must(fetch->easy);
    if (!is_one_line(request->method) || strchr(request->method, ' ') ||
        !is_one_line(request->url) || !set_headers(fetch, request->headers)) {
        curl_easy_cleanup(fetch->easy);
        fetch->easy = NULL;
        refuse(fetch, ERR_INPUT, "the method, the URL or a header holds a line break");
        return fetch;
    }
    set_options(fetch, request);
    must(curl_multi_add_handle(fetcher->multi, fetch->easy) == CURLM_OK);
    return fetch;
}

void fetch_cancel(struct fetch *fetch)
{
    if (!fetch->done) {
        return; // its callback is running
    }
    loop_undefer(fetch->fetcher->loop, fetch);
    if (fetch->fetcher->in_curl) { // from a gate: curl must not lose a handle it is working on
        fetch->cancelled = fetch->fetcher->swept = true;
    } else {
        fetch_free(fetch);
    }
}

const char *fetch_header(const struct fetch_result *result, const char *name)
{
    const struct fetch *fetch = result->headers;
    const char *found = NULL;
    size_t len = strlen(name);
    const char *end = fetch->answer_headers.data + fetch->answer_headers.len;
    for (const char *at = fetch->answer_headers.data; at < end; at += strlen(at) + 1) {
        if (strncasecmp(at, name, len) == 0 && at[len] == ':') {
            found = at + len + 1 + strspn(at + len + 1, " \t");
        }
    }
    return found;
}

struct fetcher *fetcher_new(struct loop *loop, struct err *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        err_set(err, ERR_CONFIG, "libcurl could not be started");
        return NULL;
    }
    const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);
    if (info->version_num < 0x075500 || !(info->features & CURL_VERSION_ASYNCHDNS)) {
        err_set(err, ERR_CONFIG,
                "this libcurl (%s) won't do: 7.85 or newer, built to look names up without "
                "blocking, is needed",
                info->version);
        curl_global_cleanup();
        return NULL;
    }
    struct fetcher *fetcher = xcalloc(1, sizeof(*fetcher));
    fetcher->loop = loop;
    fetcher->timer = loop_timer_new(loop, timer_due, fetcher);
    fetcher->multi = curl_multi_init();
    must(fetcher->multi);
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETDATA, fetcher);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERDATA, fetcher);
    curl_multi_setopt(fetcher->multi, CURLMOPT_MAX_HOST_CONNECTIONS, 64L);
    curl_multi_setopt(fetcher->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, 256L);
    return fetcher;
}

void fetcher_free(struct fetcher *fetcher)
{
    if (!fetcher) {
        return;
    }
    for (struct fetch *fetch = fetcher->fetches, *next; fetch; fetch = next) {
        next = fetch->next;
        if (fetch->done) {
            fetch_cancel(fetch);
        } else {
            // It is being delivered: its callback frees us, and it frees itself after that.
            *fetch->prev = fetch->next;
            if (fetch->next) {
                fetch->next->prev = fetch->prev;
            }
            fetch->prev = &fetch->next; // a list of its own
            fetch->next = NULL;
        }
    }
    curl_multi_cleanup(fetcher->multi);
    loop_timer_free(fetcher->timer);
    free(fetcher);
    curl_global_cleanup();
}
