// op_wire.c - what an op knows of the wire: the span of its request, and how long to wait for
// another.
#include "engine/outbound.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>

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

// "2026-11-23T05:52:28.796169Z"; NULL: now.
