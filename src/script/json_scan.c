/* json_scan.c - checks what cjson doesn't: how numbers are written, UTF-8, NUL and control bytes in
 * strings, depth; and finds what it would lose. The grammar itself is left to cjson. */
#include "script/json_lua.h"

#include <string.h>

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

static enum json_token fail(struct json_scan *scan, const char *error)
{
    scan->error = error;
    return TOKEN_END;
}

static enum json_token scan_string(struct json_scan *scan)
{
    size_t at = scan->at + 1;
    bool ascii = true;
    while (at < scan->len && scan->text[at] != '"') {
        unsigned char c = (unsigned char)scan->text[at];
        ascii = ascii && c < 0x80;
        if (c < 0x20)
            return fail(scan, "a control character in a string");
        if (c == '\\') {
            if (scan->len - at >= 6 && memcmp(scan->text + at, "\\u0000", 6) == 0)
                return fail(scan, "\\u0000 in a string");
            at++;
            ascii = ascii && at < scan->len && (unsigned char)scan->text[at] < 0x80;
        }
        at++;
    }
    if (at >= scan->len)
        return fail(scan, "a string without end");
    size_t inside = at - scan->at - 1;
    if (!ascii && json_utf8(scan->text + scan->at + 1, inside) != inside)
        return fail(scan, "a string that isn't UTF-8");
    scan->at = at + 1;
    return TOKEN_PLAIN;
}

static size_t digits(const struct json_scan *scan, size_t at)
{
    size_t from = at;
    while (at < scan->len && scan->text[at] >= '0' && scan->text[at] <= '9')
        at++;
    return at - from;
}

static size_t blanks(const struct json_scan *scan, size_t at)
{
    while (at < scan->len && strchr(" \t\r\n", scan->text[at]) && scan->text[at])
        at++;
    return at;
}

/* What becomes a string for cjson must not become a key by it. */
static enum json_token rewritten(struct json_scan *scan, enum json_token token)
{
    size_t at = blanks(scan, scan->at);
    if (at < scan->len && scan->text[at] == ':')
        return fail(scan, "a key that isn't a string");
    return token;
}

static enum json_token scan_number(struct json_scan *scan)
{
    size_t at = scan->at;
    if (scan->text[at] == '-')
        at++;
    size_t first = at, whole = digits(scan, at);
    if (whole == 0 || (whole > 1 && scan->text[at] == '0'))
        return fail(scan, "a malformed number");
    at += whole;
    bool integer = true;
    if (at < scan->len && scan->text[at] == '.') {
        size_t n = digits(scan, ++at);
        if (n == 0)
            return fail(scan, "a malformed number");
        at += n;
        integer = false;
    }
    if (at < scan->len && (scan->text[at] == 'e' || scan->text[at] == 'E')) {
        at++;
        if (at < scan->len && (scan->text[at] == '+' || scan->text[at] == '-'))
            at++;
        size_t n = digits(scan, at);
        if (n == 0)
            return fail(scan, "a malformed number");
        at += n;
        integer = false;
    }
    scan->at = at;
    bool big = whole > 16 ||
               (whole == 16 && memcmp(scan->text + first, "9007199254740992", 16) > 0);
    return integer && big ? rewritten(scan, TOKEN_BIG) : TOKEN_PLAIN;
}

enum json_token json_scan(struct json_scan *scan)
{
    scan->start = scan->at;
    if (scan->at >= scan->len)
        return TOKEN_END;
    char c = scan->text[scan->at];
    if (c == '"')
        return scan_string(scan);
    if (c == '-' || (c >= '0' && c <= '9'))
        return scan_number(scan);
    if (c == '\0')
        return fail(scan, "a NUL byte");
    scan->at++;
    if (c == ',' || c == ':' || c == ' ')
        return TOKEN_PLAIN;
    if (c == '[' || c == '{') {
        if (++scan->depth > JSON_MAX_DEPTH)
            return fail(scan, "more than 32 levels");
    } else if (c == ']' || c == '}') {
        scan->depth--;
    }
    if (c == '[') {
        size_t at = blanks(scan, scan->at);
        if (at < scan->len && scan->text[at] == ']') {
            scan->depth--;
            scan->at = at + 1;
            return rewritten(scan, TOKEN_EMPTY);
        }
    }
    return TOKEN_PLAIN;
}
