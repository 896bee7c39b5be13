/* Errors: what the reader gets to see. */
#include "unit.h"

static void test_set(void **state)
{
    (void)state;
    struct err err = {.sqlstate = "23505"};
    assert_false(err_set(&err, ERR_CONFIG, "%s is %d", "port", 7));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_string_equal(err.message, "port is 7");
    assert_string_equal(err.sqlstate, "");
    assert_false(err_set(NULL, ERR_CONFIG, "nobody looks"));
    assert_false(err_wrap(NULL, "nobody looks"));
}

static void test_a_message_is_one_line(void **state)
{
    (void)state;
    struct err err;
    err_set(&err, ERR_CONN, "no\n\tanswer\x1b[31m\r\n");
    assert_string_equal(err.message, "no  answer [31m");
}

static void test_wrap(void **state)
{
    (void)state;
    struct err err;
    err_set(&err, ERR_IO, "no such file");
    assert_false(err_wrap(&err, "reading %s", "x.lua"));
    assert_string_equal(err.message, "reading x.lua: no such file");
    assert_int_equal(err.code, ERR_IO);
    err_set(&err, ERR_IO, "again: %s", err.message); // from itself
    assert_string_equal(err.message, "again: reading x.lua: no such file");
}

static void test_long_messages_are_cut(void **state)
{
    (void)state;
    struct err err;
    err_set(&err, ERR_IO, "%02000d", 1);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    err_wrap(&err, "%02000d", 2);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    err_set(&err, ERR_IO, "short");
    err_wrap(&err, "%01020d", 2);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    assert_string_equal(err.message + 1019, "2: s");
}

static void test_what_passes(void **state)
{
    (void)state;
    static const char *const states[] = {"53100", "53200", "57P01", "40001", "22P02", "42P01"};
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        struct err err;
        err_set(&err, ERR_SQL, "x");
        memcpy(err.sqlstate, states[i], 6);
        assert_int_equal(err_passes(&err), i < 4);
    }
    struct err err;
    err_set(&err, ERR_CONN, "x");
    assert_true(err_passes(&err));
    err_set(&err, ERR_INPUT, "x");
    assert_false(err_passes(&err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set),         cmocka_unit_test(test_a_message_is_one_line),
        cmocka_unit_test(test_wrap),        cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_what_passes),
    };
    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
