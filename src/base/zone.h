/* zone.h - civil time in a named time zone, through the C library's zone data. Not thread-safe. */
#ifndef BASE_ZONE_H
#define BASE_ZONE_H

#include <stdbool.h>
#include <stdint.h>

struct civil {
    int year, month, day, hour, minute, second; /* month and day from 1 */
    int weekday;                                /* 1 Monday .. 7 Sunday */
    int offset;                                 /* seconds east of UTC */
};

bool zone_exists(const char *zone); /* an IANA name such as "America/New_York" */

/* What the clock on the wall shows in that zone at that instant (seconds since 1970 UTC). */
bool zone_civil(const char *zone, int64_t at, struct civil *out);

/* The instants at which the clock may show a civil time: by its offset before and after the change
 * of the clocks that is less than a day away; the same one when there is none. Both of different
 * ones show a time that comes twice, neither shows one that is skipped. */
struct zone_instants {
    int64_t early, late;
    bool early_shows, late_shows;
};
bool zone_instants(const char *zone, const struct civil *civil, struct zone_instants *out);

/* The instant of a civil time (its weekday and offset are ignored; day 0 or 35 are normalised).
 * A time that a DST change skips moves forward by the gap; one that comes twice is the first. */
bool zone_instant(const char *zone, const struct civil *civil, int64_t *at);

#endif
