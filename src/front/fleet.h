/* fleet.h - the fleet check: would live instances of a workflow go on as another version? */
#ifndef FRONT_FLEET_H
#define FRONT_FLEET_H

#include "front/front.h"
#include "front/session.h"

struct fleet_order {
    const char *workflow;
    int target;           /* the definition to which they would go */
    const char *instance; /* the beginning of one's id; NULL: all */
    bool move;            /* the safe ones, at once */
    bool decided;         /* and those that need a decision: it was taken */
    bool quiet;           /* nothing is printed: `said` has it */
};

struct fleet_report {
    int safe, diverges, decide, busy, moved;
    char *said; /* of a quiet one: a JSON array of those that aren't safe; to be freed */
};

/* Prints a line for each instance that isn't safe, and a last one with the counts. False: err says
 * why, and there is no report. */
bool fleet_check(struct front *front, struct session *session, const struct fleet_order *order,
                 struct fleet_report *report, struct err *err);

/* What stops an instance by its version's stop_when, as JSON to be freed; NULL: err says why. */
char *fleet_stops(struct front *front, struct session *session, const char *instance,
                  struct err *err);

/* What differs between two definitions' files, line by line, to be freed; "" when they are the
 * same, NULL: err says why. */
char *fleet_diff(struct front *front, struct session *session, int from, int to, struct err *err);

#endif
