/* trace.h - W3C trace context: which request, anywhere, some work belongs to.
 *
 *     traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
 *                     the trace                        the span         sampled
 *
 * What comes in is read strictly: a header that is not exactly so counts as none. */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#include <stdbool.h>

enum { TRACE_TEXT = 56 }; /* of a traceparent, with its NUL */

struct trace {
    char id[33], span[17];
    bool sampled;
};

bool trace_parse(const char *traceparent, struct trace *trace); /* NULL is none, too */
void trace_new(struct trace *trace);
/* The trace of what has none: its own id, a uuid's text, is as unique. */
void trace_of_uuid(const char *uuid, struct trace *trace);
void trace_child(struct trace *trace); /* a new span of the same trace */
void trace_write(const struct trace *trace, char out[TRACE_TEXT]);

#endif
