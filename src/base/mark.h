/* mark.h - what this process is busy with right now, where another process can read it.
 *
 * A worker marks the instance whose Lua it runs. When it dies, its supervisor finds the mark: only
 * that instance may be to blame. A death between two stores leaves no half of a mark. */
#ifndef BASE_MARK_H
#define BASE_MARK_H

#include <string.h>

enum { MARK_LEN = 36, MARK_SIZE = MARK_LEN + 1 }; /* the text of a uuid */

/* Where marks go: MARK_SIZE bytes of shared memory; NULL: nobody looks. */
void mark_at(char *place);

extern char *mark_place; /* for the two below */

/* what has MARK_LEN characters, or is NULL: nobody is to blame. */
static inline void mark_set(const char *what)
{
    if (!what) {
        return;
    }
    memcpy(mark_place + 1, what + 1, MARK_LEN - 1);
    __asm__ volatile("" ::: "memory");
    *(volatile char *)mark_place = *what;
}

static inline void mark_clear(void)
{
    *(volatile char *)mark_place = 0;
    __asm__ volatile("" ::: "memory");
}

#endif
