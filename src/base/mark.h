/* mark.h - what this process is busy with right now, where another process can read it.
 *
 * A worker marks the instance whose Lua it runs, or what detection asks. When it dies, its
 * supervisor finds the mark: only that may be to blame. A death between two stores leaves no half
 * of a mark. */
#ifndef BASE_MARK_H
#define BASE_MARK_H

#include <stddef.h>
#include <string.h>

enum { MARK_LEN = 36, MARK_SIZE = MARK_LEN + 1 }; /* the text of a uuid */

/* A question of detection: a part ("when", "key") of a workflow or rule, and what it is asked
 * about. Texts that don't fit are their hashes (digest_hash64, 16 hex digits). */
struct mark_judging {
    char part[24], name[80], about[200]; /* no part: nothing is asked */
};

/* Where marks go: MARK_SIZE bytes of shared memory, and those of a question; NULL: nobody looks. */
void mark_at(char *place, struct mark_judging *judging);

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

/* What is asked from now on, until mark_judged(). */
void mark_judge(const char *part, const char *name, size_t name_len, const char *about,
                size_t about_len);
void mark_judged(void);

#endif
