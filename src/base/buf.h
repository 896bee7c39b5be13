/* buf.h - growable bytes with a cap that must be named at init.
 *
 * Past the cap an append is refused and the buffer remembers it (`buf->overflow`), so a chain of
 * appends is checked once at its end. `data` is always terminated by a NUL that `len` leaves out.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data;
    size_t len, size, cap;
    bool overflow;
};

void buf_init(struct buf *buf, size_t cap);
void buf_fini(struct buf *buf);
void buf_clear(struct buf *buf); /* keeps the memory */
bool buf_add(struct buf *buf, const void *data, size_t len);
bool buf_adds(struct buf *buf, const char *text);
bool buf_addc(struct buf *buf, char c);
bool buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Adds text as a JSON string, quotes included. For canonical or nested JSON use script/json.h. */
bool buf_json(struct buf *buf, const char *text, size_t len);
/* Adds "name":text to a JSON object that is being written, with a comma unless it is the first;
 * null for no text. */
bool buf_json_member(struct buf *buf, const char *name, const char *text);
/* How many bytes from the start are the same in a JSON string: ASCII without escapes. */
size_t buf_plain(const char *text, size_t len);
/* Adds text percent-encoded for a URL's query or a form (RFC 3986 unreserved stay). */
bool buf_urlencode(struct buf *buf, const char *text, size_t len);
char *buf_take(struct buf *buf); /* the bytes now are the caller's; the buffer is empty */

#endif
