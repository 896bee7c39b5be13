/* host.h - the table `host`: what trusted Lua gets from C. Private to script/. */
#ifndef SCRIPT_HOST_H
#define SCRIPT_HOST_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

/* Pushes the table, without `post`, which needs a vm. May raise. */
void host_open(lua_State *L);
/* Pushes host.pattern; host_pattern.c. */
void host_open_pattern(lua_State *L);

/* "workflows/followup.lua:12": where the nearest function that isn't ours (lua/) is. False: none
 * is on the stack. */
bool host_where(lua_State *L, char *out, size_t size);

#endif
