/* host_module.c - `host` as a Lua module of its own, so that specs of trusted modules run in the
 * plain interpreter: host = require "host". It has no `post`: nobody would hear it. */
#include "script/host.h"

int luaopen_host(lua_State *L);

__attribute__((visibility("default"))) int luaopen_host(lua_State *L)
{
    host_open(L);
    return 1;
}
