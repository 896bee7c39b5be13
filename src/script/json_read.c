/* json_read.c - JSON text to Lua values in one pass, and the table `host.json`.
 *
 * Strict: what isn't JSON by the letter is refused with its place. No number changes silently: an
 * integral one becomes an integer, an integer beyond 2^53 the text of its digits. The members of
 * a small object are gathered on the stack first, so that its table is made in its size. */
#include "script/json_lua.h"

#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GATHERED 16   /* members or elements on the stack before they go into their table */
#define EXACT_DIGITS 15 /* of an integer that needs no closer look */

static const char array_key; /* its address is a registry key */

struct reader {
    lua_State *L;
    const char *text;
    size_t len, at;
    int depth;
    enum json_nulls nulls;
};

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

static _Noreturn void refuse(const struct reader *r, const char *why)
{
    luaL_error(r->L, "not JSON: %s (byte %d)", why, (int)r->at + 1);
    abort(); /* luaL_error doesn't return */
}

/* The next character, -1 at the end. */
static int peek(const struct reader *r)
{
    return r->at < r->len ? (unsigned char)r->text[r->at] : -1;
}

static int peek_after_blanks(struct reader *r)
{
    int c;
    while ((c = peek(r)) == ' ' || c == '\n' || c == '\t' || c == '\r')
        r->at++;
    return c;
}

/* ---- UTF-8 ---- */

static size_t sequence(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : 0;
    if (s[0] >= 0xf0 && s[0] <= 0xf4)
        n = 4;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool surrogate = s[0] == 0xed && s[1] > 0x9f;
    bool beyond = s[0] == 0xf4 && s[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : n;
}

size_t json_utf8(const char *text, size_t len)
{
    size_t at = 0;
    while (at < len) {
        if ((unsigned char)text[at] < 0x80) {
            at++;
            continue;
        }
        size_t n = sequence((const unsigned char *)text + at, len - at);
        if (n == 0)
            return at;
        at += n;
    }
    return len;
}

/* ---- strings ---- */

/* The four digits of \uXXXX. */
static unsigned read_hex(struct reader *r)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        int c = peek(r);
        int digit = c >= '0' && c <= '9'                           ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' && c >= 0 ? (c | 32) - 'a' + 10
                                                                   : -1;
        if (digit < 0)
            refuse(r, "\\u without four hexadecimal digits");
        value = value << 4 | (unsigned)digit;
    }
    return value;
}

static void add_unicode(struct reader *r, luaL_Buffer *out)
{
    unsigned code = read_hex(r);
    if (code == 0)
        refuse(r, "\\u0000 in a string");
    if (code >= 0xd800 && code <= 0xdfff) { /* the first of a pair */
        bool paired = code < 0xdc00 && r->len - r->at >= 6 && r->text[r->at] == '\\' &&
                      r->text[r->at + 1] == 'u';
        r->at += paired ? 2 : 0;
        unsigned low = paired ? read_hex(r) : 0;
        if (low < 0xdc00 || low > 0xdfff)
            refuse(r, "half a pair of \\u surrogates");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    char bytes[4];
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n; i > 1; i--, code >>= 6)
        bytes[i - 1] = (char)(0x80 | (code & 0x3f));
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    bytes[0] = (char)(lead[n] | code);
    luaL_addlstring(out, bytes, n);
}

/* One after the backslash. */
static void add_escape(struct reader *r, luaL_Buffer *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(r);
    const char *known = c > 0 ? strchr(from, c) : NULL;
    if (c != 'u' && !known)
        refuse(r, "an unknown escape in a string");
    r->at++;
    if (c == 'u')
        add_unicode(r, out);
    else
        luaL_addchar(out, to[known - from]);
}

/* Up to the next quote or backslash: what needs no change. */
static size_t read_plain(struct reader *r)
{
    size_t from = r->at;
    unsigned char all = 0;
    for (; r->at < r->len; r->at++) {
        unsigned char c = (unsigned char)r->text[r->at];
        if (c == '"' || c == '\\')
            break;
        if (c < 0x20)
            refuse(r, c ? "a control character in a string" : "a NUL byte");
        all |= c;
    }
    if (r->at >= r->len)
        refuse(r, "a string without end");
    size_t n = r->at - from;
    if (all >= 0x80 && json_utf8(r->text + from, n) != n)
        refuse(r, "a string that isn't UTF-8");
    return n;
}

/* Pushes the string that begins here. */
static void read_string(struct reader *r)
{
    r->at++;
    const char *from = r->text + r->at;
    size_t n = read_plain(r);
    if (r->text[r->at] == '"') {
        lua_pushlstring(r->L, from, n);
        r->at++;
        return;
    }
    luaL_Buffer out;
    luaL_buffinit(r->L, &out);
    for (;;) {
        luaL_addlstring(&out, from, n);
        if (r->text[r->at++] == '"')
            break;
        add_escape(r, &out);
        from = r->text + r->at;
        n = read_plain(r);
    }
    luaL_pushresult(&out);
}

/* ---- numbers ---- */

static size_t read_digits(struct reader *r)
{
    size_t from = r->at;
    while (r->at < r->len && r->text[r->at] >= '0' && r->text[r->at] <= '9')
        r->at++;
    if (r->at == from)
        refuse(r, "a malformed number");
    return r->at - from;
}

/* Replaces the text of a number on top by its value. */
static void push_number(const struct reader *r)
{
    lua_Number number = strtod(lua_tostring(r->L, -1), NULL);
    if (!isfinite(number))
        refuse(r, "a number that is too large");
    lua_pop(r->L, 1);
    if (floor(number) == number && fabs(number) <= (double)JSON_MAX_INTEGER)
        lua_pushinteger(r->L, (lua_Integer)number);
    else
        lua_pushnumber(r->L, number);
}

static void read_number(struct reader *r)
{
    const char *text = r->text + r->at;
    size_t from = r->at;
    bool negative = *text == '-';
    r->at += negative;
    const char *first = r->text + r->at;
    size_t whole = read_digits(r);
    if (whole > 1 && *first == '0')
        refuse(r, "a malformed number");
    bool integer = true;
    if (peek(r) == '.') {
        r->at++;
        read_digits(r);
        integer = false;
    }
    if ((peek(r) | 32) == 'e') {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-')
            r->at++;
        read_digits(r);
        integer = false;
    }
    if (integer && whole <= EXACT_DIGITS) {
        lua_Integer value = 0;
        for (size_t i = 0; i < whole; i++)
            value = value * 10 + (first[i] - '0');
        lua_pushinteger(r->L, negative ? -value : value);
        return;
    }
    bool big = whole > 16 || (whole == 16 && memcmp(first, "9007199254740992", 16) > 0);
    if (integer && big && r->nulls == JSON_EXACT)
        lua_pushlstring(r->L, JSON_BIG_NUMBER, sizeof(JSON_BIG_NUMBER) - 1);
    lua_pushlstring(r->L, text, r->at - from);
    if (!integer || !big)
        push_number(r);
    else if (r->nulls == JSON_EXACT)
        lua_concat(r->L, 2);
}

/* ---- values ---- */

static void read_value(struct reader *r);

/* A table that is being read: its slot on the stack, and above it what isn't in it yet. */
struct table {
    int slot;
    bool made;
    lua_Integer count; /* elements that are in it */
};

static struct table open_table(struct reader *r)
{
    if (++r->depth > JSON_MAX_DEPTH)
        refuse(r, "more than 32 levels");
    r->at++;
    luaL_checkstack(r->L, 2 * GATHERED + 8, "too deep");
    lua_pushnil(r->L);
    return (struct table){.slot = lua_gettop(r->L)};
}

static void make_table(struct reader *r, struct table *t, int elements, int members)
{
    if (t->made)
        return;
    lua_createtable(r->L, elements, members);
    lua_replace(r->L, t->slot);
    t->made = true;
}

/* Puts the gathered elements into the table. */
static void add_elements(struct reader *r, struct table *t)
{
    int n = lua_gettop(r->L) - t->slot;
    make_table(r, t, n, 0);
    for (int i = n; i > 0; i--)
        lua_rawseti(r->L, t->slot, t->count + i);
    t->count += n;
}

/* The last of two members with the same name counts. */
static void add_members(struct reader *r, struct table *t)
{
    int top = lua_gettop(r->L);
    make_table(r, t, 0, (top - t->slot) / 2);
    for (int i = t->slot + 1; i < top; i += 2) {
        lua_pushvalue(r->L, i);
        lua_pushvalue(r->L, i + 1);
        lua_rawset(r->L, t->slot);
    }
    lua_settop(r->L, t->slot);
}

/* After an element or member: true when another one follows. */
static bool goes_on(struct reader *r, int end)
{
    int c = peek_after_blanks(r);
    if (c != ',' && c != end)
        refuse(r, c < 0 ? "it ends too early" : "neither a comma nor the end of a list or object");
    r->at++;
    return c == ',';
}

static void read_array(struct reader *r)
{
    struct table t = open_table(r);
    bool more = peek_after_blanks(r) != ']';
    r->at += !more;
    while (more) {
        read_value(r);
        if (lua_isnil(r->L, -1)) /* nulls fall out */
            lua_pop(r->L, 1);
        if (lua_gettop(r->L) - t.slot == GATHERED)
            add_elements(r, &t);
        more = goes_on(r, ']');
    }
    add_elements(r, &t);
    json_mark_array(r->L, t.slot);
    r->depth--;
}

static void read_object(struct reader *r)
{
    struct table t = open_table(r);
    bool more = peek_after_blanks(r) != '}';
    r->at += !more;
    while (more) {
        if (peek_after_blanks(r) != '"')
            refuse(r, "a key that isn't a string");
        read_string(r);
        if (peek_after_blanks(r) != ':')
            refuse(r, "a key without a colon");
        r->at++;
        read_value(r);
        if (lua_gettop(r->L) - t.slot == 2 * GATHERED)
            add_members(r, &t);
        more = goes_on(r, '}');
    }
    add_members(r, &t);
    r->depth--;
}

static void read_word(struct reader *r, const char *word)
{
    size_t n = strlen(word);
    if (r->len - r->at < n || memcmp(r->text + r->at, word, n) != 0)
        refuse(r, "an unknown word");
    r->at += n;
}

/* Pushes one value. */
static void read_value(struct reader *r)
{
    int c = peek_after_blanks(r);
    switch (c) {
    case '{':
        read_object(r);
        break;
    case '[':
        read_array(r);
        break;
    case '"':
        read_string(r);
        break;
    case 't':
    case 'f':
        read_word(r, c == 't' ? "true" : "false");
        lua_pushboolean(r->L, c == 't');
        break;
    case 'n':
        read_word(r, "null");
        if (r->nulls == JSON_DROP_NULLS)
            lua_pushnil(r->L);
        else
            lua_pushlightuserdata(r->L, NULL);
        break;
    default:
        if (c != '-' && (c < '0' || c > '9'))
            refuse(r, c < 0 ? "it ends too early" : c ? "no value" : "a NUL byte");
        read_number(r);
    }
}

void json_read(lua_State *L, const char *text, size_t len, enum json_nulls nulls)
{
    struct reader r = {.L = L, .text = text, .len = len, .nulls = nulls};
    luaL_checkstack(L, 8, NULL);
    read_value(&r);
    int c = peek_after_blanks(&r);
    if (c >= 0)
        refuse(&r, c ? "something after its end" : "a NUL byte");
}

void json_init(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "array");
    lua_setfield(L, -2, "__name");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &array_key);
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
