/* heap.c - a counting allocator.
 *
 * A refusal isn't yet a failure: Lua collects garbage and asks for the same size again. Only when
 * that is refused too, or when something else is allocated first (buffers of the string library
 * don't ask twice), an error has been raised, and the heap says so in `full`. Shrinking never
 * fails.
 *
 * Most of what Lua allocates is small and lives shortly, and Lua says the size when it frees: small
 * blocks are cut from chunks and kept in one list per size. A chunk goes back with the heap. With
 * a sanitizer every block is malloc's, so that it sees each use of what was freed. */
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

/* ---- blocks ---- */

static void *cut(struct heap *heap, size_t size)
{
    if ((size_t)(heap->cut_end - heap->cut) < size) {
        heap->chunk = heap->chunk ? heap->chunk : FIRST_CHUNK;
        char *chunk = malloc(heap->chunk);
        if (!chunk)
            return NULL;
        memcpy(chunk, &heap->chunks, sizeof(void *));
        heap->chunks = chunk;
        heap->cut = chunk + HEAP_STEP;
        heap->cut_end = chunk + heap->chunk;
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
    size_t class = (size - 1) / HEAP_STEP;
    memcpy(block, &heap->free[class], sizeof(void *));
    heap->free[class] = block;
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
        void *chunk = heap->chunks;
        memcpy(&heap->chunks, chunk, sizeof(void *));
        free(chunk);
    }
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
