/* page.c - see page.h. The state of this file is the process's: it is one worker. */
#include "engine/page.h"

#include "base/err.h"

#include <sys/mman.h>

static struct page alone;
static struct page *mine = &alone, *all = &alone;
static int pages = 1;

struct page *pages_new(int count)
{
    void *memory = mmap(NULL, (size_t)count * sizeof(struct page), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED);
    return memory;
}

void pages_use(struct page *shared, int count, int which)
{
    all = shared;
    pages = count;
    mine = &shared[which];
    mark_at(mine->mark, &mine->judging);
}

struct page *page(void)
{
    return mine;
}

const struct page *pages_all(int *count)
{
    *count = pages;
    return all;
}
