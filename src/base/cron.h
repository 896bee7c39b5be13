/* cron.h - crontab times: "minute hour day month weekday", or six fields with the second first.
 *
 * A field is a list of values, ranges and steps ("1-5", "*" + "/10", "8,20", "9-17/2"); months and
 * weekdays have names (jan, mon), Sunday is 0 or 7. When day and weekday are both given, either
 * is enough, as everywhere. */
#ifndef BASE_CRON_H
#define BASE_CRON_H

#include "base/err.h"

#include <stdint.h>

struct cron {
    uint64_t second, minute;
    uint32_t hour, day, month, weekday; /* bit n: the value n */
    bool any_day, any_weekday;
};

bool cron_parse(const char *text, struct cron *cron, struct err *err);

/* What a change of the clocks does to a time. One that is skipped comes later by the gap (02:30 is
 * 03:30 on that day) or not at all; one that comes twice counts once or twice. */
struct cron_policy {
    enum { CRON_GAP_NEXT, CRON_GAP_SKIP } gap;
    enum { CRON_FOLD_FIRST, CRON_FOLD_LAST, CRON_FOLD_BOTH } fold;
};

/* Of a job whose hour nobody sees: through a doubled hour only what runs in every hour goes on. */
struct cron_policy cron_steady(const struct cron *cron);

struct cron_fire {
    int64_t at; /* seconds since 1970 */
    enum cron_note {
        CRON_PLAIN,
        CRON_MOVED,   /* the clocks skip that time: later by the gap */
        CRON_SKIPPED, /* the clocks skip that time, and so does the policy: this is no fire */
        CRON_FIRST,   /* of two times that look the same */
        CRON_LAST,
    } note;
};

/* The first fire after `after`, as the clocks in that zone show it; false when there is none in the
 * next ten years ("0 0 30 2 *"). What falls on one instant is one fire. */
bool cron_next(const struct cron *cron, const char *zone, struct cron_policy policy, int64_t after,
               struct cron_fire *fire);

#endif
