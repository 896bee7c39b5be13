/* crash.c - see crash.h. The state of this file is the process's: a process dies once. */
#include "base/crash.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_MAX = 200 };

static struct {
    bool known, armed, list;
    char kind[16], text[TEXT_MAX];
    long left;
    const char *once;
} state;

/* KIND:TEXT:N from the end: a text may hold colons. */
static void read_where(const char *where)
{
    const char *last = strrchr(where, ':');
    const char *kind_end = last ? strchr(where, ':') : NULL;
    state.left = strtol(last ? last + 1 : where, NULL, 10);
    if (!last) {
        return;
    }
    snprintf(state.kind, sizeof(state.kind), "%.*s", (int)(kind_end - where), where);
    if (kind_end != last) {
        snprintf(state.text, sizeof(state.text), "%.*s", (int)(last - kind_end - 1), kind_end + 1);
    }
}

bool crash_armed(void)
{
    if (!state.known) {
        const char *where = getenv("MOONWRIGHT_CRASH_AT");
        state.known = true;
        state.once = getenv("MOONWRIGHT_CRASH_ONCE");
        state.list = where && state.once && strcmp(where, "list") == 0;
        if (where && !state.list) {
            read_where(where);
        }
        state.armed = state.list || state.left > 0;
    }
    return state.armed;
}

/* False: another process, or an earlier life of this one, has died already. */
static bool mark(int more, const char *kind, const char *text)
{
    char line[TEXT_MAX + 64];
    int fd = open(state.once, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | more, 0644);
    int n = snprintf(line, sizeof(line), "%s\t%.*s\n", kind, TEXT_MAX, text);
    n = n < (int)sizeof(line) ? n : (int)sizeof(line) - 1;
    bool made = fd >= 0 && write(fd, line, (size_t)n) == n;
    if (fd >= 0) {
        close(fd);
    }
    return made;
}

bool crash_due(const char *kind, const char *text)
{
    if (!crash_armed()) {
        return false;
    }
    if (state.list) {
        mark(0, kind, text);
        return false;
    }
    if ((*state.kind && strcmp(kind, state.kind) != 0) || !strstr(text, state.text)) {
        return false;
    }
    return --state.left == 0 && (!state.once || mark(O_EXCL, kind, text));
}

void crash_now(void)
{
    const char *how = getenv("MOONWRIGHT_CRASH_HOW");
    kill(getpid(), how && strcmp(how, "stop") == 0 ? SIGSTOP : SIGKILL);
}

void crash_point(const char *kind, const char *text)
{
    if (crash_due(kind, text)) {
        crash_now();
    }
}
