/* fuzz_json.c - JSON from vendors, people and scripts: accepted exactly when RFC 8259 (and our
 * limits) say so, and the canonical text is a fixed point. */
#include "fuzz.h"

#include "script/json.h"
#include "script/json_lua.h"

#include <lauxlib.h>
#include <math.h>

/* A reader of the grammar that knows nothing of ours. `beyond`: something that we may refuse. */
struct reader {
    const char *at, *end;
    bool beyond;
};

static bool value(struct reader *r, int depth);

static void blanks(struct reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
        r->at++;
}

static bool is(struct reader *r, char c)
{
    return r->at < r->end && *r->at == c && r->at++;
}

static bool word(struct reader *r, const char *text)
{
    size_t len = strlen(text);
    if ((size_t)(r->end - r->at) < len || memcmp(r->at, text, len) != 0)
        return false;
    r->at += len;
    return true;
}

static bool digits(struct reader *r)
{
    const char *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9')
        r->at++;
    return r->at > from;
}

static bool number(struct reader *r)
{
    const char *from = r->at;
    is(r, '-');
    if (!is(r, '0') && !digits(r))
        return false;
    bool whole = true;
    if (is(r, '.')) {
        whole = false;
        if (!digits(r))
            return false;
    }
    if (is(r, 'e') || is(r, 'E')) {
        whole = false;
        if (!is(r, '+'))
            is(r, '-');
        if (!digits(r))
            return false;
    }
    char *copy = xstrndup(from, (size_t)(r->at - from));
    if (!whole && !isfinite(strtod(copy, NULL)))
        r->beyond = true;
    free(copy);
    return true;
}

static int hex4(struct reader *r)
{
    int code = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        char c = r->at < r->end ? *r->at : '\0';
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        code = code * 16 + digit;
    }
    return code;
}

static bool escape(struct reader *r)
{
    if (is(r, 'u')) {
        int code = hex4(r);
        if (code == 0 || (code >= 0xdc00 && code <= 0xdfff)) {
            r->beyond = true;
        } else if (code >= 0xd800 && code <= 0xdbff) {
            struct reader low = *r;
            int next = word(&low, "\\u") ? hex4(&low) : -1;
            if (next >= 0xdc00 && next <= 0xdfff)
                *r = low;
            else
                r->beyond = true;
        }
        return code >= 0;
    }
    return r->at < r->end && strchr("\"\\/bfnrt", *r->at) && *r->at && r->at++;
}

/* One character beyond ASCII, decoded and measured. */
static bool wide(struct reader *r)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char first = (unsigned char)*r->at++;
    int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc0 || first > 0xf7)
        return false;
    uint32_t code = first & (0x3fu >> more);
    for (int i = 0; i < more; i++, r->at++) {
        if (r->at >= r->end || ((unsigned char)*r->at & 0xc0) != 0x80)
            return false;
        code = code << 6 | ((unsigned char)*r->at & 0x3f);
    }
    return code >= least[more + 1] && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
}

static bool string(struct reader *r)
{
    if (!is(r, '"'))
        return false;
    while (!is(r, '"')) {
        if (r->at >= r->end || (unsigned char)*r->at < 0x20)
            return false;
        if (is(r, '\\') ? !escape(r) : (unsigned char)*r->at >= 0x80 ? !wide(r) : !r->at++)
            return false;
    }
    return true;
}

/* What is in brackets; behind each key of an object stands a colon. */
static bool members(struct reader *r, bool object, char close, int depth)
{
    if (depth > JSON_MAX_DEPTH)
        r->beyond = true;
    blanks(r);
    if (is(r, close))
        return true;
    do {
        blanks(r);
        if (object) {
            if (!string(r))
                return false;
            blanks(r);
            if (!is(r, ':'))
                return false;
        }
        if (!value(r, depth))
            return false;
        blanks(r);
    } while (is(r, ','));
    return is(r, close);
}

static bool value(struct reader *r, int depth)
{
    blanks(r);
    if (r->at >= r->end || depth > 2000)
        return false;
    if (is(r, '{'))
        return members(r, true, '}', depth + 1);
    if (is(r, '['))
        return members(r, false, ']', depth + 1);
    return *r->at == '"' ? string(r)
                         : word(r, "true") || word(r, "false") || word(r, "null") || number(r);
}

static bool document(const char *text, size_t len, bool *beyond)
{
    struct reader r = {.at = text, .end = text + len};
    bool ok = value(&r, 0);
    blanks(&r);
    *beyond = r.beyond;
    return ok && r.at == r.end;
}

static void ask(const struct json *json)
{
    static const char *const paths[] = {"", "a", "a.b", "0", "0.0", "data.0.id", "..", "0.", "a.1"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        const char *text = json_text(json, paths[i]);
        int64_t number_there;
        bool is_int = json_int(json, paths[i], &number_there);
        must(!is_int || text);
        json_bool(json, paths[i]);
        size_t count = json_count(json, paths[i]);
        must(!count || !text);
        char *encoded = json_encode(json, paths[i]);
        must(encoded || (!text && !count));
        free(encoded);
    }
}

static int decode_encode(lua_State *L)
{
    size_t len;
    const char *text = lua_tolstring(L, 1, &len);
    json_read(L, text, len, lua_toboolean(L, 2) ? JSON_KEEP_NULLS : JSON_DROP_NULLS);
    json_write(L, -1, false);
    return 1;
}

/* Pushes what the module's decode and encode make of a text. */
static void through_lua(lua_State *L, const char *text, size_t len, bool nulls)
{
    lua_pushcfunction(L, decode_encode);
    lua_pushlstring(L, text, len);
    lua_pushboolean(L, nulls);
    must(lua_pcall(L, 2, 1, 0) == LUA_OK);
}

static int prepare(lua_State *L)
{
    json_init(L);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L;
    if (!L) {
        must(L = luaL_newstate());
        lua_pushcfunction(L, prepare);
        must(lua_pcall(L, 0, 0, 0) == LUA_OK);
    }
    const char *text = (const char *)data;
    bool beyond;
    bool good = document(text, size, &beyond);
    struct err err = {0};
    struct json *json = json_parse(text, size, &err);
    must(json ? good : !good || beyond);
    if (!json) {
        must(err.code == ERR_INPUT || err.code == ERR_LIMIT);
        must(err.message[0]);
        return 0;
    }
    ask(json);
    char *once = json_encode(json, "");
    must(once);
    json_free(json);
    must(document(once, strlen(once), &beyond));
    size_t digits_only = 0;
    while (digits_only < size && text[digits_only] >= '0' && text[digits_only] <= '9')
        digits_only++;
    if (digits_only == size) // an integer of any length is exact
        must(strlen(once) == size && memcmp(once, text, size) == 0);
    must(json = json_parse(once, strlen(once), &err));
    char *twice = json_encode(json, "");
    must(twice && strcmp(once, twice) == 0);
    json_free(json);
    for (int nulls = 0; nulls < 2 && strcmp(once, "null") != 0; nulls++) {
        through_lua(L, text, size, nulls);
        size_t len;
        const char *first = lua_tolstring(L, -1, &len);
        through_lua(L, first, len, nulls);
        must(lua_rawequal(L, -1, -2));
        lua_settop(L, 0);
    }
    free(once);
    free(twice);
    return 0;
}
