/* fuzz_cron.c - schedules that people wrote: a parsed one can be written out field by field and
 * means the same, and the next fire is the first instant that fits, whatever the clocks do. */
#include "fuzz.h"

#include "base/buf.h"
#include "base/zone.h"
#include "base/cron.h"

#include <ctype.h>
#include <time.h>

static void write_bits(struct buf *out, uint64_t bits, int low, int high, bool any)
{
    if (any)
        buf_addc(out, '*');
    const char *between = any ? "," : "";
    for (int i = low; i <= high; i++) {
        if (bits >> i & 1) {
            buf_printf(out, "%s%d", between, i);
            between = ",";
        }
    }
    buf_addc(out, ' ');
}

static void same_when_written_out(const struct cron *cron)
{
    struct buf text;
    struct cron again;
    buf_init(&text, 1 << 16);
    write_bits(&text, cron->second, 0, 59, false);
    write_bits(&text, cron->minute, 0, 59, false);
    write_bits(&text, cron->hour, 0, 23, false);
    write_bits(&text, cron->day, 1, 31, false);
    write_bits(&text, cron->month, 1, 12, false);
    write_bits(&text, cron->weekday, 0, 6, false);
    must(cron_parse(text.data, &again, NULL));
    must(again.second == cron->second && again.minute == cron->minute && again.hour == cron->hour &&
         again.day == cron->day && again.month == cron->month && again.weekday == cron->weekday);
    buf_fini(&text);
}

static int words(const char *text)
{
    int count = 0;
    for (bool inside = false; *text; text++) {
        bool blank = isspace((unsigned char)*text);
        count += !blank && !inside;
        inside = !blank;
    }
    return count;
}

static bool shows(const struct cron *cron, const struct civil *c)
{
    bool day = cron->day >> c->day & 1, weekday = cron->weekday >> (c->weekday % 7) & 1;
    bool either = !cron->any_day && !cron->any_weekday;
    return (cron->second >> c->second & 1) && (cron->minute >> c->minute & 1) &&
           (cron->hour >> c->hour & 1) && (cron->month >> c->month & 1) &&
           (either ? day || weekday : day && weekday);
}

static struct civil civil(const char *zone, int64_t at)
{
    struct civil c;
    must(zone_civil(zone, at, &c));
    return c;
}

/* Whether something fires at an instant, from the instant's side: by its own time on the clock, or
 * by the one that the clock would show if it had not been put forward less than the gap ago. */
static bool fires(const struct cron *cron, const char *zone, struct cron_policy policy, int64_t at)
{
    enum { DAY = 86400 };
    struct civil c = civil(zone, at), before = civil(zone, at - DAY), after = civil(zone, at + DAY);
    if (shows(cron, &c)) {
        int back = before.offset - c.offset, forth = c.offset - after.offset;
        bool second = back > 0 && civil(zone, at - back).offset == before.offset;
        bool first = forth > 0 && civil(zone, at + forth).offset == after.offset;
        if (policy.fold == CRON_FOLD_BOTH || (!first && !second) ||
            (policy.fold == CRON_FOLD_FIRST ? first : second))
            return true;
    }
    int gap = c.offset - before.offset;
    if (policy.gap == CRON_GAP_SKIP || gap <= 0 || civil(zone, at - gap).offset != before.offset)
        return false;
    time_t wall = (time_t)(at + before.offset);
    struct tm tm;
    must(gmtime_r(&wall, &tm) != NULL);
    struct civil unmoved = {.month = tm.tm_mon + 1,
                            .day = tm.tm_mday,
                            .hour = tm.tm_hour,
                            .minute = tm.tm_min,
                            .second = tm.tm_sec,
                            .weekday = tm.tm_wday};
    return shows(cron, &unmoved);
}

/* No second before the answer fits. */
static void check(const struct cron *cron, const char *zone, struct cron_policy policy,
                  int64_t after)
{
    struct cron_fire next;
    bool found = cron_next(cron, zone, policy, after, &next);
    int64_t until = found ? next.at : after + 3700;
    must(!found ||
         (next.at > after && fires(cron, zone, policy, next.at) == (next.note != CRON_SKIPPED)));
    for (int64_t at = after + 1; at < until && at < after + 3700; at++)
        must(!fires(cron, zone, policy, at));
}

/* Where the clocks never change no day before the answer has its first time of the day. */
static void check_days(const struct cron *cron, int64_t after)
{
    struct cron_fire next;
    struct civil c;
    bool found = cron_next(cron, "UTC", cron_steady(cron), after, &next);
    int64_t first = 0;
    while (!(cron->hour >> first & 1))
        first++;
    int64_t minute = 0, second = 0;
    while (!(cron->minute >> minute & 1))
        minute++;
    while (!(cron->second >> second & 1))
        second++;
    first = (first * 60 + minute) * 60 + second;
    for (int64_t day = after / 86400; found && day < next.at / 86400 && day < after / 86400 + 400;
         day++)
        must(day * 86400 + first <= after ||
             (zone_civil("UTC", day * 86400 + first, &c) && !shows(cron, &c)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    // Changes of the clocks in New York and Lord Howe, and a leap day.
    static const int64_t times[] = {1767225600, 1772953140, 1772956740, 1793511000, 1793514600,
                                    1709164800, 1775314200, 1775316000, 1791043140, 1791044100};
    int64_t after = times[size % ARRAY_LEN(times)];
    char *text = fuzz_text(data, size);
    struct cron cron;
    struct err err = {0};
    if (cron_parse(text, &cron, &err)) {
        must(words(text) == 5 || words(text) == 6);
        same_when_written_out(&cron);
        check_days(&cron, after);
        struct cron_policy policy = {.gap = size / 10 % 2, .fold = size / 20 % 3};
        check(&cron, size % 10 < 6 ? "America/New_York" : "Australia/Lord_Howe", policy, after);
    } else {
        must(err.code == ERR_INPUT && err.message[0]);
    }
    free(text);
    return 0;
}
