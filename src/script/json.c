/* json.c - the C reader: a document in a private Lua state.
 *
 * Stack of the state: 1 the document, 2 a list of the texts handed out, which keeps them alive.
 * Every use of the state is one protected call, so running out of its memory is an ordinary
 * failure. */
#include "script/json.h"

#include "script/heap.h"
#include "script/json_lua.h"

#include "base/mem.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MEMORY (256u << 20)

struct json {
    struct heap heap;
    lua_State *L;
};

struct request {
    const char *path; /* or the text to parse, of len bytes */
    size_t len;
    const char *text; /* the answer */
    size_t count;
    char *encoded;
};

static bool run(const struct json *json, lua_CFunction function, struct request *request)
{
    lua_State *L = json->L;
    int top = lua_gettop(L);
    lua_pushcfunction(L, function);
    for (int i = 1; i <= 2; i++)
        if (i <= top)
            lua_pushvalue(L, i);
        else
            lua_pushnil(L);
    lua_pushlightuserdata(L, request);
    return lua_pcall(L, 3, 2, 0) == LUA_OK; /* leaves two results or the message */
}

static int parse(lua_State *L)
{
    const struct request *request = lua_touserdata(L, 3);
    json_init(L);
    json_read(L, request->path, request->len, JSON_EXACT);
    lua_createtable(L, 0, 0);
    return 2;
}

struct json *json_parse(const char *text, size_t len, struct err *err)
{
    struct json *json = xcalloc(1, sizeof(*json));
    json->heap.cap = MAX_MEMORY;
    json->L = lua_newstate(heap_alloc, &json->heap);
    must(json->L);
    struct request request = {.path = text, .len = len};
    if (!run(json, parse, &request)) {
        const char *why = lua_type(json->L, -1) == LUA_TSTRING ? lua_tostring(json->L, -1) : "";
        err_set(err, heap_is_full(&json->heap) ? ERR_LIMIT : ERR_INPUT, "%s", why);
        json_free(json);
        return NULL;
    }
    return json;
}

void json_free(struct json *json)
{
    if (!json)
        return;
    lua_close(json->L);
    heap_fini(&json->heap);
    free(json);
}

/* Replaces the table on top by its member; false: there is none. */
static bool enter(lua_State *L, const char *name, size_t len)
{
    if (lua_type(L, -1) != LUA_TTABLE)
        return false;
    if (json_is_array(L, -1)) {
        char *end;
        char digits[20];
        if (len == 0 || len >= sizeof(digits) || name[0] < '0' || name[0] > '9')
            return false;
        memcpy(digits, name, len);
        digits[len] = '\0';
        long long index = strtoll(digits, &end, 10);
        if (*end)
            return false;
        lua_rawgeti(L, -1, index + 1);
    } else {
        lua_pushlstring(L, name, len);
        lua_rawget(L, -2);
    }
    lua_remove(L, -2);
    return true;
}

/* Pushes the value at path, nil when there is none. */
static void find(lua_State *L, int document, const char *path)
{
    lua_pushvalue(L, document);
    while (*path) {
        size_t len = strcspn(path, ".");
        if (!enter(L, path, len)) {
            lua_pop(L, 1);
            lua_pushnil(L);
            return;
        }
        path += len + (path[len] == '.');
    }
}

static int get_text(lua_State *L)
{
    struct request *request = lua_touserdata(L, 3);
    find(L, 1, request->path);
    switch (lua_type(L, -1)) {
    case LUA_TBOOLEAN:
        request->text = lua_toboolean(L, -1) ? "true" : "false";
        return 0;
    case LUA_TNUMBER:
        json_write(L, -1, false);
        break;
    case LUA_TSTRING:
        request->text = lua_tolstring(L, -1, &request->len);
        if (request->len > 0 && request->text[0] == '\0') /* the digits of a big integer */
            request->text += 2;
        return 0; /* the document keeps it alive */
    default:
        return 0;
    }
    lua_pushvalue(L, -1);
    lua_rawseti(L, 2, (lua_Integer)lua_rawlen(L, 2) + 1);
    request->text = lua_tostring(L, -1);
    return 0;
}

static int get_count(lua_State *L)
{
    struct request *request = lua_touserdata(L, 3);
    find(L, 1, request->path);
    request->count = json_is_array(L, -1) ? lua_rawlen(L, -1) : 0;
    return 0;
}

static int get_encoded(lua_State *L)
{
    struct request *request = lua_touserdata(L, 3);
    find(L, 1, request->path);
    if (lua_isnil(L, -1))
        return 0;
    json_write(L, -1, true);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    request->encoded = xstrndup(text, len);
    return 0;
}

static void ask(const struct json *json, lua_CFunction function, struct request *request)
{
    lua_State *L = json->L;
    run(json, function, request);
    lua_settop(L, 2);
}

const char *json_text(const struct json *json, const char *path)
{
    struct request request = {.path = path};
    ask(json, get_text, &request);
    return request.text;
}

bool json_int(const struct json *json, const char *path, int64_t *value)
{
    const char *text = json_text(json, path);
    if (!text || !*text || strspn(text, "-0123456789") != strlen(text))
        return false;
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno || *end || end == text)
        return false;
    *value = number;
    return true;
}

bool json_bool(const struct json *json, const char *path)
{
    const char *text = json_text(json, path);
    return text && strcmp(text, "true") == 0;
}

size_t json_count(const struct json *json, const char *path)
{
    struct request request = {.path = path};
    ask(json, get_count, &request);
    return request.count;
}

char *json_encode(const struct json *json, const char *path)
{
    struct request request = {.path = path};
    ask(json, get_encoded, &request);
    return request.encoded;
}
