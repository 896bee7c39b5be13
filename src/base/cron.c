/* cron.c - reads crontab times and finds the next one, field by field from the month down.
 *
 * The search goes over what the clock on the wall shows; each time that fits is then looked for
 * among the instants, where it may be once, twice or never. Only near a change of the clocks do the
 * two orders differ. */
#include "base/cron.h"

#include "base/mem.h"
#include "base/zone.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct field {
    const char *name;
    int low, high;
    const char *const *names; /* of `low`, `low` + 1, ... */
    int names_count;
};

static const char *const months[] = {"jan", "feb", "mar", "apr", "may", "jun",
                                     "jul", "aug", "sep", "oct", "nov", "dec"};
static const char *const weekdays[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

static const struct field fields[] = {
    {"second", 0, 59, NULL, 0},   {"minute", 0, 59, NULL, 0},
    {"hour", 0, 23, NULL, 0},     {"day of the month", 1, 31, NULL, 0},
    {"month", 1, 12, months, 12}, {"weekday", 0, 7, weekdays, 7},
};

/* A number or a name; moves *text past it. */
static bool read_value(const struct field *field, const char **text, int *value)
{
    for (int i = 0; i < field->names_count; i++) {
        if (strncasecmp(*text, field->names[i], 3) == 0) {
            *value = field->low + i;
            *text += 3;
            return true;
        }
    }
    if (!isdigit((unsigned char)**text)) {
        return false;
    }
    char *end;
    long number = strtol(*text, &end, 10);
    *text = end;
    *value = number < 1000 ? (int)number : 1000;
    return true;
}

/* One item of a list: value, range or star, with an optional step. */
static bool read_item(const struct field *field, const char **text, uint64_t *bits)
{
    int from = field->low, to = field->high, step = 1;
    bool single = false;
    if (**text == '*' || **text == '?') {
        ++*text;
    } else {
        if (!read_value(field, text, &from)) {
            return false;
        }
        to = from;
        single = true;
        if (**text == '-') {
            ++*text;
            if (!read_value(field, text, &to)) {
                return false;
            }
            single = false;
        }
    }
    if (**text == '/') {
        ++*text;
        if (!isdigit((unsigned char)**text) || !read_value(&fields[0], text, &step)) {
            return false;
        }
        if (single) {
            to = field->high;
        }
    }
    if (from < field->low || to > field->high || from > to || step < 1) {
        return false;
    }
    for (int value = from; value <= to; value += step) {
        *bits |= UINT64_C(1) << value;
    }
    return true;
}

static bool read_field(const struct field *field, const char *text, uint64_t *bits, struct err *err)
{
    const char *at = text;
    *bits = 0;
    do {
        if (!read_item(field, &at, bits)) {
            return err_set(err, ERR_INPUT, "\"%s\" is not a %s of a schedule (%d to %d)", text,
                           field->name, field->low, field->high);
        }
    } while (*at == ',' && at++);
    if (*at) {
        return err_set(err, ERR_INPUT, "\"%s\" is not a %s of a schedule: \"%s\" is left over",
                       text, field->name, at);
    }
    return true;
}

/* Cuts text at its blanks, in place; the seventh part is one too many. */
static int cut(char *text, char *parts[7])
{
    static const char blanks[] = " \t\r\n\f\v";
    int count = 0;
    for (text += strspn(text, blanks); *text && count < 7; text += strspn(text, blanks)) {
        parts[count++] = text;
        text += strcspn(text, blanks);
        if (*text) {
            *text++ = '\0';
        }
    }
    return count;
}

static bool read_fields(char *const parts[7], int first, struct cron *cron, struct err *err)
{
    uint64_t bits[6] = {1};
    for (int i = first; i < 6; i++) {
        if (!read_field(&fields[i], parts[i - first], &bits[i], err)) {
            return false;
        }
    }
    if (bits[5] & (1 << 7)) {
        bits[5] |= 1;
    }
    *cron = (struct cron){.second = bits[0],
                          .minute = bits[1],
                          .hour = (uint32_t)bits[2],
                          .day = (uint32_t)bits[3],
                          .month = (uint32_t)bits[4],
                          .weekday = (uint32_t)bits[5] & 0x7f,
                          .any_day = strchr("*?", parts[3 - first][0]) != NULL,
                          .any_weekday = strchr("*?", parts[5 - first][0]) != NULL};
    return true;
}

bool cron_parse(const char *text, struct cron *cron, struct err *err)
{
    char *parts[7], *copy = xstrdup(text);
    int count = cut(copy, parts);
    bool ok = count == 5 || count == 6
                  ? read_fields(parts, count == 5, cron, err)
                  : err_set(err, ERR_INPUT,
                            "\"%s\" is not a schedule: it takes 5 fields (minute hour day month "
                            "weekday), or 6 with the second first",
                            text);
    free(copy);
    return ok;
}

static int days_in(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* 0 Sunday .. 6 Saturday, by Sakamoto's method. */
static int weekday_of(int year, int month, int day)
{
    static const int shift[] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
    year -= month < 3;
    return (year + year / 4 - year / 100 + year / 400 + shift[month - 1] + day) % 7;
}

static bool day_matches(const struct cron *cron, const struct civil *c)
{
    bool day = cron->day >> c->day & 1;
    bool weekday = cron->weekday >> weekday_of(c->year, c->month, c->day) & 1;
    if (!cron->any_day && !cron->any_weekday) {
        return day || weekday;
    }
    return day && weekday;
}

/* The first civil time from *c on that matches; seconds and minutes carry into the fields above. */
static bool first_match(const struct cron *cron, struct civil *c)
{
    int last_year = c->year + 10;
    for (;;) {
        if (c->second > 59) {
            c->second = 0;
            c->minute++;
        }
        if (c->minute > 59) {
            c->minute = c->second = 0;
            c->hour++;
        }
        if (c->hour > 23) {
            c->hour = c->minute = c->second = 0;
            c->day++;
        }
        if (c->month <= 12 && c->day > days_in(c->year, c->month)) {
            c->day = 1;
            c->hour = c->minute = c->second = 0;
            c->month++;
        }
        if (c->month > 12) {
            c->month = c->day = 1;
            c->hour = c->minute = c->second = 0;
            c->year++;
        }
        if (c->year > last_year) {
            return false;
        }
        if (!(cron->month >> c->month & 1)) {
            c->month++;
            c->day = 1;
            c->hour = c->minute = c->second = 0;
        } else if (!day_matches(cron, c)) {
            c->day++;
            c->hour = c->minute = c->second = 0;
        } else if (!(cron->hour >> c->hour & 1)) {
            c->hour++;
            c->minute = c->second = 0;
        } else if (!(cron->minute >> c->minute & 1)) {
            c->minute++;
            c->second = 0;
        } else if (!(cron->second >> c->second & 1)) {
            c->second++;
        } else {
            return true;
        }
    }
}

/* Seconds since 1970 of a civil time as if it were UTC. */
static int64_t as_utc(const struct civil *c)
{
    int64_t year = c->year - (c->month <= 2);
    int64_t era = year / 400, of_era = year - era * 400;
    int64_t day_of_year = (153 * (c->month + (c->month > 2 ? -3 : 9)) + 2) / 5 + c->day - 1;
    int64_t days = era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719468;
    return ((days * 24 + c->hour) * 60 + c->minute) * 60 + c->second;
}

struct cron_policy cron_steady(const struct cron *cron)
{
    bool every_hour = cron->hour == 0xffffff;
    return (struct cron_policy){.fold = every_hour ? CRON_FOLD_BOTH : CRON_FOLD_FIRST};
}

static void offer(struct cron_fire *best, int64_t after, int64_t at, enum cron_note note)
{
    if (at > after && (at < best->at || (at == best->at && note == CRON_PLAIN)))
        *best = (struct cron_fire){at, note};
}

/* The fires of one time on the wall. */
static void offer_all(struct cron_fire *best, struct cron_policy policy, int64_t after,
                      const struct zone_instants *wall)
{
    if (!wall->early_shows && !wall->late_shows) {
        offer(best, after, wall->early, policy.gap == CRON_GAP_NEXT ? CRON_MOVED : CRON_SKIPPED);
    } else if (!wall->early_shows || !wall->late_shows || wall->early == wall->late) {
        offer(best, after, wall->early_shows ? wall->early : wall->late, CRON_PLAIN);
    } else {
        if (policy.fold != CRON_FOLD_LAST)
            offer(best, after, wall->early, CRON_FIRST);
        if (policy.fold != CRON_FOLD_FIRST)
            offer(best, after, wall->late, CRON_LAST);
    }
}

bool cron_next(const struct cron *cron, const char *zone, struct cron_policy policy, int64_t after,
               struct cron_fire *fire)
{
    enum { DAY = 86400 };
    struct civil c, yesterday, tomorrow;
    if (!zone_civil(zone, after + 1, &c) || !zone_civil(zone, after + 1 - DAY, &yesterday) ||
        !zone_civil(zone, after + 1 + DAY, &tomorrow))
        return false;
    /* Near a change of the clocks, what they have shown or skipped may still be to come. */
    int64_t change = llabs((int64_t)tomorrow.offset - yesterday.offset);
    if (change && !zone_civil(zone, after + 1 - 2 * change, &c))
        return false;
    int64_t until = INT64_MAX;
    *fire = (struct cron_fire){.at = INT64_MAX};
    while (first_match(cron, &c)) {
        struct zone_instants wall;
        int64_t shown = as_utc(&c);
        if (shown > until)
            break;
        if (!zone_instants(zone, &c, &wall))
            return false;
        offer_all(fire, policy, after, &wall);
        /* A later time on the wall may still be an earlier instant, but by no more than the
         * clocks change. */
        if (fire->at != INT64_MAX && until == INT64_MAX)
            until = shown + llabs(wall.late - wall.early);
        if (shown == until)
            break;
        c.second++;
    }
    return fire->at != INT64_MAX;
}
