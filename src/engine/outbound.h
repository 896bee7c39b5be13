/* outbound.h - what the files of the outbound stage share: action, message, call, query, indoubt.
 *
 * An action's Lua asks for one thing at a time; each ask is an op. An op lives until it has
 * answered and written what it knows: when its action is cancelled it goes on without it. */
#ifndef ENGINE_OUTBOUND_H
#define ENGINE_OUTBOUND_H

#include "base/buf.h"
#include "base/mem.h"
#include "base/trace.h"
#include "engine/action.h"
#include "engine/limit.h"
#include "io/fetch.h"
#include "script/json.h"
#include "script/task.h"

struct op {
    struct actions *actions; // NULL after actions_stop: free what is left and say nothing
    struct action *action;   // NULL once its action was cancelled
    struct op *next, *prev;
    char *id;         // how Lua knows it
    char *ask;        // what Lua posted, JSON
    struct json *doc; // the same, parsed
    char *key;        // the action's part of the ledger's key and what policy needs, JSON
    int tries;        // attempts that were refused or failed
    bool met;         // its unit met a row that was there already, and is sent again
    struct loop_timer *timer;
    struct limit_wait *wait;
    struct fetch *fetch;
    char *ledger_id;   // the row this op wrote
    int64_t intent_ms; // when its unit was sent, by the monotonic clock
    char *text;        // a recipient, a url, an answer: what this step needs later
    char *more;
    const char *provider;
    struct trace trace; // of the request under way: its span is ours
    char traceparent[TRACE_TEXT + 16];
    void (*step)(struct op *op); // what the timer does
};

/* action_key.c */
/* What the ledger is keyed by and policy goes by, as JSON; no script can change it. */
char *action_key(const struct engine *engine, bool live, const struct action_call *call);
/* A text that its Lua asks for by host.lent(name): "event", "now", "options", or "owner", which is
 * unique for the step, made when it is asked for first and then the caller's. */
struct slice action_lend(const struct action_call *call, const char *name, char **owner);

/* op_wire.c */
/* Makes the span of the next request and its header, op->traceparent. */
void op_trace(struct op *op, const struct action_call *call);
/* An answer, or none, in the log: with the trace of its instance and the span that went out. */
void op_log_answer(const struct op *op, const struct fetch_result *result);

/* How long to wait before try n (from 1), at least `least` ms; full jitter. */
int64_t op_pause_ms(int tries, int64_t least);
/* Retry-After of an answer in ms, 0 without. */
int64_t op_retry_after_ms(const struct fetch_result *result);

/* action.c */
/* The call that this op is a part of; NULL once its action was cancelled. */
const struct action_call *op_call(const struct op *op);
const struct engine *op_engine(const struct op *op);
bool op_is_live(const struct op *op); /* this worker may send at all */
struct limits *op_limits(const struct op *op);
void op_free(struct op *op);
/* Resumes the action's Lua with (id, status, json) and frees the op. */
void op_answer(struct op *op, const char *status, const char *json);
/* The same with an error's JSON: {code, message, status, attempts}. */
void op_fail(struct op *op, const char *code, int http_status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Ends the action with this verdict and frees the op. */
void op_end(struct op *op, enum action_verdict verdict, const char *text, const char *until);
/* A unit that did not commit: true when the op was ended or retries by itself (`again`). */
void op_unit_failed(struct op *op, const struct db_reply *reply, void (*again)(struct op *op));
/* Takes one of the provider's tokens and calls fn. Where many wait for one already, the instance is
 * given back for a while: those who wait keep a worker's room from instances that need no token. */
void op_take_token(struct op *op, loop_fn *fn);
/* Runs step after ms. */
void op_later(struct op *op, int64_t ms, void (*step)(struct op *op));
/* Begins a unit with the fence of our lease. */
struct db_unit *op_unit(const struct op *op);
/* Who must hold the instance for an intent; NULL: we have no lease. */
const char *op_holder(const struct op *op);
void op_send(struct op *op, struct db_unit *unit, db_done_fn *done);
/* A fresh ledger id for the next intent. */
void op_new_id(struct op *op);
/* The gate of a request that must not be late: our lease is alive and the intent is young. */
bool op_gate(void *ctx);
/* A copy with a '?' for every byte that isn't UTF-8; caller frees. */
char *op_utf8(const char *text, size_t len);
/* After a try that failed: counts it, and says whether there may be another one. */
bool op_may_try_again(struct op *op);
/* How long one try may take, 0: fetch's own. */
int op_timeout_ms(const struct op *op);
/* Seconds after an instant of the database ("intended_at"), or after now by its clock, as UTC text;
 * caller frees. */
char *op_after(const char *utc, double seconds);
char *op_soon(const struct engine *engine, double seconds);

/* message.c */
void message_start(struct op *op);
void message_again(struct op *op); /* asks policy once more, after a look-up */
/* Held, {id, rule}: as the author said beforehand, else for a person. */
void message_hold(struct op *op, const struct json *row);
/* call.c */
void call_start(struct op *op);
void call_settle(struct op *op);
/* query.c */
void query_start(struct op *op);
/* indoubt.c: a send whose outcome nobody wrote down. verdict is message_intent's answer. */
void indoubt_message(struct op *op, const struct json *verdict);

/* files.c: what the actions are made of, on disk, as {path: source}. Caller frees; NULL: err. */
char *action_sources(const struct engine *engine, struct err *err);
/* Those files and the settings that actions see: what the action VM loads. Caller frees. */
char *action_bundle(const struct engine *engine, const char *files);

#endif
