/* detect_schedule.c - when detection looks at schedules, and what it hands to Lua.
 *
 * Which fires are due, Lua decides from the rows of workflow_schedules (lua/fires.lua); a round
 * settles those of one schedule, and nothing else. Until the next fire the rows need no second
 * look; its time ends the pause between rounds, so nobody polls for it. */
#include "engine/detect_round.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/settings.h"
#include "script/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void detect_schedule_forget(struct detect_schedule *schedule)
{
    free(schedule->rows);
    schedule->rows = NULL;
}

/* Asks Lua. False: nothing is due; next_ms is set. */
static bool look(struct detect *d, const char *rows, double scale)
{
    struct err err;
    struct buf out;
    char late[32];
    snprintf(late, sizeof(late), "%.0f",
             (double)setting_int(d->engine->settings, "SCHEDULE_LATE_MS") / 1000 * scale);
    const struct slice args[] = {slice_of(d->now), slice_of(rows), slice_of(late)};
    buf_init(&out, 4 << 20);
    struct json *said = NULL;
    if (!vm_call(d->vm, "schedule", args, ARRAY_LEN(args), &out, &err))
        log_error("detect", "schedules can't be read", "error", err.message, NULL);
    else
        said = json_parse(out.data, out.len, &err);
    buf_fini(&out);
    d->schedule.next_ms = INT64_MAX;
    if (!said)
        return false;
    int64_t next;
    char *decision = json_encode(said, "fires");
    if (json_int(said, "next", &next))
        d->schedule.next_ms = next * 1000;
    json_free(said);
    if (!decision) {
        d->schedule.rows = xstrdup(rows);
        return false;
    }
    buf_clear(&d->input);
    buf_printf(&d->input, "{\"now\":\"%s\",\"parent_wait_ms\":0,\"fires\":", d->now);
    buf_adds(&d->input, decision);
    buf_addc(&d->input, '}');
    free(decision);
    return true;
}

bool detect_schedule(struct detect *d, const char *rows, int64_t now_ms, double scale)
{
    struct detect_schedule *schedule = &d->schedule;
    bool seen = schedule->rows && strcmp(schedule->rows, rows) == 0;
    if (strcmp(rows, "[]") == 0) {
        detect_schedule_forget(schedule);
        schedule->next_ms = INT64_MAX;
    } else if (!seen || now_ms >= schedule->next_ms) {
        detect_schedule_forget(schedule);
        if (look(d, rows, scale))
            return true;
    }
    if (schedule->next_ms != INT64_MAX) {
        double ms = (double)(schedule->next_ms - now_ms) / scale;
        schedule->wake_ms = clock_mono_ms() + (ms < 1e9 ? (int64_t)ms + 1 : (int64_t)1e9);
    }
    return false;
}
