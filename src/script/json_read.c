/* json_read.c - text to Lua values through cjson, and the table `host.json`.
 *
 * Three passes: json_scan checks the text and, where cjson would lose something, a rewritten text
 * is made ([] and big integers become marked strings); cjson parses; the tables are walked and put
 * right in place. cjson itself is seen by nobody else. */
#include "script/json_lua.h"

#include <lauxlib.h>
#include <math.h>
#include <string.h>

static const char array_key, decode_key; /* addresses are registry keys */

int luaopen_cjson(lua_State *L); /* lua-cjson has no header */

static void push_array_metatable(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
}

void json_mark_array(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    push_array_metatable(L);
    lua_setmetatable(L, index);
}

bool json_is_array(lua_State *L, int index)
{
    if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index))
        return false;
    push_array_metatable(L);
    bool is = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is;
}

/* Pushes what cjson shall parse. Raises when the text isn't acceptable. */
static void push_checked(lua_State *L, const char *text, size_t len)
{
    struct json_scan scan = {.text = text, .len = len};
    bool rewrite = false;
    enum json_token token;
    while ((token = json_scan(&scan)) != TOKEN_END)
        rewrite = rewrite || token != TOKEN_PLAIN;
    if (scan.error)
        luaL_error(L, "not JSON: %s (byte %d)", scan.error, (int)scan.start + 1);
    if (!rewrite) {
        lua_pushlstring(L, text, len);
        return;
    }
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    scan = (struct json_scan){.text = text, .len = len};
    while ((token = json_scan(&scan)) != TOKEN_END) {
        if (token == TOKEN_EMPTY) {
            luaL_addstring(&buffer, "\"\\u0000[]\"");
            continue;
        }
        if (token == TOKEN_BIG)
            luaL_addstring(&buffer, "\"\\u0000N");
        luaL_addlstring(&buffer, text + scan.start, scan.at - scan.start);
        if (token == TOKEN_BIG)
            luaL_addchar(&buffer, '"');
    }
    luaL_pushresult(&buffer);
}

/* Replaces cjson's value on top by ours. False: it stays as it is. */
static bool fix_value(lua_State *L, enum json_nulls nulls);

/* The array on top: its elements are fixed, nulls fall out of it. */
static void fix_array(lua_State *L, enum json_nulls nulls)
{
    int array = lua_gettop(L);
    lua_Integer count = (lua_Integer)lua_rawlen(L, array), kept = 0;
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, array, i);
        bool changed = fix_value(L, nulls);
        if (lua_isnil(L, -1))
            lua_pop(L, 1);
        else if (++kept == i && !changed)
            lua_pop(L, 1);
        else
            lua_rawseti(L, array, kept);
    }
    for (lua_Integer i = kept + 1; i <= count; i++) {
        lua_pushnil(L);
        lua_rawseti(L, array, i);
    }
    json_mark_array(L, array);
}

static void fix_object(lua_State *L, enum json_nulls nulls)
{
    int object = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, object);) {
        if (!fix_value(L, nulls)) {
            lua_pop(L, 1);
            continue;
        }
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, object); /* an existing key, which lua_next allows */
    }
}

static bool fix_value(lua_State *L, enum json_nulls nulls)
{
    size_t len;
    const char *text;
    lua_Number number;
    switch (lua_type(L, -1)) {
    case LUA_TNUMBER:
        number = lua_tonumber(L, -1);
        if (!isfinite(number))
            luaL_error(L, "not JSON: a number that is too large");
        if (floor(number) != number || fabs(number) > (double)JSON_MAX_INTEGER)
            return false;
        lua_pop(L, 1);
        lua_pushinteger(L, (lua_Integer)number);
        return true;
    case LUA_TSTRING:
        text = lua_tolstring(L, -1, &len);
        if (len == 0 || text[0] != '\0')
            return false;
        if (text[1] == '[') {
            lua_pop(L, 1);
            lua_createtable(L, 0, 0);
            json_mark_array(L, -1);
            return true;
        }
        if (nulls == JSON_EXACT)
            return false;
        lua_pushlstring(L, text + 2, len - 2);
        lua_remove(L, -2);
        return true;
    case LUA_TLIGHTUSERDATA:
        if (nulls != JSON_DROP_NULLS)
            return false;
        lua_pop(L, 1);
        lua_pushnil(L);
        return true;
    case LUA_TTABLE:
        luaL_checkstack(L, 8, "too deep");
        bool array = lua_rawgeti(L, -1, 1) != LUA_TNIL;
        lua_pop(L, 1);
        if (array)
            fix_array(L, nulls);
        else
            fix_object(L, nulls);
        return false;
    default:
        return false;
    }
}

void json_read(lua_State *L, const char *text, size_t len, enum json_nulls nulls)
{
    luaL_checkstack(L, 8, NULL);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &decode_key);
    push_checked(L, text, len);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
        const char *why = lua_tostring(L, -1);
        luaL_error(L, "not JSON: %s", why ? why : "out of memory");
    }
    fix_value(L, nulls);
}

void json_init(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "array");
    lua_setfield(L, -2, "__name");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &array_key);

    lua_pushcfunction(L, luaopen_cjson);
    lua_call(L, 0, 1);
    lua_getfield(L, -1, "new"); /* settings of our own */
    lua_call(L, 0, 1);
    lua_getfield(L, -1, "decode_max_depth");
    lua_pushinteger(L, JSON_MAX_DEPTH + 1);
    lua_call(L, 1, 0);
    lua_getfield(L, -1, "decode_invalid_numbers");
    lua_pushboolean(L, false);
    lua_call(L, 1, 0);
    lua_getfield(L, -1, "decode");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &decode_key);
    lua_pop(L, 2);
}

/* decode(text, keep_nulls) -> value */
static int l_decode(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    json_read(L, text, len, lua_toboolean(L, 2) ? JSON_KEEP_NULLS : JSON_DROP_NULLS);
    return 1;
}

/* encode(value) -> canonical text */
static int l_encode(lua_State *L)
{
    luaL_checkany(L, 1);
    json_write(L, 1, false);
    return 1;
}

/* array(list) -> the same table, known as an array even when empty */
static int l_array(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (lua_getmetatable(L, 1)) {
        lua_pop(L, 1);
        luaL_argcheck(L, json_is_array(L, 1), 1, "it has a metatable already");
    }
    json_mark_array(L, 1);
    return 1;
}

static int l_is_array(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, json_is_array(L, 1));
    return 1;
}

static const luaL_Reg functions[] = {{"decode", l_decode},
                                     {"encode", l_encode},
                                     {"array", l_array},
                                     {"is_array", l_is_array},
                                     {NULL, NULL}};

void json_open(lua_State *L)
{
    json_init(L);
    luaL_newlib(L, functions);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
}
