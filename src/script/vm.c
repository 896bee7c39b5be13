/* vm.c - a Lua state: its modules, and calls of them. What a run may take is in limits.c.
 *
 * Errors. Nothing of the Lua API that may raise is called outside a protected call; a panic would
 * be our own bug, and aborts. */
#include "script/vm_state.h"

#include "script/host.h"

#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <lauxlib.h>
#include <malloc.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MEMORY (64u << 20)
#define DEFAULT_BURST_MS 50
#define DEFAULT_TOTAL_MS 1000
#define LOAD_MS 2000 /* for the modules at creation */
#define MAX_MODULE (1u << 20)
#define MUCH (4u << 20) /* bytes that are worth giving back */

static const char main_key; /* its address is a registry key */

struct slice slice_of(const char *text)
{
    return (struct slice){text, text ? strlen(text) : 0};
}

struct vm *vm_of(lua_State *L)
{
    void *ud;
    lua_getallocf(L, &ud);
    return ud;
}

static int panic(lua_State *L)
{
    const char *why = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "unknown";
    log_error("script", "Lua error outside a protected call", "error", why, NULL);
    abort();
}

/* ---- trusted modules ---- */

/* Reads a whole file into out. */
static bool read_module(const char *path, struct buf *out)
{
    FILE *file = fopen(path, "rbe");
    if (!file)
        return false;
    char chunk[8192];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
        buf_add(out, chunk, n);
    bool read = !ferror(file);
    fclose(file);
    return read && !out->overflow;
}

static bool is_module_name(const char *name, size_t len)
{
    return len > 0 && len < 100 && name[0] != '.' && name[len - 1] != '.' && !strstr(name, "..") &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.") == len;
}

/* Takes a module into the hash of what this vm trusts. */
static void add_trusted(struct vm *vm, const char *name, const struct buf *text)
{
    char digest[65];
    digest_sha256_hex(text->data ? text->data : "", text->len, digest);
    char *all = xprintf("%s %s %s", vm->trusted, name, digest);
    digest_sha256_hex(all, strlen(all), vm->trusted);
    free(all);
}

/* Pushes the chunk of a trusted module. */
static void load_module(lua_State *L, const char *name)
{
    struct vm *vm = vm_of(L);
    char file[110], path[4096], chunk[128];
    snprintf(file, sizeof(file), "%s.lua", name);
    for (char *c = file; c < file + strlen(name); c++)
        if (*c == '.')
            *c = '/';
    snprintf(chunk, sizeof(chunk), "@lua/%s", file);
    snprintf(path, sizeof(path), "%s/%s", vm->lua_dir, file);

    struct buf text;
    buf_init(&text, MAX_MODULE);
    errno = 0;
    bool read = read_module(path, &text);
    int saved = errno;
    int status = LUA_OK;
    if (read)
        add_trusted(vm, name, &text);
    if (read)
        status = luaL_loadbufferx(L, text.data ? text.data : "", text.len, chunk, "t");
    buf_fini(&text);
    if (!read)
        luaL_error(L, "module '%s' can't be read from %s: %s", name, path,
                   saved ? strerror(saved) : "it is too long");
    if (status != LUA_OK)
        lua_error(L);
}

/* require(name): only files of lua_dir; each is run once. */
static int l_require(lua_State *L)
{
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len);
    lua_settop(L, 1);
    luaL_argcheck(L, is_module_name(name, len), 1, "not the name of a module");
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, 2, name);
    if (lua_islightuserdata(L, -1))
        return luaL_error(L, "module '%s' requires itself", name);
    if (!lua_isnil(L, -1))
        return 1;
    lua_pop(L, 1);
    load_module(L, name);
    lua_pushlightuserdata(L, (void *)&main_key); /* marks that it is being loaded */
    lua_setfield(L, 2, name);
    lua_pushvalue(L, 1);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
        lua_pushnil(L);
        lua_setfield(L, 2, name);
        return lua_error(L);
    }
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, true);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, 2, name);
    return 1;
}

/* ---- creation ---- */

static void open_libraries(lua_State *L)
{
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base},       {LUA_COLIBNAME, luaopen_coroutine},
        {LUA_TABLIBNAME, luaopen_table}, {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, luaopen_math}, {LUA_UTF8LIBNAME, luaopen_utf8}};
    static const char *const absent[] = {"dofile", "loadfile", "print"}; /* stdout isn't ours */
    for (size_t i = 0; i < ARRAY_LEN(libraries); i++) {
        luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
        lua_pop(L, 1);
    }
    for (size_t i = 0; i < ARRAY_LEN(absent); i++) {
        lua_pushnil(L);
        lua_setglobal(L, absent[i]);
    }
    limits_open(L);
    task_open(L);
}

static int open_vm(lua_State *L)
{
    const char *main_module = lua_touserdata(L, 1);
    open_libraries(L);
    lua_pushcfunction(L, l_require);
    lua_setglobal(L, "require");
    host_open(L);
    lua_pushcfunction(L, task_post);
    lua_setfield(L, -2, "post");
    lua_pushcfunction(L, task_lent);
    lua_setfield(L, -2, "lent");
    lua_pushcfunction(L, task_ask);
    lua_setfield(L, -2, "ask");
    lua_pushcfunction(L, limits_burst);
    lua_setfield(L, -2, "burst");
    lua_setglobal(L, "host");

    lua_pushcfunction(L, l_require);
    lua_pushstring(L, main_module);
    lua_call(L, 1, 1);
    if (!lua_istable(L, -1))
        return luaL_error(L, "module '%s' must return a table of functions", main_module);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &main_key);
    return 0;
}

/* The message handler of calls: the text of the error; its traceback is only logged. */
static int explain(lua_State *L)
{
    vm_push_error_text(L, 1);
    luaL_traceback(L, L, NULL, 1);
    log_debug("script", "Lua raised an error", "error", lua_tostring(L, -2), "trace",
              lua_tostring(L, -1), NULL);
    lua_pop(L, 1);
    return 1;
}

/* Calls function(*ctx) on the main thread under the limits; one result stays on the stack. */
static bool protect(struct vm *vm, int64_t may_us, lua_CFunction function, void *ctx,
                    struct err *err)
{
    lua_State *L = vm->L;
    lua_settop(L, 0);
    lua_pushcfunction(L, explain);
    lua_pushcfunction(L, function);
    lua_pushlightuserdata(L, ctx);
    vm_enter(vm, L, -1);
    vm->may_us = may_us;
    int status = lua_pcall(L, 1, 1, 1);
    vm_leave(vm);
    if (status == LUA_OK && !*vm->killed)
        return true;
    if (*vm->killed)
        return err_set(err, ERR_LIMIT, "%s", vm->killed);
    const char *why = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error of Lua";
    return err_set(err, ERR_SCRIPT, "%s", why);
}

struct vm *vm_new(struct loop *loop, const struct vm_options *options, struct err *err)
{
    if (!limits_start(err))
        return NULL;
    struct vm *vm = xcalloc(1, sizeof(*vm));
    vm->loop = loop;
    vm->lua_dir = xstrdup(options->lua_dir);
    vm->heap.cap = options->memory ? options->memory : DEFAULT_MEMORY;
    vm->heap.filled = limits_filled;
    vm->burst_us = 1000LL * (options->burst_ms ? options->burst_ms : DEFAULT_BURST_MS);
    vm->total_us = 1000LL * (options->total_ms ? options->total_ms : DEFAULT_TOTAL_MS);
    vm->L = lua_newstate(heap_alloc, vm);
    if (!vm->L) {
        err_set(err, ERR_LIMIT, "%zu bytes are too little memory for a Lua state", vm->heap.cap);
        heap_fini(&vm->heap);
        free(vm->lua_dir);
        free(vm);
        return NULL;
    }
    lua_atpanic(vm->L, panic);
    if (!protect(vm, LOAD_MS * 1000LL, open_vm, (void *)options->main, err)) {
        vm_free(vm);
        return NULL;
    }
    lua_settop(vm->L, 0);
    return vm;
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    must(!vm->entered);
    while (vm->tasks)
        task_cancel(vm->tasks);
    lua_close(vm->L);
    heap_fini(&vm->heap);
    free(vm->idle);
    free(vm->lua_dir);
    free(vm);
}

size_t vm_memory(const struct vm *vm)
{
    return vm->heap.used;
}

size_t vm_held(const struct vm *vm)
{
    return vm->heap.held;
}

void vm_rest(struct vm *vm)
{
    if (vm->entered || vm->tasks || vm->heap.held < vm->rested + MUCH)
        return;
    while (vm->nidle > 0)
        luaL_unref(vm->L, LUA_REGISTRYINDEX, vm->idle[--vm->nidle]);
    lua_gc(vm->L, LUA_GCCOLLECT);
    heap_trim(&vm->heap);
    vm->rested = vm->heap.held;
    malloc_trim(0); /* else glibc keeps it */
}

const char *vm_trusted(const struct vm *vm)
{
    return vm->trusted;
}

/* ---- calls ---- */

struct call {
    const char *function;
    const struct slice *args;
    size_t nargs;
};

void vm_push_function(lua_State *L, const char *name)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, name) == LUA_TFUNCTION)
        return;
    lua_pop(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &main_key);
    if (lua_getfield(L, -1, name) != LUA_TFUNCTION)
        luaL_error(L, "the main module has no function '%s'", name);
    lua_remove(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, name);
}

void vm_push_slices(lua_State *L, const struct slice *args, size_t nargs)
{
    luaL_checkstack(L, (int)nargs + 4, "too many arguments");
    for (size_t i = 0; i < nargs; i++)
        if (args[i].data)
            lua_pushlstring(L, args[i].data, args[i].len);
        else
            lua_pushnil(L);
}

void vm_push_error_text(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    if (lua_type(L, index) == LUA_TTABLE) {
        lua_pushliteral(L, "message");
        if (lua_rawget(L, index) == LUA_TSTRING)
            return;
        lua_pop(L, 1);
    }
    luaL_tolstring(L, index, NULL);
}

static int call_main(lua_State *L)
{
    const struct call *call = lua_touserdata(L, 1);
    vm_push_function(L, call->function);
    vm_push_slices(L, call->args, call->nargs);
    lua_call(L, (int)call->nargs, 1);
    if (!lua_isnil(L, -1) && lua_type(L, -1) != LUA_TSTRING)
        return luaL_error(L, "function '%s' returned a %s instead of a text", call->function,
                          luaL_typename(L, -1));
    return 1;
}

bool vm_call(struct vm *vm, const char *function, const struct slice *args, size_t nargs,
             struct buf *out, struct err *err)
{
    struct call call = {function, args, nargs};
    bool ok = protect(vm, vm->burst_us, call_main, &call, err);
    if (ok && out && lua_type(vm->L, -1) == LUA_TSTRING) {
        size_t len;
        const char *text = lua_tolstring(vm->L, -1, &len);
        if (!buf_add(out, text, len))
            ok = err_set(err, ERR_LIMIT, "the answer of '%s' is longer than %zu bytes", function,
                         out->cap);
    }
    lua_settop(vm->L, 0);
    return ok;
}
