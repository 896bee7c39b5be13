/* postgres_init.c - finds PostgreSQL's programs and makes a cluster.
 *
 * A cluster is made under another name and renamed when it is complete with roles and database: a
 * full disk or a kill leaves a folder that the next start removes, never half a cluster. */
#include "front/postgres_init.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROOM_MB 200 /* what a new cluster needs, with its first write-ahead log */
#define DEBIAN_ROOT "/usr/lib/postgresql"

/* What differs from PostgreSQL's defaults. Durability doesn't. */
static const char configuration[] = "\n# Moonwright: a private server for one company.\n"
                                    "listen_addresses = ''\n"
                                    "unix_socket_permissions = 0700\n"
                                    "max_connections = 100\n"
                                    "shared_buffers = 64MB\n"
                                    "max_wal_size = 512MB\n"
                                    "wal_level = minimal\n"
                                    "max_wal_senders = 0\n"
                                    "bgwriter_delay = 1s\n"
                                    "wal_writer_delay = 1s\n"
                                    "bgwriter_lru_maxpages = 500\n"
                                    "jit = off\n"
                                    "timezone = 'UTC'\n"
                                    "log_timezone = 'UTC'\n"
                                    "lc_messages = 'C'\n";

/* One statement a line, as the single-user server reads them. */
static const char roles[] =
    "create role moonwright login\n"
    "create role moonwright_readonly login\n"
    "alter role moonwright_readonly set default_transaction_read_only = on\n"
    "alter role moonwright_readonly set statement_timeout = '10s'\n"
    "create database moonwright owner moonwright\n"
    "revoke temporary on database moonwright from public\n";

static int newest_major(void)
{
    int newest = 0;
    DIR *dir = opendir(DEBIAN_ROOT);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char path[PATH_MAX];
        int major = atoi(entry->d_name);
        snprintf(path, sizeof(path), DEBIAN_ROOT "/%d/bin/initdb", major);
        if (major > newest && access(path, X_OK) == 0)
            newest = major;
    }
    if (dir != NULL)
        closedir(dir);
    return newest;
}

/* The folder of PATH that holds both programs; its major is asked of the server itself. */
static bool find_in_path(struct postgres_place *place)
{
    const char *path = getenv("PATH");
    char *copy = xstrdup(path != NULL ? path : ""), *rest = copy, *folder;
    bool found = false;
    while (!found && (folder = strsep(&rest, ":")) != NULL) {
        char program[PATH_MAX + 16], line[128] = "";
        if (folder[0] != '/' || strlen(folder) > PATH_MAX - 64 || strpbrk(folder, "'\"\\") != NULL)
            continue;
        snprintf(program, sizeof(program), "%s/initdb", folder);
        if (access(program, X_OK) != 0)
            continue;
        snprintf(program, sizeof(program), "'%s/postgres' -V 2>/dev/null", folder);
        FILE *pipe = popen(program, "re");
        if (pipe != NULL) {
            found = fgets(line, sizeof(line), pipe) != NULL &&
                    sscanf(line, "postgres (PostgreSQL) %d", &place->major) == 1;
            pclose(pipe);
        }
        if (found)
            snprintf(place->bin, sizeof(place->bin), "%s", folder);
    }
    free(copy);
    return found;
}

static int cluster_major(const struct postgres_place *place)
{
    char path[PATH_MAX + 16], line[32] = "";
    snprintf(path, sizeof(path), "%s/PG_VERSION", place->cluster);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    bool read = fgets(line, sizeof(line), file) != NULL;
    fclose(file);
    return read ? atoi(line) : 0;
}

static bool find_programs(struct postgres_place *place, struct err *err)
{
    char program[PATH_MAX];
    int wanted = cluster_major(place), newest = newest_major();
    place->major = wanted != 0 ? wanted : newest;
    snprintf(program, sizeof(program), DEBIAN_ROOT "/%d/bin/postgres", place->major);
    if (place->major != 0 && access(program, X_OK) == 0) {
        snprintf(place->bin, sizeof(place->bin), DEBIAN_ROOT "/%d/bin", place->major);
        return true;
    }
    if (find_in_path(place)) {
        if (wanted == 0 || place->major == wanted)
            return true;
        newest = place->major;
    }
    if (newest == 0)
        return err_set(err, ERR_CONFIG,
                       "PostgreSQL is not installed: apt-get install postgresql, or set "
                       "DATABASE_URL");
    return err_set(err, ERR_CONFIG,
                   "%s was made by PostgreSQL %d, installed is %d: install postgresql-%d, or set "
                   "MOONWRIGHT_DATA to another folder",
                   place->cluster, wanted, newest, wanted);
}

static bool find_user(struct postgres_place *place, const char *user, struct err *err)
{
    place->uid = geteuid();
    place->gid = getegid();
    if (place->uid != 0)
        return true;
    const struct passwd *entry = getpwnam(user);
    if (entry == NULL || entry->pw_uid == 0)
        return err_set(err, ERR_CONFIG,
                       "PostgreSQL doesn't run as root and there is no user '%s' to drop to: "
                       "apt-get install postgresql, or start moonwright as another user",
                       user);
    place->user = user;
    place->uid = entry->pw_uid;
    place->gid = entry->pw_gid;
    return true;
}

bool postgres_become(const struct postgres_place *place, int death_signal)
{
    pid_t parent = getppid();
    if (place->user != NULL && (initgroups(place->user, place->gid) != 0 ||
                                setgid(place->gid) != 0 || setuid(place->uid) != 0))
        return false;
    /* Changing the user clears it, so it comes last. */
    if (prctl(PR_SET_PDEATHSIG, death_signal) != 0)
        return false;
    return getppid() == parent;
}

/* Whether the server's user gets to its folder: a checkout in /root is closed to everybody else. */
static bool may_enter(const struct postgres_place *place, const char *folder, struct err *err)
{
    int status;
    pid_t pid = place->user != NULL ? fork() : 0;
    if (place->user == NULL)
        return true;
    if (pid == 0)
        _exit(postgres_become(place, SIGKILL) && access(folder, X_OK) == 0 ? 0 : 1);
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    return err_set(err, ERR_CONFIG,
                   "the user '%s', as whom PostgreSQL runs, can't enter %s: set MOONWRIGHT_DATA to "
                   "a folder it can, such as /var/lib/moonwright",
                   place->user, place->data);
}

static bool has_room(const struct postgres_place *place, const char *folder, struct err *err)
{
    struct statvfs fs;
    if (statvfs(folder, &fs) != 0 || fs.f_blocks == 0)
        return true;
    unsigned long long mb = (unsigned long long)fs.f_bavail * fs.f_frsize / (1024 * 1024);
    return mb >= ROOM_MB || err_set(err, ERR_IO,
                                    "no room for the database: %s has %llu MB free and a new one "
                                    "needs %d MB",
                                    place->data, mb, ROOM_MB);
}

static const char *user_name(uid_t uid)
{
    const struct passwd *entry = getpwuid(uid);
    return entry != NULL ? entry->pw_name : "another user";
}

/* What is there already is a cluster and its user's. An empty folder is as good as none. */
static bool check_cluster(const struct postgres_place *place, struct err *err)
{
    struct stat st;
    if (lstat(place->cluster, &st) != 0)
        return errno == ENOENT || errno == ENOTDIR ||
               err_set(err, ERR_IO, "can't look into %s: %s", place->data, strerror(errno));
    if (S_ISDIR(st.st_mode) && cluster_major(place) == 0 && rmdir(place->cluster) == 0)
        return true;
    if (st.st_uid != place->uid) {
        char *owner = xstrdup(user_name(st.st_uid));
        err_set(err, ERR_CONFIG,
                "%s belongs to '%s' and PostgreSQL would run as '%s': start moonwright as the user "
                "who did before, or set MOONWRIGHT_DATA to another folder",
                place->cluster, owner, user_name(place->uid));
        free(owner);
        return false;
    }
    return cluster_major(place) != 0 ||
           err_set(err, ERR_CONFIG,
                   "%s is no PostgreSQL data folder (it has no PG_VERSION): move it away, or set "
                   "MOONWRIGHT_DATA to another folder",
                   place->cluster);
}

/* The folder itself or, while it isn't made, the nearest one above it. */
static void foothold(const char *path, char *folder, size_t room)
{
    snprintf(folder, room, "%s", path);
    while (access(folder, F_OK) != 0 && errno == ENOENT) {
        char *slash = strrchr(folder, '/');
        if (slash == NULL)
            snprintf(folder, room, ".");
        else if (slash == folder)
            folder[1] = '\0';
        else
            *slash = '\0';
    }
}

/* All that can be known before anything is made. */
static bool may_be_made(const struct postgres_place *place, struct err *err)
{
    char folder[PATH_MAX];
    foothold(place->data, folder, sizeof(folder));
    return may_enter(place, folder, err) && check_cluster(place, err) &&
           (access(place->cluster, F_OK) == 0 || has_room(place, folder, err));
}

static bool make_folders(const char *path, struct err *err)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof(folder), "%s", path);
    for (char *p = folder + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char kept = *p;
        *p = '\0';
        if (mkdir(folder, 0755) != 0 && errno != EEXIST)
            return err_set(err, ERR_IO, "can't make the folder %s: %s", folder, strerror(errno));
        *p = kept;
        if (kept == '\0')
            return true;
    }
}

bool postgres_find(struct postgres_place *place, const char *data_dir, const char *user,
                   struct err *err)
{
    memset(place, 0, sizeof(*place));
    /* Without the folder there is no cluster either: nothing is made before all of this holds. */
    if (realpath(data_dir, place->data) == NULL) {
        /* By its full name: being in a folder says nothing about others' way there. */
        char here[PATH_MAX] = "";
        if (data_dir[0] != '/' && getcwd(here, sizeof(here)) == NULL)
            return err_set(err, ERR_IO, "can't tell which folder this is: %s", strerror(errno));
        char *full = xprintf("%s%s%s", here, here[0] != '\0' ? "/" : "", data_dir);
        snprintf(place->data, sizeof(place->data), "%s", full);
        free(full);
    }
    if (strlen(place->data) > PATH_MAX - 64)
        return err_set(err, ERR_CONFIG, "MOONWRIGHT_DATA is too long");
    snprintf(place->cluster, sizeof(place->cluster), "%.*s/postgres", PATH_MAX - 64, place->data);
    if (!find_user(place, user, err) || !find_programs(place, err) || !may_be_made(place, err) ||
        !make_folders(place->data, err))
        return false;
    if (realpath(data_dir, place->data) == NULL)
        return err_set(err, ERR_IO, "can't find %s: %s", data_dir, strerror(errno));
    snprintf(place->cluster, sizeof(place->cluster), "%.*s/postgres", PATH_MAX - 64, place->data);
    return may_enter(place, place->data, err);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* The line of a program's output that says what went wrong. */
static void blame(const struct buf *output, const char *program, struct err *err)
{
    static const char *const words[] = {"PANIC:", "FATAL:", "error:", "ERROR:"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        const char *at = strstr(output->data, words[i]);
        if (at != NULL) {
            at += strlen(words[i]);
            err_set(err, ERR_IO, "%s failed: %.*s", program, (int)strcspn(at + 1, "\n"), at + 1);
            return;
        }
    }
    err_set(err, ERR_IO, "%s failed", program);
}

/* Runs a program as the server's user, gives it its input, and waits. */
static bool run_program(const struct postgres_place *place, const char *const argv[],
                        const char *input, struct err *err)
{
    int in[2], out[2], status = -1;
    char chunk[4096];
    ssize_t n;
    bool ok;
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        return err_set(err, ERR_IO, "no pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(out[1], 2);
        if (!postgres_become(place, SIGKILL) || chdir("/") != 0)
            _exit(126);
        setenv("LC_ALL", "C", 1);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    struct buf output;
    buf_init(&output, 256 * 1024);
    buf_adds(&output, "");
    if (pid > 0) {
        /* Less than a pipe holds, so that this can't block. SIGPIPE is ignored by main. */
        if (write(in[1], input, strlen(input)) < 0)
            log_debug("postgres", "a program took no input", NULL);
        close(in[1]);
        in[1] = -1;
        while ((n = read(out[0], chunk, sizeof(chunk))) > 0 || (n < 0 && errno == EINTR)) {
            if (n > 0)
                buf_add(&output, chunk, (size_t)n);
        }
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
    }
    if (in[1] >= 0)
        close(in[1]);
    close(out[0]);
    buf_addc(&output, '\n');
    /* The single-user server ends with 0 even when a statement failed. */
    ok = pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
         strstr(output.data, "ERROR:") == NULL && strstr(output.data, "FATAL:") == NULL;
    if (!ok)
        blame(&output, argv[0], err);
    buf_fini(&output);
    return ok;
}

static bool append(const char *path, const char *text, struct err *err)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    ssize_t len = (ssize_t)strlen(text);
    bool ok = fd >= 0 && write(fd, text, (size_t)len) == len && fsync(fd) == 0;
    if (!ok)
        err_set(err, ERR_IO, "can't write %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}

bool postgres_make(const struct postgres_place *place, struct err *err)
{
    char fresh[PATH_MAX + 8], path[PATH_MAX + 64], initdb[PATH_MAX + 16], server[PATH_MAX + 16];
    if (!has_room(place, place->data, err))
        return false;
    snprintf(fresh, sizeof(fresh), "%s.new", place->cluster);
    snprintf(initdb, sizeof(initdb), "%s/initdb", place->bin);
    snprintf(server, sizeof(server), "%s/postgres", place->bin);
    snprintf(path, sizeof(path), "%s/postgresql.conf", fresh);
    remove_tree(fresh);
    if (mkdir(fresh, 0700) != 0 || (place->user != NULL && chown(fresh, place->uid, place->gid)))
        return err_set(err, ERR_IO, "can't make the folder %s: %s", fresh, strerror(errno));
    log_info("postgres", "making a private database", "folder", place->cluster, NULL);

    const char *make[] = {initdb,
                          "-D",
                          fresh,
                          "-U",
                          "postgres",
                          "-E",
                          "UTF8",
                          "--locale=C.UTF-8",
                          "--auth-local=trust",
                          "--auth-host=reject",
                          NULL};
    const char *single[] = {server, "--single", "-D", fresh, "postgres", NULL};
    bool ok = run_program(place, make, "", err) && append(path, configuration, err) &&
              run_program(place, single, roles, err);
    if (ok && rename(fresh, place->cluster) != 0)
        ok = err_set(err, ERR_IO, "can't make %s: %s", place->cluster, strerror(errno));
    if (!ok) {
        remove_tree(fresh);
        return err_wrap(err, "can't make a private database in %s", place->data);
    }
    int fd = open(place->data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    return true;
}
