/* cron.h - crontab times: "minute hour day month weekday", or six fields with the second first.
 *
 * A field is a list of values, ranges and steps ("1-5", "*" + "/10", "8,20", "9-17/2"); months and
 * weekdays have names (jan, mon), Sunday is 0 or 7. When day and weekday are both given, either
 * is enough, as everywhere. */
#ifndef ENGINE_CRON_H
#define ENGINE_CRON_H

#include "base/err.h"

#include <stdint.h>

struct cron {
    uint64_t second, minute;
    uint32_t hour, day, month, weekday; /* bit n: the value n */
    bool any_day, any_weekday;
};

bool cron_parse(const char *text, struct cron *cron, struct err *err);

/* The first time after `after` (seconds since 1970), as the clocks in that zone show it; false when
 * there is none in the next ten years ("0 0 30 2 *"). A time that a DST change skips is taken when
 * the gap ends; of a time that comes twice only the first, unless the schedule is for every hour.
 */
bool cron_next(const struct cron *cron, const char *zone, int64_t after, int64_t *next);

#endif
