/* cmd_run.c - `moonwright run`: the private PostgreSQL if there is no other, then the supervisor.
 */
#include "front/supervisor.h"

#include "base/log.h"
#include "base/mem.h"
#include "front/notify.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool add_role(unsigned *roles, const char *name, size_t len)
{
    static const struct {
        const char *name;
        unsigned bit;
    } known[] = {{"sync", ROLE_SYNC},
                 {"workflow", ROLE_WORKFLOW},
                 {"web", ROLE_WEB},
                 {"monitor", ROLE_MONITOR}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strlen(known[i].name) == len && strncmp(known[i].name, name, len) == 0) {
            *roles |= known[i].bit;
            return true;
        }
    }
    return false;
}

/* Names with a comma between them, and perhaps blanks. */
static bool read_roles(const char *list, unsigned *roles)
{
    for (;;) {
        list += strspn(list, " ");
        size_t len = strcspn(list, ", ");
        if (!add_role(roles, list, len))
            return false;
        list += len + strspn(list + len, " ");
        if (*list == '\0')
            return true;
        if (*list++ != ',')
            return false;
    }
}

/* A name that no worker has would keep /readyz red for ever. */
static bool check_wanted_roles(const struct settings *settings, struct err *err)
{
    unsigned roles = 0;
    const char *wanted = setting(settings, "MOONWRIGHT_ROLES");
    return *wanted == '\0' || read_roles(wanted, &roles) ||
           err_set(err, ERR_CONFIG,
                   "MOONWRIGHT_ROLES is %s: the roles are sync, workflow, web and monitor, with "
                   "commas between them",
                   wanted);
}

/* Asked before anything is made or started: the web role would only find out at the end. */
static bool port_is_free(const char *address, struct err *err)
{
    char host[256];
    int port, on = 1;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    must(setting_address(address, host, &port));
    char *service = xprintf("%d", port);
    bool taken = false;
    if (port != 0 && getaddrinfo(host, service, &hints, &found) == 0) {
        int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        taken = fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) != 0 && errno == EADDRINUSE;
        if (fd >= 0)
            close(fd);
        freeaddrinfo(found);
    }
    free(service);
    return !taken || err_set(err, ERR_CONFIG,
                             "MOONWRIGHT_HTTP is %s: port %d of %s is in use by another program",
                             address, port, host);
}

static int run(struct front *front, const struct args *args)
{
    unsigned roles = 0;
    const char *list = args_value(args, "--role"), *many = args_value(args, "--workers");
    int workers = many != NULL ? atoi(many) : 1;
    struct err err;
    if (list != NULL && !read_roles(list, &roles))
        return front_usage(args, "the roles are sync, workflow, web and monitor");
    if (workers > 32)
        return front_usage(args, "--workers takes a number from 1 to 32");
    notify_open();
    if (roles == 0)
        roles = ROLE_ALL;
    if (!check_wanted_roles(front->settings, &err))
        return front_fail(&err);
    if ((roles & ROLE_WEB) && !port_is_free(setting(front->settings, "MOONWRIGHT_HTTP"), &err))
        return front_fail(&err);
    /* Until the supervisor waits for signals, a request to reload must not end us. */
    sigset_t hangup;
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    sigprocmask(SIG_BLOCK, &hangup, NULL);
    struct postgres *postgres = NULL;
    int code = EXIT_OK;
    if (setting(front->settings, "DATABASE_URL")[0] == '\0') {
        postgres = postgres_open(front->settings, front->data_dir, &err);
        if (postgres == NULL || !postgres_start(postgres, &err)) {
            code = front_fail(&err);
        } else {
            postgres_derive(postgres, front->settings);
            front->private_server = true;
        }
    }
    if (code == EXIT_OK)
        code = supervise(front, postgres, roles, workers);
    if (postgres != NULL)
        postgres_stop(postgres, true);
    postgres_free(postgres);
    if (code == EXIT_OK)
        log_info("supervisor", "stopped", NULL);
    return code;
}

static const struct option options[] = {
    {"--role", "ROLES", "only these of sync,workflow,web,monitor"},
    {"--workers", "N", "so many workers of the role workflow (1)"},
    {0}};
static const struct verb verbs[] = {
    {NULL, NULL, "run everything, or some roles, until it is told to stop", options, NULL, run},
    {0}};

const struct command command_run = {"run", "run everything, or some roles", verbs, false};
