/* listen.c - one connection for all channels of a pool: PostgreSQL wakes each connection that
 * listens for every notification of its database, whatever the channel.
 *
 *     no listener: no connection --first one--> connecting --ready, LISTEN answered--> hearing
 *
 * A pooler gives our LISTEN to some connection of its own and forgets it; it also makes up the
 * process id that we are told when we connect, and by that it is known. */
#include "io/listen.h"

#include "base/buf.h"
#include "base/mem.h"
#include "io/db_internal.h"

#include <stdlib.h>
#include <string.h>

struct ears {
    struct loop *loop;
    char *url;
    struct db *db; // NULL: nobody has listened yet
    struct listener *listeners;
    struct ask *asks; // units under way, newest first
    bool hear;
};

struct listener {
    struct ears *ears;
    struct listener *next;
    char *channel;
    loop_fn *fn;
    void *ctx;
    bool due; // fn is deferred
};

// A unit under way, in its memory. It may be answered after the ears are gone.
struct ask {
    struct ears *ears; // NULL: gone
    struct ask *next;
};

static void call(void *ctx)
{
    struct listener *listener = ctx;
    listener->due = false;
    listener->fn(listener->ctx); // may close the listener
}

static void hint(struct listener *listener)
{
    if (!listener->due) {
        listener->due = true;
        loop_defer(listener->ears->loop, call, listener);
    }
}

static void on_notify(void *ctx, const char *channel)
{
    struct ears *ears = ctx;
    for (struct listener *l = ears->listeners; l; l = l->next) {
        if (strcmp(l->channel, channel) == 0) {
            hint(l);
        }
    }
}

static void listening(void *ctx, const struct db_reply *reply)
{
    struct ask *ask = ctx;
    struct ears *ears = ask->ears;
    if (!ears) {
        return;
    }
    for (struct ask **at = &ears->asks; *at; at = &(*at)->next) {
        if (*at == ask) {
            *at = ask->next;
            break;
        }
    }
    if (db_reply_outcome(reply) != DB_OK) {
        return;
    }
    ears->hear = db_int(reply, 0, 0, 0) == db_backend_pid(ears->db);
    for (struct listener *l = ears->listeners; l; l = l->next) {
        hint(l); // what was notified before now was not heard
    }
}

// LISTEN for this one, or for all of them.
static void ask(struct ears *ears, const struct listener *only)
{
    struct db_unit *unit = db_unit_new();
    struct ask *ask = arena_alloc(unit->arena, sizeof(*ask));
    *ask = (struct ask){ears, ears->asks};
    ears->asks = ask;
    db_unit_add(unit, "select pg_backend_pid()", 0, NULL);
    for (struct listener *l = ears->listeners; l; l = l->next) {
        struct buf sql;
        buf_init(&sql, 256);
        buf_adds(&sql, "listen \"");
        for (const char *c = l->channel; *c; c++) {
            buf_adds(&sql, *c == '"' ? "\"\"" : (char[]){*c, 0});
        }
        buf_addc(&sql, '"');
        must(!sql.overflow);
        if (!only || l == only) {
            db_unit_add_once(unit, sql.data, 0, NULL);
        }
        buf_fini(&sql);
    }
    db_send(ears->db, unit, listening, ask);
}

static void on_state(void *ctx, bool ready, const struct err *err)
{
    (void)err;
    struct ears *ears = ctx;
    ears->hear = false;
    if (ready) {
        ask(ears, NULL);
    }
}

struct ears *ears_new(struct loop *loop, const char *url)
{
    struct ears *ears = xcalloc(1, sizeof(*ears));
    ears->loop = loop;
    ears->url = xstrdup(url);
    return ears;
}

void ears_free(struct ears *ears)
{
    must(!ears->listeners);
    for (struct ask *ask = ears->asks; ask; ask = ask->next) {
        ask->ears = NULL;
    }
    db_close(ears->db); // answers what is asked, from the loop
    free(ears->url);
    free(ears);
}

bool ears_hear(const struct ears *ears)
{
    return ears->hear;
}

struct listener *listener_open(struct ears *ears, const char *channel, loop_fn *fn, void *ctx)
{
    struct listener *listener = xcalloc(1, sizeof(*listener));
    listener->ears = ears;
    listener->channel = xstrdup(channel);
    listener->fn = fn;
    listener->ctx = ctx;
    listener->next = ears->listeners;
    ears->listeners = listener;
    if (!ears->db) {
        struct db_options options = {
            .url = ears->url, .prepare = false, .name = "moonwright listener"};
        ears->db = db_open(ears->loop, &options);
        db_on_state(ears->db, on_state, ears);
        db_on_notify(ears->db, on_notify, ears);
    } else if (db_is_ready(ears->db)) {
        ask(ears, listener);
    }
    return listener;
}

void listener_close(struct listener *listener)
{
    if (!listener) {
        return;
    }
    struct ears *ears = listener->ears;
    for (struct listener **at = &ears->listeners; *at; at = &(*at)->next) {
        if (*at == listener) {
            *at = listener->next;
            break;
        }
    }
    loop_undefer(ears->loop, listener);
    free(listener->channel);
    free(listener);
}
