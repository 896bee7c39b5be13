/* What the connection says about each unit against what the database holds, while the wire is cut
 * at any byte and backends are killed.
 *
 * The units go through a relay of ours, which drops a connection after a random number of the
 * server's bytes: so a unit may have been committed though its answer never came. */
#include "unit.h"

#include "base/log.h"
#include "base/mem.h"
#include "io/db.h"

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// ---- the relay -------------------------------------------------------------------------------

struct relay {
    int listener, port;
    struct sockaddr_storage server;
    socklen_t server_len;
    int server_family;
    unsigned random;
    pthread_t thread;
    atomic_bool stop, open; // open: let everything through
};

struct pair {
    int client, server;
    long budget; // of the server's bytes
};

static const char *option_of(PQconninfoOption *options, const char *name, const char *otherwise)
{
    for (; options->keyword; options++) {
        if (strcmp(options->keyword, name) == 0 && options->val && *options->val) {
            return options->val;
        }
    }
    return otherwise;
}

static void relay_find_server(struct relay *relay, PQconninfoOption *options)
{
    const char *host = option_of(options, "host", "/var/run/postgresql");
    int port = atoi(option_of(options, "port", "5432"));
    if (host[0] == '/') {
        struct sockaddr_un *at = (struct sockaddr_un *)&relay->server;
        at->sun_family = AF_UNIX;
        must((size_t)snprintf(at->sun_path, sizeof(at->sun_path), "%s/.s.PGSQL.%d", host, port) <
             sizeof(at->sun_path));
        relay->server_len = sizeof(*at);
    } else {
        struct sockaddr_in *at = (struct sockaddr_in *)&relay->server;
        at->sin_family = AF_INET;
        at->sin_port = htons((uint16_t)port);
        must(inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host,
                       &at->sin_addr) == 1);
        relay->server_len = sizeof(*at);
    }
    relay->server_family = relay->server.ss_family;
}

static long relay_budget(struct relay *relay)
{
    unsigned n = (unsigned)rand_r(&relay->random);
    return n % 20 == 0 ? (long)(n / 20 % 600) : 600 + (long)(n / 20 % 150000);
}

// Moves what is there; false: the pair has to go.
static bool relay_move(int from, int to, long *budget)
{
    char data[4096];
    ssize_t n = recv(from, data, sizeof(data), 0);
    if (n <= 0) {
        return false;
    }
    bool cut = budget && (*budget -= n) < 0;
    ssize_t pass = cut ? n + *budget : n;
    for (ssize_t done = 0; done < pass;) {
        ssize_t sent = send(to, data + done, (size_t)(pass - done), MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        done += sent;
    }
    return !cut;
}

static void *relay_run(void *arg)
{
    struct relay *relay = arg;
    struct pair pair = {-1, -1, 0}; // one connection at a time is all the test has
    while (!relay->stop) {
        struct pollfd fds[] = {
            {relay->listener, POLLIN, 0}, {pair.client, POLLIN, 0}, {pair.server, POLLIN, 0}};
        poll(fds, 3, 20);
        bool alive = true;
        if (pair.client >= 0 && fds[1].revents) {
            alive = relay_move(pair.client, pair.server, NULL);
        }
        if (alive && pair.client >= 0 && fds[2].revents) {
            alive = relay_move(pair.server, pair.client, relay->open ? NULL : &pair.budget);
        }
        if (pair.client >= 0 && (!alive || fds[0].revents)) {
            close(pair.client);
            close(pair.server);
            pair.client = pair.server = -1;
        }
        if (fds[0].revents) {
            pair.client = accept(relay->listener, NULL, NULL);
            pair.server = socket(relay->server_family, SOCK_STREAM, 0);
            must(pair.client >= 0);
            must(connect(pair.server, (struct sockaddr *)&relay->server, relay->server_len) == 0);
            pair.budget = relay_budget(relay);
        }
    }
    if (pair.client >= 0) {
        close(pair.client);
        close(pair.server);
    }
    return NULL;
}

static void relay_start(struct relay *relay, PQconninfoOption *options, unsigned random)
{
    relay_find_server(relay, options);
    relay->random = random;
    struct sockaddr_in at = {.sin_family = AF_INET};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof(at);
    relay->listener = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(relay->listener, (struct sockaddr *)&at, len) == 0);
    must(listen(relay->listener, 8) == 0);
    must(getsockname(relay->listener, (struct sockaddr *)&at, &len) == 0);
    relay->port = ntohs(at.sin_port);
    must(pthread_create(&relay->thread, NULL, relay_run, relay) == 0);
}

static void relay_stop(struct relay *relay)
{
    relay->stop = true;
    pthread_join(relay->thread, NULL);
    close(relay->listener);
}

// ---- the model -------------------------------------------------------------------------------

struct model_unit {
    struct model *model;
    int rows; // with the ids 10 * number + 0, 1, ...
    bool fails, answered;
    int calls;
    enum db_outcome outcome;
};

struct model {
    struct loop *loop;
    struct db *db, *side;
    struct relay relay;
    unsigned random;
    struct model_unit *units;
    int sent, answered, total;
    int outcomes[4];
    char *side_value; // of the last answer
    bool side_done;
};

static unsigned draw(struct model *m, unsigned below)
{
    return (unsigned)rand_r(&m->random) % below;
}

static void on_unit(void *ctx, const struct db_reply *reply)
{
    struct model_unit *u = ctx;
    struct model *m = u->model;
    u->calls++;
    u->answered = true;
    u->outcome = db_reply_outcome(reply);
    m->outcomes[u->outcome]++;
    // In the order they were sent, each once.
    assert_ptr_equal(u, &m->units[m->answered]);
    m->answered++;
    if (u->outcome == DB_OK) {
        assert_int_equal(db_affected(reply, 0), u->rows > 0);
    } else {
        assert_int_not_equal(db_reply_err(reply)->code, ERR_NONE);
    }
}

static void send_one(struct model *m)
{
    static const char insert[] = "insert into db_model (id, note) values ($1::int, $2)";
    struct model_unit *u = &m->units[m->sent];
    *u = (struct model_unit){.model = m, .rows = (int)(1 + draw(m, 3))};
    struct db_unit *unit = db_unit_new();
    char *note = xmalloc(3001);
    for (int i = 0; i < u->rows; i++) {
        char id[16];
        size_t len = draw(m, 3001);
        memset(note, 'n', len);
        note[len] = 0;
        snprintf(id, sizeof(id), "%d", 10 * m->sent + i);
        db_unit_addv(unit, insert, 2, id, note);
    }
    free(note);
    switch (draw(m, 12)) {
    case 0:
        db_unit_addv(unit, "select 1 / 0", 0);
        u->fails = true;
        break;
    case 1:
        db_unit_addv(unit, insert, 2, "1", "this id is taken");
        u->fails = true;
        break;
    case 2:
        db_unit_addv(unit, "select repeat('x', $1::int)", 1, "5000");
        break;
    case 3:
        db_unit_addv(unit, "select pg_sleep(0.003)", 0);
        break;
    case 4:
        if (draw(m, 10) == 0) {
            db_unit_addv(unit, "select pg_terminate_backend(pg_backend_pid())", 0);
            db_unit_addv(unit, "select pg_sleep(0.01)", 0);
            u->fails = true;
        }
        break;
    default:
        break;
    }
    m->sent++;
    db_send(m->db, unit, on_unit, u);
    assert_false(u->answered);
}

static void on_side(void *ctx, const struct db_reply *reply)
{
    struct model *m = ctx;
    if (db_reply_outcome(reply) != DB_OK) {
        fail_msg("%s", db_reply_err(reply)->message);
    }
    const char *value = db_rows(reply, 0) > 0 ? db_value(reply, 0, 0, 0) : "";
    free(m->side_value);
    m->side_value = xstrdup(value ? value : "");
    m->side_done = true;
}

static const char *side(struct model *m, const char *sql)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, sql, 0);
    m->side_done = false;
    db_send(m->side, unit, on_side, m);
    assert_true(run_until(m->loop, is_set, &m->side_done, 30000));
    return m->side_value;
}

static bool all_answered(void *ctx)
{
    struct model *m = ctx;
    return m->answered == m->sent;
}

#define BACKENDS "from pg_stat_activity where application_name = 'moonwright model'"

static void check(struct model *m)
{
    for (int i = 0; i < 1000 && strcmp(side(m, "select count(*) " BACKENDS), "0") != 0; i++) {
        run_for(m->loop, 10);
    }
    // One digit per unit: how many of its rows are there.
    char *sql = xprintf("select string_agg(coalesce(n, 0)::text, '' order by g) "
                        "from generate_series(0, %d) g left join (select id / 10 as u, count(*) n "
                        "from db_model group by 1) c on c.u = g",
                        m->sent - 1);
    const char *digits = side(m, sql);
    free(sql);
    assert_int_equal(strlen(digits), m->sent);
    for (int i = 0; i < m->sent; i++) {
        const struct model_unit *u = &m->units[i];
        assert_int_equal(u->calls, 1);
        int found = digits[i] - '0';
        int expected = u->outcome == DB_OK ? u->rows : 0;
        if (u->outcome == DB_UNKNOWN ? found != 0 && found != u->rows : found != expected) {
            fail_msg("unit %d: outcome %d, %d of %d rows", i, u->outcome, found, u->rows);
        }
        if (u->fails) {
            assert_int_not_equal(u->outcome, DB_OK);
            assert_int_equal(found, 0);
        }
    }
}

static char *relayed_url(struct model *m, PQconninfoOption *options)
{
    return xprintf("host=127.0.0.1 port=%d dbname=%s user=%s password='%s'", m->relay.port,
                   option_of(options, "dbname", "postgres"), option_of(options, "user", "postgres"),
                   option_of(options, "password", ""));
}

static void test_outcomes_are_true(void **state)
{
    (void)state;
    struct model m = {.random = seed(), .total = rounds(1500, 60000)};
    PQconninfoOption *options = PQconninfoParse(test_database(), NULL);
    must(options);
    m.loop = loop_new();
    m.units = xcalloc((size_t)m.total, sizeof(*m.units));
    relay_start(&m.relay, options, m.random);
    struct db_options opts = {.url = test_database(), .name = "moonwright side"};
    m.side = db_open(m.loop, &opts);
    side(&m, "drop table if exists db_model");
    side(&m, "create table db_model (id int primary key, note text)");
    side(&m, "insert into db_model values (1, 'there before')"); // as if by a unit 0
    m.units[0] = (struct model_unit){.model = &m, .calls = 1, .outcome = DB_OK, .rows = 1};
    m.sent = m.answered = 1;
    char *url = relayed_url(&m, options);
    opts = (struct db_options){.url = url, .prepare = true, .name = "moonwright model"};
    m.db = db_open(m.loop, &opts);
    while (m.sent < m.total) {
        for (unsigned burst = 1 + draw(&m, 30); burst > 0 && m.sent < m.total; burst--) {
            send_one(&m);
        }
        run_for(m.loop, draw(&m, 6));
        if (draw(&m, 40) == 0) {
            side(&m, "select pg_terminate_backend(pid) " BACKENDS);
        }
        if (draw(&m, 10) == 0) {
            assert_true(run_until(m.loop, all_answered, &m, 60000));
        }
    }
    // Those in the air when the connection is closed are answered as well.
    db_close(m.db);
    assert_true(run_until(m.loop, all_answered, &m, 1000));
    check(&m);
    print_message("ok %d, failed %d, unsent %d, unknown %d\n", m.outcomes[DB_OK],
                  m.outcomes[DB_FAILED], m.outcomes[DB_UNSENT], m.outcomes[DB_UNKNOWN]);
    assert_true(m.outcomes[DB_OK] > 0 && m.outcomes[DB_FAILED] > 0 && m.outcomes[DB_UNKNOWN] > 0);
    side(&m, "drop table db_model");
    db_close(m.side);
    relay_stop(&m.relay);
    loop_free(m.loop);
    PQconninfoFree(options);
    free(url);
    free(m.side_value);
    free(m.units);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_outcomes_are_true)};
    return cmocka_run_group_tests_name("db model", tests, NULL, NULL);
}
