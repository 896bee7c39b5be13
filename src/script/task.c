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
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

#define MAX_IDLE 256           /* coroutines kept for other tasks */
#define MAX_POSTED (32u << 20) /* bytes posted between two yields */
#define MAX_YIELDED 12

/* A list of strings in one block of memory. */
struct batch {
    struct batch *next;
    size_t nargs, bytes;
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
    const char *function;
    const struct batch *given; /* what the run that goes on was resumed with */
    struct queue resumes, posts;
    size_t posted_bytes;
    int yielded; /* values that wait on its stack for the next resume to take them away */
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
    struct batch *batch = xmalloc(size + bytes);
    char *to = (char *)batch + size;
    batch->next = NULL;
    batch->nargs = nargs;
    batch->bytes = bytes;
    for (size_t i = 0; i < nargs; i++) {
        batch->args[i] = (struct slice){args[i].data ? to : NULL, args[i].len};
        if (!args[i].data)
            continue;
        to = mempcpy(to, args[i].data, args[i].len);
        *to++ = '\0';
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
    loop_next(task->vm->loop, task_turn, task);
}

struct task *task_start(struct vm *vm, const char *function, const struct slice *args, size_t nargs,
                        const struct task_owner *owner, void *ctx)
{
    struct task *task = xcalloc(1, sizeof(*task));
    task->vm = vm;
    task->owner = owner;
    task->ctx = ctx;
    task->function = function;
    task->ref = LUA_NOREF;
    queue_init(&task->resumes);
    queue_init(&task->posts);
    task->next = vm->tasks;
    task->link = &vm->tasks;
    if (vm->tasks)
        vm->tasks->link = &task->next;
    else
        limits_share(1);
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
    if (!task->vm->tasks)
        limits_share(-1);
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

static struct task *running_task(lua_State *L)
{
    struct task *task = vm_of(L)->running;
    return task && task->co == L ? task : NULL;
}

static int started(lua_State *L, int status, lua_KContext ctx)
{
    (void)L, (void)status, (void)ctx;
    return 1;
}

/* What a coroutine of ours runs: main[function](args...). */
static int start(lua_State *L)
{
    const struct task *task = running_task(L);
    const struct batch *given = task->given;
    vm_push_function(L, task->function);
    vm_push_slices(L, given->args, given->nargs);
    lua_callk(L, (int)given->nargs, 1, 0, started);
    return 1;
}

/* Pushes what the task was resumed with, from one on. */
static int resumed(lua_State *L, int status, lua_KContext from)
{
    (void)status;
    const struct batch *given = running_task(L)->given;
    size_t first = (size_t)from < given->nargs ? (size_t)from : given->nargs;
    vm_push_slices(L, given->args + first, given->nargs - first);
    return (int)(given->nargs - first);
}

/* What is given to the owner are strings, or nils. */
static int check_yielded(lua_State *L)
{
    int count = lua_gettop(L);
    luaL_argcheck(L, count <= MAX_YIELDED, MAX_YIELDED + 1, "too many values for the owner");
    for (int i = 1; i <= count; i++)
        if (!lua_isnil(L, i))
            luaL_checkstring(L, i);
    return count;
}

/* What the task itself yields is for its owner, and it gets what that resumes it with; the strings
 * are made here, where running out of memory is an error of the script. */
static int yield(lua_State *L, lua_KContext from)
{
    if (!running_task(L))
        return lua_yield(L, lua_gettop(L));
    return lua_yieldk(L, check_yielded(L), from, resumed);
}

/* coroutine.yield */
static int l_yield(lua_State *L)
{
    return yield(L, 0);
}

/* host.ask(...): the same for who waits for one answer only, and so needs no address in it. */
int task_ask(lua_State *L)
{
    return yield(L, TASK_ADDRESS);
}

void task_open(lua_State *L)
{
    lua_getglobal(L, LUA_COLIBNAME);
    lua_pushcfunction(L, l_yield);
    lua_setfield(L, -2, "yield");
    lua_pop(L, 1);
}

static int new_coroutine(lua_State *L)
{
    struct task *task = lua_touserdata(L, 1);
    lua_State *co = lua_newthread(L);
    task->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    task->co = co;
    return 0;
}

/* One from an earlier task, or a new one: false when there is no memory for it. */
static bool get_coroutine(struct task *task)
{
    struct vm *vm = task->vm;
    lua_State *L = vm->L;
    if (vm->nidle > 0) {
        task->ref = vm->idle[--vm->nidle];
        lua_rawgeti(L, LUA_REGISTRYINDEX, task->ref);
        task->co = lua_tothread(L, -1);
        lua_pop(L, 1);
    } else {
        lua_pushcfunction(L, new_coroutine);
        lua_pushlightuserdata(L, task);
        if (lua_pcall(L, 1, 0, 0) != LUA_OK)
            return false;
    }
    lua_pushcfunction(task->co, start);
    return true;
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

/* Gives what was yielded, the `count` values on top, to the owner; they stay until it resumes. */
static void deliver_yielded(struct task *task, int count)
{
    struct slice args[MAX_YIELDED];
    task->yielded = count;
    for (int i = 0; i < count; i++)
        args[i].data = lua_tolstring(task->co, i - count, &args[i].len);
    if (count > 0)
        task->owner->posted(task->ctx, task, args, (size_t)count);
}

/* Tells the owner of the end and frees the task. */
static void finish(struct task *task, enum task_status status, const char *text, size_t len)
{
    close_coroutine(task);
    if (status == TASK_KILLED)
        queue_fini(&task->posts);
    if (!deliver(task))
        return;
    bool *gone = task->gone;
    task->owner->done(task->ctx, task, status, text, len);
    if (!*gone)
        task_free(task);
}

/* The same with a text of Lua that the end of the coroutine may take away. */
static void finish_text(struct task *task, enum task_status status, const char *text)
{
    char *kept = xstrdup(text);
    finish(task, status, kept, strlen(kept));
    free(kept);
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
        if (deliver(task))
            deliver_yielded(task, count);
    } else if (count > 0 && lua_type(task->co, -count) == LUA_TSTRING) {
        size_t len;
        const char *text = lua_tolstring(task->co, -count, &len);
        finish(task, TASK_RETURNED, text, len); /* its stack keeps the text */
    } else {
        finish(task, TASK_RETURNED, "", 0);
    }
}

static void run(struct task *task)
{
    struct vm *vm = task->vm;
    int count = 0;
    lua_settop(vm->L, 0);
    if (!task->co && !get_coroutine(task)) {
        finish_text(task, TASK_RAISED, "out of memory");
        return;
    }
    if (lua_status(task->co) == LUA_YIELD)
        lua_pop(task->co, task->yielded);
    task->yielded = 0;
    vm_enter(vm, task->co, task->used_us);
    vm_give(vm, task->given->bytes);
    vm->running = task;
    running_ctx = task->ctx;
    mark_set(task->blame);
    if (task->blame)
        crash_point("lua", task->blame);
    int status = lua_resume(task->co, vm->L, 0, &count);
    mark_clear();
    running_ctx = NULL;
    vm->running = NULL;
    task->used_us = vm_leave(vm);
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
    task->given = batch;
    run(task);
    free(batch);
    if (gone)
        return;
    task->gone = NULL;
    task->given = NULL;
    defer(task);
}

/* host.lent(name) -> a text that the owner lends the task, or nil */
int task_lent(lua_State *L)
{
    const struct task *task = vm_of(L)->running;
    const char *name = luaL_checkstring(L, 1);
    if (!task)
        return luaL_error(L, "host.lent: no task is running");
    struct slice text = {NULL, 0};
    if (task->owner->lend)
        text = task->owner->lend(task->ctx, name);
    vm_push_slices(L, &text, 1);
    return 1;
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
