/* heap.c - a counting allocator.
 *
 * A refusal isn't yet a failure: Lua collects garbage and asks for the same size again. Only when
 * that is refused too, or when something else is allocated first (buffers of the string library
 * don't ask twice), an error has been raised, and the heap says so in `full`. Shrinking never
 * fails. */
#include "script/heap.h"

#include <stdlib.h>

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
        free(ptr);
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
    void *moved = realloc(ptr, new_size);
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
