/* page.h - what one worker process shows its supervisor and its fellows: shared memory, a page
 * each.
 *
 * The supervisor makes the pages before it forks and hands each worker its own; only the worker
 * writes there while it lives, the supervisor between two lives. Everybody may read any of them at
 * any time: single words are whole, and nothing here decides what is true, but for the last one.
 *
 *     a life --its Lua runs: mark--> killed --supervisor: dead--> the next life buries it */
#ifndef ENGINE_PAGE_H
#define ENGINE_PAGE_H

#include "base/mark.h"
#include "engine/figures.h"

enum { PAGE_NAME = 32, PAGE_HOW = 96 };

struct page {
    char name[PAGE_NAME], role[16];
    char worker[37];             /* the id of its lease; "" before the first */
    char mark[MARK_SIZE];        /* the instance whose Lua runs right now */
    struct mark_judging judging; /* what detection asks right now */
    bool up;                     /* it does what its role is for */
    int64_t beat_ms;             /* by the monotonic clock, which is the machine's */
    int64_t reloads;             /* times the company's files were read because somebody asked */
    struct figures figures;
    /* The life before, when it ended while the company's Lua was running: an instance's, else a
     * question of detection. To be written down by the next one before that can run again. */
    struct {
        char worker[37], instance[37], how[PAGE_HOW];
        struct mark_judging judging;
    } dead;
};

/* Pages of memory that children of this process share with it. */
struct page *pages_new(int count);
/* This process is the worker of pages[mine]. */
void pages_use(struct page *pages, int count, int mine);

/* The process' own page; one that nobody sees in a process without a supervisor. */
struct page *page(void);
/* All of them, own and fellows'. */
const struct page *pages_all(int *count);

#endif
