/* Memory: arenas keep what they gave until they die. */
#include "unit.h"

#include "base/mem.h"

static void test_arena(void **state)
{
    (void)state;
    struct arena *arena = arena_new();
    char *pieces[500];
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        size_t size = i * 37 % 3000;
        pieces[i] = arena_alloc(arena, size + 1);
        assert_int_equal((uintptr_t)pieces[i] % _Alignof(max_align_t), 0);
        for (size_t j = 0; j <= size; j++) {
            assert_int_equal(pieces[i][j], 0);
        }
        memset(pieces[i], (int)(i % 250 + 1), size + 1);
    }
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        size_t size = i * 37 % 3000;
        assert_int_equal((unsigned char)pieces[i][0], i % 250 + 1);
        assert_int_equal((unsigned char)pieces[i][size], i % 250 + 1);
    }
    assert_non_null(arena_alloc(arena, 0));
    arena_free(arena);
    arena_free(NULL);
}

static void test_texts(void **state)
{
    (void)state;
    struct arena *arena = arena_new();
    assert_string_equal(arena_strdup(arena, "abc"), "abc");
    assert_string_equal(arena_strndup(arena, "abc", 2), "ab");
    assert_string_equal(arena_strndup(arena, NULL, 0), "");
    assert_string_equal(arena_printf(arena, "%s-%d", "a", 5), "a-5");
    arena_free(arena);
    char *text = xprintf("%05d", 42);
    assert_string_equal(text, "00042");
    free(text);
    text = xstrndup("abc", 1);
    assert_string_equal(text, "a");
    free(text);
    free(xmalloc(0));
    free(xrealloc(NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
