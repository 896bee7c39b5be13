/* mark.c - see mark.h. The state of this file is the process's: it does one thing at a time. */
#include "base/mark.h"

#include "base/digest.h"

#include <stdint.h>
#include <stdio.h>

static char nowhere[MARK_SIZE];
char *mark_place = nowhere;

static struct mark_judging unseen, *asked = &unseen;

void mark_at(char *place, struct mark_judging *judging)
{
    mark_place = place ? place : nowhere;
    asked = judging ? judging : &unseen;
}

static void put(char *to, size_t size, const char *text, size_t len)
{
    if (len < size && !memchr(text, '\0', len)) {
        memcpy(to, text, len);
        to[len] = '\0';
    } else
        snprintf(to, size, "%016llx", (unsigned long long)digest_hash64(text, len));
}

void mark_judge(const char *part, const char *name, size_t name_len, const char *about,
                size_t about_len)
{
    size_t len = strnlen(part, sizeof(asked->part) - 1);
    mark_judged();
    put(asked->name, sizeof(asked->name), name, name_len);
    put(asked->about, sizeof(asked->about), about, about_len);
    memcpy(asked->part + 1, part + 1, len > 0 ? len - 1 : 0);
    asked->part[len] = '\0';
    __asm__ volatile("" ::: "memory");
    *(volatile char *)asked->part = *part;
}

void mark_judged(void)
{
    *(volatile char *)asked->part = '\0';
    __asm__ volatile("" ::: "memory");
}
