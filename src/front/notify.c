/* notify.c - see notify.h. The state of this file is the process's: it has one service manager. */
#include "front/notify.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct {
    struct sockaddr_un address;
    socklen_t len; /* 0: nobody listens */
    int64_t watchdog_ms;
} state;

static void read_watchdog(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (usec != NULL && (pid == NULL || strtol(pid, NULL, 10) == (long)getpid()))
        state.watchdog_ms = strtoll(usec, NULL, 10) / 1000;
}

void notify_open(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    size_t len = path != NULL ? strlen(path) : 0;
    state.len = 0;
    state.watchdog_ms = 0;
    if (len > 1 && len < sizeof(state.address.sun_path) && (path[0] == '/' || path[0] == '@')) {
        state.address.sun_family = AF_UNIX;
        memcpy(state.address.sun_path, path, len);
        if (path[0] == '@')
            state.address.sun_path[0] = '\0'; /* the abstract namespace: no NUL at its end */
        state.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
        read_watchdog();
    }
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void notify_send(const char *message)
{
    if (state.len == 0)
        return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ssize_t n = fd < 0 ? -1
                       : sendto(fd, message, strlen(message), MSG_NOSIGNAL | MSG_DONTWAIT,
                                (struct sockaddr *)&state.address, state.len);
    if (n < 0)
        log_warn("supervisor", "the service manager can't be told", "what", message, "error",
                 strerror(errno), NULL);
    if (fd >= 0)
        close(fd);
}

void notify_reloading(void)
{
    char message[64];
    snprintf(message, sizeof(message), "RELOADING=1\nMONOTONIC_USEC=%" PRId64, clock_mono_us());
    notify_send(message);
}

int64_t notify_watchdog_ms(void)
{
    return state.watchdog_ms;
}
