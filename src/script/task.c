/* task.c - coroutines of a vm, resumed by the loop only.
 *
 * A task holds a queue of resumes; the first one carries the arguments of the start. Each turn of
 * the loop takes one: it runs Lua until the next yield, then delivers what was posted, then the
 * end if it ended. The owner may cancel the task inside these callbacks: `gone` tells the turn
 * that the task is no more. What a killed run posted is thrown away. */
#include "script/vm_state.h"

#include "base/crash.h"
#include "base/log.h"
#include "base/mark.h"
#include "base/mem.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#define MAX_IDLE 256           /* coroutines kept for other tasks */
#define MAX_POSTED (32u << 20) /* bytes posted between two yields */

/* A list of strings in one block of memory. */
struct batch {
    struct batch *next;
    size_t nargs;
    struct slice args[];
};

struct queue {
    struct batch *first, **end;
};

struct task {
    struct vm *vm;
    struct task *next, **link; /* in vm->tasks */
    lua_State *co;
    int ref; /* of the coroutine in the registry */
    const struct task_owner *owner;
    void *ctx;
    const char *blame; /* whose Lua it is; NULL: nobody's */
    char *function;
    struct queue resumes, posts;
    size_t posted_bytes;
    int64_t used_us;
    bool deferred; /* a turn is due */
    bool returned; /* its function has returned */
    bool *gone;    /* set when the task is freed during its turn */
};

static void *running_ctx; /* of the task whose Lua runs in this process */

void *task_running(void)
{
    return running_ctx;
}

void task_blame(struct task *task, const char *instance)
{
    task->blame = instance && strlen(instance) == MARK_LEN ? instance : NULL;
}

/* ---- batches ---- */

static struct batch *batch_new(const struct slice *args, size_t nargs)
{
    size_t size = sizeof(struct batch) + nargs * sizeof(struct slice);
    size_t bytes = 0;
    for (size_t i = 0; i < nargs; i++)
        bytes += args[i].data ? args[i].len + 1 : 0;
    struct batch *batch = xcalloc(1, size + bytes);
    char *to = (char *)batch + size;
    batch->nargs = nargs;
    for (size_t i = 0; i < nargs; i++) {
        if (!args[i].data)
            continue;
        memcpy(to, args[i].data, args[i].len);
        batch->args[i] = (struct slice){to, args[i].len};
        to += args[i].len + 1;
    }
    return batch;
}

static void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
}

static void queue_add(struct queue *queue, struct batch *batch)
{
    *queue->end = batch;
    queue->end = &batch->next;
}

static struct batch *queue_take(struct queue *queue)
{
    struct batch *batch = queue->first;
    if (!batch)
        return NULL;
    queue->first = batch->next;
    if (!queue->first)
        queue->end = &queue->first;
    return batch;
}

static void queue_fini(struct queue *queue)
{
    struct batch *batch;
    while ((batch = queue_take(queue)))
        free(batch);
}

/* ---- life ---- */

static void task_turn(void *ctx);

static void defer(struct task *task)
{
    if (task->deferred || !task->resumes.first)
        return;
    task->deferred = true;
    loop_defer(task->vm->loop, task_turn, task);
}

struct task *task_start(struct vm *vm, const char *function, const struct slice *args, size_t nargs,
                        const struct task_owner *owner, void *ctx)
{
    struct task *task = xcalloc(1, sizeof(*task));
    task->vm = vm;
    task->owner = owner;
    task->ctx = ctx;
    task->function = xstrdup(function);
    task->ref = LUA_NOREF;
    queue_init(&task->resumes);
    queue_init(&task->posts);
    task->next = vm->tasks;
    task->link = &vm->tasks;
    if (vm->tasks)
        vm->tasks->link = &task->next;
    vm->tasks = task;
    queue_add(&task->resumes, batch_new(args, nargs));
    defer(task);
    return task;
}

void task_resume(struct task *task, const struct slice *args, size_t nargs)
{
    queue_add(&task->resumes, batch_new(args, nargs));
    if (!task->gone) /* else its turn looks at the queue when it ends */
        defer(task);
}

static void unlink_task(struct task *task)
{
    *task->link = task->next;
    if (task->next)
        task->next->link = task->link;
}

/* One whose function returned may run another; any other is left to the collector. */
static void keep_coroutine(struct task *task)
{
    struct vm *vm = task->vm;
    if (!task->returned || vm->nidle == MAX_IDLE) {
        luaL_unref(vm->L, LUA_REGISTRYINDEX, task->ref);
        return;
    }
    if (vm->nidle == vm->idle_size) {
        vm->idle_size = vm->idle_size ? vm->idle_size * 2 : 16;
        vm->idle = xrealloc(vm->idle, vm->idle_size * sizeof(*vm->idle));
    }
    lua_settop(task->co, 0);
    vm->idle[vm->nidle++] = task->ref;
}

/* Frees everything but the coroutine, which must have been closed. */
static void task_free(struct task *task)
{
    if (task->gone)
        *task->gone = true;
    if (task->deferred)
        loop_undefer(task->vm->loop, task);
    keep_coroutine(task);
    unlink_task(task);
    queue_fini(&task->resumes);
    queue_fini(&task->posts);
    free(task->function);
    free(task);
}

/* Closes the coroutine: its pending <close> variables run, under the limits of one run. */
static void close_coroutine(struct task *task)
{
    if (!task->co || task->returned)
        return;
    task->vm->running = NULL; /* nothing can be posted any more */
    vm_enter(task->vm, task->co, -1);
    lua_resetthread(task->co);
    vm_leave(task->vm);
}

void task_cancel(struct task *task)
{
    must(task->vm->running != task);
    close_coroutine(task);
    task_free(task);
}

/* ---- a turn ---- */

struct start {
    struct task *task;
    const struct batch *batch;
};

static void get_coroutine(lua_State *L, struct task *task)
{
    struct vm *vm = task->vm;
    if (vm->nidle > 0) {
        task->ref = vm->idle[--vm->nidle];
        lua_rawgeti(L, LUA_REGISTRYINDEX, task->ref);
        task->co = lua_tothread(L, -1);
        lua_pop(L, 1);
        return;
    }
    lua_State *co = lua_newthread(L);
    task->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    task->co = co;
}

/* Makes the coroutine at the first resume and moves the arguments onto it. */
static int prepare(lua_State *L)
{
    const struct start *start = lua_touserdata(L, 1);
    struct task *task = start->task;
    int extra = 0;
    if (!task->co) {
        get_coroutine(L, task);
        vm_push_function(L, task->function);
        extra = 1;
    }
    vm_push_slices(L, start->batch->args, start->batch->nargs);
    int count = (int)start->batch->nargs + extra;
    if (!lua_checkstack(task->co, count))
        return luaL_error(L, "too many arguments");
    lua_xmove(L, task->co, count);
    return 0;
}

/* The text of what ended a coroutine, which is on its top; the traceback is only logged. */
static int explain(lua_State *L)
{
    lua_State *co = lua_touserdata(L, 1);
    if (!lua_checkstack(co, 4))
        return 0;
    lua_xmove(co, L, 1);
    vm_push_error_text(L, -1);
    luaL_traceback(L, co, NULL, 0);
    log_debug("script", "a task raised an error", "error", lua_tostring(L, -2), "trace",
              lua_tostring(L, -1), NULL);
    lua_pop(L, 1);
    return 1;
}

/* The text of what ended the task, on the top of the main thread's stack. */
static const char *failure(struct task *task, const char *instead)
{
    lua_State *L = task->vm->L;
    lua_pushcfunction(L, explain);
    lua_pushlightuserdata(L, task->co);
    lua_pcall(L, 1, 1, 0);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    return text ? text : instead;
}

/* Gives what was posted to the owner. False: the owner cancelled the task. */
static bool deliver(struct task *task)
{
    const bool *gone = task->gone;
    struct queue posts = task->posts;
    if (!posts.first)
        return true;
    queue_init(&task->posts);
    task->posted_bytes = 0;
    struct batch *batch;
    while (!*gone && (batch = queue_take(&posts))) {
        task->owner->posted(task->ctx, task, batch->args, batch->nargs);
        free(batch);
    }
    queue_fini(&posts);
    return !*gone;
}

/* Tells the owner of the end and frees the task. The text may be Lua's: it is copied first. */
static void finish(struct task *task, enum task_status status, const char *text, size_t len)
{
    char *result = xstrndup(text, len);
    close_coroutine(task);
    if (status == TASK_KILLED)
        queue_fini(&task->posts);
    if (deliver(task)) {
        bool *gone = task->gone;
        task->owner->done(task->ctx, task, status, result, len);
        if (!*gone)
            task_free(task);
    }
    free(result);
}

static void finish_text(struct task *task, enum task_status status, const char *text)
{
    finish(task, status, text, strlen(text));
}

/* After a run that returned `status` with `count` values on the coroutine's stack. */
static void settle(struct task *task, int status, int count)
{
    char killed[sizeof(task->vm->killed)];
    memcpy(killed, task->vm->killed, sizeof(killed));
    if (status != LUA_OK && status != LUA_YIELD) {
        const char *text = failure(task, *killed ? killed : "an error of Lua");
        if (*killed && !strstr(text, killed)) {
            char *both = xprintf("%s: %s", killed, text);
            finish_text(task, TASK_KILLED, both);
            free(both);
        } else {
            finish_text(task, *killed ? TASK_KILLED : TASK_RAISED, text);
        }
    } else if (*killed) {
        finish_text(task, TASK_KILLED, killed);
    } else if (status == LUA_YIELD) {
        lua_pop(task->co, count);
        deliver(task);
    } else if (count > 0 && lua_type(task->co, -count) == LUA_TSTRING) {
        size_t len;
        const char *text = lua_tolstring(task->co, -count, &len);
        finish(task, TASK_RETURNED, text, len);
    } else {
        finish_text(task, TASK_RETURNED, "");
    }
}

static void run(struct task *task, const struct batch *batch)
{
    struct vm *vm = task->vm;
    lua_State *L = vm->L;
    struct start start = {task, batch};
    int count = 0;
    lua_settop(L, 0);
    vm_enter(vm, L, task->used_us);
    lua_pushcfunction(L, prepare);
    lua_pushlightuserdata(L, &start);
    int status = lua_pcall(L, 1, 0, 0);
    vm_leave(vm);
    if (status != LUA_OK) {
        const char *why = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "out of memory";
        bool killed = *vm->killed != '\0';
        finish_text(task, killed ? TASK_KILLED : TASK_RAISED, killed ? vm->killed : why);
        return;
    }
    int nargs = lua_gettop(task->co) - (lua_status(task->co) == LUA_OK ? 1 : 0);
    vm_enter(vm, task->co, task->used_us);
    vm->running = task;
    running_ctx = task->ctx;
    mark_set(task->blame);
    if (task->blame)
        crash_point("lua", task->blame);
    status = lua_resume(task->co, L, nargs, &count);
    mark_clear();
    running_ctx = NULL;
    vm->running = NULL;
    task->used_us += vm_leave(vm);
    task->returned = status == LUA_OK && !*vm->killed;
    settle(task, status, count);
}

static void task_turn(void *ctx)
{
    struct task *task = ctx;
    struct batch *batch = queue_take(&task->resumes);
    bool gone = false;
    task->deferred = false;
    task->gone = &gone;
    run(task, batch);
    free(batch);
    if (gone)
        return;
    task->gone = NULL;
    defer(task);
}

/* host.post(...): strings, nils and numbers for the owner, after the next yield. */
int task_post(lua_State *L)
{
    struct vm *vm = vm_of(L);
    struct task *task = vm->running;
    if (!task)
        return luaL_error(L, "host.post: no task is running");
    int nargs = lua_gettop(L);
    struct slice *args = lua_newuserdatauv(L, (size_t)nargs * sizeof(*args) + 1, 0);
    size_t bytes = 0;
    for (int i = 1; i <= nargs; i++) {
        args[i - 1] = (struct slice){NULL, 0};
        if (!lua_isnil(L, i))
            args[i - 1].data = luaL_checklstring(L, i, &args[i - 1].len);
        bytes += args[i - 1].len;
    }
    if (task->posted_bytes + bytes > MAX_POSTED)
        return luaL_error(L, "host.post: more than %d MB at once", (int)(MAX_POSTED >> 20));
    task->posted_bytes += bytes;
    queue_add(&task->posts, batch_new(args, (size_t)nargs));
    return 0;
}
