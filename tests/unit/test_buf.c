/* Buffers: the cap holds, and an overflow is remembered. */
#include "unit.h"

#include "base/buf.h"

static void test_grows_and_ends_with_nul(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 100000);
    assert_string_equal(buf.data, "");
    for (int i = 0; i < 10000; i++) {
        assert_true(buf_printf(&buf, "%d,", i % 10));
        assert_int_equal(buf.data[buf.len], 0);
    }
    assert_int_equal(buf.len, 20000);
    assert_int_equal(strlen(buf.data), 20000);
    buf_clear(&buf);
    assert_string_equal(buf.data, "");
    assert_true(buf_adds(&buf, "a") && buf_addc(&buf, 0) && buf_add(&buf, "bc", 2));
    assert_int_equal(buf.len, 4);
    assert_memory_equal(buf.data, "a\0bc", 5);
    buf_fini(&buf);
    assert_string_equal(buf.data, "");
}

static void test_the_cap(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 5);
    assert_true(buf_adds(&buf, "12345"));
    assert_false(buf_addc(&buf, '6'));
    assert_true(buf.overflow);
    assert_string_equal(buf.data, "12345");
    buf_clear(&buf);
    assert_true(buf_adds(&buf, "123"));
    assert_false(buf_printf(&buf, "%d", 456));
    assert_false(buf_adds(&buf, "4")); // it would fit, and look as if nothing was missing
    assert_string_equal(buf.data, "123");
    buf_fini(&buf);
}

static void test_take(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 10);
    char *text = buf_take(&buf);
    assert_string_equal(text, "");
    free(text);
    buf_adds(&buf, "mine");
    text = buf_take(&buf);
    assert_string_equal(text, "mine");
    assert_int_equal(buf.len, 0);
    free(text);
    buf_fini(&buf);
}

static void test_json(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        const char *json;
    } cases[] = {
        {"", 0, "\"\""},
        {"a\"b\\c/", 6, "\"a\\\"b\\\\c/\""},
        {"\b\f\n\r\t\x01\x7f", 7, "\"\\b\\f\\n\\r\\t\\u0001\\u007f\""},
        {"a\0b", 3, "\"a\\u0000b\""},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"\xff", 1, "\"\xef\xbf\xbd\""},                                 // never UTF-8
        {"\xc3", 1, "\"\xef\xbf\xbd\""},                                 // cut
        {"\xc0\xaf", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""},                 // overlong
        {"\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}, // surrogate
        {"\xe2\x82x", 3, "\"\xef\xbf\xbd\xef\xbf\xbdx\""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf buf;
        buf_init(&buf, 1000);
        assert_true(buf_json(&buf, cases[i].text, cases[i].len));
        assert_string_equal(buf.data, cases[i].json);
        buf_fini(&buf);
    }
}

static void test_members_of_an_object(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 100);
    buf_addc(&buf, '{');
    assert_true(buf_json_member(&buf, "a", "{"));
    assert_true(buf_json_member(&buf, "b", NULL));
    assert_string_equal(buf.data, "{\"a\":\"{\",\"b\":null");
    buf_fini(&buf);
}

static void test_urlencode(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 100);
    assert_true(buf_urlencode(&buf, "aZ09-._~ +&=%\n\xc3\xa9", 16));
    assert_string_equal(buf.data, "aZ09-._~%20%2B%26%3D%25%0A%C3%A9");
    buf_fini(&buf);
}

static void what_is_plain_ends_at_the_first_other_byte(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        bool plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
        for (size_t len = 1; len <= 20; len++) {
            for (size_t at = 0; at < len; at++) {
                char text[20];
                memset(text, 'a', sizeof(text));
                text[at] = (char)c;
                assert_int_equal(plain ? len : at, buf_plain(text, len));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_plain_ends_at_the_first_other_byte),
        cmocka_unit_test(test_grows_and_ends_with_nul),
        cmocka_unit_test(test_the_cap),
        cmocka_unit_test(test_take),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_members_of_an_object),
        cmocka_unit_test(test_urlencode),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
