/* Crontab times: what they mean, what is refused, and what a change of the clocks does to them. */
#include "unit.h"

#include "base/zone.h"
#include "base/cron.h"

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
    struct cron_fire found;
    struct civil c;
    if (!cron_parse(text, &cron, &err)) {
        fail_msg("%s: %s", text, err.message);
    }
    if (!cron_next(&cron, zone, cron_steady(&cron), after, &found)) {
        return "never";
    }
    assert_true(found.at > after);
    assert_true(zone_civil(zone, found.at, &c));
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
    struct cron_fire found;
    struct err err;
    assert_true(cron_parse("*/5 * * * *", &cron, &err));
    int64_t nights[] = {at(zone, 2026, 11, 1, 0, 0, 0), at(zone, 2026, 3, 8, 0, 0, 0)};
    for (size_t night = 0; night < ARRAY_LEN(nights); night++) {
        int64_t t = nights[night];
        for (int i = 0; i < 100; i++, t = found.at) {
            assert_true(cron_next(&cron, zone, cron_steady(&cron), t, &found));
            assert_int_equal(found.at - t, 300);
        }
    }
}

/* What fires on the local days from..to, as "03:30>" and so on: > moved by a gap, x skipped by it,
 * 1 and 2 the first and second of two. */
static void fires(const char *text, const char *zone, int gap, int fold, const int days[4],
                  const char *expected)
{
    struct cron cron;
    struct err err;
    static const char *const marks[] = {"", ">", "x", "1", "2"};
    char out[400] = "";
    assert_true(cron_parse(text, &cron, &err));
    int64_t t = at(zone, days[0], days[1], days[2], 0, 0, 0) - 1;
    int64_t until = at(zone, days[0], days[1], days[3] + 1, 0, 0, 0);
    struct cron_policy policy = {.gap = gap, .fold = fold};
    struct cron_fire fire;
    for (; cron_next(&cron, zone, policy, t, &fire) && fire.at < until; t = fire.at) {
        struct civil c;
        assert_true(fire.at > t && zone_civil(zone, fire.at, &c));
        size_t len = strlen(out);
        snprintf(out + len, sizeof(out) - len, "%s%02d %02d:%02d%s", len ? ", " : "", c.day, c.hour,
                 c.minute, marks[fire.note]);
    }
    assert_string_equal(out, expected);
}

static void test_what_an_author_says_of_changes(void **state)
{
    (void)state;
    const char *ny = "America/New_York", *howe = "Australia/Lord_Howe";
    const int spring[] = {2026, 3, 7, 9}, autumn[] = {2026, 10, 31, 32};
    fires("30 2 * * *", ny, CRON_GAP_NEXT, CRON_FOLD_FIRST, spring,
          "07 02:30, 08 03:30>, 09 02:30");
    fires("30 2 * * *", ny, CRON_GAP_SKIP, CRON_FOLD_FIRST, spring,
          "07 02:30, 08 03:30x, 09 02:30");
    fires("30 1 * * *", ny, CRON_GAP_SKIP, CRON_FOLD_FIRST, spring, "07 01:30, 08 01:30, 09 01:30");
    fires("30 1 * * *", ny, CRON_GAP_NEXT, CRON_FOLD_FIRST, autumn, "31 01:30, 01 01:301");
    fires("30 1 * * *", ny, CRON_GAP_NEXT, CRON_FOLD_LAST, autumn, "31 01:30, 01 01:302");
    fires("30 1 * * *", ny, CRON_GAP_NEXT, CRON_FOLD_BOTH, autumn,
          "31 01:30, 01 01:301, 01 01:302");
    fires("30 2 * * *", "America/Phoenix", CRON_GAP_SKIP, CRON_FOLD_LAST, spring,
          "07 02:30, 08 02:30, 09 02:30");
    // What falls together is one fire; what is moved stands in the order of time.
    const int day[] = {2026, 3, 8, 8};
    fires("30 2,3 * * *", ny, CRON_GAP_NEXT, CRON_FOLD_FIRST, day, "08 03:30");
    fires("15,45 2 * * *", ny, CRON_GAP_NEXT, CRON_FOLD_FIRST, day, "08 03:15>, 08 03:45>");
    fires("45 2-4 * * *", ny, CRON_GAP_SKIP, CRON_FOLD_FIRST, day, "08 03:45, 08 04:45");
    fires("45 2 8 * *", ny, CRON_GAP_NEXT, CRON_FOLD_FIRST, day, "08 03:45>");
    // Half an hour.
    const int october[] = {2026, 10, 4, 4}, april[] = {2026, 4, 5, 5};
    fires("0,15 2 * * *", howe, CRON_GAP_NEXT, CRON_FOLD_FIRST, october, "04 02:30>, 04 02:45>");
    fires("0,40 1-2 * * *", howe, CRON_GAP_NEXT, CRON_FOLD_BOTH, april,
          "05 01:00, 05 01:401, 05 01:402, 05 02:00, 05 02:40");
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
        int64_t t = at("UTC", 2026, 1, 1, 0, 0, 0) + rand() % (86400 * 700);
        struct cron_fire found;
        assert_true(cron_next(&cron, "UTC", cron_steady(&cron), t, &found));
        for (int64_t m = t - t % 60 + 60; m <= found.at; m += 60) {
            struct civil c;
            assert_true(zone_civil("UTC", m, &c));
            bool day = cron.day >> c.day & 1, weekday = cron.weekday >> c.weekday % 7 & 1;
            bool both = !cron.any_day && !cron.any_weekday ? day || weekday : day && weekday;
            bool match = (cron.minute >> c.minute & 1) && (cron.hour >> c.hour & 1) &&
                         (cron.month >> c.month & 1) && both;
            assert_int_equal(match, m == found.at);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_times),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_changes_of_the_clocks),
        cmocka_unit_test(test_what_an_author_says_of_changes),
        cmocka_unit_test(test_against_a_plain_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
