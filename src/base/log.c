/* log.c - log lines on stderr.
 *
 * Each text is copied, masked, cut, then escaped: a secret is found even where escaping would have
 * changed it, and half of one is never left behind. A line is one write(2), so that the lines of
 * several processes stay whole. The state of this file is the process's: one log per process. */
#include "base/log.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VALUE_MAX = 4096, LINE_MAX = 65536, SECRET_MIN = 6, INTS = 8 };

struct secret {
    char *text;
    size_t len;
};

static struct {
    enum log_level level;
    bool json;
    char *role;
    struct secret *secrets; // the longest first: one may be a part of another
    size_t nsecrets;
    char ints[INTS][24];
    unsigned next_int;
} state = {.level = LOG_INFO};

void log_set_level(enum log_level level)
{
    state.level = level;
}

void log_set_json(bool json)
{
    state.json = json;
}

void log_set_role(const char *role)
{
    free(state.role);
    state.role = role ? xstrdup(role) : NULL;
}

const char *log_int(int64_t value)
{
    char *out = state.ints[state.next_int++ % INTS];
    snprintf(out, sizeof(state.ints[0]), "%" PRId64, value);
    return out;
}

static void add_secret(const char *text, size_t len)
{
    for (size_t i = 0; i < state.nsecrets; i++) {
        if (strcmp(state.secrets[i].text, text) == 0) {
            return;
        }
    }
    state.secrets = xrealloc(state.secrets, (state.nsecrets + 1) * sizeof(*state.secrets));
    size_t at = state.nsecrets++;
    while (at > 0 && state.secrets[at - 1].len < len) {
        state.secrets[at] = state.secrets[at - 1];
        at--;
    }
    state.secrets[at] = (struct secret){xstrndup(text, len), len};
}

static void forget(const char *text)
{
    for (size_t i = 0; i < state.nsecrets; i++) {
        if (strcmp(state.secrets[i].text, text) == 0) {
            free(state.secrets[i].text);
            state.nsecrets--;
            memmove(&state.secrets[i], &state.secrets[i + 1],
                    (state.nsecrets - i) * sizeof(*state.secrets));
            return;
        }
    }
}

void log_forget_secret(const char *secret)
{
    if (!secret) {
        return;
    }
    size_t len = strlen(secret);
    struct buf encoded;
    buf_init(&encoded, 3 * len + 1);
    buf_urlencode(&encoded, secret, len);
    forget(secret);
    forget(encoded.data ? encoded.data : "");
    buf_fini(&encoded);
}

void log_add_secret(const char *secret)
{
    size_t len = secret ? strlen(secret) : 0;
    if (len < SECRET_MIN) {
        return;
    }
    add_secret(secret, len);
    struct buf encoded; // as it stands in a URL or a form
    buf_init(&encoded, 3 * len);
    buf_urlencode(&encoded, secret, len);
    add_secret(encoded.data, encoded.len);
    buf_fini(&encoded);
}

void log_mask(char *text)
{
    for (size_t i = 0; i < state.nsecrets; i++) {
        const struct secret *secret = &state.secrets[i];
        for (char *at = text; (at = strstr(at, secret->text));) {
            memcpy(at, "***", 3); // a secret is never shorter
            memmove(at + 3, at + secret->len, strlen(at + secret->len) + 1);
            at += 3;
        }
    }
}

static bool is_plain(const char *text)
{
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == '"' || *c == '=' || *c == '\\' ||
            (unsigned char)*c >= 0x7f) {
            return false;
        }
    }
    return *text != 0;
}

// A cut must not split a UTF-8 character.
static void cut(char *text, size_t max)
{
    if (strlen(text) > max) {
        while (max > 0 && ((unsigned char)text[max] & 0xc0) == 0x80) {
            max--;
        }
        memcpy(text + max, "...", 4);
    }
}

static void add_field(struct buf *line, const char *name, const char *value)
{
    size_t len = value ? strlen(value) : 0;
    char *text = xmalloc(len + 4);
    memcpy(text, value ? value : "", len + 1);
    log_mask(text);
    cut(text, VALUE_MAX);
    if (state.json) {
        buf_addc(line, line->len ? ',' : '{');
        buf_json(line, name, strlen(name));
        buf_addc(line, ':');
        buf_json(line, text, strlen(text));
    } else {
        buf_adds(line, line->len ? " " : "");
        for (const char *c = name; *c; c++) { // a name can't be quoted
            buf_addc(line, is_plain((char[]){*c, 0}) ? *c : '_');
        }
        buf_addc(line, '=');
        // A JSON string is also how logfmt quotes.
        is_plain(text) ? buf_adds(line, text) : buf_json(line, text, strlen(text));
    }
    free(text);
}

static void add_time(struct buf *line)
{
    struct timespec now;
    struct tm tm;
    char day[32], text[48];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, sizeof(text), "%s.%03ldZ", day, now.tv_nsec / 1000000);
    add_field(line, "time", text);
}

static void write_all(const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, data, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return; // nobody can be told
        }
        data += n;
        len -= (size_t)n;
    }
}

void log_write(enum log_level level, const char *module, const char *message, ...)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    if (level < state.level) {
        return;
    }
    int saved = errno;
    struct buf line;
    buf_init(&line, LINE_MAX);
    add_time(&line);
    add_field(&line, "level", names[level]);
    if (state.role) {
        add_field(&line, "role", state.role);
    }
    add_field(&line, "module", module);
    add_field(&line, "message", message);
    va_list args;
    va_start(args, message);
    for (const char *name; (name = va_arg(args, const char *));) {
        const char *value = va_arg(args, const char *);
        // Past the cap the line ends whole, without the fields that found no room.
        size_t before = line.len;
        add_field(&line, name, value);
        if (line.overflow || line.len > LINE_MAX - 4) {
            line.overflow = false;
            line.len = before;
            break;
        }
    }
    va_end(args);
    buf_adds(&line, state.json ? "}\n" : "\n");
    write_all(line.data, line.len);
    buf_fini(&line);
    errno = saved;
}
