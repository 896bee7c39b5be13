/* figures.h - what one worker counts of itself. Counting is an addition to a word in memory; the
 * words are read by /metrics, `moonwright status` and whoever else asks. Counters begin at 0 with
 * each life of a process. */
#ifndef ENGINE_FIGURES_H
#define ENGINE_FIGURES_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum stage { STAGE_SYNC, STAGE_DETECT, STAGE_EXECUTE, STAGE_OUTBOUND, STAGES };

struct stage_figures {
    /* Taken up; brought to their end; raised, refused, in doubt or stuck. Rows of sync, changes and
     * arrivals of detection, instances, calls with an effect. */
    int64_t claimed, settled, failed;
};

enum { PROVIDERS_MAX = 8, PROVIDER_NAME = 16 };

struct provider_figures {
    char name[PROVIDER_NAME]; /* "": unused, and so are those after it */
    int64_t calls, errors;    /* answered or not; 5xx, 429 and no answer */
    int64_t waits, wait_ms;   /* for a token of its rate limit */
};

struct figures {
    struct stage_figures stages[STAGES];
    struct provider_figures providers[PROVIDERS_MAX];
    int64_t events, started, steps;                /* settled, begun, recorded so far */
    int64_t live;                                  /* instances under way right now */
    int64_t loop_lag_us;                           /* the latest a timer was, lately */
    int64_t connections, connections_ready, units; /* of the pools; units under way */
    int64_t resident_bytes;
};

const char *stage_name(enum stage stage);

/* As one JSON object, which is how fellows on other machines and commands get them. */
void figures_write(struct figures *figures, struct buf *out);
void figures_read(struct figures *figures, const char *json); /* zeros where it isn't one */

/* This process' own (page.h). */
struct figures *figures(void);
/* A call with an effect was answered, well or not. */
void figures_outbound(bool well);
/* Of the vendor of this name; the last one stands for all that find no room. */
struct provider_figures *provider_figures(const char *name);

#endif
