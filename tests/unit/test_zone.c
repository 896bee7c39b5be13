/* Civil time around the days on which clocks change. */
#include "unit.h"

#include "base/zone.h"

#define NY "America/New_York"
#define LORD_HOWE "Australia/Lord_Howe"

static int64_t utc(int month, int day, int hour, int minute)
{
    struct civil civil = {.year = 2026, .month = month, .day = day, .hour = hour, .minute = minute};
    int64_t at = 0;
    assert_true(zone_instant("UTC", &civil, &at));
    return at;
}

static int64_t at(const char *zone, int month, int day, int hour, int minute)
{
    struct civil civil = {.year = 2026, .month = month, .day = day, .hour = hour, .minute = minute};
    int64_t out = 0;
    assert_true(zone_instant(zone, &civil, &out));
    return out;
}

static void shows(const char *zone, int64_t instant, int day, int hour, int minute, int offset)
{
    struct civil civil;
    assert_true(zone_civil(zone, instant, &civil));
    assert_int_equal(civil.year, 2026);
    assert_int_equal(civil.day, day);
    assert_int_equal(civil.hour, hour);
    assert_int_equal(civil.minute, minute);
    assert_int_equal(civil.offset, offset);
}

static void test_known_instants(void **state)
{
    (void)state;
    struct civil civil = {.year = 2026, .month = 11, .day = 22, .hour = 12};
    int64_t out;
    assert_true(zone_instant("UTC", &civil, &out));
    assert_int_equal(out, 1795348800);
    assert_true(zone_civil(NY, 1795348800, &civil));
    assert_int_equal(civil.hour, 7);
    assert_int_equal(civil.weekday, 7); // a Sunday
    assert_int_equal(civil.month, 11);
    assert_true(zone_civil("UTC", 0, &civil));
    assert_int_equal(civil.year, 1970);
    assert_int_equal(civil.weekday, 4);
}

static void test_spring_in_the_us(void **state)
{
    // 2026-03-08 02:00 EST becomes 03:00 EDT, at 07:00 UTC.
    (void)state;
    shows(NY, utc(3, 8, 6, 59), 8, 1, 59, -5 * 3600);
    shows(NY, utc(3, 8, 7, 0), 8, 3, 0, -4 * 3600);
    assert_int_equal(at(NY, 3, 8, 1, 59), utc(3, 8, 6, 59));
    assert_int_equal(at(NY, 3, 8, 3, 0), utc(3, 8, 7, 0));
    assert_int_equal(at(NY, 3, 8, 2, 0), utc(3, 8, 7, 0)); // skipped: forward by the gap
    assert_int_equal(at(NY, 3, 8, 2, 30), utc(3, 8, 7, 30));
    assert_int_equal(at(NY, 3, 8, 2, 59), utc(3, 8, 7, 59));
    assert_int_equal(at("America/Chicago", 3, 8, 2, 30), utc(3, 8, 8, 30));
    assert_int_equal(at(NY, 3, 7, 18, 0), utc(3, 7, 23, 0));
    assert_int_equal(at(NY, 3, 8, 18, 0), utc(3, 8, 22, 0));
}

static void test_autumn_in_the_us(void **state)
{
    // 2026-11-01 02:00 EDT becomes 01:00 EST, at 06:00 UTC.
    (void)state;
    shows(NY, utc(11, 1, 5, 30), 1, 1, 30, -4 * 3600);
    shows(NY, utc(11, 1, 6, 30), 1, 1, 30, -5 * 3600);
    assert_int_equal(at(NY, 11, 1, 1, 0), utc(11, 1, 5, 0)); // twice: the first
    assert_int_equal(at(NY, 11, 1, 1, 30), utc(11, 1, 5, 30));
    assert_int_equal(at(NY, 11, 1, 1, 59), utc(11, 1, 5, 59));
    assert_int_equal(at(NY, 11, 1, 2, 0), utc(11, 1, 7, 0));
    assert_int_equal(at(NY, 11, 1, 0, 59), utc(11, 1, 4, 59));
}

static void test_phoenix_does_not_change(void **state)
{
    (void)state;
    static const int days[][2] = {{3, 8}, {7, 1}, {11, 1}};
    for (size_t i = 0; i < ARRAY_LEN(days); i++) {
        int64_t noon = utc(days[i][0], days[i][1], 19, 0);
        shows("America/Phoenix", noon, days[i][1], 12, 0, -7 * 3600);
        assert_int_equal(at("America/Phoenix", days[i][0], days[i][1], 2, 30),
                         utc(days[i][0], days[i][1], 9, 30));
    }
}

static void test_half_an_hour_in_lord_howe(void **state)
{
    // 2026-04-05 02:00 +11 becomes 01:30 +10:30, at 15:00 UTC the day before;
    // 2026-10-04 02:00 +10:30 becomes 02:30 +11, at 15:30 UTC the day before.
    (void)state;
    shows(LORD_HOWE, utc(4, 4, 14, 59), 5, 1, 59, 39600);
    shows(LORD_HOWE, utc(4, 4, 15, 0), 5, 1, 30, 37800);
    assert_int_equal(at(LORD_HOWE, 4, 5, 1, 45), utc(4, 4, 14, 45)); // twice: the first
    assert_int_equal(at(LORD_HOWE, 4, 5, 2, 0), utc(4, 4, 15, 30));
    assert_int_equal(at(LORD_HOWE, 10, 4, 2, 15), utc(10, 3, 15, 45)); // skipped
    shows(LORD_HOWE, utc(10, 3, 15, 45), 4, 2, 45, 39600);
}

static void test_every_instant_comes_back(void **state)
{
    (void)state;
    static const char *const zones[] = {NY, LORD_HOWE, "America/Phoenix", "Europe/London", "UTC"};
    for (size_t i = 0; i < ARRAY_LEN(zones); i++) {
        for (int64_t t = utc(1, 1, 0, 0); t < utc(12, 31, 0, 0); t += 1777) {
            struct civil civil;
            int64_t back;
            assert_true(zone_civil(zones[i], t, &civil));
            assert_true(zone_instant(zones[i], &civil, &back));
            // The second of two equal times is the first plus what the clock went back.
            assert_true(back == t || t - back == 3600 || t - back == 1800);
            struct civil again;
            assert_true(zone_civil(zones[i], back, &again));
            assert_int_equal(again.hour * 60 + again.minute, civil.hour * 60 + civil.minute);
            assert_int_equal(t - back, again.offset - civil.offset);
        }
    }
}

static void test_dates_are_normalised(void **state)
{
    (void)state;
    struct civil civil = {.year = 2026, .month = 3, .day = 0};
    int64_t out;
    assert_true(zone_instant("UTC", &civil, &out));
    assert_int_equal(out, utc(2, 28, 0, 0));
    civil = (struct civil){.year = 2026, .month = 1, .day = 35, .hour = 25, .minute = -1};
    assert_true(zone_instant("UTC", &civil, &out));
    assert_int_equal(out, utc(2, 5, 0, 59));
    civil = (struct civil){.year = 2025, .month = 14, .day = 1};
    assert_true(zone_instant("UTC", &civil, &out));
    assert_int_equal(out, utc(2, 1, 0, 0));
    civil = (struct civil){.year = 2027, .month = 0, .day = 1};
    assert_true(zone_instant("UTC", &civil, &out));
    assert_int_equal(out, utc(12, 1, 0, 0));
    civil = (struct civil){.year = 2024, .month = 2, .day = 29};
    assert_true(zone_instant("UTC", &civil, &out));
    assert_int_equal(out, 1709164800);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const good[] = {
        "UTC",    NY, "America/Argentina/Buenos_Aires", "Etc/GMT+5", "America/Port-au-Prince",
        "EST5EDT"};
    static const char *const bad[] = {
        "",
        "/etc/passwd",
        "../zoneinfo/UTC",
        "America/",
        "Nowhere/Land",
        "America",
        "zone.tab",
        "posixrules",
        "right/UTC",
        "US Eastern",
        "America//New_York",
        "America/../UTC",
        "UTC\n",
        ":UTC",
        "AVeryLongNameThatIsNoZoneAVeryLongNameThatIsNoZoneAndGoesOnAndOn"};
    struct civil civil = {.year = 2026, .month = 1, .day = 1};
    int64_t out;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(zone_exists(good[i]));
        assert_true(zone_civil(good[i], 0, &civil));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(zone_exists(bad[i]));
        assert_false(zone_civil(bad[i], 0, &civil));
        assert_false(zone_instant(bad[i], &civil, &out));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_instants),
        cmocka_unit_test(test_spring_in_the_us),
        cmocka_unit_test(test_autumn_in_the_us),
        cmocka_unit_test(test_phoenix_does_not_change),
        cmocka_unit_test(test_half_an_hour_in_lord_howe),
        cmocka_unit_test(test_every_instant_comes_back),
        cmocka_unit_test(test_dates_are_normalised),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests_name("zone", tests, NULL, NULL);
}
