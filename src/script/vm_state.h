/* vm_state.h - the inside of a vm, shared by vm.c, limits.c and task.c. Private to script/. */
#ifndef SCRIPT_VM_STATE_H
#define SCRIPT_VM_STATE_H

#include "script/heap.h"
#include "script/task.h"
#include "script/vm.h"

#include <lua.h>
#include <signal.h>

struct vm {
    struct heap heap; /* first: the allocator's ud is the vm */
    struct loop *loop;
    lua_State *L;
    char *lua_dir;
    char trusted[65]; /* the hash of the trusted modules so far */
    int64_t burst_us, total_us;
    struct task *tasks;   /* all that aren't done */
    struct task *running; /* the task whose Lua runs, if it is a task's */
    int *idle;            /* coroutines that may run again: their places in the registry */
    size_t nidle, idle_size;
    int pause; /* of the collector, in percent of what lives */

    /* The run that is going on, between vm_enter and vm_leave. */
    lua_State *entered;          /* the thread that was entered; NULL: no Lua is running */
    lua_State *volatile thread;  /* that one, or the coroutine that it has resumed */
    volatile sig_atomic_t ticks; /* of CPU, in this burst */
    int64_t used_us;             /* what its task has used before */
    int64_t may_us, may_total_us;
    size_t settled;   /* memory in use after the last full collection that vm_enter made */
    size_t rested;    /* memory held after the last vm_rest */
    char killed[200]; /* why this run has to end; "" while it may go on */
    char place[120];  /* where it was when it had taken half of the memory */
};

struct vm *vm_of(lua_State *L);

/* limits.c. Begins and ends a run of Lua on a thread of this vm: arms the limits. used_us is the
 * CPU the task has used before, or -1 for a call, which has no total. */
void vm_enter(struct vm *vm, lua_State *thread, int64_t used_us);
/* Returns the CPU that the task has used in all; vm->killed tells whether it exceeded a limit. */
int64_t vm_leave(struct vm *vm);
/* The run that was entered is given texts of so many bytes: it may take longer. */
void vm_give(struct vm *vm, size_t bytes);
/* Starts the clock that all runs of this process are watched by; once is enough. */
bool limits_start(struct err *err);
/* One vm more or less has tasks: those share what garbage there may be. */
void limits_share(int by);
int limits_burst(lua_State *L);        /* host.burst */
void limits_open(lua_State *L);        /* makes `coroutine` known to the limits; may raise */
void limits_filled(struct heap *heap); /* heap.filled of a vm */

/* Pushes the function of the main module, kept by the address of its name, a constant; raises when
 * there is none. */
void vm_push_function(lua_State *L, const char *name);
void vm_push_slices(lua_State *L, const struct slice *args, size_t nargs);
/* Pushes the text of the error value at index. May raise. */
void vm_push_error_text(lua_State *L, int index);

/* task.c: host.post, host.lent, host.ask, and what makes coroutine.yield talk to the owner. May
 * raise.
 */
int task_post(lua_State *L);
int task_lent(lua_State *L);
int task_ask(lua_State *L);
void task_open(lua_State *L);

#endif
