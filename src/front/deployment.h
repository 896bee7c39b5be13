/* deployment.h - what is known of a whole deployment at one moment, and its printers: Prometheus'
 * text format, lines for people, JSON.
 *
 * Counters come from the workers: those of this machine's supervisor from their pages (page.h), all
 * others from their rows, as old as the last renewal. What waits, and since when, is asked of the
 * databases. */
#ifndef FRONT_DEPLOYMENT_H
#define FRONT_DEPLOYMENT_H

#include "engine/figures.h"
#include "io/db.h"

enum { MEMBERS_MAX = 256, CODES_MAX = 32, SCHEDULES_MAX = 256 };

struct member { /* one worker process, anywhere */
    char name[32], role[16], machine[96], pid[16];
    bool alive; /* it renews its row */
    struct figures figures;
};

struct deployment {
    bool engine_known, st_known; /* the databases answered */
    double now;                  /* the engine database's, seconds since 1970 */
    struct {
        int64_t waiting;
        double oldest; /* seconds since 1970 of the oldest that waits; 0: nothing does */
    } stages[STAGES];
    struct member members[MEMBERS_MAX];
    int nmembers;
    struct {
        char code[64];
        int64_t count;
    } stuck[CODES_MAX];
    int nstuck;
    struct {
        char workflow[96];
        double planned, made;   /* the last fire: for when, and when; seconds since 1970 */
    } schedules[SCHEDULES_MAX]; /* in force, that have fired */
    int nschedules;
    int64_t refused; /* of the company's files */
    int64_t pending; /* schema files of this program that are not applied */
    char *refusals;  /* JSON, for people; NULL: not known yet */
};

void deployment_fini(struct deployment *d); /* NULL is fine */

/* The questions, and what to make of the answers. expected is migrate_expects()'s, or NULL. */
struct db_unit *deployment_ask_engine(const char *expected);
struct db_unit *deployment_ask_st(void);
void deployment_engine(struct deployment *d, const struct db_reply *reply);
void deployment_st(struct deployment *d, const struct db_reply *reply);
/* The workers of this supervisor, as they are at this moment. */
void deployment_local(struct deployment *d);

double deployment_lag(const struct deployment *d, int stage); /* seconds; 0: nothing waits */

void deployment_metrics(const struct deployment *d, struct buf *out);
void deployment_json(const struct deployment *d, struct buf *out);
void deployment_lines(const struct deployment *d, struct buf *out);

#endif
