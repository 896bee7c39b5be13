/* vm.h - one Lua state with limits, running one trusted main module.
 *
 * The main module (a file of lua/, such as "body") returns a table of functions; C calls them by
 * name with strings, mostly JSON. Trusted modules see `host` (script/host.c: JSON, hashes, zones,
 * log, post; lua/meta/host.lua lists it) and the standard library without io, os, debug, package
 * and print. What the company's files see is made by lua/sandbox.lua; from its first environment
 * on, the methods of strings (s:gsub, s:rep) are the bounded ones of company files for all Lua of
 * the vm. A vm is not re-entrant: calls come from the loop. */
#ifndef SCRIPT_VM_H
#define SCRIPT_VM_H

#include "base/buf.h"
#include "base/err.h"
#include "io/loop.h"

#include <stddef.h>

struct vm;

struct vm_options {
    const char *main;    /* the trusted module, e.g. "detect" */
    const char *lua_dir; /* where trusted modules are */
    size_t memory;       /* bytes; 0: 64 MB. Growth past it is an error of whoever grows */
    int burst_ms;        /* CPU between two yields or of one call; 0: 50 */
    int total_ms;        /* CPU of a task in all; 0: 1000 */
};

/* A string that may hold any bytes. */
struct slice {
    const char *data;
    size_t len;
};
struct slice slice_of(const char *text); /* NULL gives {NULL, 0}, which is nil in Lua */

struct vm *vm_new(struct loop *loop, const struct vm_options *options, struct err *err);
void vm_free(struct vm *vm);           /* cancels its tasks */
size_t vm_memory(const struct vm *vm); /* that is in use */
size_t vm_held(const struct vm *vm);   /* of its small blocks, in use or not */
/* Gives back what a busy time has left, if that is much and no task is under way. */
void vm_rest(struct vm *vm);
/* SHA-256 over the trusted modules that it has loaded, 64 hex digits. */
const char *vm_trusted(const struct vm *vm);

/* Calls main[function](args...), which must not yield; its name is a constant. Its first result (a
 * string or nil) is put into out, when out is given. False: err has the message with file and line.
 */
bool vm_call(struct vm *vm, const char *function, const struct slice *args, size_t nargs,
             struct buf *out, struct err *err);

#endif
