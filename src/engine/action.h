/* action.h - running one action call of one instance: its Lua, its calls to vendors, its result.
 *
 * The body of an instance asks for `sms.send {...}`; the action's Lua runs in the action VM, always
 * in its newest version. Whatever touches the world goes through the ledger. */
#ifndef ENGINE_ACTION_H
#define ENGINE_ACTION_H

#include "engine/engine.h"

struct actions; /* the action VM and what it needs; one per worker */
struct action;  /* one call under way */

struct action_call {
    const char *instance; /* uuid */
    int run;
    const char *step; /* "branch/ordinal": the ledger's part of the key */
    const char *name; /* "sms.send" */
    const char *args; /* JSON, as the body gave them (and as they were hashed) */
    size_t args_len;
    const char *options;  /* JSON: retries, timeout, in_doubt, as the author wrote them */
    struct slice event;   /* JSON: the instance's event, for placeholders */
    const char *workflow; /* its name */
    const char *class_;   /* "marketing" or "transactional": the workflow's */
    const char *mode;     /* "live" or "shadow" */
    const char *now;      /* business time as the body sees it, UTC text */
    const char *trace;    /* the traceparent that came with the event; NULL: the instance's id */
    const char *due;      /* when this step became due: business time, UTC text */
};

enum action_verdict {
    ACTION_DONE,      /* text is the result's JSON */
    ACTION_FAILED,    /* text is the error's JSON: {action, code, message, status, attempts} */
    ACTION_SUSPENDED, /* to be asked again at `until` (real time, UTC text); text says why */
    ACTION_HELD,     /* in doubt: a person or a late callback must say; text is the reason's JSON */
    ACTION_STOPPING, /* the intent was refused: a stop event is there to be judged */
    ACTION_NOT_OURS, /* the intent was refused: this worker doesn't hold the instance */
    ACTION_LOST      /* our lease is gone */
};

/* text is the callee's, to be freed; empty: there is none. */
typedef void action_done_fn(void *ctx, enum action_verdict verdict, char *text, const char *until);

/* files: mappings, actions, company, templates, as {path: source}; NULL: as they are on disk. */
struct actions *actions_start(const struct engine *engine, const char *files, struct err *err);
void actions_stop(struct actions *actions);
/* None will be started for a while: gives back memory. */
void actions_rest(struct actions *actions);
/* A request isn't answered yet, or what became of it isn't written. */
bool actions_on_the_wire(const struct actions *actions);
/* Other files from the next call on. False: the old ones go on. */
bool actions_use(struct actions *actions, const char *files, struct err *err);
/* Whether files can be loaded at all. */
bool actions_check(const struct engine *engine, const char *files, struct err *err);
/* The texts of the call must live until it is reported or cancelled. */
struct action *action_start(struct actions *actions, const struct action_call *call,
                            action_done_fn *done, void *ctx);
void action_cancel(struct action *action); /* nothing is reported; outcomes are still written */

#endif
