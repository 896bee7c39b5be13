/* mem.h - memory: an allocator that never fails, and arenas for things that die together.
 *
 * Running out of memory aborts; whatever is sized by outsiders is capped before it is allocated. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdarg.h>
#include <stddef.h>

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *ptr, size_t size);
char *xstrdup(const char *text);
char *xstrndup(const char *text, size_t len);
void text_copy(char *to, size_t size, const char *from); /* what fits, always terminated */
char *xprintf(const char *format, ...) __attribute__((format(printf, 1, 2))); /* caller frees */

struct arena;
struct arena *arena_new(void);
void arena_free(struct arena *arena);                /* NULL is fine */
void *arena_alloc(struct arena *arena, size_t size); /* zeroed, aligned for any type */
char *arena_strdup(struct arena *arena, const char *text);
char *arena_strndup(struct arena *arena, const char *text, size_t len); /* always terminated */
char *arena_printf(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
