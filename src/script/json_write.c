/* json_write.c - the canonical text of a Lua value: keys sorted by bytes, integers exact, floats
 * with the fewest digits that read back the same, and no blanks. What JSON can't carry is an
 * error that names the path of it: "$.items[2].f: a function can't be stored". */
#include "script/json_lua.h"

#include "base/buf.h"

#include <lauxlib.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_BUFFER (64u << 10)
#define FEW_NAMES 16 /* keys of an object that need no memory of their own */

static const char buffer_key; /* its address is a registry key */

struct place {
    const void *table; /* the table we are in, to notice cycles */
    const char *key;   /* the key in it we are at; NULL: index */
    lua_Integer index;
};

struct writer {
    lua_State *L;
    struct buf *out;
    struct place path[JSON_MAX_DEPTH + 1];
    int depth;
    bool exact;
};

struct name {
    const char *text;
    size_t len;
    int at; /* where on the stack it is, with its value behind it; 0: not there */
};

/* What a look at all keys of a table told. */
struct keys {
    struct name few[FEW_NAMES]; /* with their values on the stack, when there are no more */
    size_t names;
    lua_Integer count, last; /* of the others, and the highest of them */
};

static void write_value(struct writer *w, int index);

static _Noreturn void fail(struct writer *w, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static _Noreturn void fail(struct writer *w, const char *format, ...)
{
    char path[400] = "$", why[200];
    size_t len = 1;
    for (int i = 0; i < w->depth && len < sizeof(path) - 1; i++) {
        const struct place *place = &w->path[i];
        int n = place->key ? snprintf(path + len, sizeof(path) - len, ".%s", place->key)
                           : snprintf(path + len, sizeof(path) - len, "[%lld]", place->index);
        len = (size_t)n < sizeof(path) - len ? len + (size_t)n : sizeof(path) - 1;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    luaL_error(w->L, "%s: %s", path, why);
    abort(); /* luaL_error doesn't return */
}

static void write_integer(struct writer *w, lua_Integer whole)
{
    char text[24], *at = text + sizeof(text);
    unsigned long long rest = whole < 0 ? 0 - (unsigned long long)whole : (unsigned long long)whole;
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (whole < 0)
        *--at = '-';
    buf_add(w->out, at, (size_t)(text + sizeof(text) - at));
}

static void write_number(struct writer *w, int index)
{
    char text[40];
    if (lua_isinteger(w->L, index)) {
        lua_Integer whole = lua_tointeger(w->L, index);
        if (whole > JSON_MAX_INTEGER || whole < -JSON_MAX_INTEGER)
            fail(w, "%lld is beyond 2^53; write it as a text", whole);
        write_integer(w, whole);
        return;
    }
    lua_Number number = lua_tonumber(w->L, index);
    if (!isfinite(number))
        fail(w, "%s can't be stored",
             isnan(number) ? "a result that is no number (nan)" : "an infinite number");
    if (floor(number) == number && fabs(number) <= (double)JSON_MAX_INTEGER) {
        write_integer(w, (lua_Integer)number);
        return;
    }
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(text, sizeof(text), "%.*g", precision, number);
        if (strtod(text, NULL) == number)
            break;
    }
    if (!strpbrk(text, ".e")) /* a large float must not look like an integer */
        memcpy(text + strlen(text), ".0", 3);
    buf_adds(w->out, text);
}

static void write_string(struct writer *w, const char *text, size_t len)
{
    if (w->exact && len > 2 && memcmp(text, JSON_BIG_NUMBER, 2) == 0) {
        buf_add(w->out, text + 2, len - 2);
        return;
    }
    size_t plain = buf_plain(text, len);
    if (plain == len) {
        buf_addc(w->out, '"');
        buf_add(w->out, text, len);
        buf_addc(w->out, '"');
        return;
    }
    if (memchr(text, '\0', len))
        fail(w, "a text with a NUL byte can't be stored");
    size_t bad = json_utf8(text, len);
    if (bad != len)
        fail(w, "a text that isn't UTF-8 can't be stored (byte %zu)", bad + 1);
    buf_json(w->out, text, len);
}

static int by_bytes(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    size_t common = x->len < y->len ? x->len : y->len;
    int order = memcmp(x->text, y->text, common);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static void sort(struct name *names, size_t n)
{
    if (n > FEW_NAMES) {
        qsort(names, n, sizeof(*names), by_bytes);
        return;
    }
    for (size_t i = 1; i < n; i++) {
        struct name name = names[i];
        size_t at = i;
        for (; at > 0 && by_bytes(&names[at - 1], &name) > 0; at--)
            names[at] = names[at - 1];
        names[at] = name;
    }
}

/* Looks at all keys of the table at index. */
static void read_keys(struct writer *w, int index, struct keys *keys)
{
    lua_State *L = w->L;
    keys->names = 0;
    keys->count = keys->last = 0;
    for (lua_pushnil(L); lua_next(L, index);) {
        if (lua_type(L, -2) == LUA_TSTRING) {
            size_t n = keys->names++;
            if (n < FEW_NAMES) {
                struct name *name = &keys->few[n];
                name->text = lua_tolstring(L, -2, &name->len);
                name->at = lua_gettop(L) - 1;
                luaL_checkstack(L, 12, "too deep");
                lua_pushvalue(L, -2); /* to go on from */
                continue;
            }
        } else if (lua_isinteger(L, -2) && lua_tointeger(L, -2) >= 1) {
            keys->count++;
            if (lua_tointeger(L, -2) > keys->last)
                keys->last = lua_tointeger(L, -2);
        } else if (lua_type(L, -2) == LUA_TNUMBER) {
            fail(w, "the key %g can't be stored; keys are texts, or 1, 2, 3 …",
                 lua_tonumber(L, -2));
        } else {
            fail(w, "a %s as key can't be stored; keys are texts, or 1, 2, 3 …",
                 luaL_typename(L, -2));
        }
        lua_pop(L, 1);
    }
}

static void write_array(struct writer *w, int index, lua_Integer count)
{
    struct place *place = &w->path[w->depth++];
    buf_addc(w->out, '[');
    for (lua_Integer i = 1; i <= count; i++) {
        place->key = NULL;
        place->index = i;
        if (i > 1)
            buf_addc(w->out, ',');
        lua_rawgeti(w->L, index, i);
        write_value(w, lua_gettop(w->L));
        lua_pop(w->L, 1);
    }
    buf_addc(w->out, ']');
    w->depth--;
}

/* All names of a table that has many; pushes the memory they are in. */
static struct name *push_names(lua_State *L, int index, size_t count)
{
    struct name *names = lua_newuserdatauv(L, count * sizeof(*names), 0);
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        names[n].text = lua_tolstring(L, -2, &names[n].len);
        names[n++].at = 0;
    }
    return names;
}

static void write_object(struct writer *w, int index, struct keys *keys)
{
    lua_State *L = w->L;
    struct place *place = &w->path[w->depth++];
    struct name *names = keys->few;
    if (keys->names > FEW_NAMES)
        names = push_names(L, index, keys->names);
    sort(names, keys->names);
    buf_addc(w->out, '{');
    for (size_t i = 0; i < keys->names; i++) {
        place->key = names[i].text;
        if (i > 0)
            buf_addc(w->out, ',');
        write_string(w, names[i].text, names[i].len);
        buf_addc(w->out, ':');
        if (names[i].at) {
            write_value(w, names[i].at + 1);
            continue;
        }
        lua_pushlstring(L, names[i].text, names[i].len);
        lua_rawget(L, index);
        write_value(w, lua_gettop(L));
        lua_pop(L, 1);
    }
    buf_addc(w->out, '}');
    w->depth--;
}

/* What a table with a metatable stands for: the index of it. */
static int stands_for(struct writer *w, int index, bool *marked)
{
    lua_State *L = w->L;
    lua_pop(L, 1);                                                /* the metatable */
    if (luaL_getmetafield(L, index, "__fill") == LUA_TFUNCTION) { /* decoded when looked at */
        lua_pushvalue(L, index);
        lua_call(L, 1, 0);
    }
    if (luaL_getmetafield(L, index, "__target") == LUA_TTABLE) /* a frozen table stands for it */
        index = lua_gettop(L);
    *marked = json_is_array(L, index);
    if (!*marked && lua_getmetatable(L, index))
        fail(w, "an object with a metatable can't be stored");
    return index;
}

static void write_table(struct writer *w, int index)
{
    lua_State *L = w->L;
    luaL_checkstack(L, 12, "too deep");
    int top = lua_gettop(L);
    bool marked = false;
    if (lua_getmetatable(L, index))
        index = stands_for(w, index, &marked);
    const void *table = lua_topointer(L, index);
    for (int i = 0; i < w->depth; i++)
        if (w->path[i].table == table)
            fail(w, "a table that contains itself can't be stored");
    if (w->depth >= JSON_MAX_DEPTH)
        fail(w, "more than %d levels can't be stored", JSON_MAX_DEPTH);
    w->path[w->depth].table = table;

    struct keys keys;
    read_keys(w, index, &keys);
    if (keys.names > 0 && (keys.count > 0 || marked))
        fail(w, "a table that is both list and map can't be stored");
    if (keys.last != keys.count)
        fail(w, "a list with holes can't be stored (%lld values up to index %lld)", keys.count,
             keys.last);
    if (marked || keys.count > 0)
        write_array(w, index, keys.count);
    else
        write_object(w, index, &keys);
    lua_settop(L, top);
}

static void write_value(struct writer *w, int index)
{
    size_t len;
    const char *text;
    switch (lua_type(w->L, index)) {
    case LUA_TNIL:
        buf_adds(w->out, "null");
        break;
    case LUA_TBOOLEAN:
        buf_adds(w->out, lua_toboolean(w->L, index) ? "true" : "false");
        break;
    case LUA_TNUMBER:
        write_number(w, index);
        break;
    case LUA_TSTRING:
        text = lua_tolstring(w->L, index, &len);
        write_string(w, text, len);
        break;
    case LUA_TTABLE:
        write_table(w, index);
        break;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(w->L, index)) {
            buf_adds(w->out, "null");
            break;
        }
        __attribute__((fallthrough));
    default:
        fail(w, "a %s can't be stored", luaL_typename(w->L, index));
    }
    if (w->out->overflow)
        fail(w, "more than %u MB can't be stored", JSON_MAX_TEXT >> 20);
}

static int collect_buf(lua_State *L)
{
    struct buf *out = lua_touserdata(L, 1);
    buf_fini(out);
    buf_init(out, 0);
    return 0;
}

/* Pushes the buffer of this state, which is used over and over: writing calls no Lua, so there is
 * never more than one writer. A long text doesn't keep its memory. */
static struct buf *push_buffer(lua_State *L)
{
    struct buf *out;
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &buffer_key) == LUA_TUSERDATA) {
        out = lua_touserdata(L, -1);
        if (out->size > KEPT_BUFFER)
            buf_fini(out);
        buf_clear(out);
        return out;
    }
    lua_pop(L, 1);
    out = lua_newuserdatauv(L, sizeof(*out), 0);
    buf_init(out, JSON_MAX_TEXT);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, collect_buf);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &buffer_key);
    return out;
}

void json_write(lua_State *L, int index, bool exact)
{
    index = lua_absindex(L, index);
    struct buf *out = push_buffer(L);
    struct writer w = {.L = L, .out = out, .exact = exact};
    write_value(&w, index);
    lua_pushlstring(L, out->data, out->len);
    lua_remove(L, -2);
}
