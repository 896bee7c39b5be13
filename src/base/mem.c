/* mem.c - allocation that aborts on failure, and arenas.
 *
 * An arena is a list of blocks; what is larger than a block gets one of its own. */
#include "base/mem.h"

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096, SMALL = 1024, ALIGN = _Alignof(max_align_t) };

struct block {
    struct block *next;
    size_t used, size;
    _Alignas(max_align_t) unsigned char bytes[];
};

struct arena {
    struct block *blocks; // the one allocated from first
};

static void *checked(void *ptr, size_t size)
{
    if (!ptr && size > 0) {
        fprintf(stderr, "moonwright: out of memory (%zu bytes)\n", size);
        abort();
    }
    return ptr;
}

void *xmalloc(size_t size)
{
    return checked(malloc(size ? size : 1), size ? size : 1);
}

/* glibc's calloc passes over what its thread has freed last; for a small block malloc is faster. */
void *xcalloc(size_t count, size_t size)
{
    if (count <= SMALL && size <= SMALL && count * size <= SMALL) {
        void *block = xmalloc(count * size);
        return memset(block, 0, count * size);
    }
    return checked(calloc(count ? count : 1, size ? size : 1), count * size);
}

void *xrealloc(void *ptr, size_t size)
{
    return checked(realloc(ptr, size ? size : 1), size ? size : 1);
}

char *xstrdup(const char *text)
{
    return xstrndup(text, strlen(text));
}

void text_copy(char *to, size_t size, const char *from)
{
    size_t len = strnlen(from, size - 1);
    memcpy(to, from, len);
    to[len] = '\0';
}

char *xstrndup(const char *text, size_t len)
{
    char *copy = xmalloc(len + 1);
    if (len > 0) { // no bytes may have no address
        memcpy(copy, text, len);
    }
    copy[len] = 0;
    return copy;
}

char *xprintf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int len = vasprintf(&text, format, args);
    va_end(args);
    must(len >= 0);
    return text;
}

struct arena *arena_new(void)
{
    return xcalloc(1, sizeof(struct arena));
}

void arena_free(struct arena *arena)
{
    if (!arena) {
        return;
    }
    for (struct block *block = arena->blocks; block;) {
        struct block *next = block->next;
        free(block);
        block = next;
    }
    free(arena);
}

static struct block *block_new(size_t size)
{
    struct block *block = xmalloc(sizeof(*block) + size);
    block->next = NULL;
    block->used = 0;
    block->size = size;
    return block;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    must(size < SIZE_MAX - ALIGN - sizeof(struct block));
    size_t need = (size + ALIGN - 1) / ALIGN * ALIGN;
    struct block *block = arena->blocks;
    if (!block || block->size - block->used < need) {
        bool own = need > BLOCK / 4;
        block = block_new(own ? need : BLOCK);
        if (own && arena->blocks) { // keep filling the block that has room
            block->next = arena->blocks->next;
            arena->blocks->next = block;
        } else {
            block->next = arena->blocks;
            arena->blocks = block;
        }
    }
    void *ptr = block->bytes + block->used;
    block->used += need;
    return memset(ptr, 0, size);
}

char *arena_strdup(struct arena *arena, const char *text)
{
    return arena_strndup(arena, text, strlen(text));
}

char *arena_strndup(struct arena *arena, const char *text, size_t len)
{
    char *copy = arena_alloc(arena, len + 1);
    if (len > 0) {
        memcpy(copy, text, len);
    }
    return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    must(len >= 0);
    char *text = arena_alloc(arena, (size_t)len + 1);
    vsnprintf(text, (size_t)len + 1, format, again);
    va_end(again);
    return text;
}
