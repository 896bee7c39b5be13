/* Clocks, and identifiers that sort by the time they were made. */
#include "unit.h"

#include <ctype.h>

static void test_uuids_sort_by_time(void **state)
{
    (void)state;
    char before[37] = "", uuid[37];
    int64_t start_ms = clock_wall_us() / 1000;
    for (int i = 0; i < 1000; i++) {
        int64_t now = clock_mono_us();
        uuid_v7(uuid);
        assert_int_equal(strlen(uuid), 36);
        for (int j = 0; j < 36; j++) {
            bool dash = j == 8 || j == 13 || j == 18 || j == 23;
            assert_true(dash
                            ? uuid[j] == '-'
                            : isxdigit((unsigned char)uuid[j]) && !isupper((unsigned char)uuid[j]));
        }
        assert_int_equal(uuid[14], '7');
        assert_non_null(strchr("89ab", uuid[19]));
        assert_true(strncmp(before, uuid, 18) <= 0);
        assert_string_not_equal(before, uuid);
        memcpy(before, uuid, sizeof(before));
        while (clock_mono_us() - now < 2) {
            continue; // their time is a quarter of a microsecond fine
        }
    }
    char text[13] = "";
    memcpy(text, uuid, 8);
    memcpy(text + 8, uuid + 9, 4);
    int64_t ms = (int64_t)strtoull(text, NULL, 16);
    assert_true(ms >= start_ms && ms <= clock_wall_us() / 1000);
}

static void test_mono_goes_forward(void **state)
{
    (void)state;
    int64_t ms = clock_mono_ms(), us = clock_mono_us();
    assert_true(us / 1000 - ms >= 0 && us / 1000 - ms < 1000);
    assert_true(clock_mono_us() >= us);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uuids_sort_by_time),
        cmocka_unit_test(test_mono_goes_forward),
    };
    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
