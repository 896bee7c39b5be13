/* buf.c - growable bytes. An empty buffer points to one shared NUL and owns no memory. */
#include "base/buf.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Never written to: whatever writes has made room first.
static char nothing[1];

void buf_init(struct buf *buf, size_t cap)
{
    must(cap < SIZE_MAX / 2);
    *buf = (struct buf){.data = nothing, .cap = cap};
}

void buf_fini(struct buf *buf)
{
    if (buf->size) {
        free(buf->data);
    }
    buf_init(buf, buf->cap);
}

void buf_clear(struct buf *buf)
{
    buf->len = 0;
    buf->overflow = false;
    if (buf->size) {
        buf->data[0] = 0;
    }
}

// Makes room for len more bytes and the NUL. After one refusal every other append is refused too:
// what came before it must not look whole.
static bool room(struct buf *buf, size_t len)
{
    if (buf->overflow || len > buf->cap - buf->len) {
        buf->overflow = true;
        return false;
    }
    size_t need = buf->len + len + 1;
    if (need > buf->size) {
        size_t size = buf->size ? buf->size * 2 : 64;
        size = size < need ? need : size;
        size = size > buf->cap + 1 ? buf->cap + 1 : size;
        buf->data = xrealloc(buf->size ? buf->data : NULL, size);
        buf->size = size;
    }
    return true;
}

bool buf_add(struct buf *buf, const void *data, size_t len)
{
    if (!room(buf, len)) {
        return false;
    }
    if (len) {
        memcpy(buf->data + buf->len, data, len);
    }
    buf->len += len;
    buf->data[buf->len] = 0;
    return true;
}

bool buf_adds(struct buf *buf, const char *text)
{
    return buf_add(buf, text, strlen(text));
}

bool buf_addc(struct buf *buf, char c)
{
    if (buf->overflow || buf->len + 1 >= buf->size) {
        return buf_add(buf, &c, 1);
    }
    buf->data[buf->len++] = c;
    buf->data[buf->len] = 0;
    return true;
}

bool buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    must(len >= 0);
    bool ok = room(buf, (size_t)len);
    if (ok) {
        vsnprintf(buf->data + buf->len, (size_t)len + 1, format, again);
        buf->len += (size_t)len;
    }
    va_end(again);
    return ok;
}

// The length of the UTF-8 character at text, 0 when it is none.
static size_t utf8_len(const unsigned char *text, size_t left)
{
    unsigned char c = text[0];
    size_t len = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (len == 0 || len > left) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (c == 0xe0 && text[1] < 0xa0) || (c == 0xf0 && text[1] < 0x90);
    bool surrogate = c == 0xed && text[1] >= 0xa0;
    bool beyond = c == 0xf4 && text[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : len;
}

#define EACH(byte) (0x0101010101010101u * (byte))

// Whether one of eight bytes may be equal: sure when it says no.
static bool may_have(uint64_t eight, unsigned char byte)
{
    uint64_t differs = eight ^ EACH(byte);
    return (differs - EACH(1)) & ~differs & EACH(0x80);
}

static bool eight_plain(const char *text)
{
    uint64_t eight;
    memcpy(&eight, text, sizeof(eight));
    bool control = (eight - EACH(0x20)) & ~eight & EACH(0x80), high = eight & EACH(0x80);
    return !control && !high && !may_have(eight, 0x7f) && !may_have(eight, '"') &&
           !may_have(eight, '\\');
}

size_t buf_plain(const char *text, size_t len)
{
    size_t n = 0;
    while (len - n >= 8 && eight_plain(text + n)) {
        n += 8;
    }
    while (n < len) {
        unsigned char c = (unsigned char)text[n];
        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\') {
            break;
        }
        n++;
    }
    return n;
}

bool buf_json(struct buf *buf, const char *text, size_t len)
{
    static const char short_for[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const unsigned char *bytes = (const unsigned char *)text;
    buf_addc(buf, '"');
    for (size_t i = 0; i < len;) {
        size_t plain = buf_plain(text + i, len - i);
        if (plain) {
            buf_add(buf, text + i, plain);
            i += plain;
            continue;
        }
        const char *found = bytes[i] ? strchr(short_for, bytes[i]) : NULL;
        size_t width = utf8_len(bytes + i, len - i);
        if (found) {
            buf_addc(buf, '\\');
            buf_addc(buf, letter[found - short_for]);
        } else if (bytes[i] < 0x20 || bytes[i] == 0x7f) {
            buf_printf(buf, "\\u%04x", (unsigned)bytes[i]);
        } else if (width == 2 && bytes[i] == 0xc2 && bytes[i + 1] < 0xa0) {
            buf_printf(buf, "\\u%04x", (unsigned)bytes[i + 1]); // a control, of the second set
        } else if (width == 0) {
            buf_adds(buf, "\xef\xbf\xbd"); // U+FFFD: JSON is UTF-8, whatever we were given
        } else {
            buf_add(buf, bytes + i, width);
        }
        i += width ? width : 1;
    }
    return buf_addc(buf, '"');
}

bool buf_json_member(struct buf *buf, const char *name, const char *text)
{
    bool first = buf->len == 0 || buf->data[buf->len - 1] == '{';
    buf_printf(buf, "%s\"%s\":", first ? "" : ",", name);
    return text ? buf_json(buf, text, strlen(text)) : buf_adds(buf, "null");
}

bool buf_urlencode(struct buf *buf, const char *text, size_t len)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '.' || c == '_' || c == '~';
        if (plain) {
            buf_addc(buf, (char)c);
        } else {
            char code[3] = {'%', hex[c >> 4], hex[c & 15]};
            buf_add(buf, code, sizeof(code));
        }
    }
    return !buf->overflow;
}

char *buf_take(struct buf *buf)
{
    char *data = buf->size ? buf->data : xstrdup("");
    buf_init(buf, buf->cap);
    return data;
}
