/* The HTTP server, spoken to by a raw client in a thread of its own. */
#include "unit.h"

#include "base/log.h"
#include "base/mem.h"
#include "io/http.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

struct fixture {
    struct loop *loop;
    struct http_server *server;
    struct http_request *late; // what /late was asked
    bool late_came;
};

struct talk { // one connection: all is sent, then read to its end
    int port;
    const char *text;
    size_t len;
    bool hang_up; // without reading
    char answer[65536];
    size_t got;
    atomic_bool done;
};

static void *talk_run(void *arg)
{
    struct talk *talk = arg;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)talk->port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0) {
        for (size_t sent = 0; sent < talk->len;) {
            ssize_t n = send(fd, talk->text + sent, talk->len - sent, MSG_NOSIGNAL);
            if (n <= 0) {
                break;
            }
            sent += (size_t)n;
        }
        ssize_t n = 1;
        while (!talk->hang_up && n > 0 && talk->got < sizeof(talk->answer) - 1) {
            n = recv(fd, talk->answer + talk->got, sizeof(talk->answer) - 1 - talk->got, 0);
            talk->got += n > 0 ? (size_t)n : 0;
        }
        talk->answer[talk->got] = 0;
    }
    close(fd);
    talk->done = true;
    return NULL;
}

static bool talk_done(void *ctx)
{
    return ((struct talk *)ctx)->done;
}

static char *say_bytes(struct fixture *f, const char *text, size_t len)
{
    struct talk *talk = xcalloc(1, sizeof(*talk));
    talk->port = http_server_port(f->server);
    talk->text = text;
    talk->len = len;
    pthread_t thread;
    must(pthread_create(&thread, NULL, talk_run, talk) == 0);
    if (!run_until(f->loop, talk_done, talk, 10000)) {
        fail_msg("no answer to %.60s", text);
    }
    pthread_join(thread, NULL);
    char *answer = xstrdup(talk->answer);
    free(talk);
    return answer;
}

// Sends `line` and what follows, with "Connection: close"; the caller frees the answer.
static char *say(struct fixture *f, const char *line, const char *headers, const char *body)
{
    char *text = xprintf("%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s"
                         "Content-Length: %zu\r\n\r\n%s",
                         line, headers, strlen(body), body);
    char *answer = say_bytes(f, text, strlen(text));
    free(text);
    return answer;
}

static void expect(struct fixture *f, const char *line, const char *body, const char *wanted)
{
    char *answer = say(f, line, "", body);
    if (!strstr(answer, wanted)) {
        fail_msg("%s: wanted %s, got %s", line, wanted, answer);
    }
    free(answer);
}

static void on_echo(void *ctx, struct http_request *request)
{
    size_t len;
    const char *body = http_body(request, &len);
    assert_int_equal(strlen(body), len);
    const char *header = http_header(request, "x-mine");
    char *text = xprintf("%s|%s|%s|%s|%s|%s|%s", (const char *)ctx, http_method(request),
                         http_path(request), http_query(request), header ? header : "(none)",
                         http_peer(request), body);
    http_reply(request, 200, "text/plain", text, strlen(text));
    free(text);
}

static void on_late(void *ctx, struct http_request *request)
{
    struct fixture *f = ctx;
    f->late = request;
    f->late_came = true;
}

static char name_form[] = "form", name_any[] = "any", name_long[] = "long", name_exact[] = "exact";

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err err;
    f->loop = loop_new();
    struct http_limits limits = {.max_headers = 2000, .max_body = 1000};
    f->server = http_server_new(f->loop, "127.0.0.1", 0, &limits, &err);
    must(f->server);
    http_route(f->server, "POST", "/form", on_echo, name_form);
    http_route(f->server, "GET", "/a*", on_echo, name_any);
    http_route(f->server, "GET", "/a/long*", on_echo, name_long);
    http_route(f->server, "GET", "/a/long", on_echo, name_exact);
    http_route(f->server, "POST", "/late", on_late, f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    http_server_free(f->server);
    run_for(f->loop, 20);
    loop_free(f->loop);
    free(f);
    return 0;
}

static void test_a_request_and_its_parts(void **state)
{
    struct fixture *f = *state;
    char *answer = say(f, "POST /form?a=%20b", "X-Mine: yes\r\n", "body text");
    assert_non_null(strstr(answer, "HTTP/1.1 200"));
    assert_non_null(strstr(answer, "\r\n\r\nform|POST|/form|a=%20b|yes|127.0.0.1|body text"));
    assert_non_null(strstr(answer, "Content-Type: text/plain\r\n"));
    free(answer);
}

static void test_routes(void **state)
{
    struct fixture *f = *state;
    expect(f, "GET /a", "", "any|GET|/a|");
    expect(f, "GET /a/lon", "", "any|GET|/a/lon|");
    expect(f, "GET /a/longer%20way", "", "long|GET|/a/longer way|");
    expect(f, "GET /a/long", "", "exact|GET|/a/long|");
    expect(f, "GET /nowhere", "", "HTTP/1.1 404 ");
    expect(f, "GET /form", "", "HTTP/1.1 405 ");
    expect(f, "DELETE /a", "", "HTTP/1.1 405 ");
    expect(f, "GET /a/%00x", "", "HTTP/1.1 400 ");
    char *answer = say(f, "HEAD /a/long", "", "");
    assert_non_null(strstr(answer, "HTTP/1.1 200"));
    assert_non_null(strstr(answer, "Content-Length: 37\r\n"));
    assert_null(strstr(answer, "exact"));
    free(answer);
}

static void test_limits(void **state)
{
    struct fixture *f = *state;
    char *large = xmalloc(200001);
    memset(large, 'x', 200000);
    large[200000] = 0;
    expect(f, "POST /form", large, "HTTP/1.1 413 ");
    large[1001] = 0;
    expect(f, "POST /form", large, "HTTP/1.1 413 ");
    large[1000] = 0;
    expect(f, "POST /form", large, "HTTP/1.1 200 ");
    // In chunks, where no length is announced.
    char *chunked = xprintf("POST /form HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                            "3e8\r\n%s\r\n3e8\r\n%s\r\n0\r\n\r\n",
                            large, large);
    char *answer = say_bytes(f, chunked, strlen(chunked));
    assert_non_null(strstr(answer, "HTTP/1.1 413 "));
    free(answer);
    free(chunked);
    char *headers = xprintf("X-Mine: %s%s%s\r\n", large, large, large);
    answer = say(f, "POST /form", headers, "");
    assert_null(strstr(answer, "HTTP/1.1 200 "));
    free(answer);
    free(headers);
    free(large);
    expect(f, "POST /form", "fine", "HTTP/1.1 200 ");
}

static void test_not_http(void **state)
{
    struct fixture *f = *state;
    static const char junk[] = "\x16\x03\x01 this is no request\r\n\r\n";
    char *answer = say_bytes(f, junk, sizeof(junk) - 1);
    assert_null(strstr(answer, " 200 "));
    free(answer);
    expect(f, "POST /form", "fine", "HTTP/1.1 200 ");
}

static void test_two_requests_on_one_connection(void **state)
{
    struct fixture *f = *state;
    static const char two[] = "GET /a/1 HTTP/1.1\r\nHost: x\r\n\r\n"
                              "GET /a/2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    char *answer = say_bytes(f, two, sizeof(two) - 1);
    char *first = strstr(answer, "any|GET|/a/1|");
    assert_non_null(first);
    assert_non_null(strstr(first, "any|GET|/a/2|"));
    free(answer);
}

static void reply_late(struct fixture *f)
{
    http_reply(f->late, 202, "text/plain", "at last", 7);
    f->late = NULL;
    f->late_came = false;
}

static pthread_t talk_start(struct fixture *f, struct talk *talk, bool hang_up)
{
    static const char text[] =
        "POST /late HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
    *talk = (struct talk){.port = http_server_port(f->server), .hang_up = hang_up};
    talk->text = text;
    talk->len = sizeof(text) - 1;
    pthread_t thread;
    must(pthread_create(&thread, NULL, talk_run, talk) == 0);
    assert_true(run_until(f->loop, is_set, &f->late_came, 10000));
    return thread;
}

static void test_a_late_reply(void **state)
{
    struct fixture *f = *state;
    struct talk *talk = xcalloc(1, sizeof(*talk));
    pthread_t thread = talk_start(f, talk, false);
    run_for(f->loop, 50);
    reply_late(f);
    assert_true(run_until(f->loop, talk_done, talk, 10000));
    pthread_join(thread, NULL);
    assert_non_null(strstr(talk->answer, "HTTP/1.1 202"));
    assert_non_null(strstr(talk->answer, "at last"));
    free(talk);
}

static void test_a_late_reply_to_a_client_that_is_gone(void **state)
{
    struct fixture *f = *state;
    struct talk *talk = xcalloc(1, sizeof(*talk));
    for (int i = 0; i < 3; i++) {
        pthread_t thread = talk_start(f, talk, true);
        pthread_join(thread, NULL);
        run_for(f->loop, 50);
        size_t len;
        assert_string_equal(http_body(f->late, &len), "hi");
        reply_late(f);
        run_for(f->loop, 20);
    }
    free(talk);
    expect(f, "POST /form", "fine", "HTTP/1.1 200 ");
}

static void test_stopping_waits_for_the_last_reply(void **state)
{
    struct fixture *f = *state;
    struct talk *talk = xcalloc(1, sizeof(*talk));
    pthread_t thread = talk_start(f, talk, false);
    http_server_free(f->server);
    run_for(f->loop, 50);
    reply_late(f);
    assert_true(run_until(f->loop, talk_done, talk, 10000));
    pthread_join(thread, NULL);
    assert_non_null(strstr(talk->answer, "at last"));
    free(talk);
    run_for(f->loop, 20);
    f->server = NULL;
}

static void test_a_port_in_use_is_said(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int port = http_server_port(f->server);
    log_set_level(LOG_ERROR);
    assert_null(http_server_new(f->loop, "127.0.0.1", port, NULL, &err));
    assert_non_null(strstr(err.message, "in use by another program"));
    assert_null(http_server_new(f->loop, "not an address", 0, NULL, &err));
    assert_int_equal(err.code, ERR_CONFIG);
}

static void test_forms(void **state)
{
    (void)state;
    static const char text[] = "From=%2B14158675309&Body=a+b%26c%3d&empty=&alone&&x=1=2";
    size_t count;
    struct http_pair *pairs = http_form(text, strlen(text), &count);
    static const char *const wanted[][2] = {
        {"From", "+14158675309"}, {"Body", "a b&c="}, {"empty", ""}, {"alone", ""}, {"x", "1=2"}};
    assert_non_null(pairs);
    assert_int_equal(count, ARRAY_LEN(wanted));
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(pairs[i].name, wanted[i][0]);
        assert_string_equal(pairs[i].value, wanted[i][1]);
    }
    free(pairs);
    pairs = http_form("", 0, &count);
    assert_non_null(pairs);
    assert_int_equal(count, 0);
    free(pairs);
    static const char *const malformed[] = {"a=%", "a=%2", "a=%zz", "a=%00", "%=1", "a=1&b=%f"};
    for (size_t i = 0; i < ARRAY_LEN(malformed); i++) {
        assert_null(http_form(malformed[i], strlen(malformed[i]), &count));
        assert_int_equal(count, 0);
    }
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_a_request_and_its_parts),
        T(test_routes),
        T(test_limits),
        T(test_not_http),
        T(test_two_requests_on_one_connection),
        T(test_a_late_reply),
        T(test_a_late_reply_to_a_client_that_is_gone),
        T(test_stopping_waits_for_the_last_reply),
        T(test_a_port_in_use_is_said),
        cmocka_unit_test(test_forms),
    };
    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
