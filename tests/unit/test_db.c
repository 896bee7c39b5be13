/* The connection: what it says about a unit is what the database did. */
#include "unit.h"

#include "base/log.h"
#include "io/pool.h"

#include <inttypes.h>

enum { ANSWERS = 512 };

// What a unit was told, copied out of its callback.
struct answer {
    bool given;
    int calls;
    enum db_outcome outcome;
    struct err err;
    int failed;
    int rows;
    int64_t affected;
    char value[256];
    bool is_null;
    int order; // the how manyth answer it was
};

struct fixture {
    struct loop *loop;
    struct db *db;    // under test
    struct db *other; // looks and kills, on its own
    struct answer answers[ANSWERS];
    int answered;
};

static struct fixture *self; // the callbacks' ctx is the answer

static void on_done(void *ctx, const struct db_reply *reply)
{
    struct answer *a = ctx;
    a->given = true;
    a->calls++;
    a->order = self->answered++;
    a->outcome = db_reply_outcome(reply);
    a->err = *db_reply_err(reply);
    a->failed = db_reply_failed_statement(reply);
    if (a->outcome == DB_OK) {
        a->rows = db_rows(reply, 0);
        a->affected = db_affected(reply, 0);
        if (a->rows > 0) {
            const char *value = db_value(reply, 0, 0, 0);
            a->is_null = !value;
            snprintf(a->value, sizeof(a->value), "%s", value ? value : "");
        }
    }
}

static struct db *open_db(struct loop *loop, const char *url, bool prepare)
{
    struct db_options options = {.url = url, .prepare = prepare, .name = "moonwright test"};
    return db_open(loop, &options);
}

static void ask(struct fixture *f, struct db *db, struct db_unit *unit, struct answer *answer)
{
    *answer = (struct answer){0};
    db_send(db, unit, on_done, answer);
    assert_false(answer->given);
    if (!run_until(f->loop, is_set, &answer->given, 20000)) {
        fail_msg("no answer within 20 s");
    }
}

// One statement without parameters on the side connection, which must work.
static struct answer other(struct fixture *f, const char *sql)
{
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit, sql, 0, NULL);
    struct answer answer;
    ask(f, f->other, unit, &answer);
    if (answer.outcome != DB_OK) {
        fail_msg("%s: %s", sql, answer.err.message);
    }
    return answer;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    self = f;
    f->loop = loop_new();
    f->db = open_db(f->loop, test_database(), true);
    f->other = open_db(f->loop, test_database(), false);
    other(f, "drop table if exists db_test");
    other(f, "create table db_test (id int primary key, note text)");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    db_close(f->db);
    other(f, "drop table if exists db_test");
    db_close(f->other);
    loop_free(f->loop);
    free(f);
    return 0;
}

static struct answer one(struct fixture *f, const char *sql, int n, const char *const *values)
{
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit, sql, n, values);
    struct answer answer;
    ask(f, f->db, unit, &answer);
    return answer;
}

#define INSERT "insert into db_test (id, note) values ($1::int, $2)"

static void test_reads_values(void **state)
{
    struct fixture *f = *state;
    struct answer a = one(f, "select $1::text", 1, (const char *[]){"h\xc3\xa9llo"});
    assert_int_equal(a.outcome, DB_OK);
    assert_string_equal(a.value, "h\xc3\xa9llo");
    a = one(f, "select $1::text", 1, (const char *[]){NULL});
    assert_int_equal(a.outcome, DB_OK);
    assert_true(a.is_null);
    a = one(f, INSERT, 2, (const char *[]){"1", "x"});
    assert_int_equal(a.affected, 1);
    a = one(f, "select 1 where false", 0, NULL);
    assert_int_equal(a.rows, 0);
}

static void test_a_unit_is_one_transaction(void **state)
{
    struct fixture *f = *state;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, INSERT, 2, "1", "x");
    db_unit_addv(unit, INSERT, 2, "2", "y");
    db_unit_addv(unit, INSERT, 2, "1", "again");
    db_unit_addv(unit, "select 1", 0);
    struct answer a;
    ask(f, f->db, unit, &a);
    assert_int_equal(a.outcome, DB_FAILED);
    assert_int_equal(a.failed, 2);
    assert_int_equal(a.err.code, ERR_SQL);
    assert_string_equal(a.err.sqlstate, "23505");
    assert_string_equal(other(f, "select count(*) from db_test").value, "0");
    // The connection is as good as before.
    assert_int_equal(one(f, INSERT, 2, (const char *[]){"1", "x"}).outcome, DB_OK);
}

static void test_an_empty_unit_succeeds(void **state)
{
    struct fixture *f = *state;
    struct answer a = {0};
    db_send(f->db, db_unit_new(), NULL, NULL);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select 'after'", 0);
    ask(f, f->db, unit, &a);
    assert_string_equal(a.value, "after");
}

static void test_a_failing_commit_is_a_failure(void **state)
{
    struct fixture *f = *state;
    other(f, "alter table db_test add unique (note) deferrable initially deferred");
    for (int round = 0; round < 2; round++) {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, INSERT, 2, "1", "same");
        db_unit_addv(unit, INSERT, 2, "2", "same");
        struct answer a;
        ask(f, f->db, unit, &a);
        assert_int_equal(a.outcome, DB_FAILED);
        assert_string_equal(a.err.sqlstate, "23505");
        assert_int_equal(a.failed, 1);
    }
    assert_string_equal(other(f, "select count(*) from db_test").value, "0");
    assert_string_equal(one(f, "select 'fine'", 0, NULL).value, "fine");
}

static void test_a_lost_lease_has_its_own_code(void **state)
{
    struct fixture *f = *state;
    other(f, "create or replace function db_test_fence() returns void language plpgsql as "
             "$$begin raise exception 'the lease is gone' using errcode = 'MWF01'; end$$");
    struct answer a = one(f, "select db_test_fence()", 0, NULL);
    other(f, "drop function db_test_fence()");
    assert_int_equal(a.outcome, DB_FAILED);
    assert_int_equal(a.err.code, ERR_FENCE);
    assert_string_equal(a.err.sqlstate, "MWF01");
    assert_string_equal(a.err.message, "the lease is gone");
}

static void test_binary_arrays(void **state)
{
    struct fixture *f = *state;
    struct db_unit *unit = db_unit_new();
    db_unit_begin(unit, "select array_to_json($1)::text || array_to_json($2)::text || "
                        "array_to_json($3)::text || array_to_json($4)::text || "
                        "array_to_json($5)::text || array_to_json($6)::text || $7::bigint || "
                        "cardinality($8)");
    db_param_uuids(unit, 2, (const char *[]){"0190163d-8694-739b-AEA5-966c26f8ad91", NULL});
    db_param_int2s(unit, 2, (const int16_t[]){-2, 32767});
    db_param_int4s(unit, 2, (const int32_t[]){INT32_MIN, 7});
    db_param_int8s(unit, 2, (const int64_t[]){INT64_MIN, INT64_MAX});
    db_param_texts(unit, 3, (const char *[]){"a\"b", NULL, ""});
    db_param_jsons(unit, 1, (const char *[]){"{\"a\":[1]}"});
    db_param_int(unit, -9);
    db_param_texts(unit, 0, NULL);
    struct answer a;
    ask(f, f->db, unit, &a);
    if (a.outcome != DB_OK) {
        fail_msg("%s", a.err.message);
    }
    assert_string_equal(a.value, "[\"0190163d-8694-739b-aea5-966c26f8ad91\",null][-2,32767]"
                                 "[-2147483648,7][-9223372036854775808,9223372036854775807]"
                                 "[\"a\\\"b\",null,\"\"][{\"a\":[1]}]-90");
    unit = db_unit_new();
    db_unit_addv(unit, INSERT, 2, "5", "x");
    db_unit_begin(unit, "select $1::uuid[]");
    db_param_uuids(unit, 1, (const char *[]){"0190163d-8694-739b-aea5-966c26f8ad9"});
    ask(f, f->db, unit, &a);
    assert_int_equal(a.outcome, DB_FAILED);
    assert_int_equal(a.err.code, ERR_INPUT);
    assert_int_equal(a.failed, 1);
    assert_string_equal(other(f, "select count(*) from db_test").value, "0");
}

static void test_a_statement_prepared_in_a_failing_unit(void **state)
{
    // The PREPARE stands behind an error and never happens; units in flight meanwhile use the same.
    struct fixture *f = *state;
    static const char sql[] = "select 'prepared ' || $1::text";
    struct answer *a = f->answers;
    for (int i = 0; i < 20; i++) {
        struct db_unit *unit = db_unit_new();
        if (i % 4 == 0) {
            db_unit_addv(unit, "select 1 / 0", 0);
            db_unit_addv(unit, sql, 1, "no");
            db_unit_addv(unit, sql, 1, "no");
        } else {
            db_unit_addv(unit, sql, 1, "yes");
        }
        db_send(f->db, unit, on_done, &a[i]);
    }
    assert_true(run_until(f->loop, is_set, &a[19].given, 10000));
    for (int i = 0; i < 20; i++) {
        assert_int_equal(a[i].calls, 1);
        assert_int_equal(a[i].order, i + f->answered - 20); // none had to be sent again
        assert_int_equal(a[i].outcome, i % 4 == 0 ? DB_FAILED : DB_OK);
        if (i % 4 != 0) {
            assert_string_equal(a[i].value, "prepared yes");
        }
    }
}

static void test_a_stale_plan_is_prepared_anew(void **state)
{
    struct fixture *f = *state;
    static const char sql[] = "select * from db_test";
    assert_int_equal(one(f, sql, 0, NULL).outcome, DB_OK);
    assert_int_equal(one(f, sql, 0, NULL).outcome, DB_OK);
    other(f, "alter table db_test add column more int");
    struct answer *a = f->answers;
    for (int i = 0; i < 5; i++) {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, sql, 0);
        db_send(f->db, unit, on_done, &a[i]);
    }
    assert_true(run_until(f->loop, is_set, &a[4].given, 10000));
    for (int i = 0; i < 5; i++) {
        assert_int_equal(a[i].outcome, DB_OK);
        assert_int_equal(a[i].order, i + f->answered - 5);
    }
    assert_int_equal(one(f, "deallocate all", 0, NULL).outcome, DB_OK);
    assert_int_equal(one(f, sql, 0, NULL).outcome, DB_OK);
}

static void test_prepared_and_not(void **state)
{
    struct fixture *f = *state;
    static const char sql[] = "select count(*)::text from pg_prepared_statements";
    assert_string_equal(one(f, sql, 0, NULL).value, "1");
    assert_string_equal(one(f, sql, 0, NULL).value, "1");
    assert_string_equal(other(f, sql).value, "0");
}

static void test_a_text_that_is_not_kept(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 3; i++) {
        char sql[64]; // the same address, another text
        snprintf(sql, sizeof(sql), "select 'round %d, ' || $1", i);
        struct db_unit *unit = db_unit_new();
        db_unit_add_once(unit, sql, 1, (const char *[]){"copied"});
        memset(sql, 'x', sizeof(sql) - 1);
        struct answer a;
        ask(f, f->db, unit, &a);
        snprintf(sql, sizeof(sql), "round %d, copied", i);
        assert_string_equal(a.value, sql);
    }
    assert_string_equal(one(f, "select count(*) from pg_prepared_statements", 0, NULL).value, "1");
}

static void test_a_text_at_an_address_used_before(void **state)
{
    struct fixture *f = *state;
    char sql[32];
    for (int i = 0; i < 3; i++) {
        snprintf(sql, sizeof(sql), "select 'round %d'", i);
        struct answer a = one(f, sql, 0, NULL);
        assert_int_equal(a.value[6], '0' + i);
    }
}

static void test_ddl_then_use_in_one_unit(void **state)
{
    struct fixture *f = *state;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "create table db_test_new (id int)", 0);
    db_unit_addv(unit, "insert into db_test_new values ($1::int)", 1, "1");
    db_unit_addv(unit, "drop table db_test_new", 0);
    struct answer a;
    ask(f, f->db, unit, &a);
    assert_int_equal(a.outcome, DB_OK);
}

static void test_more_than_fits_in_flight_keeps_its_order(void **state)
{
    struct fixture *f = *state;
    struct answer *a = f->answers;
    for (int i = 0; i < 300; i++) {
        char id[16];
        snprintf(id, sizeof(id), "%d", i);
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, "select $1::text", 1, id);
        db_send(f->db, unit, on_done, &a[i]);
    }
    assert_int_equal(db_in_flight(f->db), 300);
    int before = f->answered;
    assert_true(run_until(f->loop, is_set, &a[299].given, 20000));
    for (int i = 0; i < 300; i++) {
        assert_int_equal(a[i].order, before + i);
        assert_int_equal(atoi(a[i].value), i);
    }
    assert_int_equal(db_in_flight(f->db), 0);
}

static void test_large_values_both_ways(void **state)
{
    struct fixture *f = *state;
    size_t len = 3000000;
    char *text = malloc(len + 1);
    memset(text, 'x', len);
    text[len] = 0;
    for (int i = 0; i < 8; i++) {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, "select length($1)::text, $1", 1, text);
        db_send(f->db, unit, on_done, &f->answers[i]);
    }
    assert_true(run_until(f->loop, is_set, &f->answers[7].given, 20000));
    for (int i = 0; i < 8; i++) {
        assert_string_equal(f->answers[i].value, "3000000");
    }
    free(text);
}

static void test_copy_is_refused_without_harm(void **state)
{
    struct fixture *f = *state;
    struct answer a = one(f, "copy db_test from stdin", 0, NULL);
    assert_int_not_equal(a.outcome, DB_OK);
    assert_string_equal(one(f, "select 'back'", 0, NULL).value, "back");
}

struct states {
    struct fixture *f;
    int ready, down;
    struct err err;
    bool close; // on the next change
};

static void on_state(void *ctx, bool ready, const struct err *err)
{
    struct states *states = ctx;
    ready ? states->ready++ : states->down++;
    assert_true(ready == !err);
    if (err) {
        states->err = *err;
    }
    if (states->close) {
        db_close(states->f->db);
        states->f->db = NULL;
    }
}

static bool was_down(void *ctx)
{
    return ((struct states *)ctx)->down > 0;
}

static bool was_ready(void *ctx)
{
    return ((struct states *)ctx)->ready > 0;
}

static void open_anew(struct fixture *f, struct states *states)
{
    db_close(f->db);
    f->db = open_db(f->loop, test_database(), true);
    db_on_state(f->db, on_state, states);
}

static void test_a_killed_backend_is_told_and_replaced(void **state)
{
    struct fixture *f = *state;
    struct states states = {.f = f};
    open_anew(f, &states);
    assert_true(run_until(f->loop, was_ready, &states, 10000));
    static const char *const sql[] = {"select 1 / 0", "select pg_sleep(10)"};
    for (int i = 0; i < 2; i++) {
        struct db_unit *unit = db_unit_new();
        db_unit_addv(unit, sql[i], 0);
        db_send(f->db, unit, on_done, &f->answers[i]);
    }
    assert_true(run_until(f->loop, is_set, &f->answers[0].given, 10000));
    other(f, "select pg_terminate_backend(pid) from pg_stat_activity where "
             "application_name = 'moonwright test' and pid <> pg_backend_pid()");
    assert_true(run_until(f->loop, was_down, &states, 10000));
    assert_int_equal(states.err.code, ERR_CONN);
    assert_non_null(strstr(states.err.message, "administrator command"));
    assert_int_equal(f->answers[1].outcome, DB_UNKNOWN);
    assert_string_equal(f->answers[1].err.message, states.err.message);
    assert_int_equal(one(f, INSERT, 2, (const char *[]){"1", "after"}).outcome, DB_OK);
    assert_int_equal(states.ready, 2);
    assert_int_equal(states.down, 1);
}

static void test_closing_from_within(void **state)
{
    struct fixture *f = *state;
    struct states states = {.f = f, .close = true};
    open_anew(f, &states);
    assert_true(run_until(f->loop, was_ready, &states, 10000));
    run_for(f->loop, 20);
    assert_null(f->db);
}

static void test_nobody_answers(void **state)
{
    struct fixture *f = *state;
    struct states states = {.f = f};
    struct db *db = open_db(f->loop, "host=/nowhere dbname=x", true);
    db_on_state(db, on_state, &states);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select 1", 0);
    db_send(db, unit, on_done, &f->answers[0]);
    assert_true(run_until(f->loop, was_down, &states, 10000));
    assert_int_equal(states.err.code, ERR_CONN);
    assert_non_null(strstr(states.err.message, "/nowhere"));
    run_for(f->loop, 700); // several attempts later it still was said once
    assert_int_equal(states.down, 1);
    assert_false(db_is_ready(db));
    assert_false(f->answers[0].given);
    assert_int_equal(db_in_flight(db), 1);
    db_close(db);
    assert_false(f->answers[0].given);
    run_for(f->loop, 5);
    assert_int_equal(f->answers[0].calls, 1);
    assert_int_equal(f->answers[0].outcome, DB_UNSENT);
}

static void test_a_malformed_url_does_not_show_its_password(void **state)
{
    struct fixture *f = *state;
    static const char *const urls[] = {"postgresql://me:hidden@[::1/x", "host=x password='hidden",
                                       "postgresql://me:hidden@h/x?nonsense=1"};
    for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
        struct states states = {.f = f};
        struct db *db = open_db(f->loop, urls[i], true);
        db_on_state(db, on_state, &states);
        assert_true(run_until(f->loop, was_down, &states, 10000));
        assert_int_equal(states.err.code, ERR_CONFIG);
        assert_null(strstr(states.err.message, "hidden"));
        db_close(db);
    }
}

static void test_units_wait_half_a_minute_for_a_connection(void **state)
{
    struct fixture *f = *state;
    if (rounds(0, 1) == 0) {
        print_message("[     LONG ] only with MOONWRIGHT_LONG=1\n");
        return;
    }
    struct db *db = open_db(f->loop, "host=/nowhere dbname=x", true);
    run_for(f->loop, 1000);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select 1", 0);
    db_send(db, unit, on_done, &f->answers[0]);
    int64_t began = clock_mono_ms();
    assert_true(run_until(f->loop, is_set, &f->answers[0].given, 40000));
    int64_t waited = clock_mono_ms() - began;
    assert_true(waited >= 29000);
    assert_int_equal(f->answers[0].outcome, DB_UNSENT);
    db_close(db);
}

static void test_a_unit_in_the_air_at_the_close_is_unknown(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(one(f, "select 1", 0, NULL).outcome, DB_OK);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select pg_sleep(2)", 0);
    db_send(f->db, unit, on_done, &f->answers[0]);
    run_for(f->loop, 20);
    unit = db_unit_new();
    db_unit_addv(unit, INSERT, 2, "1", "never");
    db_send(f->db, unit, on_done, &f->answers[1]);
    db_close(f->db); // in the same turn: the second one has not left
    f->db = NULL;
    run_for(f->loop, 5);
    assert_int_equal(f->answers[0].outcome, DB_UNKNOWN);
    assert_int_equal(f->answers[1].outcome, DB_UNSENT);
    assert_int_equal(f->answers[0].calls, 1);
    assert_int_equal(f->answers[1].calls, 1);
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_reads_values),
        T(test_a_unit_is_one_transaction),
        T(test_an_empty_unit_succeeds),
        T(test_a_failing_commit_is_a_failure),
        T(test_a_lost_lease_has_its_own_code),
        T(test_binary_arrays),
        T(test_a_statement_prepared_in_a_failing_unit),
        T(test_a_stale_plan_is_prepared_anew),
        T(test_prepared_and_not),
        T(test_a_text_that_is_not_kept),
        T(test_a_text_at_an_address_used_before),
        T(test_ddl_then_use_in_one_unit),
        T(test_more_than_fits_in_flight_keeps_its_order),
        T(test_large_values_both_ways),
        T(test_copy_is_refused_without_harm),
        T(test_a_killed_backend_is_told_and_replaced),
        T(test_closing_from_within),
        T(test_nobody_answers),
        T(test_a_malformed_url_does_not_show_its_password),
        T(test_units_wait_half_a_minute_for_a_connection),
        T(test_a_unit_in_the_air_at_the_close_is_unknown),
    };
    return cmocka_run_group_tests_name("db", tests, NULL, NULL);
}
