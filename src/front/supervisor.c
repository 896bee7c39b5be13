/* supervisor.c - forks the workers and waits. It holds no Lua, no connection and no event loop.
 *
 *     worker:  waiting (backoff) --fork--> running --exit, or no heartbeat: SIGKILL--> waiting
 *     all:     RUNNING --SIGTERM--> DRAIN_WEB --> DRAIN_REST --> PostgreSQL stopped --> end
 *                      a second signal, or DRAIN_MS: SIGKILL
 *
 * Workers get SIGKILL from the kernel when the supervisor dies: whatever they were doing, the next
 * life takes up. Each beats in its page (engine/page.h); one that stops doing so for half a lease
 * hangs and is killed, long before another worker could take its work. When a worker dies while the
 * Lua of an instance runs, the page says whose, and the next life is told.
 *
 * The service manager hears READY=1 when every worker does its work, RELOADING=1 until they have
 * read the company's files again, STOPPING=1, and WATCHDOG=1 as long as we look after them. */
#include "front/supervisor.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/page.h"
#include "front/migrate.h"
#include "front/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX 64
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 10000
#define SETTLED_MS 30000 /* a life this long starts the backoff anew */
#define WEB_DRAIN_MS 5000
#define RELOAD_MS 10000 /* nobody waits longer for the end of a reload */
#define SOON_MS 100     /* a look while something is under way */
#define LOOK_MS 500     /* a look at PostgreSQL */
#define CHILD_MS 10000  /* the same, when we hear of its end */

struct child {
    const char *role;
    char name[32];
    pid_t pid; /* 0: not running */
    int lives;
    int64_t started, start_at, backoff;
    struct page *page;
    bool hung;       /* we killed it */
    int64_t reloads; /* of its page, once it has done what SIGHUP asked of it */
};

enum phase { RUNNING, DRAIN_WEB, DRAIN_REST };

struct supervisor {
    struct front *front;
    struct postgres *postgres;
    struct child children[WORKERS_MAX];
    int count;
    enum phase phase;
    struct page *pages;
    bool refused;
    bool ready, reloading;   /* what the service manager knows */
    int64_t looked, excused; /* the last tick; silence counts from here, when we slept ourselves */
    int64_t reload_until, watchdog_at;
    int64_t phase_since, drain_ms, hang_ms;
    int64_t postgres_at, postgres_backoff;
    bool postgres_up; /* so it was when we looked last */
};

static void become_worker(void)
{
    sigset_t none;
    sigemptyset(&none);
    signal(SIGINT, SIG_IGN); /* Ctrl-C is the supervisor's, who tells us in order */
    signal(SIGHUP, SIG_IGN);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Forks; in the child, makes sure that it dies with us. */
static pid_t fork_child(void)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(EXIT_FAILED);
    become_worker();
    return 0;
}

static void start_child(struct supervisor *s, struct child *child)
{
    struct page *page = child->page;
    page->worker[0] = page->mark[0] = page->judging.part[0] = '\0';
    page->up = false;
    page->reloads = child->reloads = 0;
    page->beat_ms = child->started = clock_mono_ms();
    memset(&page->figures, 0, sizeof(page->figures));
    child->hung = false;
    pid_t pid = fork_child();
    if (pid == 0) {
        log_set_role(child->name);
        pages_use(s->pages, s->count, (int)(page - s->pages));
        exit(role_main(s->front, child->role, child->name));
    }
    if (pid < 0) {
        log_error("supervisor", "can't fork", "error", strerror(errno), NULL);
        child->start_at = child->started + BACKOFF_MAX_MS;
        return;
    }
    child->pid = pid;
    child->lives++;
    log_info("supervisor", "worker started", "worker", child->name, "pid", log_int(pid), NULL);
}

/* It died in the middle of the company's Lua: whose, and of what. */
static void blame(struct child *child, int status)
{
    struct page *page = child->page;
    if ((page->mark[0] == '\0' && page->judging.part[0] == '\0') || page->worker[0] == '\0')
        return;
    memcpy(page->dead.instance, page->mark, sizeof(page->mark));
    page->dead.judging = page->judging;
    if (child->hung)
        snprintf(page->dead.how, PAGE_HOW, "it hung and was killed");
    else if (WIFSIGNALED(status))
        snprintf(page->dead.how, PAGE_HOW, "signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(page->dead.how, PAGE_HOW, "exit code %d", WEXITSTATUS(status));
    memcpy(page->dead.worker, page->worker, sizeof(page->worker));
}

static void child_ended(struct supervisor *s, struct child *child, int status)
{
    int64_t now = clock_mono_ms();
    bool refused = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_CONFIG;
    child->pid = 0;
    if (s->phase != RUNNING) {
        if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
            log_warn("supervisor", "worker ended badly while it was stopped", "worker", child->name,
                     "how", WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "exit", "code",
                     log_int(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)), NULL);
        return;
    }
    blame(child, status);
    if (refused && child->lives == 1) {
        /* It said why. A port in use or a missing folder doesn't heal by trying. */
        log_error("supervisor", "a worker can't begin: everything ends", "worker", child->name,
                  NULL);
        s->refused = true;
        return;
    }
    child->backoff = now - child->started > SETTLED_MS || child->backoff == 0 ? BACKOFF_MIN_MS
                                                                              : child->backoff * 2;
    if (child->backoff > BACKOFF_MAX_MS)
        child->backoff = BACKOFF_MAX_MS;
    child->start_at = now + child->backoff;
    log_warn("supervisor", "worker ended", "worker", child->name, "how",
             WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "exit", "code",
             log_int(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)), "again_in_ms",
             log_int(child->backoff), NULL);
}

static void reap(struct supervisor *s)
{
    int status;
    pid_t pid;
    /* Everybody's: as process 1 of a container we inherit the orphans. */
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (s->postgres_up)
            s->postgres_at = 0; /* it may have been PostgreSQL */
        for (int i = 0; i < s->count; i++) {
            if (s->children[i].pid == pid)
                child_ended(s, &s->children[i], status);
        }
    }
}

static void check_beat(struct supervisor *s, struct child *child, int64_t now)
{
    int64_t since = child->page->beat_ms > s->excused ? child->page->beat_ms : s->excused;
    if (child->hung || now - since <= s->hang_ms)
        return;
    log_error("supervisor", "worker hangs and is killed", "worker", child->name, "silent_ms",
              log_int(now - since), NULL);
    child->hung = true;
    kill(child->pid, SIGKILL);
}

static void check_postgres(struct supervisor *s, int64_t now)
{
    struct err err;
    if (s->postgres == NULL || now < s->postgres_at || s->phase != RUNNING)
        return;
    enum postgres_state state = postgres_look(s->postgres);
    s->postgres_up = state == POSTGRES_READY;
    s->postgres_at = now + (s->postgres_up && postgres_is_child(s->postgres) ? CHILD_MS : LOOK_MS);
    if (s->postgres_up)
        s->postgres_backoff = BACKOFF_MIN_MS;
    if (state != POSTGRES_GONE || !postgres_is_ours(s->postgres))
        return;
    log_warn("supervisor", "the private PostgreSQL is gone: starting it again", NULL);
    if (!postgres_launch(s->postgres, &err))
        log_error("supervisor", "the private PostgreSQL doesn't start", "error", err.message, NULL);
    s->postgres_at = now + s->postgres_backoff;
    s->postgres_backoff = s->postgres_backoff * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS
                                                                   : s->postgres_backoff * 2;
}

static int signal_children(struct supervisor *s, int signum, bool web, bool rest)
{
    int alive = 0;
    for (int i = 0; i < s->count; i++) {
        struct child *child = &s->children[i];
        bool is_web = strcmp(child->role, "web") == 0;
        if (child->pid == 0 || (is_web && !web) || (!is_web && !rest))
            continue;
        alive++;
        if (signum != 0)
            kill(child->pid, signum);
    }
    return alive;
}

static void enter(struct supervisor *s, enum phase phase)
{
    s->phase = phase;
    s->phase_since = clock_mono_ms();
    signal_children(s, SIGTERM, phase == DRAIN_WEB, phase == DRAIN_REST);
}

static void reload(struct supervisor *s)
{
    signal_children(s, SIGHUP, true, true);
    for (int i = 0; i < s->count; i++)
        s->children[i].reloads = s->children[i].page->reloads + 1;
    if (s->ready && !s->reloading)
        notify_reloading();
    s->reloading = s->ready;
    s->reload_until = clock_mono_ms() + RELOAD_MS;
}

static void on_signal(struct supervisor *s, int signum)
{
    if (signum == SIGHUP) {
        reload(s);
    } else if (signum == SIGTERM || signum == SIGINT) {
        if (s->phase != RUNNING) {
            signal_children(s, SIGKILL, true, true);
        } else {
            log_info("supervisor", "stopping; a second signal ends it at once", NULL);
            notify_send("STOPPING=1\nSTATUS=finishing what is under way");
            enter(s, DRAIN_WEB);
        }
    }
}

/* What the service manager is to know by now. */
static void tell(struct supervisor *s, int64_t now)
{
    bool up = true, reloaded = true;
    if (s->phase != RUNNING)
        return;
    for (int i = 0; i < s->count; i++) {
        const struct child *child = &s->children[i];
        up = up && child->pid != 0 && child->page->up;
        reloaded = reloaded && child->page->reloads >= child->reloads;
    }
    if (!s->ready && up) {
        s->ready = true;
        log_info("supervisor", "all workers are up", NULL);
        notify_send("READY=1\nSTATUS=all workers are up");
    }
    if (s->reloading && (reloaded || now > s->reload_until)) {
        s->reloading = false;
        notify_send("READY=1");
    }
    if (notify_watchdog_ms() > 0 && now >= s->watchdog_at) {
        s->watchdog_at = now + notify_watchdog_ms() / 2;
        notify_send("WATCHDOG=1");
    }
}

/* One look at everything. False: all workers are gone and none shall come back. */
static bool tick(struct supervisor *s)
{
    int64_t now = clock_mono_ms();
    if (now - s->looked > s->hang_ms / 2)
        s->excused = now; /* the machine slept, and so did they */
    s->looked = now;
    reap(s);
    if (s->refused && s->phase == RUNNING)
        enter(s, DRAIN_WEB);
    check_postgres(s, now);
    for (int i = 0; i < s->count; i++) {
        struct child *child = &s->children[i];
        if (child->pid != 0)
            check_beat(s, child, now);
        else if (s->phase == RUNNING && now >= child->start_at)
            start_child(s, child);
    }
    tell(s, now);
    if (s->phase == DRAIN_WEB &&
        (signal_children(s, 0, true, false) == 0 || now - s->phase_since > WEB_DRAIN_MS))
        enter(s, DRAIN_REST);
    if (s->phase == DRAIN_REST && now - s->phase_since > s->drain_ms + 2000)
        signal_children(s, SIGKILL, true, true);
    return s->phase != DRAIN_REST || signal_children(s, 0, true, true) > 0;
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How long there is nothing to do, unless a signal comes: a quiet program rests. */
static int64_t rest_ms(const struct supervisor *s)
{
    int64_t now = clock_mono_ms(), next = now + s->hang_ms / 4;
    if (s->phase != RUNNING || !s->ready || s->reloading)
        return SOON_MS;
    for (int i = 0; i < s->count; i++) {
        if (s->children[i].pid == 0)
            next = sooner(next, s->children[i].start_at);
    }
    if (s->postgres != NULL)
        next = sooner(next, s->postgres_at);
    if (notify_watchdog_ms() > 0)
        next = sooner(next, s->watchdog_at);
    return next > now ? next - now : 1;
}

static bool make_folder(const char *path, struct err *err)
{
    if (mkdir(path, 0755) != 0 && errno != EEXIST)
        return err_set(err, ERR_CONFIG, "can't make the folder %s: %s", path, strerror(errno));
    return true;
}

/* A worker's heartbeat file is one worker's: two would hide each other's silence. The lock is this
 * process' and ends with it. */
static bool own_beats(const struct supervisor *s, struct err *err)
{
    for (int i = 0; i < s->count; i++) {
        char path[PATH_MAX];
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        snprintf(path, sizeof(path), "%s/heartbeat/.%s.lock", s->front->data_dir,
                 s->children[i].name);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return err_set(err, ERR_CONFIG, "can't open %s: %s", path, strerror(errno));
        if (fcntl(fd, F_SETLK, &lock) == 0)
            continue; /* stays open */
        fcntl(fd, F_GETLK, &lock);
        close(fd);
        return err_set(err, ERR_CONFIG,
                       "another moonwright (process %ld) runs the role %s in %s: for more workers "
                       "start it with --workers, for another company set MOONWRIGHT_DATA",
                       (long)lock.l_pid, s->children[i].role, s->front->data_dir);
    }
    return true;
}

/* Waits in slices for a signal; false when it is one that ends us. */
static bool pause_ms(const sigset_t *signals, int64_t ms, int *signum)
{
    struct timespec slice = {ms / 1000, (ms % 1000) * 1000000};
    *signum = sigtimedwait(signals, NULL, &slice);
    return *signum != SIGTERM && *signum != SIGINT;
}

/* Migrates in a process of its own, so that this one keeps no connection. A database that is not
 * there yet is waited for. */
static int migrate_first(struct supervisor *s, const sigset_t *signals)
{
    for (int64_t backoff = 500;; backoff = backoff * 2 > 10000 ? 10000 : backoff * 2) {
        int status = 0, signum;
        pid_t pid = fork_child();
        if (pid == 0) {
            struct err err;
            log_set_level(LOG_ERROR);
            _exit(migrate_all(s->front, true, &err) ? EXIT_OK : front_fail(&err));
        }
        while (pid > 0 && waitpid(pid, &status, WNOHANG) != pid) {
            if (!pause_ms(signals, 20, &signum)) {
                kill(pid, SIGKILL);
                waitpid(pid, &status, 0);
                return EXIT_FAILED;
            }
        }
        int code = pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
        if (code != EXIT_AGAIN)
            return code;
        log_warn("supervisor", "the database doesn't answer: trying again", "in_ms",
                 log_int(backoff), NULL);
        if (!pause_ms(signals, backoff, &signum))
            return EXIT_FAILED;
    }
}

static void add_child(struct supervisor *s, const char *role, int number)
{
    struct child *child = &s->children[s->count++];
    child->role = role;
    if (number == 1)
        snprintf(child->name, sizeof(child->name), "%s", role);
    else
        snprintf(child->name, sizeof(child->name), "%s-%d", role, number);
}

int supervise(struct front *front, struct postgres *postgres, unsigned roles, int workers)
{
    struct supervisor *s = xcalloc(1, sizeof(*s));
    struct err err;
    sigset_t signals;
    s->front = front;
    s->postgres = postgres;
    s->drain_ms = setting_int(front->settings, "DRAIN_MS");
    s->hang_ms = setting_int(front->settings, "WORKER_LEASE_MS") / 2;
    s->postgres_backoff = BACKOFF_MIN_MS;
    must(workers >= 1 && workers <= WORKERS_MAX - 8);
    if (roles & ROLE_SYNC)
        add_child(s, "sync", 1);
    for (int i = 1; (roles & ROLE_WORKFLOW) && i <= workers; i++)
        add_child(s, "workflow", i);
    if (roles & ROLE_WEB)
        add_child(s, "web", 1);
    if (roles & ROLE_MONITOR)
        add_child(s, "monitor", 1);

    s->pages = pages_new(s->count);
    for (int i = 0; i < s->count; i++) {
        struct child *child = &s->children[i];
        child->page = &s->pages[i];
        snprintf(child->page->name, PAGE_NAME, "%s", child->name);
        snprintf(child->page->role, sizeof(child->page->role), "%s", child->role);
    }
    s->looked = clock_mono_ms();

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);

    char *beats = xprintf("%s/heartbeat", front->data_dir);
    bool ok = make_folder(front->data_dir, &err) && make_folder(beats, &err) && own_beats(s, &err);
    int code = ok ? EXIT_OK : front_fail(&err);
    free(beats);
    if (code == EXIT_OK)
        code = migrate_first(s, &signals);
    if (code == EXIT_OK) {
        bool more = true;
        while (more) {
            int signum;
            more = tick(s);
            if (more) {
                pause_ms(&signals, rest_ms(s), &signum);
                on_signal(s, signum);
            }
        }
        code = s->refused ? EXIT_FAILED : EXIT_OK;
    }
    free(s);
    return code;
}
