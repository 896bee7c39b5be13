/* The pool and the listener against a real server. */
#include "unit.h"

#include "base/log.h"
#include "io/pool.h"

struct fixture {
    struct loop *loop;
    struct pool *pool;
    int answered, ok, heard, others;
    char value[64];
};

static void on_done(void *ctx, const struct db_reply *reply)
{
    struct fixture *f = ctx;
    f->answered++;
    f->ok += db_reply_outcome(reply) == DB_OK;
    if (db_reply_outcome(reply) == DB_OK && db_rows(reply, 0) > 0) {
        const char *value = db_value(reply, 0, 0, 0);
        snprintf(f->value, sizeof(f->value), "%s", value ? value : "");
    }
}

static void on_heard(void *ctx)
{
    ((struct fixture *)ctx)->heard++;
}

static bool pool_up(void *ctx)
{
    return pool_is_ready(((struct fixture *)ctx)->pool);
}

static bool pool_empty(void *ctx)
{
    return pool_in_flight(((struct fixture *)ctx)->pool) == 0;
}

static bool has_heard(void *ctx)
{
    return ((struct fixture *)ctx)->heard > 0;
}

static bool is_deaf(void *ctx)
{
    return !pool_hears(((struct fixture *)ctx)->pool);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->loop = loop_new();
    struct db_options options = {
        .url = test_database(), .prepare = true, .name = "moonwright pool test"};
    f->pool = pool_new(f->loop, &options, 3);
    if (!run_until(f->loop, pool_up, f, 10000)) {
        fail_msg("the test database does not answer");
    }
    run_for(f->loop, 100); // the others as well
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    pool_free(f->pool);
    loop_free(f->loop);
    free(f);
    return 0;
}

static void send_sql(struct fixture *f, const char *sql)
{
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, sql, 0);
    pool_send(f->pool, unit, on_done, f);
}

static const char *ask(struct fixture *f, const char *sql)
{
    send_sql(f, sql);
    assert_true(run_until(f->loop, pool_empty, f, 10000));
    run_for(f->loop, 2);
    return f->value;
}

static void test_long_units_do_not_hold_up_the_others(void **state)
{
    struct fixture *f = *state;
    int64_t began = clock_mono_ms();
    for (int i = 0; i < 3; i++) {
        send_sql(f, "select pg_sleep(1.5)");
    }
    assert_int_equal(pool_in_flight(f->pool), 3);
    assert_true(run_until(f->loop, pool_empty, f, 10000));
    assert_true(clock_mono_ms() - began < 4400); // one after the other they take 4500
    run_for(f->loop, 2);
    assert_int_equal(f->ok, 3);
}

static void test_what_is_sent_in_order_is_done_in_order_and_holds_up_nobody(void **state)
{
    struct fixture *f = *state;
    ask(f, "create table if not exists pool_order (n int, k bigint generated always as identity)");
    ask(f, "truncate pool_order restart identity");
    f->ok = 0;
    for (int i = 0; i < 20; i++) { // each takes less time than the one before
        char number[16];
        snprintf(number, sizeof(number), "%d", i);
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit,
                     "insert into pool_order (n) select $1::int from (select pg_sleep(0.03 - "
                     "$1::int * 0.001)) x",
                     1, number);
        pool_send_in_order(f->pool, unit, on_done, f);
    }
    send_sql(f, "select 'at once'");
    run_for(f->loop, 100);
    assert_string_equal(f->value, "at once");
    assert_true(run_until(f->loop, pool_empty, f, 10000));
    assert_string_equal(ask(f, "select bool_and(n = k - 1) and count(*) = 20 from pool_order"),
                        "t");
    ask(f, "drop table pool_order");
}

static void test_it_outlives_its_backends(void **state)
{
    struct fixture *f = *state;
    ask(f, "select pg_terminate_backend(pid, 10000) from pg_stat_activity " // and waits for it
           "where application_name = 'moonwright pool test' and pid <> pg_backend_pid()");
    run_for(f->loop, 5);
    for (int i = 0; i < 30; i++) {
        send_sql(f, "select 'here'");
    }
    assert_true(run_until(f->loop, pool_empty, f, 10000));
    run_for(f->loop, 2);
    assert_int_equal(f->ok, 31);
}

static void test_the_listener(void **state)
{
    struct fixture *f = *state;
    struct listener *listener = pool_listen(f->pool, "Mixed \"quoted\"", on_heard, f);
    assert_int_equal(f->heard, 0);
    assert_false(pool_hears(f->pool));
    assert_true(run_until(f->loop, has_heard, f, 10000)); // what came before may have been missed
    assert_true(pool_hears(f->pool));
    run_for(f->loop, 50);
    assert_int_equal(f->heard, 1);
    f->heard = 0;
    ask(f, "notify \"Mixed \"\"quoted\"\"\"");
    assert_true(run_until(f->loop, has_heard, f, 10000));
    f->heard = 0;
    ask(f, "notify another");
    run_for(f->loop, 50);
    assert_int_equal(f->heard, 0);
    // A new connection listens as well, and asks for a look at what was missed.
    ask(f, "select pg_terminate_backend(pid) from pg_stat_activity "
           "where query like 'listen \"Mixed%'");
    assert_true(run_until(f->loop, is_deaf, f, 10000));
    assert_true(run_until(f->loop, has_heard, f, 10000));
    assert_true(pool_hears(f->pool));
    f->heard = 0;
    ask(f, "notify \"Mixed \"\"quoted\"\"\"");
    assert_true(run_until(f->loop, has_heard, f, 10000));
    listener_close(listener);
    run_for(f->loop, 10);
}

static void on_other(void *ctx)
{
    ((struct fixture *)ctx)->others++;
}

// Each hears its own channel, also the one that comes when the connection is there already, and
// all of them on that one connection.
static void test_listeners_share_a_connection(void **state)
{
    struct fixture *f = *state;
    struct listener *one = pool_listen(f->pool, "one", on_heard, f);
    assert_true(run_until(f->loop, has_heard, f, 10000));
    struct listener *two = pool_listen(f->pool, "two", on_other, f);
    run_for(f->loop, 100);
    assert_true(f->others > 0);
    assert_string_equal(ask(f, "select count(*) from pg_stat_activity where application_name = "
                               "'moonwright listener' and datname = current_database()"),
                        "1");
    f->heard = f->others = 0;
    ask(f, "notify two");
    run_for(f->loop, 100);
    assert_int_equal(f->heard, 0);
    assert_int_equal(f->others, 1);
    listener_close(two);
    ask(f, "notify two");
    ask(f, "notify one");
    assert_true(run_until(f->loop, has_heard, f, 10000));
    assert_int_equal(f->others, 1);
    listener_close(one);
}

static void test_a_listener_closed_early_is_silent(void **state)
{
    struct fixture *f = *state;
    for (int ms = 0; ms < 12; ms++) {
        struct listener *listener = pool_listen(f->pool, "x", on_heard, f);
        run_for(f->loop, ms);
        listener_close(listener);
        f->heard = 0;
        run_for(f->loop, 5);
        assert_int_equal(f->heard, 0);
    }
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_long_units_do_not_hold_up_the_others),
        T(test_what_is_sent_in_order_is_done_in_order_and_holds_up_nobody),
        T(test_it_outlives_its_backends),
        T(test_the_listener),
        T(test_listeners_share_a_connection),
        T(test_a_listener_closed_early_is_silent),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
