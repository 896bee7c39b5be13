/* heap.c - a counting allocator.
 *
 * A refusal isn't yet a failure: Lua collects garbage and asks for the same size again. Only when
 * that is refused too, or when something else is allocated first (buffers of the string library
 * don't ask twice), an error has been raised, and the heap says so in `full`. Shrinking never
 * fails.
 *
 * Most of what Lua allocates is small and lives shortly, and Lua says the size when it frees: small
 * blocks are cut from chunks and kept in one list per size. A chunk goes back when it is trimmed,
 * or with the heap. With a sanitizer every block is malloc's, so that it sees each use of what was
 * freed. */
#include "script/heap.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CHUNK 4096
#define LAST_CHUNK (256u << 10)

#if defined(__SANITIZE_ADDRESS__)
#define SMALL 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SMALL 0
#endif
#endif
#ifndef SMALL
#define SMALL HEAP_SMALL
#endif

/* The head of a chunk; its blocks are behind it. */
struct chunk {
    struct chunk *next;
    size_t size;
};

_Static_assert(sizeof(struct chunk) <= HEAP_STEP, "a chunk's head takes the place of a block");

/* ---- blocks ---- */

static void keep_free(struct heap *heap, void *block, size_t size)
{
    size_t class = (size - 1) / HEAP_STEP;
    memcpy(block, &heap->free[class], sizeof(void *));
    heap->free[class] = block;
}

static void *cut(struct heap *heap, size_t size)
{
    size_t rest = (size_t)(heap->cut_end - heap->cut);
    if (rest < size) {
        heap->chunk = heap->chunk ? heap->chunk : FIRST_CHUNK;
        struct chunk *chunk = malloc(heap->chunk);
        if (!chunk)
            return NULL;
        if (rest)
            keep_free(heap, heap->cut, rest);
        *chunk = (struct chunk){heap->chunks, heap->chunk};
        heap->chunks = chunk;
        heap->held += chunk->size;
        heap->cut = (char *)chunk + HEAP_STEP;
        heap->cut_end = (char *)chunk + chunk->size;
        if (heap->chunk < LAST_CHUNK)
            heap->chunk *= 2;
    }
    void *block = heap->cut;
    heap->cut += size;
    return block;
}

static void *block_new(struct heap *heap, size_t size)
{
    if (size > SMALL)
        return malloc(size);
    size_t class = (size - 1) / HEAP_STEP;
    void *block = heap->free[class];
    if (!block)
        return cut(heap, (class + 1) * HEAP_STEP);
    memcpy(&heap->free[class], block, sizeof(void *));
    return block;
}

static void block_free(struct heap *heap, void *block, size_t size)
{
    if (size > SMALL || !block) {
        free(block);
        return;
    }
    keep_free(heap, block, size);
}

static void *block_resize(struct heap *heap, void *block, size_t old_size, size_t new_size)
{
    if (!block)
        return block_new(heap, new_size);
    if (old_size > SMALL && new_size > SMALL)
        return realloc(block, new_size);
    if (old_size <= SMALL && new_size <= SMALL &&
        (old_size - 1) / HEAP_STEP == (new_size - 1) / HEAP_STEP)
        return block;
    void *moved = block_new(heap, new_size);
    if (moved) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        block_free(heap, block, old_size);
    }
    return moved;
}

void heap_fini(struct heap *heap)
{
    while (heap->chunks) {
        struct chunk *chunk = heap->chunks;
        heap->chunks = chunk->next;
        free(chunk);
    }
}

/* ---- giving back ---- */

/* A chunk, and how much of it is free. */
struct span {
    struct chunk *chunk;
    size_t idle;
};

struct spans {
    struct span *list; /* by address */
    size_t count;
    struct span *last; /* that was asked for */
};

static int by_address(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return (x->chunk > y->chunk) - (x->chunk < y->chunk);
}

static bool is_in(const struct span *span, const char *block)
{
    const char *chunk = (const char *)span->chunk;
    return block > chunk && block < chunk + span->chunk->size;
}

/* Of a block, which is mostly near the one before. */
static struct span *span_of(struct spans *spans, const void *block)
{
    if (spans->last && is_in(spans->last, block))
        return spans->last;
    size_t from = 0, to = spans->count;
    while (to - from > 1) {
        size_t middle = from + (to - from) / 2;
        if ((const char *)spans->list[middle].chunk <= (const char *)block)
            from = middle;
        else
            to = middle;
    }
    spans->last = &spans->list[from];
    return spans->last;
}

static bool is_idle(const struct span *span)
{
    return span->idle == span->chunk->size - HEAP_STEP;
}

static void *next_free(const void *block)
{
    void *next;
    memcpy(&next, block, sizeof(next));
    return next;
}

static void count_idle(struct heap *heap, struct spans *spans)
{
    for (size_t class = 0; class < HEAP_SMALL / HEAP_STEP; class ++)
        for (void *block = heap->free[class]; block; block = next_free(block))
            span_of(spans, block)->idle += (class + 1) * HEAP_STEP;
    if (heap->cut < heap->cut_end)
        span_of(spans, heap->cut)->idle += (size_t)(heap->cut_end - heap->cut);
}

/* Takes the blocks of idle chunks out of the lists. */
static void forget_idle(struct heap *heap, struct spans *spans)
{
    for (size_t class = 0; class < HEAP_SMALL / HEAP_STEP; class ++) {
        void *block = heap->free[class], *next;
        heap->free[class] = NULL;
        for (; block; block = next) {
            next = next_free(block);
            if (!is_idle(span_of(spans, block)))
                keep_free(heap, block, (class + 1) * HEAP_STEP);
        }
    }
    if (heap->cut < heap->cut_end && is_idle(span_of(spans, heap->cut)))
        heap->cut = heap->cut_end = NULL;
}

void heap_trim(struct heap *heap)
{
    struct spans spans = {NULL, 0, NULL};
    for (struct chunk *chunk = heap->chunks; chunk; chunk = chunk->next)
        spans.count++;
    spans.list = spans.count ? calloc(spans.count, sizeof(*spans.list)) : NULL;
    if (!spans.list)
        return;
    size_t i = 0;
    for (struct chunk *chunk = heap->chunks; chunk; chunk = chunk->next)
        spans.list[i++].chunk = chunk;
    qsort(spans.list, spans.count, sizeof(*spans.list), by_address);
    count_idle(heap, &spans);
    forget_idle(heap, &spans);
    heap->chunks = NULL;
    heap->held = 0;
    for (i = 0; i < spans.count; i++) {
        struct chunk *chunk = spans.list[i].chunk;
        if (is_idle(&spans.list[i])) {
            free(chunk);
            continue;
        }
        chunk->next = heap->chunks;
        heap->chunks = chunk;
        heap->held += chunk->size;
    }
    free(spans.list);
}

/* ---- the limit ---- */

static void fill(struct heap *heap)
{
    heap->refused = 0;
    if (heap->full)
        return;
    heap->full = true;
    if (heap->filled)
        heap->filled(heap);
}

void *heap_alloc(void *ud, void *ptr, size_t old_size, size_t new_size)
{
    struct heap *heap = ud;
    if (!ptr)
        old_size = 0; /* it is the kind of object then, not a size */
    if (new_size == 0) {
        block_free(heap, ptr, old_size);
        heap->used -= old_size;
        return NULL;
    }
    bool grows = new_size > old_size;
    bool again = heap->refused == new_size;
    if (grows &&
        (new_size - old_size > heap->cap || heap->used > heap->cap - (new_size - old_size))) {
        if (again)
            fill(heap);
        else
            heap->refused = new_size;
        return NULL;
    }
    void *moved = block_resize(heap, ptr, old_size, new_size);
    if (!moved)
        return grows ? NULL : ptr; /* a block that wouldn't shrink stays as it is */
    heap->used += new_size - old_size;
    if (grows && heap->refused) {
        if (again)
            heap->refused = 0;
        else
            fill(heap);
    }
    return moved;
}

bool heap_is_full(struct heap *heap)
{
    if (heap->refused)
        fill(heap);
    return heap->full;
}
