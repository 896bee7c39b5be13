// op_wire.c - what an op knows of the wire: the span of its request, and how long to wait for
// another.
#include "engine/outbound.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

void op_trace(struct op *op, const struct action_call *call)
{
    char text[TRACE_TEXT];
    if (!trace_parse(call ? call->trace : NULL, &op->trace)) {
        trace_of_uuid(call ? call->instance : "", &op->trace);
    }
    trace_child(&op->trace);
    trace_write(&op->trace, text);
    snprintf(op->traceparent, sizeof(op->traceparent), "traceparent: %s", text);
}

void op_log_answer(const struct op *op, const struct fetch_result *result)
{
    log_debug("outbound", "answered", "provider", op->provider, "instance",
              op_call(op) ? op_call(op)->instance : "", "trace", op->trace.id, "span",
              op->trace.span, "status", log_int(result->status), "ms", log_int(result->ms), NULL);
}

int64_t op_pause_ms(int tries, int64_t least)
{
    int64_t cap = 250LL << (tries > 8 ? 8 : tries);
    return least + 1 + arc4random_uniform((uint32_t)(cap > 60000 ? 60000 : cap));
}

int64_t op_retry_after_ms(const struct fetch_result *result)
{
    const char *text = fetch_header(result, "Retry-After");
    int64_t seconds = text ? strtoll(text, NULL, 10) : 0;
    return seconds > 0 ? (seconds > 600 ? 600 : seconds) * 1000 : 0;
}

// "2026-11-23T05:52:28.796169Z"
static char *utc_text(int64_t us)
{
    struct tm tm;
    time_t whole = (time_t)(us / 1000000);
    char day[32];
    gmtime_r(&whole, &tm);
    strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
    return xprintf("%s.%06dZ", day, (int)(us % 1000000));
}

char *op_after(const char *utc, double seconds)
{
    struct tm tm = {0};
    double s = 0;
    must(sscanf(utc, "%d-%d-%dT%d:%d:%lf", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
                &tm.tm_min, &s) == 6);
    tm.tm_year -= 1900;
    tm.tm_mon--;
    return utc_text((int64_t)timegm(&tm) * 1000000 + (int64_t)((s + seconds) * 1e6));
}

char *op_soon(const struct engine *engine, double seconds)
{
    int64_t now = engine->worker ? worker_wall_us(engine->worker) : clock_wall_us();
    return utc_text(now + (int64_t)(seconds * 1e6));
}
