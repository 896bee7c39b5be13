/* host_pattern.c - host.pattern: find match gmatch gsub, as in Lua's string library, on the matcher
 * whose steps are counted. The texts and patterns stay on the Lua stack or in upvalues as long as
 * pointers into them are used. */
#include "script/host.h"

#include "script/match.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <string.h>

/* The offset that an optional position means, from 0; len + 1 or more is behind the end. */
static size_t start_of(lua_State *L, int index, size_t len)
{
    lua_Integer position = luaL_optinteger(L, index, 1);
    if (position > 0)
        return (size_t)position - 1;
    if (position == 0 || position < -(lua_Integer)len)
        return 0;
    return len - (size_t)-position;
}

/* Whether a pattern can be searched for as it is; a lone ) or ] is one, as in Lua. */
static bool is_plain(const char *pattern, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (pattern[i] && strchr("^$*+?.([%-", pattern[i]))
            return false;
    return true;
}

/* find(text, pattern, from, plain) and match(text, pattern, from) */
static int look(lua_State *L, bool find)
{
    size_t len, pattern_len;
    const char *text = luaL_checklstring(L, 1, &len);
    const char *pattern = luaL_checklstring(L, 2, &pattern_len);
    size_t from = start_of(L, 3, len);
    if (from > len) {
        lua_pushnil(L);
        return 1;
    }
    if (find && (lua_toboolean(L, 4) || is_plain(pattern, pattern_len))) {
        const char *found = memmem(text + from, len - from, pattern, pattern_len);
        if (!found) {
            lua_pushnil(L);
            return 1;
        }
        lua_pushinteger(L, found - text + 1);
        lua_pushinteger(L, found - text + (lua_Integer)pattern_len);
        return 2;
    }
    struct match m;
    match_init(&m, L, text, len, pattern, pattern_len);
    bool anchored = pattern_len > 0 && *pattern == '^';
    const char *at = text + from;
    do {
        m.level = 0;
        const char *end = match_at(&m, at, pattern + anchored);
        if (!end)
            continue;
        if (!find)
            return match_push(&m, at, end);
        lua_pushinteger(L, at - text + 1);
        lua_pushinteger(L, end - text);
        return match_push(&m, NULL, NULL) + 2;
    } while (at++ < m.text_end && !anchored);
    lua_pushnil(L);
    return 1;
}

static int l_find(lua_State *L)
{
    return look(L, true);
}

static int l_match(lua_State *L)
{
    return look(L, false);
}

/* The iterator of gmatch; upvalues: text, pattern, where to go on, where the last match ended. */
static int next_match(lua_State *L)
{
    size_t len, pattern_len;
    const char *text = lua_tolstring(L, lua_upvalueindex(1), &len);
    const char *pattern = lua_tolstring(L, lua_upvalueindex(2), &pattern_len);
    lua_Integer last = lua_tointeger(L, lua_upvalueindex(4));
    struct match m;
    match_init(&m, L, text, len, pattern, pattern_len);
    for (size_t from = (size_t)lua_tointeger(L, lua_upvalueindex(3)); from <= len; from++) {
        m.level = 0;
        const char *end = match_at(&m, text + from, pattern);
        if (!end || end - text == last)
            continue;
        lua_pushinteger(L, end - text);
        lua_copy(L, -1, lua_upvalueindex(3));
        lua_replace(L, lua_upvalueindex(4));
        return match_push(&m, text + from, end);
    }
    return 0;
}

static int l_gmatch(lua_State *L)
{
    size_t len;
    luaL_checklstring(L, 1, &len);
    luaL_checkstring(L, 2);
    size_t from = start_of(L, 3, len);
    lua_settop(L, 2);
    lua_pushinteger(L, (lua_Integer)(from > len ? len + 1 : from));
    lua_pushinteger(L, -1);
    lua_pushcclosure(L, next_match, 4);
    return 1;
}

/* Adds a replacement text, in which %0 to %9 stand for captures. */
static void add_text(struct match *m, luaL_Buffer *out, const char *start, const char *end)
{
    size_t len;
    const char *text = lua_tolstring(m->L, 3, &len), *stop = text + len;
    for (const char *percent; (percent = memchr(text, '%', (size_t)(stop - text)));) {
        luaL_addlstring(out, text, (size_t)(percent - text));
        char c = percent + 1 < stop ? percent[1] : '\0';
        if (c == '%') {
            luaL_addchar(out, '%');
        } else if (c == '0') {
            luaL_addlstring(out, start, (size_t)(end - start));
        } else if (c >= '1' && c <= '9') {
            match_push_one(m, c - '1', start, end);
            luaL_tolstring(m->L, -1, NULL);
            lua_remove(m->L, -2);
            luaL_addvalue(out);
        } else {
            luaL_error(m->L, "invalid use of '%%' in replacement string");
        }
        text = percent + 2;
    }
    luaL_addlstring(out, text, (size_t)(stop - text));
}

/* Adds what a match is replaced by. */
static void add_value(struct match *m, luaL_Buffer *out, const char *start, const char *end)
{
    lua_State *L = m->L;
    switch (lua_type(L, 3)) {
    case LUA_TFUNCTION:
        lua_pushvalue(L, 3);
        lua_call(L, match_push(m, start, end), 1);
        break;
    case LUA_TTABLE:
        match_push_one(m, 0, start, end);
        lua_gettable(L, 3);
        break;
    default:
        add_text(m, out, start, end);
        return;
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        luaL_addlstring(out, start, (size_t)(end - start));
    } else if (!lua_isstring(L, -1)) {
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    } else {
        luaL_addvalue(out);
    }
}

/* gsub(text, pattern, replacement, limit) */
static int l_gsub(lua_State *L)
{
    size_t len, pattern_len;
    const char *text = luaL_checklstring(L, 1, &len);
    const char *pattern = luaL_checklstring(L, 2, &pattern_len);
    int kind = lua_type(L, 3);
    luaL_argexpected(L,
                     kind == LUA_TNUMBER || kind == LUA_TSTRING || kind == LUA_TFUNCTION ||
                         kind == LUA_TTABLE,
                     3, "string/function/table");
    if (kind == LUA_TNUMBER)
        lua_tostring(L, 3);
    lua_Integer limit = luaL_optinteger(L, 4, (lua_Integer)len + 1), count = 0;
    bool anchored = pattern_len > 0 && *pattern == '^';
    struct match m;
    luaL_Buffer out;
    match_init(&m, L, text, len, pattern, pattern_len);
    luaL_buffinit(L, &out);
    const char *at = text, *last = NULL;
    while (count < limit) {
        m.level = 0;
        const char *end = match_at(&m, at, pattern + anchored);
        if (end && end != last) {
            count++;
            add_value(&m, &out, at, end);
            at = last = end;
        } else if (at < m.text_end) {
            luaL_addchar(&out, *at++);
        } else {
            break;
        }
        if (anchored)
            break;
    }
    luaL_addlstring(&out, at, (size_t)(m.text_end - at));
    luaL_pushresult(&out);
    lua_pushinteger(L, count);
    return 2;
}

static const luaL_Reg functions[] = {
    {"find", l_find}, {"match", l_match}, {"gmatch", l_gmatch}, {"gsub", l_gsub}, {NULL, NULL}};

void host_open_pattern(lua_State *L)
{
    luaL_newlib(L, functions);
}
