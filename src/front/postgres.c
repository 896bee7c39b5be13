/* postgres.c - the life of the private PostgreSQL.
 *
 *     GONE --launch--> STARTING --> READY --stop, or our death (SIGINT)--> STOPPING --> GONE
 *
 * What state it is in is read from its own postmaster.pid, whoever started it. The lock on
 * MOONWRIGHT_DATA/postgres.lock (a record lock: not inherited by children, gone with its holder)
 * says who may make, start and stop it. */
#include "front/postgres.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "front/postgres_init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 30000     /* without a sign of life from a server we started */
#define RECOVER_MS 1800000 /* a long recovery after a crash is a sign of life */
#define STOP_MS 60000
#define LEFT_STOPPING_MS 5000 /* a fast shutdown that nobody disturbs takes less */
#define SOCKET_MAX 90         /* 107 bytes less "/.s.PGSQL.5432" */

struct postgres {
    struct postgres_place place;
    char socket[PATH_MAX]; /* the folder of the socket */
    int port;
    int lock; /* the lock file; -1: not open */
    bool owned, started;
    pid_t child;   /* the postmaster, if it is our child; 0: it is not */
    off_t log_end; /* of its log, when it was started */
};

static void log_path(const struct postgres *postgres, char *path, size_t room)
{
    snprintf(path, room, "%.*s/log/postgres.log", PATH_MAX - 64, postgres->place.data);
}

static bool take_lock(struct postgres *postgres)
{
    char path[PATH_MAX + 32];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (postgres->owned)
        return true;
    if (postgres->lock < 0) {
        snprintf(path, sizeof(path), "%s.lock", postgres->place.cluster);
        postgres->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    }
    postgres->owned = postgres->lock >= 0 && fcntl(postgres->lock, F_SETLK, &lock) == 0;
    return postgres->owned;
}

/* A folder for the socket that only the server's user (and root) may enter. */
static bool make_socket_folder(struct postgres *postgres, struct err *err)
{
    const struct postgres_place *place = &postgres->place;
    struct stat st;
    size_t plain = strspn(place->data, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                       "0123456789_-./");
    if (strlen(place->data) + 7 <= SOCKET_MAX && place->data[plain] == '\0') {
        snprintf(postgres->socket, sizeof(postgres->socket), "%.*s/socket", SOCKET_MAX,
                 place->data);
    } else {
        unsigned hash = 2166136261u; /* FNV-1a of the folder's name: the same at each start */
        for (const char *p = place->data; *p != '\0'; p++)
            hash = (hash ^ (unsigned char)*p) * 16777619u;
        snprintf(postgres->socket, sizeof(postgres->socket), "/tmp/moonwright-%u-%08x",
                 (unsigned)place->uid, hash);
    }
    bool made = mkdir(postgres->socket, 0700) == 0;
    if (!made && errno != EEXIST)
        return err_set(err, ERR_IO, "can't make the folder %s: %s", postgres->socket,
                       strerror(errno));
    if (made && place->user != NULL && chown(postgres->socket, place->uid, place->gid) != 0)
        return err_set(err, ERR_IO, "can't give %s to %s: %s", postgres->socket, place->user,
                       strerror(errno));
    if (lstat(postgres->socket, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != place->uid ||
        (st.st_mode & 077) != 0)
        return err_set(err, ERR_IO, "%s is there and not a private folder of ours: remove it",
                       postgres->socket);
    return true;
}

struct postgres *postgres_open(const struct settings *settings, const char *data_dir,
                               struct err *err)
{
    struct postgres *postgres = xcalloc(1, sizeof(*postgres));
    postgres->lock = -1;
    postgres->port = 5432;
    if (!postgres_find(&postgres->place, data_dir, setting(settings, "MOONWRIGHT_POSTGRES_USER"),
                       err) ||
        !make_socket_folder(postgres, err)) {
        postgres_free(postgres);
        return NULL;
    }
    return postgres;
}

void postgres_free(struct postgres *postgres)
{
    if (postgres == NULL)
        return;
    if (postgres->lock >= 0)
        close(postgres->lock);
    free(postgres);
}

/* Whether a process is a postmaster of our cluster; unreadable facts count as yes. */
static bool is_postmaster(const struct postgres *postgres, pid_t pid)
{
    char path[64], text[PATH_MAX], cluster[PATH_MAX];
    struct stat st;
    if (pid <= 1 || (kill(pid, 0) != 0 && errno != EPERM))
        return false;
    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    if (stat(path, &st) == 0 && st.st_uid != postgres->place.uid)
        return false;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file != NULL) {
        char state = '\0', name[64] = "";
        int n = fscanf(file, "%*d (%63[^)]) %c", name, &state);
        fclose(file);
        if (n == 2 && (state == 'Z' || strncmp(name, "postgres", 8) != 0))
            return false;
    }
    snprintf(path, sizeof(path), "/proc/%d/cwd", (int)pid);
    ssize_t len = readlink(path, text, sizeof(text) - 1);
    if (len <= 0)
        return true;
    text[len] = '\0';
    return realpath(postgres->place.cluster, cluster) == NULL || strcmp(text, cluster) == 0;
}

/* Reads postmaster.pid: pid, folder, start time, port, socket folder, address, memory, status. */
static enum postgres_state look(struct postgres *postgres, pid_t *pid)
{
    char path[PATH_MAX + 32], line[PATH_MAX], socket[PATH_MAX] = "", status[32] = "";
    int number = 0, port = 0;
    snprintf(path, sizeof(path), "%s/postmaster.pid", postgres->place.cluster);
    *pid = 0;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return POSTGRES_GONE;
    while (fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        number++;
        if (number == 1)
            *pid = (pid_t)atoi(line);
        else if (number == 4)
            port = atoi(line);
        else if (number == 5)
            snprintf(socket, sizeof(socket), "%s", line);
        else if (number == 8)
            sscanf(line, "%31s", status);
    }
    fclose(file);
    if (!is_postmaster(postgres, *pid))
        return POSTGRES_GONE;
    if (strcmp(status, "stopping") == 0)
        return POSTGRES_STOPPING;
    if (strcmp(status, "ready") != 0)
        return POSTGRES_STARTING;
    if (port > 0 && socket[0] == '/') {
        postgres->port = port;
        snprintf(postgres->socket, sizeof(postgres->socket), "%s", socket);
    }
    return POSTGRES_READY;
}

enum postgres_state postgres_look(struct postgres *postgres)
{
    pid_t pid;
    int status;
    if (postgres->child > 0) {
        /* ECHILD: a supervisor that reaps everybody was faster. */
        pid_t got = waitpid(postgres->child, &status, WNOHANG);
        if (got == postgres->child || (got < 0 && errno == ECHILD))
            postgres->child = 0;
    }
    enum postgres_state state = look(postgres, &pid);
    return state == POSTGRES_GONE && postgres->child > 0 ? POSTGRES_STARTING : state;
}

bool postgres_is_child(const struct postgres *postgres)
{
    return postgres->child > 0;
}

bool postgres_is_ours(struct postgres *postgres)
{
    return take_lock(postgres);
}

/* What the server last complained about since it was started. */
static void blame(const struct postgres *postgres, struct err *err)
{
    char path[PATH_MAX], line[1024], found[700] = "", other[700] = "see its log";
    log_path(postgres, path, sizeof(path));
    FILE *file = fopen(path, "re");
    if (file != NULL && fseeko(file, postgres->log_end, SEEK_SET) == 0) {
        while (fgets(line, sizeof(line), file) != NULL) {
            const char *at = strstr(line, "FATAL:");
            if (at == NULL)
                at = strstr(line, "PANIC:");
            if (at != NULL)
                snprintf(found, sizeof(found), "%.*s", (int)strcspn(at + 8, "\n"), at + 8);
            else if (strncmp(line, "postgres: ", 10) == 0) /* before it has a log of its own */
                snprintf(other, sizeof(other), "%.*s", (int)strcspn(line + 10, "\n"), line + 10);
        }
    }
    if (file != NULL)
        fclose(file);
    err_set(err, ERR_IO, "the private PostgreSQL doesn't start: %s (%s)",
            found[0] != '\0' ? found : other, path);
}

/* A pid file left by a server that is gone stops the next one when its number was given to another
 * process of the same user, as happens after each start of a container. */
static void remove_stale_pid_file(const struct postgres *postgres)
{
    char path[PATH_MAX + 32];
    snprintf(path, sizeof(path), "%s/postmaster.pid", postgres->place.cluster);
    if (unlink(path) == 0)
        log_info("postgres", "removed the pid file of a server that is gone", NULL);
}

static void become_server(const struct postgres_place *place, const char *socket, int log)
{
    char server[PATH_MAX + 16], port[] = "5432";
    sigset_t none;
    snprintf(server, sizeof(server), "%s/postgres", place->bin);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    /* A session of its own: Ctrl-C at the terminal is not for it. */
    if (setsid() < 0 || !postgres_become(place, SIGINT))
        _exit(126);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(null, 0);
    dup2(log, 1);
    dup2(log, 2);
    unsetenv("PGDATA");
    unsetenv("PGPORT");
    execl(server, server, "-D", place->cluster, "-k", socket, "-p", port, (char *)NULL);
    _exit(127);
}

bool postgres_launch(struct postgres *postgres, struct err *err)
{
    const struct postgres_place *place = &postgres->place;
    char path[PATH_MAX];
    pid_t old;
    if (!take_lock(postgres))
        return err_set(err, ERR_IO, "another moonwright is starting %s", place->cluster);
    if (access(place->cluster, F_OK) != 0 && !postgres_make(place, err))
        return false;
    if (look(postgres, &old) == POSTGRES_GONE && old > 0)
        remove_stale_pid_file(postgres);
    if (!make_socket_folder(postgres, err))
        return false;
    snprintf(path, sizeof(path), "%.*s/log", PATH_MAX - 64, place->data);
    if (mkdir(path, 0755) != 0 && errno != EEXIST)
        return err_set(err, ERR_IO, "can't make the folder %s: %s", path, strerror(errno));
    log_path(postgres, path, sizeof(path));
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0)
        return err_set(err, ERR_IO, "can't write %s: %s", path, strerror(errno));
    postgres->log_end = lseek(log, 0, SEEK_END);
    postgres->port = 5432;
    pid_t pid = fork();
    if (pid == 0)
        become_server(place, postgres->socket, log);
    close(log);
    if (pid < 0)
        return err_set(err, ERR_IO, "can't start PostgreSQL: %s", strerror(errno));
    postgres->child = pid;
    postgres->started = true;
    return true;
}

/* A server whose supervisor died while it was recovering may wait for ever in its shutdown: ending
 * it at once costs a recovery and loses nothing. */
static void stop_at_once(struct postgres *postgres)
{
    pid_t pid;
    if (look(postgres, &pid) == POSTGRES_STOPPING && pid > 0 && kill(pid, SIGQUIT) == 0)
        log_warn("postgres", "the server left behind doesn't stop: ending it at once", NULL);
}

bool postgres_start(struct postgres *postgres, struct err *err)
{
    int64_t start = clock_mono_ms();
    int launches = 0;
    bool said = false, harder = false;
    for (;;) {
        enum postgres_state state = postgres_look(postgres);
        int64_t waited = clock_mono_ms() - start;
        if (state == POSTGRES_READY) {
            take_lock(postgres);
            if (launches == 0)
                log_info("postgres", "uses the server that runs", "folder", postgres->place.cluster,
                         NULL);
            return true;
        }
        if (state == POSTGRES_GONE && !take_lock(postgres) && postgres->lock < 0)
            return err_set(err, ERR_IO, "can't open %s.lock: %s", postgres->place.cluster,
                           strerror(errno));
        if (state == POSTGRES_GONE && postgres->owned) {
            /* Backends of a killed server take a moment to notice: then it is tried again. */
            if (launches > 0 && (launches >= 20 || waited > START_MS)) {
                blame(postgres, err);
                return false;
            }
            if (launches > 0)
                usleep(250000);
            if (!postgres_launch(postgres, err))
                return false;
            launches++;
        } else if (state == POSTGRES_STARTING && waited > START_MS && !said) {
            said = true;
            log_warn("postgres", "the server is still recovering", NULL);
        } else if (state == POSTGRES_STOPPING && waited > LEFT_STOPPING_MS && !harder) {
            harder = true;
            stop_at_once(postgres);
        } else if (waited > (state == POSTGRES_STARTING ? RECOVER_MS : 2 * STOP_MS)) {
            return err_set(err, ERR_TIMEOUT, "the private PostgreSQL in %s doesn't get ready",
                           postgres->place.cluster);
        }
        usleep(20000);
    }
}

void postgres_stop(struct postgres *postgres, bool adopted)
{
    pid_t pid;
    int64_t start = clock_mono_ms();
    bool harder = false;
    if (!postgres->owned || (!postgres->started && !adopted))
        return;
    enum postgres_state state = look(postgres, &pid);
    if (state == POSTGRES_GONE && postgres->child > 0)
        pid = postgres->child;
    if (pid <= 0 || kill(pid, SIGINT) != 0)
        return;
    while (postgres_look(postgres) != POSTGRES_GONE) {
        if (!harder && clock_mono_ms() - start > STOP_MS) {
            harder = true;
            log_warn("postgres", "the server doesn't stop: ending it at once", NULL);
            kill(pid, SIGQUIT);
        }
        if (clock_mono_ms() - start > 2 * STOP_MS)
            return;
        usleep(20000);
    }
}

void postgres_derive(const struct postgres *postgres, struct settings *settings)
{
    static const char *const names[][2] = {{"DATABASE_URL", "moonwright"},
                                           {"MOONWRIGHT_READONLY_URL", "moonwright_readonly"}};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (setting(settings, names[i][0])[0] != '\0')
            continue;
        char *url = xprintf("host='%s' port=%d dbname=moonwright user=%s", postgres->socket,
                            postgres->port, names[i][1]);
        settings_derive(settings, names[i][0], url);
        free(url);
    }
}
