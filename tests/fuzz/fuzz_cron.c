/* fuzz_cron.c - schedules that people wrote: a parsed one can be written out field by field and
 * means the same, and the next time is after the last one and shows what was asked for. */
#include "fuzz.h"

#include "base/buf.h"
#include "base/zone.h"
#include "engine/cron.h"

#include <ctype.h>

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

/* In UTC, where the clocks never change, the answer is exact: no second before it fits. */
static void check_utc(const struct cron *cron, int64_t after)
{
    int64_t next;
    struct civil c;
    bool found = cron_next(cron, "Etc/UTC", after, &next);
    int64_t until = found ? next : after + 4000;
    must(!found || (next > after && zone_civil("Etc/UTC", next, &c) && shows(cron, &c)));
    for (int64_t at = after + 1; at < until && at < after + 4000; at++)
        must(zone_civil("Etc/UTC", at, &c) && !shows(cron, &c));
    // And no day before it has its first time of the day.
    int64_t first = 0;
    while (!(cron->hour >> first & 1))
        first++;
    int64_t minute = 0, second = 0;
    while (!(cron->minute >> minute & 1))
        minute++;
    while (!(cron->second >> second & 1))
        second++;
    first = (first * 60 + minute) * 60 + second;
    for (int64_t day = after / 86400; found && day < next / 86400 && day < after / 86400 + 400;
         day++)
        must(day * 86400 + first <= after ||
             (zone_civil("Etc/UTC", day * 86400 + first, &c) && !shows(cron, &c)));
}

static void check_zone(const struct cron *cron, const char *zone, int64_t after)
{
    for (int i = 0; i < 4; i++) {
        int64_t next;
        if (!cron_next(cron, zone, after, &next))
            return;
        must(next > after);
        after = next;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int64_t times[] = {1767225600, 1772953140, 1772953260, 1793512740, 1709164800};
    int64_t after = times[size % ARRAY_LEN(times)]; // changes of the clocks and a leap day
    char *text = fuzz_text(data, size);
    struct cron cron;
    struct err err = {0};
    if (cron_parse(text, &cron, &err)) {
        must(words(text) == 5 || words(text) == 6);
        same_when_written_out(&cron);
        check_utc(&cron, after);
        check_zone(&cron, "America/New_York", after);
        check_zone(&cron, "Australia/Lord_Howe", after);
    } else {
        must(err.code == ERR_INPUT && err.message[0]);
    }
    free(text);
    return 0;
}
