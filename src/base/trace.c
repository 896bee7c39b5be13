/* trace.c - see trace.h. */
#include "base/trace.h"

#include "base/err.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* n lower-case hex digits; not all of them 0 where that means "none". */
static bool is_hex(const char *text, size_t n, bool may_be_zero)
{
    bool zero = true;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
            return false;
        }
        zero = zero && c == '0';
    }
    return may_be_zero || !zero;
}

bool trace_parse(const char *text, struct trace *trace)
{
    size_t len = text ? strlen(text) : 0;
    if (len < TRACE_TEXT - 1 || !is_hex(text, 2, true) || text[2] != '-' ||
        !is_hex(text + 3, 32, false) || text[35] != '-' || !is_hex(text + 36, 16, false) ||
        text[52] != '-' || !is_hex(text + 53, 2, true)) {
        return false;
    }
    /* Later versions may say more, behind another dash; ff is none. */
    bool first = strncmp(text, "00", 2) == 0;
    if (strncmp(text, "ff", 2) == 0 ||
        (len > TRACE_TEXT - 1 && (first || text[TRACE_TEXT - 1] != '-'))) {
        return false;
    }
    memcpy(trace->id, text + 3, 32);
    memcpy(trace->span, text + 36, 16);
    trace->id[32] = trace->span[16] = '\0';
    int flags = text[54] <= '9' ? text[54] - '0' : text[54] - 'a' + 10;
    trace->sampled = flags & 1;
    return true;
}

static void random_hex(char *out, size_t bytes)
{
    uint8_t random[16];
    do {
        must(getrandom(random, bytes, 0) == (ssize_t)bytes);
        for (size_t i = 0; i < bytes; i++) {
            snprintf(out + 2 * i, 3, "%02x", random[i]);
        }
    } while (!is_hex(out, 2 * bytes, false));
}

void trace_new(struct trace *trace)
{
    random_hex(trace->id, 16);
    random_hex(trace->span, 8);
    trace->sampled = true;
}

void trace_of_uuid(const char *uuid, struct trace *trace)
{
    size_t n = 0;
    for (; *uuid && n < 32; uuid++) {
        if (*uuid != '-') {
            trace->id[n++] = *uuid;
        }
    }
    trace->id[n] = '\0';
    random_hex(trace->span, 8);
    trace->sampled = true;
    if (n != 32 || !is_hex(trace->id, 32, false)) {
        trace_new(trace);
    }
}

void trace_child(struct trace *trace)
{
    random_hex(trace->span, 8);
}

void trace_write(const struct trace *trace, char out[TRACE_TEXT])
{
    snprintf(out, TRACE_TEXT, "00-%s-%s-%s", trace->id, trace->span, trace->sampled ? "01" : "00");
}
