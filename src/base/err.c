/* err.c - filling struct err. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A message is one line: what libraries and servers say may hold newlines and control bytes.
static void one_line(char *text)
{
    size_t len = strlen(text);
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r' || text[len - 1] == ' ')) {
        text[--len] = 0;
    }
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = ' ';
        }
    }
}

bool err_set(struct err *err, enum err_code code, const char *format, ...)
{
    if (!err) {
        return false;
    }
    // The arguments may point into *err itself.
    char message[sizeof(err->message)];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    one_line(message);
    err->code = code;
    err->sqlstate[0] = 0;
    memcpy(err->message, message, sizeof(message));
    return false;
}

bool err_passes(const struct err *err)
{
    static const char *const classes[] = {"08", "25", "40", "53", "55", "57", "58"};
    for (size_t i = 0; err->code == ERR_SQL && i < ARRAY_LEN(classes); i++) {
        if (strncmp(err->sqlstate, classes[i], 2) == 0) {
            return true;
        }
    }
    return err->code == ERR_CONN || err->code == ERR_TIMEOUT;
}

bool err_wrap(struct err *err, const char *format, ...)
{
    if (!err) {
        return false;
    }
    char message[sizeof(err->message)];
    va_list args;
    va_start(args, format);
    int used = vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    must(used >= 0);
    size_t at = (size_t)used < sizeof(message) ? (size_t)used : sizeof(message) - 1;
    const char *parts[] = {": ", err->message};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) { // what doesn't fit is cut
        size_t len = strnlen(parts[i], sizeof(message) - 1 - at);
        memcpy(message + at, parts[i], len);
        at += len;
    }
    message[at] = 0;
    one_line(message);
    memcpy(err->message, message, sizeof(message));
    return false;
}

_Noreturn void must_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "moonwright: this should not happen: %s (%s:%d)\n", expr, file, line);
    abort();
}
