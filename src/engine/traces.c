/* traces.c - to which trace (base/trace.h) an instance's work belongs.
 *
 *     webhook's traceparent --> arrival --> event.trace --> instance --> a span for each request */
#include "engine/instance_parts.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/trace.h"

#include <stdio.h>
#include <string.h>

/* Looked for as it is written: nothing of the hot path parses an event for it. */
char *event_trace(const char *event)
{
    static const char name[] = "\"trace\":\"";
    struct trace trace;
    char text[TRACE_TEXT] = "";
    const char *at = strstr(event, name);
    if (!at)
        return NULL;
    snprintf(text, sizeof(text), "%s", at + strlen(name));
    return trace_parse(text, &trace) ? xstrdup(text) : NULL;
}

const char *instance_trace(const struct instance *in)
{
    static struct trace trace;
    if (!trace_parse(in->trace, &trace))
        trace_of_uuid(in->id, &trace);
    return trace.id;
}

void instance_warn(const struct instance *in, const char *message, const char *code,
                   const char *reason)
{
    log_warn("execute", message, "instance", in->id, "trace", instance_trace(in), "workflow",
             in->body ? in->body->workflow : "", "code", code, "reason", reason, NULL);
}
