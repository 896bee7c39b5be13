/* heap.h - the memory of one Lua state: counted, and refused past a cap. Private to script/. */
#ifndef SCRIPT_HEAP_H
#define SCRIPT_HEAP_H

#include <stdbool.h>
#include <stddef.h>

#define HEAP_SMALL 1024 /* bytes; blocks up to here come from lists of free ones */
#define HEAP_STEP 16

struct heap {
    size_t used, cap;
    size_t held;                        /* bytes of all chunks */
    void *free[HEAP_SMALL / HEAP_STEP]; /* of the sizes 16, 32, …; each links to the next */
    void *chunks;                       /* what they are cut from */
    char *cut, *cut_end;                /* the rest of the newest chunk */
    size_t chunk;                       /* the size of the next one */
    size_t refused; /* the size refused last; Lua collects garbage and asks for it once more */
    bool full;      /* growth was refused for good, so an error was raised */
    void (*filled)(struct heap *heap); /* called when full becomes true; may be NULL */
};

/* The lua_Alloc of the state; ud is the heap. */
void *heap_alloc(void *ud, void *ptr, size_t old_size, size_t new_size);
/* Whether an error was raised for lack of memory since full was last cleared. */
bool heap_is_full(struct heap *heap);

/* Gives back the chunks of which nothing is in use. Takes time: each free block is looked at. */
void heap_trim(struct heap *heap);
/* Gives all chunks back, after the state was closed. */
void heap_fini(struct heap *heap);

#endif
