/* detect_round.h - the inside of detection, shared by detect.c and detect_daily.c. */
#ifndef ENGINE_DETECT_ROUND_H
#define ENGINE_DETECT_ROUND_H

#include "engine/detect.h"

#include "base/buf.h"
#include "base/mem.h"

/* A daily rule that is asked in this round. */
struct detect_daily {
    char *rule, *of, *day, *sql;
    bool history;
    char *rows, *live_since;
    char *last; /* of these rows, as daily_new() tells it */
    bool more;
    bool under_way; /* the batch is its */
};

/* How far a daily rule has come on its day: what is no event stays as new as it was. */
struct detect_place {
    char *whose; /* "rule day" */
    char *last;
};

/* What is known of schedules between rounds. */
struct detect_schedule {
    char *rows;      /* as they were looked at last; NULL: look again */
    int64_t next_ms; /* the next fire, business time */
    int64_t wake_ms; /* the same by our own clock, while nothing is due */
};

struct detect {
    const struct engine *engine;
    loop_fn *lost, *settled;
    void *ctx;
    struct vm *vm; /* owned; NULL until there is one */
    int64_t stamp; /* of the rules it has */
    bool checked;  /* the batch under way is refused when there are newer ones */
    int64_t
        outrun_ms; /* since when batches were: by newer rules, or by others; 0: the last wasn't */
    bool history;  /* a workflow listens to history */
    struct listener *arrivals, *changes;
    struct loop_timer *timer;
    bool busy;    /* a round is under way: a reply will come */
    bool poked;   /* something was told since the round began */
    bool stopped; /* freed with the next reply */
    bool gone;    /* the lease is */

    bool blamed;    /* an evaluation is left out of the next batch */
    int limit;      /* of the next batch */
    bool odd;       /* of a limit of one: a change's turn, else an arrival's */
    bool set_aside; /* what is read next is settled as an error, for this reason: */
    struct err aside;
    /* this round */
    struct buf input; /* of Lua */
    char *now, *days;
    char *deadly;       /* what killed who asked it; NULL: nothing is to be watched */
    char *at, *reached; /* with two databases: when it began; what was noticed before is settled */
    int read_changes;
    int read_arrivals;
    bool read_retries;
    char *consume, *postpone; /* bigint[] */
    bool consumed, postponed;
    bool full;  /* there may be more of the kind, or what was settled was of another */
    bool fires; /* a schedule's: nothing else is settled */
    struct detect_daily daily;
    struct detect_place place;
    struct detect_schedule schedule;
    struct detect_stats stats;
};

void detect_free(struct detect *d);
void detect_rest(struct detect *d, int64_t ms);
bool detect_answered(struct detect *d, const struct db_reply *reply);
void detect_judge(struct detect *d);

/* Asks the next daily rule that is due, or rests. */
void detect_daily(struct detect *d);
void detect_daily_fini(struct detect_daily *daily);
/* Its batch is settled: the next one goes on behind it. */
void detect_daily_settled(struct detect *d);
void detect_place_forget(struct detect_place *place);

/* True: fires of a schedule are due, and are the input of this round. */
bool detect_schedule(struct detect *d, const char *rows, int64_t now_ms, double scale);
void detect_schedule_forget(struct detect_schedule *schedule);

#endif
