/* match.c - a backtracking matcher of Lua patterns; see match.h for why there is one.
 *
 * It follows the matcher of Lua 5.4's lstrlib.c (MIT licence, Copyright 1994-2022 Lua.org,
 * PUC-Rio), whose results it gives exactly; a test compares them. */
#include "script/match.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

#define ESCAPE '%'
#define MAX_DEPTH 200

void match_init(struct match *m, lua_State *L, const char *text, size_t len, const char *pattern,
                size_t pattern_len)
{
    m->L = L;
    m->text = text;
    m->text_end = text + len;
    m->pattern_end = pattern + pattern_len;
    m->level = 0;
    m->depth = MAX_DEPTH;
    m->steps = 0;
}

static void step(struct match *m)
{
    if (++m->steps % MATCH_EVERY != 0)
        return;
    lua_Hook hook = lua_gethook(m->L);
    if (hook)
        hook(m->L, NULL); /* raises when the time is up */
}

/* ---- single characters ---- */

static const char *class_end(struct match *m, const char *p)
{
    if (*p++ == ESCAPE) {
        if (p == m->pattern_end)
            luaL_error(m->L, "malformed pattern (ends with '%%')");
        return p + 1;
    }
    if (p[-1] != '[')
        return p;
    if (*p == '^')
        p++;
    do { /* look for a ']'; the first character is never the end */
        if (p == m->pattern_end)
            luaL_error(m->L, "malformed pattern (missing ']')");
        if (*p++ == ESCAPE) {
            if (p == m->pattern_end)
                luaL_error(m->L, "malformed pattern (missing ']')");
            p++;
        }
    } while (p == m->pattern_end || *p != ']');
    return p + 1;
}

static bool in_class(int c, int class)
{
    bool in;
    switch (tolower(class)) {
    case 'a':
        in = isalpha(c);
        break;
    case 'c':
        in = iscntrl(c);
        break;
    case 'd':
        in = isdigit(c);
        break;
    case 'g':
        in = isgraph(c);
        break;
    case 'l':
        in = islower(c);
        break;
    case 'p':
        in = ispunct(c);
        break;
    case 's':
        in = isspace(c);
        break;
    case 'u':
        in = isupper(c);
        break;
    case 'w':
        in = isalnum(c);
        break;
    case 'x':
        in = isxdigit(c);
        break;
    default:
        return class == c;
    }
    return isupper(class) ? !in : in;
}

/* p is at '[', end at its ']'. */
static bool in_set(int c, const char *p, const char *end)
{
    bool found = true;
    if (p[1] == '^') {
        found = false;
        p++;
    }
    while (++p < end) {
        if (*p == ESCAPE) {
            p++;
            if (in_class(c, (unsigned char)*p))
                return found;
        } else if (p[1] == '-' && p + 2 < end) {
            p += 2;
            if ((unsigned char)p[-2] <= c && c <= (unsigned char)*p)
                return found;
        } else if ((unsigned char)*p == c) {
            return found;
        }
    }
    return !found;
}

static bool one_matches(struct match *m, const char *at, const char *p, const char *end)
{
    step(m);
    if (at >= m->text_end)
        return false;
    int c = (unsigned char)*at;
    switch (*p) {
    case '.':
        return true;
    case ESCAPE:
        return in_class(c, (unsigned char)p[1]);
    case '[':
        return in_set(c, p, end - 1);
    default:
        return (unsigned char)*p == c;
    }
}

/* ---- composed items ---- */

static const char *match_balance(struct match *m, const char *at, const char *p)
{
    if (p >= m->pattern_end - 1)
        luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
    if (at >= m->text_end || *at != *p)
        return NULL;
    int open = *p, close = p[1], depth = 1;
    while (++at < m->text_end) {
        step(m);
        if (*at == close) {
            if (--depth == 0)
                return at + 1;
        } else if (*at == open) {
            depth++;
        }
    }
    return NULL;
}

static const char *most(struct match *m, const char *at, const char *p, const char *end)
{
    ptrdiff_t i = 0;
    while (one_matches(m, at + i, p, end))
        i++;
    for (; i >= 0; i--) {
        const char *found = match_at(m, at + i, end + 1);
        if (found)
            return found;
    }
    return NULL;
}

static const char *least(struct match *m, const char *at, const char *p, const char *end)
{
    for (;;) {
        const char *found = match_at(m, at, end + 1);
        if (found)
            return found;
        if (!one_matches(m, at, p, end))
            return NULL;
        at++;
    }
}

static const char *open_capture(struct match *m, const char *at, const char *p, int what)
{
    if (m->level >= MATCH_CAPTURES)
        luaL_error(m->L, "too many captures");
    m->captures[m->level++] = (struct capture){at, what};
    const char *found = match_at(m, at, p);
    if (!found)
        m->level--;
    return found;
}

static const char *close_capture(struct match *m, const char *at, const char *p)
{
    int i = m->level - 1;
    while (i >= 0 && m->captures[i].len != CAPTURE_OPEN)
        i--;
    if (i < 0)
        luaL_error(m->L, "invalid pattern capture");
    m->captures[i].len = at - m->captures[i].start;
    const char *found = match_at(m, at, p);
    if (!found)
        m->captures[i].len = CAPTURE_OPEN;
    return found;
}

static const char *match_back(struct match *m, const char *at, int digit)
{
    int i = digit - '1';
    if (i < 0 || i >= m->level || m->captures[i].len == CAPTURE_OPEN)
        luaL_error(m->L, "invalid capture index %%%d", i + 1);
    size_t len = (size_t)m->captures[i].len;
    bool same = (size_t)(m->text_end - at) >= len && memcmp(m->captures[i].start, at, len) == 0;
    return same ? at + len : NULL;
}

static bool at_frontier(struct match *m, const char *at, const char *p, const char *end)
{
    int before = at == m->text ? '\0' : (unsigned char)at[-1];
    int here = at == m->text_end ? '\0' : (unsigned char)*at;
    return !in_set(before, p, end - 1) && in_set(here, p, end - 1);
}

/* ---- the matcher ---- */

/* One item with its suffix; *done says that the answer is final, else it goes on at *at, *pattern.
 */
static const char *match_item(struct match *m, const char **at, const char **pattern, bool *done)
{
    const char *p = *pattern, *end = class_end(m, p);
    char suffix = end < m->pattern_end ? *end : '\0';
    *done = true;
    if (suffix == '*')
        return most(m, *at, p, end);
    if (suffix == '-')
        return least(m, *at, p, end);
    bool one = one_matches(m, *at, p, end);
    if (suffix == '+')
        return one ? most(m, *at + 1, p, end) : NULL;
    if (suffix == '?') {
        const char *found = one ? match_at(m, *at + 1, end + 1) : NULL;
        if (found)
            return found;
        *pattern = end + 1;
    } else if (one) {
        ++*at;
        *pattern = end;
    } else {
        return NULL;
    }
    *done = false;
    return NULL;
}

/* The items that begin with %: *found is the place after it. False: it is a class. */
static bool match_escape(struct match *m, const char *at, const char **pattern, const char **found)
{
    const char *p = *pattern;
    char kind = p + 1 < m->pattern_end ? p[1] : '\0';
    if (kind == 'b') {
        *found = match_balance(m, at, p + 2);
        *pattern = p + 4;
    } else if (kind == 'f') {
        p += 2;
        if (p >= m->pattern_end || *p != '[')
            luaL_error(m->L, "missing '[' after '%%f' in pattern");
        *pattern = class_end(m, p);
        *found = at_frontier(m, at, p, *pattern) ? at : NULL;
    } else if (kind >= '0' && kind <= '9') {
        *found = match_back(m, at, kind);
        *pattern = p + 2;
    } else {
        return false;
    }
    return true;
}

const char *match_at(struct match *m, const char *at, const char *pattern)
{
    if (m->depth-- == 0)
        luaL_error(m->L, "pattern too complex");
    const char *found = NULL;
    for (;;) {
        step(m);
        if (pattern == m->pattern_end) {
            found = at;
            break;
        }
        if (*pattern == '(') {
            bool place = pattern + 1 < m->pattern_end && pattern[1] == ')';
            found = open_capture(m, at, pattern + (place ? 2 : 1),
                                 place ? CAPTURE_PLACE : CAPTURE_OPEN);
            break;
        }
        if (*pattern == ')') {
            found = close_capture(m, at, pattern + 1);
            break;
        }
        if (*pattern == '$' && pattern + 1 == m->pattern_end) {
            found = at == m->text_end ? at : NULL;
            break;
        }
        if (*pattern == ESCAPE && match_escape(m, at, &pattern, &found)) {
            if (!found)
                break;
            at = found;
            continue;
        }
        bool done;
        found = match_item(m, &at, &pattern, &done);
        if (done)
            break;
    }
    m->depth++;
    return found;
}

void match_push_one(struct match *m, int i, const char *start, const char *end)
{
    if (i >= m->level) {
        if (i != 0)
            luaL_error(m->L, "invalid capture index %%%d", i + 1);
        lua_pushlstring(m->L, start, (size_t)(end - start));
        return;
    }
    const struct capture *capture = &m->captures[i];
    if (capture->len == CAPTURE_OPEN)
        luaL_error(m->L, "unfinished capture");
    else if (capture->len == CAPTURE_PLACE)
        lua_pushinteger(m->L, capture->start - m->text + 1);
    else
        lua_pushlstring(m->L, capture->start, (size_t)capture->len);
}

int match_push(struct match *m, const char *start, const char *end)
{
    int count = m->level == 0 && start ? 1 : m->level;
    luaL_checkstack(m->L, count, "too many captures");
    for (int i = 0; i < count; i++)
        match_push_one(m, i, start, end);
    return count;
}
