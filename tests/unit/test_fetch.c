/* Outbound requests against a raw server that counts what reached it: nothing is sent twice, and
 * an outcome claims no more than is known. */
#include "unit.h"

#include "base/log.h"
#include "base/mem.h"
#include "io/fetch.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

// ---- the server: what it does is in the path -------------------------------------------------

struct server {
    int listener, port;
    pthread_t thread;
    atomic_int requests, connections;
    char last[4096]; // the last request's text; read when nothing is under way
};

struct visit {
    struct server *server;
    int fd;
};

static void say(int fd, const char *text)
{
    for (size_t left = strlen(text); left > 0;) {
        ssize_t n = send(fd, text, left, MSG_NOSIGNAL);
        if (n <= 0) {
            return;
        }
        text += n;
        left -= (size_t)n;
    }
}

// Reads one request with its body; false at the end of the connection.
static bool hear(struct server *server, int fd, char *text, size_t size)
{
    size_t have = 0;
    while (have < size - 1) {
        ssize_t n = recv(fd, text + have, size - 1 - have, 0);
        if (n <= 0) {
            return false;
        }
        have += (size_t)n;
        text[have] = 0;
        char *end = strstr(text, "\r\n\r\n");
        char *length = strcasestr(text, "\r\nContent-Length:");
        size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
        if (end && have >= (size_t)(end + 4 - text) + body) {
            memcpy(server->last, text, have + 1);
            return true;
        }
    }
    return false;
}

// False: the connection ends here.
static bool answer(int fd, const char *text)
{
    char path[64] = "";
    sscanf(text, "%*s %63s", path);
    if (strcmp(path, "/drop") == 0) {
        return false;
    }
    if (strcmp(path, "/hang") == 0) {
        char c;
        (void)!recv(fd, &c, 1, 0); // until the client goes
        return false;
    }
    if (strcmp(path, "/part") == 0) {
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
        return false;
    }
    if (strcmp(path, "/large") == 0 || strcmp(path, "/endless") == 0) {
        say(fd, strcmp(path, "/large") == 0 ? "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n"
                                            : "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        char block[1001] = "";
        memset(block, 'x', 1000);
        for (int i = 0; i < 50; i++) {
            say(fd, block);
        }
        return strcmp(path, "/large") == 0;
    }
    if (strcmp(path, "/away") == 0) {
        say(fd, "HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n");
        return true;
    }
    if (strcmp(path, "/expect") == 0) {
        say(fd, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
        return true;
    }
    if (strcmp(path, "/garbage") == 0) {
        say(fd, "\x01\x02 this is not HTTP\r\n\r\n");
        return false;
    }
    if (strcmp(path, "/interim") == 0) {
        say(fd, "HTTP/1.1 103 Early Hints\r\nX-Which: interim\r\n\r\n");
    }
    say(fd, "HTTP/1.1 201 Created\r\nX-Which: first\r\nx-which:  last \r\nRetry-After: 7\r\n"
            "Content-Length: 5\r\n\r\nhello");
    return true;
}

static void *serve_one(void *arg)
{
    struct visit visit = *(struct visit *)arg;
    free(arg);
    size_t size = sizeof(visit.server->last);
    char *text = xmalloc(size);
    while (hear(visit.server, visit.fd, text, size)) {
        visit.server->requests++;
        if (!answer(visit.fd, text)) {
            break;
        }
    }
    free(text);
    close(visit.fd);
    return NULL;
}

static void *serve(void *arg)
{
    struct server *server = arg;
    pthread_t threads[64];
    size_t count = 0;
    for (int fd; (fd = accept(server->listener, NULL, NULL)) >= 0;) {
        struct visit *visit = xmalloc(sizeof(*visit));
        *visit = (struct visit){server, fd};
        server->connections++;
        must(count < ARRAY_LEN(threads));
        must(pthread_create(&threads[count++], NULL, serve_one, visit) == 0);
    }
    while (count > 0) {
        pthread_join(threads[--count], NULL);
    }
    return NULL;
}

static int listen_locally(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(fd, (struct sockaddr *)&at, len) == 0 && listen(fd, 16) == 0);
    must(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    *port = ntohs(at.sin_port);
    return fd;
}

// ---- the client ------------------------------------------------------------------------------

struct fixture {
    struct loop *loop;
    struct fetcher *fetcher;
    struct server server;
};

struct got {
    struct fixture *fixture;
    int calls, gate_calls, status;
    bool done, gate_answer;
    struct fetch *cancel; // the gate cancels it
    enum fetch_outcome outcome;
    struct err err;
    char body[64], which[64];
    size_t body_len;
};

static void on_done(void *ctx, const struct fetch_result *result)
{
    struct got *got = ctx;
    got->calls++;
    got->done = true;
    got->outcome = result->outcome;
    got->status = result->status;
    got->body_len = result->body_len;
    snprintf(got->body, sizeof(got->body), "%s", result->body);
    if (result->outcome == FETCH_ANSWERED) {
        const char *which = fetch_header(result, "X-WHICH");
        snprintf(got->which, sizeof(got->which), "%s", which ? which : "");
        assert_null(fetch_header(result, "X-Whic"));
    } else {
        assert_int_not_equal(result->err.code, ERR_NONE);
        got->err = result->err;
        assert_int_equal(result->status, 0);
    }
}

static bool on_gate(void *ctx)
{
    struct got *got = ctx;
    got->gate_calls++;
    if (got->cancel) {
        fetch_cancel(got->cancel);
    }
    return got->gate_answer;
}

static bool gate_asked(void *ctx)
{
    return ((struct got *)ctx)->gate_calls > 0;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err err;
    f->loop = loop_new();
    f->fetcher = fetcher_new(f->loop, &err);
    must(f->fetcher);
    f->server.listener = listen_locally(&f->server.port);
    must(pthread_create(&f->server.thread, NULL, serve, &f->server) == 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fetcher_free(f->fetcher);
    loop_free(f->loop);
    shutdown(f->server.listener, SHUT_RDWR);
    pthread_join(f->server.thread, NULL);
    close(f->server.listener);
    free(f);
    return 0;
}

static struct fetch *start(struct fixture *f, struct got *got, struct fetch_request request,
                           const char *path)
{
    char url[128];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", f->server.port, path);
    request.url = url;
    got->fixture = f;
    struct fetch *fetch = fetch_start(f->fetcher, &request, on_done, got);
    assert_false(got->done);
    return fetch;
}

static struct got go(struct fixture *f, struct fetch_request request, const char *path)
{
    struct got got = {.gate_answer = true};
    start(f, &got, request, path);
    assert_true(run_until(f->loop, is_set, &got.done, 15000));
    run_for(f->loop, 5);
    assert_int_equal(got.calls, 1);
    return got;
}

static const struct fetch_request GET = {.method = "GET"};
static const struct fetch_request POST = {
    .method = "POST", .body = "a=1", .body_len = 3, .once = true};

static struct fetch_request gated(void)
{
    struct fetch_request request = POST;
    request.gate = on_gate;
    return request;
}

static void test_a_whole_answer(void **state)
{
    struct fixture *f = *state;
    struct fetch_request request = POST;
    request.headers = (const char *[]){"X-Mine: yes", "Content-Type: text/plain", NULL};
    struct got got = go(f, request, "/ok");
    assert_int_equal(got.outcome, FETCH_ANSWERED);
    assert_int_equal(got.status, 201);
    assert_string_equal(got.body, "hello");
    assert_string_equal(got.which, "last");
    assert_non_null(strstr(f->server.last, "POST /ok HTTP/1.1\r\n"));
    assert_non_null(strstr(f->server.last, "\r\nX-Mine: yes\r\n"));
    assert_non_null(strstr(f->server.last, "\r\n\r\na=1"));
}

static void test_methods(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct fetch_request request = {.method = names[i]};
        assert_int_equal(go(f, request, "/ok").status, 201);
        assert_memory_equal(f->server.last, names[i], strlen(names[i]));
        request.body = "{}";
        request.body_len = 2;
        assert_int_equal(go(f, request, "/ok").status, 201);
        assert_memory_equal(f->server.last, names[i], strlen(names[i]));
        assert_non_null(strstr(f->server.last, "\r\n\r\n{}"));
    }
    assert_int_equal(f->server.connections, 1); // kept alive
}

static void test_interim_headers_are_forgotten(void **state)
{
    assert_string_equal(go(*state, GET, "/interim").which, "last");
}

static void test_a_post_on_a_dropped_connection_arrives_once(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(go(f, POST, "/ok").outcome, FETCH_ANSWERED);
    assert_int_equal(f->server.requests, 1);
    struct got got = go(f, POST, "/drop"); // on the same connection
    assert_int_equal(got.outcome, FETCH_BROKEN);
    assert_int_equal(f->server.requests, 2);
    run_for(f->loop, 50);
    assert_int_equal(f->server.requests, 2);
    assert_int_equal(go(f, POST, "/drop").outcome, FETCH_BROKEN); // on a fresh one
    assert_int_equal(f->server.requests, 3);
}

static void test_the_gate_is_asked_once_before_the_wire(void **state)
{
    struct fixture *f = *state;
    struct got got = go(f, gated(), "/ok");
    assert_int_equal(got.gate_calls, 1);
    assert_int_equal(got.outcome, FETCH_ANSWERED);
    got = go(f, gated(), "/drop");
    assert_int_equal(got.gate_calls, 1);
    assert_int_equal(got.outcome, FETCH_BROKEN);
}

static void test_a_gate_that_refuses_sends_nothing(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(go(f, GET, "/ok").outcome, FETCH_ANSWERED);
    for (int i = 0; i < 2; i++) {
        struct got got = {.gate_answer = false};
        start(f, &got, gated(), "/ok");
        assert_true(run_until(f->loop, is_set, &got.done, 15000));
        assert_int_equal(got.outcome, FETCH_UNSENT);
        assert_int_equal(got.gate_calls, 1);
        run_for(f->loop, 20);
        assert_int_equal(f->server.requests, 1);
    }
}

static void test_a_gate_may_cancel(void **state)
{
    struct fixture *f = *state;
    struct got got = {.gate_answer = true};
    got.cancel = start(f, &got, gated(), "/ok");
    assert_true(run_until(f->loop, gate_asked, &got, 15000));
    run_for(f->loop, 50);
    assert_int_equal(got.gate_calls, 1);
    assert_int_equal(got.calls, 0);
    assert_int_equal(f->server.requests, 0);
}

static void test_nobody_listens(void **state)
{
    struct fixture *f = *state;
    int port;
    close(listen_locally(&port));
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/", port);
    struct fetch_request request = gated();
    request.url = url;
    struct got got = {.gate_answer = true};
    fetch_start(f->fetcher, &request, on_done, &got);
    assert_true(run_until(f->loop, is_set, &got.done, 15000));
    assert_int_equal(got.outcome, FETCH_UNSENT);
    assert_int_equal(got.err.code, ERR_CONN);
    assert_int_equal(got.gate_calls, 0);
}

static void test_own_networks_are_not_reached_where_only_the_world_is_meant(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(go(f, POST, "/ok").status, 201); // which leaves a connection to reuse
    int connections = f->server.connections;
    static const char *const hosts[] = {"127.0.0.1", "localhost", "[::1]", "127.1", "0x7f000001"};
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
        char url[64];
        snprintf(url, sizeof(url), "http://%s:%d/ok", hosts[i], f->server.port);
        struct fetch_request request = gated();
        request.url = url;
        request.public_only = true;
        struct got got = {.gate_answer = true};
        fetch_start(f->fetcher, &request, on_done, &got);
        assert_true(run_until(f->loop, is_set, &got.done, 15000));
        assert_int_equal(got.outcome, FETCH_UNSENT);
        assert_int_equal(got.err.code, ERR_INPUT);
        assert_non_null(strstr(got.err.message, "not public"));
        assert_int_equal(got.gate_calls, 0);
    }
    assert_int_equal(f->server.connections, connections);
    assert_int_equal(f->server.requests, 1);
}

static void test_a_timeout_after_the_request_left(void **state)
{
    struct fixture *f = *state;
    struct fetch_request request = POST;
    request.timeout_ms = 700;
    struct got got = go(f, request, "/hang");
    assert_int_equal(got.outcome, FETCH_BROKEN);
    assert_int_equal(got.err.code, ERR_TIMEOUT);
    assert_int_equal(f->server.requests, 1);
}

static void test_a_timeout_before_the_request_left(void **state)
{
    // A TLS handshake that never ends: the peer reads and says nothing.
    struct fixture *f = *state;
    int port, fd = listen_locally(&port);
    char url[64];
    snprintf(url, sizeof(url), "https://127.0.0.1:%d/", port);
    struct fetch_request request = POST;
    request.url = url;
    request.timeout_ms = 150;
    struct got got = {0};
    fetch_start(f->fetcher, &request, on_done, &got);
    assert_true(run_until(f->loop, is_set, &got.done, 15000));
    close(fd);
    assert_int_equal(got.outcome, FETCH_UNSENT);
    assert_int_equal(got.err.code, ERR_TIMEOUT);
}

static void test_half_an_answer_is_broken(void **state)
{
    struct fixture *f = *state;
    struct got got = go(f, GET, "/part");
    assert_int_equal(got.outcome, FETCH_BROKEN);
    assert_string_equal(got.body, "");
    assert_int_equal(go(f, GET, "/garbage").outcome, FETCH_BROKEN);
}

static void test_large_answers_are_refused(void **state)
{
    struct fixture *f = *state;
    struct fetch_request request = GET;
    assert_int_equal(go(f, request, "/large").body_len, 50000);
    assert_int_equal(go(f, request, "/endless").body_len, 50000);
    request.max_body = 49999;
    struct got got = go(f, request, "/large");
    assert_int_equal(got.outcome, FETCH_BROKEN);
    assert_int_equal(got.err.code, ERR_LIMIT);
    got = go(f, request, "/endless");
    assert_int_equal(got.outcome, FETCH_BROKEN);
    assert_int_equal(got.err.code, ERR_LIMIT);
}

static void test_nothing_is_followed_or_repeated(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(go(f, GET, "/away").status, 302);
    assert_int_equal(go(f, POST, "/expect").status, 417);
    assert_int_equal(f->server.requests, 2);
}

static void test_wrong_requests(void **state)
{
    struct fixture *f = *state;
    struct fetch_request request = POST;
    request.headers = (const char *[]){"X-Mine: yes\r\nX-Smuggled: 1", NULL};
    struct got got = go(f, request, "/ok");
    assert_int_equal(got.outcome, FETCH_UNSENT);
    assert_int_equal(got.err.code, ERR_INPUT);
    static const char *const urls[] = {"file:///etc/passwd", "http://", "http://u:secret@:9:9/"};
    for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
        request = POST;
        request.url = urls[i];
        got = (struct got){0};
        fetch_start(f->fetcher, &request, on_done, &got);
        assert_true(run_until(f->loop, is_set, &got.done, 15000));
        assert_int_equal(got.outcome, FETCH_UNSENT);
        assert_int_equal(got.err.code, ERR_INPUT);
        assert_null(strstr(got.err.message, "secret"));
    }
    assert_int_equal(f->server.requests, 0);
}

static void test_cancel_means_silence(void **state)
{
    struct fixture *f = *state;
    struct got got[4] = {0};
    fetch_cancel(start(f, &got[0], GET, "/ok")); // before anything happened
    struct fetch *hanging = start(f, &got[1], GET, "/hang");
    run_for(f->loop, 50);
    fetch_cancel(hanging); // on the wire
    struct fetch_request wrong = GET;
    wrong.headers = (const char *[]){"X: \n", NULL};
    fetch_cancel(start(f, &got[2], wrong, "/ok")); // finished, not delivered
    start(f, &got[3], GET, "/hang");
    run_for(f->loop, 50); // the last one is left to teardown
    for (int i = 0; i < 4; i++) {
        assert_int_equal(got[i].calls, 0);
    }
}

static void test_many_at_once(void **state)
{
    struct fixture *f = *state;
    struct got got[40] = {0};
    for (size_t i = 0; i < ARRAY_LEN(got); i++) {
        start(f, &got[i], GET, i % 2 ? "/ok" : "/away");
    }
    for (size_t i = 0; i < ARRAY_LEN(got); i++) {
        assert_true(run_until(f->loop, is_set, &got[i].done, 15000));
        assert_int_equal(got[i].status, i % 2 ? 201 : 302);
    }
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_a_whole_answer),
        T(test_methods),
        T(test_interim_headers_are_forgotten),
        T(test_a_post_on_a_dropped_connection_arrives_once),
        T(test_the_gate_is_asked_once_before_the_wire),
        T(test_a_gate_that_refuses_sends_nothing),
        T(test_a_gate_may_cancel),
        T(test_nobody_listens),
        T(test_own_networks_are_not_reached_where_only_the_world_is_meant),
        T(test_a_timeout_after_the_request_left),
        T(test_a_timeout_before_the_request_left),
        T(test_half_an_answer_is_broken),
        T(test_large_answers_are_refused),
        T(test_nothing_is_followed_or_repeated),
        T(test_wrong_requests),
        T(test_cancel_means_silence),
        T(test_many_at_once),
    };
    return cmocka_run_group_tests_name("fetch", tests, NULL, NULL);
}
