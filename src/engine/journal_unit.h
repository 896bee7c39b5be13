/* journal_unit.h - one unit of the journal: notes to statements, the reply to answers. */
#ifndef ENGINE_JOURNAL_UNIT_H
#define ENGINE_JOURNAL_UNIT_H

#include "engine/journal.h"

/* Which statement is which; -1 where there is none. */
struct unit_plan {
    int step, suspend, release, stopping, finish, begin, stops, claim;
};

struct unit_ask {
    const struct worker *worker;
    int claim;                /* how many; 0: none */
    bool again;               /* some of it may have been written before */
    bool sweep;               /* first give back what we don't know that we hold */
    const char *const *known; /* for the sweep */
    size_t nknown;
};

struct db_unit *journal_unit_build(struct note *const *notes, size_t n, const struct unit_ask *ask,
                                   struct unit_plan *plan);
/* Fills in the answers of the notes and tells the stops. */
void journal_unit_read(struct note *const *notes, size_t n, const struct unit_plan *plan,
                       const struct db_reply *reply, const struct journal_events *events);

#endif
