/* watch.c - a folder tree, followed with inotify.
 *
 * inotify watches one folder at a time: each found gets a watch, and a new folder is looked through
 * after its watch is set, so that nothing in it is missed. When the kernel drops events, or the
 * watched folder itself was moved or deleted, everything is looked through anew; while it is not
 * there, once a second. */
#include "io/watch.h"

#include "base/mem.h"
#include "io/loop_internal.h"

#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum { QUIET_MS = 100, RETRY_MS = 1000, DEPTH_MAX = 32 };

#define MASK                                                                            \
    (IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | \
     IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

struct folder {
    int wd;
    char *path;
};

struct watch {
    struct loop *loop;
    int fd;
    struct event *event;
    struct loop_timer *quiet, *retry;
    char *root;
    struct folder *folders;
    size_t count, size;
    loop_fn *fn;
    void *ctx;
};

static void forget(struct watch *watch, size_t i)
{
    free(watch->folders[i].path);
    watch->folders[i] = watch->folders[--watch->count];
}

static struct folder *find(struct watch *watch, int wd)
{
    for (size_t i = 0; i < watch->count; i++) {
        if (watch->folders[i].wd == wd) {
            return &watch->folders[i];
        }
    }
    return NULL;
}

static void remember(struct watch *watch, int wd, const char *path)
{
    struct folder *known = find(watch, wd);
    if (known) { // inotify knows a folder by its inode: it was moved
        free(known->path);
        known->path = xstrdup(path);
        return;
    }
    if (watch->count == watch->size) {
        watch->size = watch->size ? watch->size * 2 : 16;
        watch->folders = xrealloc(watch->folders, watch->size * sizeof(*watch->folders));
    }
    watch->folders[watch->count++] = (struct folder){wd, xstrdup(path)};
}

static bool is_folder(const char *path, unsigned char type)
{
    struct stat st;
    return type == DT_DIR || (type == DT_UNKNOWN && lstat(path, &st) == 0 && S_ISDIR(st.st_mode));
}

// Watches the folder and those in it. What vanishes meanwhile has no need of a watch.
static bool add(struct watch *watch, const char *path, int depth)
{
    int wd = inotify_add_watch(watch->fd, path, MASK);
    if (wd < 0) {
        return false;
    }
    remember(watch, wd, path);
    DIR *dir = depth < DEPTH_MAX ? opendir(path) : NULL;
    if (!dir) {
        return true;
    }
    bool ok = true;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        char *below = xprintf("%s/%s", path, entry->d_name);
        if (is_folder(below, entry->d_type) && !add(watch, below, depth + 1)) {
            ok = ok && (errno == ENOENT || errno == ENOTDIR || errno == EACCES);
        }
        free(below);
    }
    closedir(dir);
    return ok;
}

static void look_through(void *ctx)
{
    struct watch *watch = ctx;
    while (watch->count > 0) {
        inotify_rm_watch(watch->fd, watch->folders[0].wd);
        forget(watch, 0);
    }
    if (!add(watch, watch->root, 0)) {
        loop_timer_set(watch->retry, RETRY_MS);
    }
    loop_timer_set(watch->quiet, QUIET_MS);
}

// False: everything has to be looked through anew.
static bool take(struct watch *watch, const struct inotify_event *event)
{
    if (event->mask & IN_Q_OVERFLOW) {
        return false;
    }
    struct folder *folder = find(watch, event->wd);
    if (!folder) {
        return true; // of a watch that was given up
    }
    if (event->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) {
        return strcmp(folder->path, watch->root) != 0;
    }
    if (event->mask & IN_IGNORED) {
        forget(watch, (size_t)(folder - watch->folders));
        return true;
    }
    if (event->mask & IN_ISDIR && event->mask & IN_MOVED_FROM) {
        return false; // its watches would go on, under names that are wrong
    }
    if (event->mask & IN_ISDIR && event->mask & (IN_CREATE | IN_MOVED_TO)) {
        char *path = xprintf("%s/%s", folder->path, event->name);
        add(watch, path, 1);
        free(path);
    }
    return true;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct watch *watch = arg;
    _Alignas(struct inotify_event) char data[16 * (sizeof(struct inotify_event) + NAME_MAX + 1)];
    bool whole = true;
    for (ssize_t n; (n = read(fd, data, sizeof(data))) > 0;) {
        for (char *at = data; at < data + n;) {
            const struct inotify_event *event = (const struct inotify_event *)at;
            whole = take(watch, event) && whole;
            at += sizeof(*event) + event->len;
        }
    }
    if (whole) {
        loop_timer_set(watch->quiet, QUIET_MS);
    } else {
        look_through(watch);
    }
}

static void tell(void *ctx)
{
    struct watch *watch = ctx;
    watch->fn(watch->ctx); // may stop the watch
}

struct watch *watch_start(struct loop *loop, const char *folder, loop_fn *fn, void *ctx,
                          struct err *err)
{
    struct watch *watch = xcalloc(1, sizeof(*watch));
    watch->loop = loop;
    watch->fn = fn;
    watch->ctx = ctx;
    watch->root = xstrdup(folder);
    watch->quiet = loop_timer_new(loop, tell, watch);
    watch->retry = loop_timer_new(loop, look_through, watch);
    watch->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watch->fd < 0 || !add(watch, folder, 0)) {
        err_set(err, ERR_IO, "can't follow the folder %s: %s", folder,
                errno == ENOSPC ? "the limit fs.inotify.max_user_watches is reached"
                                : strerror(errno));
        watch_stop(watch);
        return NULL;
    }
    watch->event = event_new(loop_base(loop), watch->fd, EV_READ | EV_PERSIST, on_readable, watch);
    must(watch->event && event_add(watch->event, NULL) == 0);
    return watch;
}

void watch_stop(struct watch *watch)
{
    if (!watch) {
        return;
    }
    if (watch->event) {
        event_free(watch->event);
    }
    loop_timer_free(watch->quiet);
    loop_timer_free(watch->retry);
    while (watch->count > 0) {
        forget(watch, watch->count - 1);
    }
    free(watch->folders);
    if (watch->fd >= 0) {
        close(watch->fd);
    }
    free(watch->root);
    free(watch);
}
