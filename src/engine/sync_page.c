/* sync_page.c - finds the ends of JSON values without building them.
 *
 * A value's end is where its brackets close outside of strings. What lies between is not checked
 * here: PostgreSQL parses each row and says which one is wrong. */
#include "engine/sync_page.h"

#include "base/mem.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 100000 };

struct scan {
    const char *text;
    size_t len, at;
};

static void skip_space(struct scan *s)
{
    while (s->at < s->len && strchr(" \t\r\n", s->text[s->at]) && s->text[s->at]) {
        s->at++;
    }
}

static bool take(struct scan *s, char c)
{
    skip_space(s);
    if (s->at < s->len && s->text[s->at] == c) {
        s->at++;
        return true;
    }
    return false;
}

/* Goes past a string whose opening quote was taken. */
static bool skip_string(struct scan *s)
{
    size_t start = s->at;
    for (;;) {
        const char *quote = s->at < s->len ? memchr(s->text + s->at, '"', s->len - s->at) : NULL;
        if (!quote) {
            s->at = s->len;
            return false;
        }
        s->at = (size_t)(quote - s->text) + 1;
        size_t slashes = 0;
        while (quote - slashes > s->text + start && quote[-1 - (long)slashes] == '\\') {
            slashes++;
        }
        if (slashes % 2 == 0) {
            return true;
        }
    }
}

/* What a value's end can depend on. */
static const bool is_mark[256] = {['"'] = true, ['{'] = true, ['['] = true, ['}'] = true,
                                  [']'] = true, [','] = true, [':'] = true};

/* Goes past any value. */
static bool skip_value(struct scan *s)
{
    skip_space(s);
    int depth = 0;
    size_t start = s->at;
    while (s->at < s->len) {
        char c = s->text[s->at];
        if (c == '"') {
            s->at++;
            if (!skip_string(s)) {
                return false;
            }
        } else if (c == '{' || c == '[') {
            depth++;
            s->at++;
        } else if (c == '}' || c == ']') {
            if (depth == 0) {
                return s->at > start;
            }
            depth--;
            s->at++;
        } else if (depth == 0 && (c == ',' || c == ':')) {
            return s->at > start;
        } else {
            s->at++;
            while (s->at < s->len && !is_mark[(unsigned char)s->text[s->at]]) {
                s->at++;
            }
            continue;
        }
        if (depth == 0) {
            return true;
        }
    }
    return depth == 0 && s->at > start;
}

/* The next key of an object, as a span of text; false at its end or where it is broken. */
static bool next_key(struct scan *s, size_t *key, size_t *key_len)
{
    take(s, ',');
    if (!take(s, '"')) {
        return false;
    }
    *key = s->at;
    if (!skip_string(s)) {
        return false;
    }
    *key_len = s->at - 1 - *key;
    return take(s, ':');
}

static bool is_key(const struct scan *s, size_t key, size_t len, const char *name)
{
    return strlen(name) == len && memcmp(s->text + key, name, len) == 0;
}

/* A scalar's text; of escapes only those that ASCII needs are undone. */
static size_t scalar_text(const char *text, size_t len, char *out, size_t size)
{
    size_t n = 0;
    bool quoted = len >= 2 && text[0] == '"';
    size_t i = quoted ? 1 : 0, end = quoted ? len - 1 : len;
    for (; i < end && n + 1 < size; i++) {
        unsigned code;
        if (text[i] != '\\') {
            out[n++] = text[i];
        } else if (i + 5 < end && text[i + 1] == 'u' && sscanf(text + i + 2, "%4x", &code) == 1 &&
                   code < 128) {
            out[n++] = (char)code;
            i += 5;
        } else if (i + 1 < end) {
            out[n++] = text[++i];
        }
    }
    out[n] = '\0';
    while (!quoted && n > 0 && strchr(" \t\r\n", out[n - 1])) {
        out[--n] = '\0';
    }
    return n;
}

static bool read_rows(struct sync_page *page, struct scan *s)
{
    if (!take(s, '[')) {
        return false;
    }
    size_t size = 0;
    while (!take(s, ']')) {
        if (page->count == size) {
            size = size ? 2 * size : 512;
            page->begin = xrealloc(page->begin, size * sizeof(*page->begin));
            page->end = xrealloc(page->end, size * sizeof(*page->end));
        }
        skip_space(s);
        page->begin[page->count] = s->at;
        if (page->count >= MAX_ROWS || !skip_value(s)) {
            return false;
        }
        page->end[page->count++] = s->at;
        take(s, ',');
    }
    return true;
}

static bool read_envelope(struct sync_page *page, struct scan *s)
{
    bool rows = false, more = false;
    size_t key, key_len;
    if (!take(s, '{')) {
        return false;
    }
    while (next_key(s, &key, &key_len)) {
        skip_space(s);
        size_t start = s->at;
        if (is_key(s, key, key_len, "data")) {
            if (rows || !read_rows(page, s)) {
                return false;
            }
            rows = true;
            continue;
        }
        if (!skip_value(s)) {
            return false;
        }
        if (is_key(s, key, key_len, "hasMore")) {
            page->more = s->text[start] == 't';
            more = true;
        } else if (is_key(s, key, key_len, "continueFrom") && s->text[start] == '"') {
            free(page->next);
            page->next = xmalloc(s->at - start);
            scalar_text(s->text + start, s->at - start, page->next, s->at - start);
        }
    }
    return take(s, '}') && rows && more;
}

/* How long the UTF-8 character is that begins here; 0: none does. */
static size_t utf8_length(const unsigned char *c, size_t left)
{
    size_t n = c[0] < 0x80   ? 1
               : c[0] < 0xc2 ? 0
               : c[0] < 0xe0 ? 2
               : c[0] < 0xf0 ? 3
               : c[0] < 0xf5 ? 4
                             : 0;
    if (n == 0 || n > left) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((c[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool wrong = (c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] > 0x9f) ||
                 (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] > 0x8f);
    return wrong ? 0 : n;
}

/* How many of the first bytes are nothing to look at: ASCII, no NUL, no backslash. Eight at a time.
 */
static size_t plain_length(const char *text, size_t len)
{
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    size_t i = 0;
    for (uint64_t eight; i + 8 <= len; i += 8) {
        memcpy(&eight, text + i, 8);
        uint64_t slash = eight ^ ones * '\\'; // a zero byte where there is one
        if ((eight | (eight - ones) | ((slash - ones) & ~slash)) & high) {
            break;
        }
    }
    return i;
}

/* In place: what PostgreSQL's text can't hold becomes U+FFFD (escaped) or a question mark. */
static void clean(char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        i += plain_length(text + i, len - i);
        if (i == len) {
            break;
        }
        if (text[i] == '\\' && i + 1 < len) {
            if (len - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0) {
                memcpy(text + i, "\\ufffd", 6);
            }
            bool pair = text[i + 1] != '\0' && (unsigned char)text[i + 1] < 0x80;
            i += pair ? 2 : 1;
            continue;
        }
        size_t n = text[i] ? utf8_length((unsigned char *)text + i, len - i) : 0;
        if (n == 0) {
            text[i] = text[i] ? '?' : ' ';
            n = 1;
        }
        i += n;
    }
}

struct sync_page *sync_page_read(const char *text, size_t len, struct err *err)
{
    struct sync_page *page = xcalloc(1, sizeof(*page));
    page->text = xmalloc(len + 1);
    memcpy(page->text, text, len);
    page->text[len] = '\0';
    clean(page->text, len);
    struct scan s = {.text = page->text, .len = len};
    if (!read_envelope(page, &s)) {
        char start[61];
        snprintf(start, sizeof(start), "%s", page->text);
        for (char *c = start; *c; c++) {
            *c = (unsigned char)*c < ' ' ? ' ' : *c;
        }
        err_set(err, ERR_INPUT, "the answer is not a page of ServiceTitan; it begins with: %s",
                start);
        sync_page_free(page);
        return NULL;
    }
    return page;
}

void sync_page_free(struct sync_page *page)
{
    if (page) {
        free(page->text);
        free(page->next);
        free(page->begin);
        free(page->end);
        free(page);
    }
}

bool sync_page_rows(const struct sync_page *page, size_t from, size_t to, struct buf *out)
{
    buf_addc(out, '[');
    if (from < to) { // what lies between two rows of the page is a comma
        buf_add(out, page->text + page->begin[from], page->end[to - 1] - page->begin[from]);
    }
    return buf_addc(out, ']');
}

void sync_page_field(const struct sync_page *page, size_t i, const char *name, char *out,
                     size_t size)
{
    struct scan s = {.text = page->text, .len = page->end[i], .at = page->begin[i]};
    size_t key, key_len;
    out[0] = '\0';
    if (!take(&s, '{')) {
        return;
    }
    while (next_key(&s, &key, &key_len)) {
        skip_space(&s);
        size_t start = s.at;
        if (!skip_value(&s)) {
            return;
        }
        char first = s.text[start];
        if (is_key(&s, key, key_len, name) && first != '{' && first != '[') {
            if (strncmp(s.text + start, "null", 4) != 0) {
                scalar_text(s.text + start, s.at - start, out, size);
            }
            return;
        }
    }
}
