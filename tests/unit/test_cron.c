/* Crontab times: what they mean, what is refused, and what a change of the clocks does to them. */
#include "unit.h"

#include "base/zone.h"
#include "engine/cron.h"

static int64_t at(const char *zone, int year, int month, int day, int hour, int minute, int second)
{
    struct civil civil = {
        .year = year, .month = month, .day = day, .hour = hour, .minute = minute, .second = second};
    int64_t seconds;
    assert_true(zone_instant(zone, &civil, &seconds));
    return seconds;
}

/* "2026-03-08 03:00:00" after `after`, or "never". */
static const char *next(const char *text, const char *zone, int64_t after)
{
    static char out[64];
    struct cron cron;
    struct err err;
    int64_t found;
    struct civil c;
    if (!cron_parse(text, &cron, &err)) {
        fail_msg("%s: %s", text, err.message);
    }
    if (!cron_next(&cron, zone, after, &found)) {
        return "never";
    }
    assert_true(found > after);
    assert_true(zone_civil(zone, found, &c));
    snprintf(out, sizeof(out), "%04d-%02d-%02d %02d:%02d:%02d", c.year, c.month, c.day, c.hour,
             c.minute, c.second);
    return out;
}

static void test_next_times(void **state)
{
    (void)state;
    // 2026-06-01 is a Monday.
    int64_t t = at("UTC", 2026, 6, 1, 10, 7, 30);
    static const struct {
        const char *cron, *expected;
    } cases[] = {
        {"* * * * *", "2026-06-01 10:08:00"},
        {"*/5 * * * *", "2026-06-01 10:10:00"},
        {"7 10 * * *", "2026-06-02 10:07:00"},
        {"0 2 * * *", "2026-06-02 02:00:00"},
        {"30 7 * * 1-5", "2026-06-02 07:30:00"},
        {"30 7 * * sat,sun", "2026-06-06 07:30:00"},
        {"30 7 * * 7", "2026-06-07 07:30:00"},
        {"0 0 1 * *", "2026-07-01 00:00:00"},
        {"0 0 1 jan *", "2027-01-01 00:00:00"},
        {"0 0 29 2 *", "2028-02-29 00:00:00"},
        {"0 9-17/4 * * *", "2026-06-01 13:00:00"},
        {"50/3 * * * *", "2026-06-01 10:50:00"},
        {"5,8,59 10-11 * * *", "2026-06-01 10:08:00"},
        {"0 12 13 * fri", "2026-06-05 12:00:00"}, // the 13th or a Friday
        {"0 12 */10 * ?", "2026-06-01 12:00:00"},
        {"*/20 * * * * *", "2026-06-01 10:07:40"},
        {"31 7 10 * * *", "2026-06-01 10:07:31"},
        {"0 0 31 4,6 *", "never"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_string_equal(next(cases[i].cron, "UTC", t), cases[i].expected);
    }
}

static void test_what_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",           "* * * *",     "60 * * * *",  "* 24 * * *",    "* * 0 * *",
        "* * 32 * *", "* * * 13 *",  "* * * * 8",   "5-3 * * * *",   "*/0 * * * *",
        "a * * * *",  "1,, * * * *", "* * * foo *", "* * * * * * *", "1x * * * *",
        "-1 * * * *"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct cron cron;
        struct err err = {0};
        if (cron_parse(wrong[i], &cron, &err)) {
            fail_msg("\"%s\" was taken", wrong[i]);
        }
        assert_int_equal(err.code, ERR_INPUT);
        assert_non_null(strstr(err.message, "schedule"));
    }
}

static void test_changes_of_the_clocks(void **state)
{
    (void)state;
    const char *zone = "America/New_York";
    // 2026-03-08 02:00 does not exist: the nightly run comes when the gap ends, and once.
    int64_t evening = at(zone, 2026, 3, 7, 20, 0, 0);
    assert_string_equal(next("30 2 * * *", zone, evening), "2026-03-08 03:30:00");
    assert_string_equal(next("30 2 * * *", zone, at(zone, 2026, 3, 8, 3, 30, 0)),
                        "2026-03-09 02:30:00");
    // 2026-11-01 01:30 comes twice: the nightly run once.
    int64_t first = at(zone, 2026, 11, 1, 1, 30, 0);
    assert_string_equal(next("30 1 * * *", zone, first), "2026-11-02 01:30:00");
    // Every five minutes goes on through both.
    struct cron cron;
    struct err err;
    assert_true(cron_parse("*/5 * * * *", &cron, &err));
    int64_t t = at(zone, 2026, 11, 1, 0, 0, 0), found;
    for (int i = 0; i < 100; i++, t = found) {
        assert_true(cron_next(&cron, zone, t, &found));
        assert_int_equal(found - t, 300);
    }
    t = at(zone, 2026, 3, 8, 0, 0, 0);
    for (int i = 0; i < 100; i++, t = found) {
        assert_true(cron_next(&cron, zone, t, &found));
        assert_int_equal(found - t, 300);
    }
}

/* Against a search that looks at every minute. */
static void test_against_a_plain_search(void **state)
{
    (void)state;
    static const char *const schedules[] = {"17 3,15 * * *", "*/7 5-6 * 2,11 *", "0 0 1-7 * mon",
                                            "59 23 31 * *", "10-20/3 * 5 */3 *"};
    srand(seed());
    for (size_t i = 0; i < ARRAY_LEN(schedules); i++) {
        struct cron cron;
        struct err err;
        assert_true(cron_parse(schedules[i], &cron, &err));
        int64_t t = at("UTC", 2026, 1, 1, 0, 0, 0) + rand() % (86400 * 700), found;
        assert_true(cron_next(&cron, "UTC", t, &found));
        for (int64_t m = t - t % 60 + 60; m <= found; m += 60) {
            struct civil c;
            assert_true(zone_civil("UTC", m, &c));
            bool day = cron.day >> c.day & 1, weekday = cron.weekday >> c.weekday % 7 & 1;
            bool both = !cron.any_day && !cron.any_weekday ? day || weekday : day && weekday;
            bool match = (cron.minute >> c.minute & 1) && (cron.hour >> c.hour & 1) &&
                         (cron.month >> c.month & 1) && both;
            assert_int_equal(match, m == found);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_times),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_changes_of_the_clocks),
        cmocka_unit_test(test_against_a_plain_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
