/* zone.c - civil time through the C library's zone data.
 *
 * The zone is switched through the TZ variable. The resolver's threads may read the environment at
 * any time, so TZ is put there once, as a buffer that is changed in place; the leading ":" makes
 * the C library read a file and nothing else. Which zone is in force is the process's state. */
#include "base/zone.h"

#include "base/err.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FOLDER "/usr/share/zoneinfo/"
enum { NAME_LEN = 64 };

static struct {
    char setting[4 + NAME_LEN + 1]; // "TZ=:" and the zone
    bool in_environment;
} current;

// Area/Location, each part beginning with a capital letter: no way out of the folder, and none of
// the tables and of "right/" (leap seconds) that live in it.
static bool is_name(const char *zone)
{
    bool begins = true;
    size_t len = 0;
    for (const char *c = zone; *c; c++, len++) {
        bool upper = *c >= 'A' && *c <= 'Z';
        bool other = (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '_' ||
                     *c == '-' || *c == '+';
        if (begins ? !upper : !upper && !other && *c != '/') {
            return false;
        }
        begins = *c == '/';
    }
    return len > 0 && len <= NAME_LEN && !begins;
}

static bool has_data(const char *zone)
{
    char path[sizeof(FOLDER) + NAME_LEN];
    snprintf(path, sizeof(path), FOLDER "%s", zone);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char magic[4] = "";
    bool ok = fd >= 0 && read(fd, magic, sizeof(magic)) == sizeof(magic) &&
              memcmp(magic, "TZif", sizeof(magic)) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static bool is_current(const char *zone)
{
    return current.in_environment && strcmp(current.setting + 4, zone) == 0;
}

bool zone_exists(const char *zone)
{
    return is_current(zone) || (is_name(zone) && has_data(zone));
}

static bool use(const char *zone)
{
    if (is_current(zone)) {
        return true;
    }
    if (!zone_exists(zone)) {
        return false;
    }
    snprintf(current.setting, sizeof(current.setting), "TZ=:%s", zone);
    if (!current.in_environment) {
        must(putenv(current.setting) == 0);
        current.in_environment = true;
    }
    tzset();
    return true;
}

static bool local(int64_t at, struct tm *tm)
{
    time_t time = (time_t)at;
    return localtime_r(&time, tm) != NULL;
}

bool zone_civil(const char *zone, int64_t at, struct civil *out)
{
    struct tm tm;
    if (!use(zone) || !local(at, &tm)) {
        return false;
    }
    *out = (struct civil){
        .year = tm.tm_year + 1900,
        .month = tm.tm_mon + 1,
        .day = tm.tm_mday,
        .hour = tm.tm_hour,
        .minute = tm.tm_min,
        .second = tm.tm_sec,
        .weekday = tm.tm_wday == 0 ? 7 : tm.tm_wday,
        .offset = (int)tm.tm_gmtoff,
    };
    return true;
}

// Days since 1970-01-01 of a date, which need not be normal, in the Gregorian calendar.
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
    year += (month - 1) / 12;
    month = (month - 1) % 12;
    if (month < 0) {
        month += 12;
        year--;
    }
    // Years from March, so that a leap day is the last of its year.
    year += month >= 2 ? 0 : -1;
    int64_t shifted = month >= 2 ? month - 2 : month + 10;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t of_era = year - era * 400;
    int64_t of_year = (153 * shifted + 2) / 5;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year + day - 1 - 719468;
}

bool zone_instants(const char *zone, const struct civil *civil, struct zone_instants *out)
{
    enum { DAY = 86400 };
    if (!use(zone) || civil->year < -9999 || civil->year > 9999) {
        return false;
    }
    // What the wall shows, read as if it were UTC.
    int64_t wall = days_of(civil->year, civil->month, civil->day) * DAY +
                   (int64_t)civil->hour * 3600 + (int64_t)civil->minute * 60 + civil->second;
    struct tm before, after, tm;
    if (!local(wall - DAY, &before) || !local(wall + DAY, &after)) {
        return false;
    }
    out->early = wall - before.tm_gmtoff;
    out->late = wall - after.tm_gmtoff;
    out->early_shows = local(out->early, &tm) && tm.tm_gmtoff == before.tm_gmtoff;
    out->late_shows = local(out->late, &tm) && tm.tm_gmtoff == after.tm_gmtoff;
    return true;
}

bool zone_instant(const char *zone, const struct civil *civil, int64_t *at)
{
    // With the offset from before a change, a time that comes twice is the first of the two, and
    // one that is skipped lands as far behind the change as it would have been without it. With
    // the offset from after it, only times behind the change come true.
    struct zone_instants is;
    if (!zone_instants(zone, civil, &is)) {
        return false;
    }
    *at = is.early_shows || !is.late_shows ? is.early : is.late;
    return true;
}
