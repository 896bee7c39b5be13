/* sql_split.c - a scanner that only wants to know where a statement ends. */
#include "front/sql_split.h"

#include <ctype.h>
#include <string.h>

/* Behind a quoted piece that begins at p; backslashes count in E'...' only, which is asked for. */
static const char *skip_quoted(const char *p, char quote, bool escapes)
{
    for (p++; *p != '\0'; p++) {
        if (escapes && *p == '\\' && p[1] != '\0')
            p++;
        else if (*p == quote && p[1] == quote)
            p++;
        else if (*p == quote)
            return p + 1;
    }
    return p;
}

static const char *skip_comment(const char *p)
{
    int depth = 0;
    if (*p == '-')
        return p + strcspn(p, "\n");
    for (; *p != '\0'; p++) {
        if (p[0] == '/' && p[1] == '*') {
            depth++;
            p++;
        } else if (p[0] == '*' && p[1] == '/') {
            p++;
            if (--depth == 0)
                return p + 1;
        }
    }
    return p;
}

/* $tag$ ... $tag$; p itself when it is something else, such as $1. */
static const char *skip_dollar(const char *p)
{
    const char *end = p + 1;
    while (isalnum((unsigned char)*end) || *end == '_')
        end++;
    if (*end != '$' || isdigit((unsigned char)p[1]))
        return p;
    size_t len = (size_t)(end + 1 - p);
    for (const char *q = end + 1; *q != '\0'; q++) {
        if (*q == '$' && strncmp(q, p, len) == 0)
            return q + len;
    }
    return end + strlen(end);
}

static bool is_comment(const char *p)
{
    return (p[0] == '-' && p[1] == '-') || (p[0] == '/' && p[1] == '*');
}

bool sql_next(const char **text, const char **start, size_t *len)
{
    const char *p = *text;
    for (;;) {
        if (isspace((unsigned char)*p) || *p == ';')
            p++;
        else if (is_comment(p))
            p = skip_comment(p);
        else
            break;
    }
    *start = p;
    while (*p != '\0' && *p != ';') {
        const char *before = p;
        if (is_comment(p)) {
            p = skip_comment(p);
        } else if (*p == '\'') {
            bool escapes = p > *start && (p[-1] == 'e' || p[-1] == 'E') &&
                           (p - 1 == *start || !(isalnum((unsigned char)p[-2]) || p[-2] == '_'));
            p = skip_quoted(p, '\'', escapes);
        } else if (*p == '"') {
            p = skip_quoted(p, '"', false);
        } else if (*p == '$' && !(p > *start && (isalnum((unsigned char)p[-1]) || p[-1] == '_'))) {
            p = skip_dollar(p);
        }
        if (p == before)
            p++;
    }
    *len = (size_t)(p - *start);
    *text = p;
    return *len > 0;
}
