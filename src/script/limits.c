/* limits.c - what a run of Lua may take.
 *
 * Memory is counted by the allocator (heap.c). CPU is counted in ticks: a timer on the CPU clock of
 * the thread that runs Lua sends it a signal every few milliseconds that it has computed, and the
 * run that it interrupts is charged. A run without a tick costs nothing, not even a look at a
 * clock, and Lua runs without a hook until a tick finds a limit exceeded, or memory getting short.
 *
 * A body that is replayed runs through in one go what it did in many: each completion that is
 * handed over, and each coroutine that is resumed, begins a burst of its own, as it did before. And
 * whoever is given a long text has to read it first, which is C's time and not the author's.
 *
 * Such a run is *killed*: the hook raises, and from then on raises at each instruction, so that no
 * pcall can go on; whoever entered the run sees `killed` even if the script returned as if nothing
 * had been. The hook must be set on the coroutine that is running, so we are told of each: the
 * only way to run one is our `coroutine.resume`.
 *
 * A hook can't interrupt C: lua/sandbox.lua bounds what company files may give to the string
 * library. Nor does it see the message handler of an xpcall, so company files have no xpcall. */
#include "script/vm_state.h"

#include "script/host.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define TICK_US 4000
#define MAX_PAUSE 1000      /* percent; Lua knows no more */
#define GARBAGE (32u << 20) /* may lie about in all vms with tasks, beside little that lives */
#define FEW (6u << 20)      /* in each other, which nobody asks to rest */
#define BYTES_PER_US 20     /* of a text that is read; it takes a fifth of that */

static struct vm *volatile running; /* the vm that is entered, in this process */
static size_t sharing;              /* vms with tasks */

/* ---- the clock ---- */

static void watch(lua_State *L, lua_Debug *ar);

/* In this burst. */
static int64_t spent(const struct vm *vm)
{
    return (int64_t)vm->ticks * TICK_US;
}

static void begin_burst(struct vm *vm)
{
    vm->used_us += spent(vm);
    vm->ticks = 0;
}

/* The signal handler. lua_sethook is the one function of Lua that may be called from one. */
static void tick(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    struct vm *vm = running;
    if (!vm)
        return;
    vm->ticks += 1 + info->si_overrun;
    bool look = (!*vm->place && vm->heap.used > vm->heap.cap / 2) || spent(vm) > vm->may_us ||
                (vm->may_total_us && vm->used_us + spent(vm) > vm->may_total_us);
    if (look && !lua_gethook(vm->thread)) /* which takes long when calls are deep */
        lua_sethook(vm->thread, watch, LUA_MASKCOUNT, 1);
}

bool limits_start(struct err *err)
{
    static pid_t started; /* a child of a fork has no timers */
    if (started == getpid())
        return true;
    struct sigaction action = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,
                             .sigev_signo = SIGVTALRM,
                             .sigev_notify_thread_id = gettid()};
    struct itimerspec every = {{0, TICK_US * 1000}, {0, TICK_US * 1000}};
    timer_t timer;
    sigaction(SIGVTALRM, &action, NULL);
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) != 0 ||
        timer_settime(timer, 0, &every, NULL) != 0)
        return err_set(err, ERR_LIMIT, "there is no timer for the CPU time of scripts: %s",
                       strerror(errno));
    started = getpid();
    return true;
}

/* ---- killing ---- */

static void kill_run(struct vm *vm, lua_State *L, const char *what, int64_t amount,
                     const char *unit)
{
    char place[sizeof(vm->place)];
    snprintf(place, sizeof(place), "%s", vm->place);
    if (L)
        host_where(L, place, sizeof(place));
    snprintf(vm->killed, sizeof(vm->killed), "%s %lld %s%s%s%s", what, (long long)amount, unit,
             *place ? " (" : "", place, *place ? ")" : "");
}

static void kill_for_memory(struct vm *vm, lua_State *L)
{
    kill_run(vm, L, "used more than the allowed", (int64_t)(vm->heap.cap >> 20), "MB of memory");
}

static void look(struct vm *vm, lua_State *L)
{
    if (vm->heap.full)
        kill_for_memory(vm, L);
    else if (spent(vm) > vm->may_us)
        kill_run(vm, L, "used more than", vm->may_us / 1000, "ms of CPU without a wait");
    else if (vm->may_total_us && vm->used_us + spent(vm) > vm->may_total_us)
        kill_run(vm, L, "used more than", vm->may_total_us / 1000, "ms of CPU in all");
    else if (vm->heap.used > vm->heap.cap / 2)
        host_where(L, vm->place, sizeof(vm->place));
}

/* The hook. It may be left from an earlier run. */
static void watch(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    struct vm *vm = vm_of(L);
    if (vm->entered && !*vm->killed)
        look(vm, L);
    if (!vm->entered || !*vm->killed) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    lua_sethook(L, watch, LUA_MASKCOUNT, 1);
    lua_sethook(vm->entered, watch, LUA_MASKCOUNT, 1); /* L may be a coroutine of it */
    lua_pushstring(L, vm->killed);                     /* says itself where */
    lua_error(L);
}

/* From inside the allocator: nothing but lua_sethook may be called here. */
void limits_filled(struct heap *heap)
{
    struct vm *vm = (struct vm *)heap;
    if (vm->entered)
        lua_sethook(vm->thread, watch, LUA_MASKCOUNT, 1);
}

/* ---- a run ---- */

void limits_share(int by)
{
    sharing += (size_t)by;
}

/* Lua collects when what it uses has doubled. While it uses little, that is all the time, and costs
 * more than the work, as it drives what lives out of the processor's cache: then it may be several
 * times as much. Heard by Lua when a collection ends, when what is used is what lives. */
static void set_pause(struct vm *vm)
{
    size_t lives = vm->heap.used ? vm->heap.used : 1;
    size_t garbage = vm->tasks ? GARBAGE / sharing : FEW;
    int pause = lives >= garbage ? 200 : (int)(100 + 100 * garbage / lives);
    pause = pause > MAX_PAUSE ? MAX_PAUSE : pause;
    if (pause != vm->pause)
        lua_gc(vm->L, LUA_GCINC, pause, 0, 0);
    vm->pause = pause;
}

void vm_enter(struct vm *vm, lua_State *thread, int64_t used_us)
{
    must(!running); /* no vm is re-entrant, and none runs another */
    set_pause(vm);
    if (vm->heap.used > vm->heap.cap / 4 * 3 && vm->heap.used > vm->settled + vm->heap.cap / 16) {
        lua_gc(vm->L, LUA_GCCOLLECT);
        vm->settled = vm->heap.used;
    } else if (vm->heap.used < vm->settled) {
        vm->settled = vm->heap.used;
    }
    vm->killed[0] = vm->place[0] = '\0';
    vm->heap.full = false;
    vm->heap.refused = 0;
    vm->entered = vm->thread = thread;
    vm->may_us = vm->burst_us;
    vm->used_us = used_us < 0 ? 0 : used_us;
    vm->may_total_us = used_us < 0 ? 0 : vm->total_us;
    vm->ticks = 0;
    running = vm;
}

int64_t vm_leave(struct vm *vm)
{
    running = NULL;
    if (!*vm->killed && heap_is_full(&vm->heap))
        kill_for_memory(vm, NULL);
    vm->entered = vm->thread = NULL;
    begin_burst(vm);
    return vm->used_us;
}

void vm_give(struct vm *vm, size_t bytes)
{
    vm->may_us += (int64_t)(bytes / BYTES_PER_US);
}

/* coroutine.resume, as Lua's own */
static int l_resume(lua_State *L)
{
    struct vm *vm = vm_of(L);
    lua_State *co = lua_tothread(L, 1);
    int nargs = lua_gettop(L) - 1, count = 0;
    luaL_argexpected(L, co, 1, "coroutine");
    if (!lua_checkstack(co, nargs))
        return luaL_error(L, "too many arguments to resume");
    lua_xmove(L, co, nargs);
    begin_burst(vm);
    vm->thread = co;
    int status = lua_resume(co, L, nargs, &count);
    vm->thread = L;
    begin_burst(vm);
    bool ok = status == LUA_OK || status == LUA_YIELD;
    if (!lua_checkstack(L, count + 1)) {
        lua_pop(co, count);
        return luaL_error(L, "too many results to resume");
    }
    lua_pushboolean(L, ok);
    lua_xmove(co, L, ok ? count : 1);
    return ok ? count + 1 : 2;
}

/* host.burst(): what comes is another turn of a task that is replayed */
int limits_burst(lua_State *L)
{
    begin_burst(vm_of(L));
    return 0;
}

void limits_open(lua_State *L)
{
    lua_getglobal(L, LUA_COLIBNAME);
    lua_pushcfunction(L, l_resume);
    lua_setfield(L, -2, "resume");
    lua_pushnil(L);
    lua_setfield(L, -2, "wrap"); /* would run one that we don't know of */
    lua_pushnil(L);
    lua_setfield(L, -2, "close");
    lua_pop(L, 1);
}
