/* json_scan.c - one look at JSON text before cjson gets it: what cjson would take though it isn't
 * JSON is refused with its place, and what it would lose becomes a marked string. The rest of the
 * grammar is left to cjson. */
#include "script/json_lua.h"

#include "base/buf.h"

#include <float.h>
#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BIG_DIGITS 16 /* an integer beyond 2^53 has as many, or more */

struct scan {
    lua_State *L;
    const char *text, *end;
    const char *copied; /* up to here the text is in `out`; NULL: nothing had to be rewritten */
    luaL_Buffer *out;
    int depth;
};

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

/* ---- tokens: each function gets the first byte of one and returns what follows it ---- */

static _Noreturn void refuse(const struct scan *s, const char *at, const char *why)
{
    luaL_error(s->L, "not JSON: %s (byte %d)", why, (int)(at - s->text) + 1);
    abort(); /* luaL_error doesn't return */
}

static const char *scan_string(const struct scan *s, const char *at)
{
    const char *from = ++at;
    unsigned char all = 0;
    while ((at += buf_plain(at, (size_t)(s->end - at))) < s->end && *at != '"') {
        unsigned char c = (unsigned char)*at++;
        all |= c;
        if (c < 0x20)
            refuse(s, at - 1, c ? "a control character in a string" : "a NUL byte");
        if (c != '\\')
            continue;
        if (s->end - at >= 5 && memcmp(at, "u0000", 5) == 0)
            refuse(s, at - 1, "\\u0000 in a string");
        if (at < s->end)
            at++; /* a quote doesn't end it here */
    }
    if (at >= s->end)
        refuse(s, from - 1, "a string without end");
    size_t len = (size_t)(at - from);
    size_t good = all >= 0x80 ? json_utf8(from, len) : len;
    if (good != len)
        refuse(s, from + good, "a string that isn't UTF-8");
    return at + 1;
}

static const char *skip_digits(const struct scan *s, const char *at)
{
    const char *from = at;
    while (at < s->end && *at >= '0' && *at <= '9')
        at++;
    if (at == from)
        refuse(s, at, "a malformed number");
    return at;
}

static const char *skip_blanks(const struct scan *s, const char *at)
{
    while (at < s->end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    return at;
}

/* Puts a string of the mark and a part of the text in the place of text[from .. to). */
static void rewrite(struct scan *s, const char *from, const char *to, const char *mark, size_t kept)
{
    const char *next = skip_blanks(s, to);
    if (next < s->end && *next == ':') /* it must not become a key by it */
        refuse(s, from, "a key that isn't a string");
    if (!s->copied) {
        luaL_buffinit(s->L, s->out);
        s->copied = s->text;
    }
    luaL_addlstring(s->out, s->copied, (size_t)(from - s->copied));
    luaL_addstring(s->out, mark);
    luaL_addlstring(s->out, from, kept);
    luaL_addchar(s->out, '"');
    s->copied = to;
}

static bool is_finite(const struct scan *s, const char *from, const char *to)
{
    lua_pushlstring(s->L, from, (size_t)(to - from)); /* strtod wants an end */
    double number = strtod(lua_tostring(s->L, -1), NULL);
    lua_pop(s->L, 1);
    return isfinite(number);
}

static const char *scan_number(struct scan *s, const char *at)
{
    const char *from = at, *first = at + (*at == '-');
    const char *whole = at = skip_digits(s, first);
    if (whole - first > 1 && *first == '0')
        refuse(s, from, "a malformed number");
    if (at < s->end && *at == '.')
        at = skip_digits(s, at + 1);
    bool large = whole - first > DBL_MAX_10_EXP;
    if (at < s->end && (*at | 32) == 'e') {
        large = true;
        at++;
        at = skip_digits(s, at + (at < s->end && (*at == '+' || *at == '-')));
    }
    if (at != whole && large && !is_finite(s, from, at))
        refuse(s, from, "a number that is too large");
    if (at != whole || whole - first < BIG_DIGITS)
        return at;
    if (whole - first > BIG_DIGITS || memcmp(first, "9007199254740992", BIG_DIGITS) > 0)
        rewrite(s, from, at, "\"\\u0000N", (size_t)(at - from));
    return at;
}

static const char *scan_open(struct scan *s, const char *at)
{
    if (++s->depth > JSON_MAX_DEPTH)
        refuse(s, at, "more than 32 levels");
    const char *next = at + 1;
    if (*at == '{' || (next = skip_blanks(s, next)) == s->end || *next != ']')
        return next;
    s->depth--;
    rewrite(s, at, next + 1, "\"\\u0000[", 0);
    return next + 1;
}

struct json_found json_scan(lua_State *L, const char *text, size_t len)
{
    luaL_Buffer out;
    struct scan s = {.L = L, .text = text, .end = text + len, .out = &out};
    struct json_found found = {0};
    for (const char *at = text; at < s.end;) {
        char c = *at;
        if (c == '"') {
            at = scan_string(&s, at);
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            found.others = true;
            at = scan_number(&s, at);
        } else if (c == '[' || c == '{') {
            found.others = found.others || c == '[';
            at = scan_open(&s, at);
        } else if (c == '\0') {
            refuse(&s, at, "a NUL byte");
        } else {
            s.depth -= c == ']' || c == '}';
            found.others = found.others || c == 'n';
            at++;
        }
    }
    if (s.copied) {
        luaL_addlstring(&out, s.copied, (size_t)(s.end - s.copied));
        luaL_pushresult(&out);
        found.rewritten = true;
    }
    return found;
}
