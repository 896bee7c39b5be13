/* instance_parts.h - the inside of an instance, shared by instance.c and request.c. */
#ifndef ENGINE_INSTANCE_PARTS_H
#define ENGINE_INSTANCE_PARTS_H

#include "engine/instance.h"
#include "script/task.h"

enum request_kind { REQUEST_STEP, REQUEST_SLEEP, REQUEST_WAIT, REQUEST_RECORD, REQUEST_CALL };

enum request_state {
    REQUEST_HELD,    /* not begun */
    REQUEST_ACTING,  /* its action is under way */
    REQUEST_WRITING, /* in the journal */
    REQUEST_WAITING, /* registered: a sleep or a wait */
    REQUEST_JUDGING  /* the body looks at a candidate */
};

struct request {
    struct request *next;
    struct instance *in;
    enum request_kind kind;
    enum request_state state;
    int ordinal;
    bool ran;    /* a record of what the author's own code has come to */
    char *texts; /* all of these but output; a note has them later */
    const char *branch, *step, *name, *hash, *input; /* step: "branch/ordinal" */
    const char *word, *options, *now, *due;          /* a step's: its action, ... */
    const char *deadline;                            /* a sleep's, a wait's; NULL: none */
    const char *spec;                                /* a wait's: types, judged, since as members */
    const char *outcome;                             /* a record's */
    char *output;
    struct action *action;
    struct note *note; /* in the journal */
    int64_t began_us;
    struct candidate *candidates; /* to be judged, oldest first */
    int64_t after;                /* the last that was found not ours */
};

struct instance {
    struct instance_link link;
    struct instance_host *host;
    struct body *body;
    struct task *task;
    char id[37], created[32], last_at[32];
    char *mode, *steps;
    char *event;
    size_t event_len;
    char *trace; /* the traceparent that came with its event; NULL: its id is its trace */
    int run, next_seq;
    size_t history;           /* bytes of what was recorded, about */
    struct request *requests; /* in the order of asking */
    int turns;                /* resumes whose turn isn't over */
    int expected;             /* posts of this turn still to come; -1: just one */
    int notes;                /* in the journal */
    struct candidate *stops;  /* not looked at yet */
    struct candidate *halt;   /* what stops us */
    bool halting;             /* decided, not begun */
    bool stopping;            /* on_stop runs */
    bool idle;                /* stuck or paused when it was claimed */
    bool watched;             /* events may stop it */
    int flow;                 /* flow control: 1 is told of its end; 2 is also asked */
    bool refused;             /* the database refused to take it back as it was */
    bool waits_body;
    bool leaving, left, orphan;
    enum note_kind leaving_kind;
    char *leaving_json;
};

/* instance.c */
void instance_pump(struct instance *in);
bool instance_consider(struct instance *in);
void instance_turn_over(struct instance *in);
void instance_leave(struct instance *in, enum note_kind kind, char *json);
void instance_leave_with_reason(struct instance *in, const char *state, const char *due,
                                const char *reason);
void instance_leave_stuck(struct instance *in, const char *code, const char *message);
void instance_gone(struct instance *in, bool finished);
void instance_run(struct instance *in);
void instance_body_there(void *ctx, struct body *body); /* its version is loaded: it begins */
void instance_drop_task(struct instance *in);
void instance_note_written(struct note *note); /* of a note whose request is gone */

/* flow.c */
void flow_ask(struct instance *in);

/* traces.c */
char *event_trace(const char *event); /* the traceparent in it, strictly read; NULL: none */
const char *instance_trace(const struct instance *in); /* the id, for logs; until the next call */
/* In the log, with its trace. */
void instance_warn(const struct instance *in, const char *message, const char *code,
                   const char *reason);

/* request.c */
void request_new(struct instance *in, const struct slice *args, size_t nargs);
void request_judged(struct instance *in, const struct slice *args, size_t nargs);
void request_begin(struct request *r);
const char *request_history_full(const struct instance *in);
void request_all_wait(struct instance *in); /* gives the instance back until the first is due */
void request_free(struct request *r);

#endif
