/* task.h - one running coroutine of a vm.
 *
 *     running --yield--> waiting --task_resume--> running --> done
 *
 * Lua talks to the owner by lists of strings, delivered to `posted` after the coroutine has yielded
 * (never inside it): one for each `host.post(...)`, then what was given to `coroutine.yield(...)`
 * itself, if anything. It then waits in that yield until the owner resumes it with strings, which
 * the yield returns. The owner hears `done` exactly once, from the loop, unless it cancelled the
 * task. */
#ifndef SCRIPT_TASK_H
#define SCRIPT_TASK_H

#include "script/vm.h"

struct task;

enum task_status {
    TASK_RETURNED, /* the function returned */
    TASK_RAISED,   /* an error; result is its message */
    TASK_KILLED    /* it ran out of CPU or memory; result says which, with the place */
};

struct task_owner {
    void (*posted)(void *ctx, struct task *task, const struct slice *args, size_t nargs);
    void (*done)(void *ctx, struct task *task, enum task_status status, const char *result,
                 size_t len);
    /* A text that its Lua asks for by host.lent(name), and seldom does. It stays the owner's, until
     * the next such question; NULL data: there is none. May be NULL when nothing is lent. */
    struct slice (*lend)(void *ctx, const char *name);
};

/* Starts main[function](args...) in a coroutine, from the loop's next turn on; the function's name
 * is a constant, args are copied. */
struct task *task_start(struct vm *vm, const char *function, const struct slice *args, size_t nargs,
                        const struct task_owner *owner, void *ctx);
/* Resumes a waiting task from the loop's next turn; args are copied. Several resumes queue up. One
 * that waits in `host.ask(...)` instead of a yield gets those behind the first TASK_ADDRESS, which
 * tell which of several waiters they are for. */
#define TASK_ADDRESS 3
void task_resume(struct task *task, const struct slice *args, size_t nargs);
/* Ends the task now: nothing more is delivered; its <close> variables are closed. */
void task_cancel(struct task *task);
/* Whose Lua this is, a uuid's text that lives as long as the task: marked while it runs (mark.h),
 * so that a death of the process is blamed on it. */
void task_blame(struct task *task, const char *instance);

/* The ctx of the task whose Lua is running right now in this process, or NULL. */
void *task_running(void);

#endif
