/* err.h - what went wrong, for the person who will read it.
 *
 * A function that can fail returns bool (or a pointer) and takes a `struct err *` last: false or
 * NULL means *err is set, true means it was not touched. The code says what may be done about it.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdbool.h>

enum err_code {
    ERR_NONE,
    ERR_INPUT,   /* what we were given is wrong: a file, an argument, a vendor's answer */
    ERR_CONFIG,  /* a setting is missing or wrong */
    ERR_CONN,    /* nobody answers, or the connection was lost */
    ERR_SQL,     /* the database refused a statement; sqlstate says why */
    ERR_FENCE,   /* our lease is gone: nothing may be written any more */
    ERR_TIMEOUT, /* it took too long */
    ERR_LIMIT,   /* a size, rate, memory or CPU limit was reached */
    ERR_SCRIPT,  /* Lua raised */
    ERR_IO,      /* a file or the operating system */
    ERR_MISSING, /* what was named is not there */
    ERR_REFUSED  /* as things stand it can't be done */
};

struct err {
    enum err_code code;
    char sqlstate[6];   /* "" unless code is ERR_SQL or ERR_FENCE */
    char message[1024]; /* one sentence, no newline, no secret */
};

/* Sets *err (which may be NULL) and returns false, so that `return err_set(...)` reads well. */
bool err_set(struct err *err, enum err_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Of a unit that failed: nothing of it happened, and that isn't the fault of what is in it; the
 * same unit may go through later. The database is full, out of memory, busy, restarting or away. */
bool err_passes(const struct err *err);

/* Puts `format: ` before the message that is there; returns false. */
bool err_wrap(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A programmer's error: prints the place and aborts, in every build. */
#define must(expr) ((expr) ? (void)0 : must_failed(#expr, __FILE__, __LINE__))
_Noreturn void must_failed(const char *expr, const char *file, int line);

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
