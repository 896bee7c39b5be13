/* json_read.c - JSON text to Lua values through lua-cjson, and the table `host.json`.
 *
 * json_scan looks at the text, cjson parses it, and the tables it made are walked and put right in
 * place, when the scan saw something to put right. cjson itself is seen by nobody else. */
#include "script/json_lua.h"

#include <lauxlib.h>
#include <math.h>

static const char array_key, decode_key; /* their addresses are registry keys */

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

/* ---- from cjson's values to ours ---- */

struct walk {
    lua_State *L;
    int array_mark; /* where the metatable of arrays is on the stack */
    bool marked;    /* there are strings that stand for something else */
    enum json_nulls nulls;
};

static bool push_right(const struct walk *w);

static void mark_array(const struct walk *w, int index)
{
    lua_pushvalue(w->L, w->array_mark);
    lua_setmetatable(w->L, index);
}

/* Nulls fall out of it. */
static void walk_array(const struct walk *w, int array, lua_Integer count)
{
    lua_State *L = w->L;
    lua_Integer kept = 0;
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, array, i);
        bool changed = push_right(w);
        if (!lua_isnil(L, -1) && (++kept != i || changed)) {
            lua_pushvalue(L, -1);
            lua_rawseti(L, array, kept);
        }
        lua_settop(L, array);
    }
    for (lua_Integer i = kept + 1; i <= count; i++) {
        lua_pushnil(L);
        lua_rawseti(L, array, i);
    }
    mark_array(w, array);
}

static void walk_object(const struct walk *w, int object)
{
    lua_State *L = w->L;
    for (lua_pushnil(L); lua_next(L, object);) {
        if (!push_right(w)) {
            lua_pop(L, 1);
            continue;
        }
        lua_copy(L, -3, -2);   /* the key, in the place of the old value */
        lua_rawset(L, object); /* an existing key, which lua_next allows */
    }
}

/* What the marked string on top stands for. */
static bool push_marked(const struct walk *w)
{
    size_t len;
    const char *text = lua_tolstring(w->L, -1, &len);
    if (len == 0 || text[0] != '\0')
        return false;
    if (text[1] == '[') {
        lua_createtable(w->L, 0, 0);
        mark_array(w, lua_gettop(w->L));
        return true;
    }
    if (w->nulls == JSON_EXACT)
        return false;
    lua_pushlstring(w->L, text + 2, len - 2);
    return true;
}

static bool push_integer(lua_State *L)
{
    lua_Number number = lua_tonumber(L, -1);
    if (fabs(number) > (double)JSON_MAX_INTEGER || floor(number) != number)
        return false;
    lua_pushinteger(L, (lua_Integer)number);
    return true;
}

/* Pushes what belongs in the place of cjson's value on top; false: that is right as it is. */
static bool push_right(const struct walk *w)
{
    lua_State *L = w->L;
    switch (lua_type(L, -1)) {
    case LUA_TNUMBER:
        return push_integer(L);
    case LUA_TSTRING:
        return w->marked && push_marked(w);
    case LUA_TLIGHTUSERDATA:
        if (w->nulls != JSON_DROP_NULLS)
            return false;
        lua_pushnil(L);
        return true;
    case LUA_TTABLE:
        luaL_checkstack(L, 8, "too deep");
        lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
        if (count > 0) /* an empty array is a marked string */
            walk_array(w, lua_gettop(L), count);
        else
            walk_object(w, lua_gettop(L));
        return false;
    default:
        return false;
    }
}

/* ---- reading ---- */

/* Replaces the text on top, and cjson's decode below it, by the value; false: by what is wrong. */
static bool decode(lua_State *L)
{
    int status = lua_pcall(L, 1, 1, 0);
    if (status == LUA_ERRMEM)
        lua_error(L);
    return status == LUA_OK;
}

/* source: where on the stack the text is a string already, or 0. */
static void read_text(lua_State *L, int source, const char *text, size_t len, enum json_nulls nulls)
{
    luaL_checkstack(L, 8, NULL);
    push_array_metatable(L);
    int mark = lua_gettop(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &decode_key);
    struct json_found found = json_scan(L, text, len);
    if (!found.rewritten && source)
        lua_pushvalue(L, source);
    else if (!found.rewritten)
        lua_pushlstring(L, text, len);
    if (!decode(L)) {
        if (found.rewritten) { /* asked again, for the place in the text that was given */
            lua_rawgetp(L, LUA_REGISTRYINDEX, &decode_key);
            lua_pushlstring(L, text, len);
            decode(L);
        }
        luaL_error(L, "not JSON: %s", lua_tostring(L, -1));
    }
    struct walk w = {.L = L, .array_mark = mark, .marked = found.rewritten, .nulls = nulls};
    if (found.others && push_right(&w))
        lua_remove(L, -2);
    lua_remove(L, mark);
}

void json_read(lua_State *L, const char *text, size_t len, enum json_nulls nulls)
{
    read_text(L, 0, text, len, nulls);
}

void json_init(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "array");
    lua_setfield(L, -2, "__name");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &array_key);

    lua_pushcfunction(L, luaopen_cjson); /* each call makes one with settings of its own */
    lua_call(L, 0, 1);
    lua_getfield(L, -1, "decode_max_depth");
    lua_pushinteger(L, JSON_MAX_DEPTH);
    lua_call(L, 1, 0);
    lua_getfield(L, -1, "decode_invalid_numbers");
    lua_pushboolean(L, false);
    lua_call(L, 1, 0);
    lua_getfield(L, -1, "decode");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &decode_key);
    lua_pop(L, 1);
}

/* decode(text, keep_nulls) -> value */
static int l_decode(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    read_text(L, 1, text, len, lua_toboolean(L, 2) ? JSON_KEEP_NULLS : JSON_DROP_NULLS);
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
