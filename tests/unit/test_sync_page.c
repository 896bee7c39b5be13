/* Pages: cut up exactly where PostgreSQL would, and nothing of a broken one is used. */
#include "unit.h"

#include "engine/sync_page.h"

static struct sync_page *page_of(const char *text)
{
    struct err err;
    struct sync_page *page = sync_page_read(text, strlen(text), &err);
    if (!page) {
        fail_msg("%s: %s", text, err.message);
    }
    return page;
}

static void expect_rows(const struct sync_page *page, size_t from, size_t to, const char *expected)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_true(sync_page_rows(page, from, to, &out));
    assert_string_equal(out.data, expected);
    buf_fini(&out);
}

static void test_rows_and_envelope(void **state)
{
    (void)state;
    struct sync_page *page = page_of(
        "\n{\"page\":1, \"data\" : [ {\"id\":1,\"a\":[1,{\"b\":\"]}\"}]} ,"
        "{\"id\":2,\"name\":\"q\\\"],[\\\\\"}, 3 ] , \"hasMore\" : true,"
        " \"continueFrom\":\"x\\/y\\u002b\\\"z\" } ");
    assert_int_equal(page->count, 3);
    assert_true(page->more);
    assert_string_equal(page->next, "x/y+\"z");
    expect_rows(page, 0, 0, "[]");
    expect_rows(page, 1, 2, "[{\"id\":2,\"name\":\"q\\\"],[\\\\\"}]");
    expect_rows(page, 0, 2,
                "[{\"id\":1,\"a\":[1,{\"b\":\"]}\"}]} ,{\"id\":2,\"name\":\"q\\\"],[\\\\\"}]");
    sync_page_free(page);
    page = page_of("{\"hasMore\":false,\"continueFrom\":null,\"data\":[]}");
    assert_int_equal(page->count, 0);
    assert_false(page->more);
    assert_null(page->next);
    sync_page_free(page);
}

static void test_fields(void **state)
{
    (void)state;
    struct sync_page *page = page_of(
        "{\"hasMore\":false,\"data\":[{\"x\":{\"id\":9},\"id\":9007199254740993,\"n\":null,"
        "\"modifiedOn\":\"2026-05-01T10:00:00Z\",\"o\":{}}, 7]}");
    char out[32];
    sync_page_field(page, 0, "id", out, sizeof(out));
    assert_string_equal(out, "9007199254740993");
    sync_page_field(page, 0, "modifiedOn", out, sizeof(out));
    assert_string_equal(out, "2026-05-01T10:00:00Z");
    sync_page_field(page, 0, "modifiedOn", out, 5);
    assert_string_equal(out, "2026");
    static const char *const absent[] = {"n", "o", "y"};
    for (size_t i = 0; i < ARRAY_LEN(absent); i++) {
        sync_page_field(page, 0, absent[i], out, sizeof(out));
        assert_string_equal(out, "");
    }
    sync_page_field(page, 1, "id", out, sizeof(out));
    assert_string_equal(out, "");
    sync_page_free(page);
}

static void test_what_postgresql_cant_store_is_replaced(void **state)
{
    (void)state;
    static const char text[] = "{\"hasMore\":false,\"data\":[\"a\\u0000b\\\\u0000c\xff\xc3\xa4"
                               "\xc0\x80\xed\xa0\x80"
                               "d\0e\"]}";
    struct err err;
    struct sync_page *page = sync_page_read(text, sizeof(text) - 1, &err);
    assert_non_null(page);
    expect_rows(page, 0, 1, "[\"a\\ufffdb\\\\u0000c?\xc3\xa4?????d e\"]");
    sync_page_free(page);
}

static void test_what_is_no_page(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "[]",
                                        "{}",
                                        "<html>",
                                        "{\"hasMore\":true}",
                                        "{\"data\":[]}",
                                        "{\"hasMore\":true,\"data\":[",
                                        "{\"hasMore\":true,\"data\":[1}",
                                        "{\"hasMore\":true,\"data\":{}}",
                                        "{\"hasMore\":true,\"data\":[\"x]}",
                                        "{\"hasMore\":true,\"data\":[],\"data\":[]}",
                                        "{\"hasMore\":true,\"data\":[{]}",
                                        "{\"hasMore\":true,\"data\":[]",
                                        "{\"hasMore\"",
                                        "{\"hasMore\":",
                                        "{\"a\":\"\\"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct err err = {0};
        if (sync_page_read(wrong[i], strlen(wrong[i]), &err)) {
            fail_msg("taken as a page: %s", wrong[i]);
        }
        assert_int_equal(err.code, ERR_INPUT);
    }
}

/* A page that was cut off anywhere, or has a byte changed, never makes it read outside. */
static void test_damaged_pages(void **state)
{
    (void)state;
    const char *whole =
        "{\"hasMore\":true,\"continueFrom\":\"t\\u00e4\\u002b\",\"data\":[{\"id\":1,"
        "\"name\":\"A\\\"n\\u0000n\",\"x\":[[],{}]},{\"id\":2}]}";
    size_t len = strlen(whole);
    srand(seed());
    for (int i = 0; i < rounds(20000, 1000000); i++) {
        size_t n = (size_t)rand() % (len + 1);
        char *text = malloc(n ? n : 1); // exactly as long, so that a sanitizer sees more
        memcpy(text, whole, n);
        for (int k = rand() % 3; k > 0 && n > 0; k--) {
            text[(size_t)rand() % n] = (char)(rand() % 3 ? "{}[]\",:\\u0"[rand() % 10] : rand());
        }
        struct err err;
        struct sync_page *page = sync_page_read(text, n, &err);
        for (size_t row = 0; page && row < page->count; row++) {
            char out[16];
            sync_page_field(page, row, "id", out, sizeof(out));
        }
        sync_page_free(page);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_and_envelope),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_what_postgresql_cant_store_is_replaced),
        cmocka_unit_test(test_what_is_no_page),
        cmocka_unit_test(test_damaged_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
