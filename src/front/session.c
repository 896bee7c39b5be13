/* session.c - runs the event loop until the answer is there. */
#include "front/session.h"

#include "base/mem.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct session {
    struct loop *loop;
    struct db *db;
    struct err why; /* it is down, because */
    bool down, waiting, ok;
    int failed, printed;
    char last[64]; /* the first cell of the last printed row */
    session_fn *fn;
    void *ctx;
    struct err *err;
};

static void on_state(void *ctx, bool ready, const struct err *err)
{
    struct session *session = ctx;
    session->down = !ready;
    if (err != NULL)
        session->why = *err;
    loop_stop(session->loop);
}

struct session *session_open(const char *url, struct err *err)
{
    struct session *session = xcalloc(1, sizeof(*session));
    struct db_options options = {.url = url, .prepare = false, .name = "moonwright command"};
    session->loop = loop_new();
    session->db = db_open(session->loop, &options);
    db_on_state(session->db, on_state, session);
    while (!session->down && !db_is_ready(session->db))
        loop_run(session->loop);
    if (!session->down)
        return session;
    err_set(err, ERR_CONN, "%s", session->why.message);
    session_close(session);
    return NULL;
}

void session_close(struct session *session)
{
    if (session == NULL)
        return;
    db_on_state(session->db, NULL, NULL);
    db_close(session->db);
    loop_free(session->loop);
    free(session);
}

struct loop *session_loop(struct session *session)
{
    return session->loop;
}

static void on_done(void *ctx, const struct db_reply *reply)
{
    struct session *session = ctx;
    session->waiting = false;
    session->ok = db_reply_outcome(reply) == DB_OK;
    session->failed = db_reply_failed_statement(reply);
    if (!session->ok)
        *session->err = *db_reply_err(reply);
    else if (session->fn != NULL)
        session->fn(session->ctx, reply);
    loop_stop(session->loop);
}

bool session_run(struct session *session, struct db_unit *unit, session_fn *fn, void *ctx,
                 struct err *err)
{
    session->waiting = true;
    session->fn = fn;
    session->ctx = ctx;
    session->err = err;
    db_send(session->db, unit, on_done, session);
    while (session->waiting)
        loop_run(session->loop);
    return session->ok;
}

int session_failed_statement(const struct session *session)
{
    return session->failed;
}

struct printing {
    struct session *session;
    const char *when_empty;
    bool plain, empty;
};

/* Characters, not bytes, of UTF-8. */
static int width(const char *text)
{
    int n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* "not_started" stands above its column as "NOT STARTED". */
static void print_cell(const char *text, int room, bool title, bool last)
{
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if (title)
            c = c == '_' ? ' ' : (unsigned char)toupper(c);
        putchar(c < ' ' || c == 127 ? ' ' : c);
    }
    for (int n = width(text); !last && n < room + 2; n++)
        putchar(' ');
}

static const char *cell(const struct db_reply *reply, int row, int column)
{
    const char *text = row < 0 ? db_column(reply, 0, column) : db_value(reply, 0, row, column);
    return text != NULL ? text : "";
}

static void print_rows(void *ctx, const struct db_reply *reply)
{
    struct printing *printing = ctx;
    int rows = db_rows(reply, 0), columns = db_columns(reply, 0);
    int first = printing->plain ? 0 : -1;
    printing->empty = rows == 0;
    printing->session->printed = rows;
    if (rows == 0) {
        if (printing->when_empty != NULL)
            printf("%s\n", printing->when_empty);
        return;
    }
    int *room = xcalloc((size_t)columns, sizeof(*room));
    for (int row = first; row < rows; row++) {
        for (int c = 0; c < columns; c++) {
            int w = width(cell(reply, row, c));
            room[c] = w > room[c] ? w : room[c];
        }
    }
    for (int row = first; row < rows; row++) {
        for (int c = 0; c < columns; c++)
            print_cell(cell(reply, row, c), room[c], row < 0, c == columns - 1);
        putchar('\n');
    }
    free(room);
    snprintf(printing->session->last, sizeof(printing->session->last), "%s",
             cell(reply, rows - 1, 0));
}

int session_printed(const struct session *session, const char **last)
{
    *last = session->last;
    return session->printed;
}

static bool print(struct session *session, struct db_unit *unit, const char *when_empty, bool plain,
                  struct err *err)
{
    struct printing printing = {session, when_empty, plain, false};
    if (!session_run(session, unit, print_rows, &printing, err))
        return false;
    return !printing.empty || when_empty != NULL || err_set(err, ERR_MISSING, "there is none");
}

bool session_print(struct session *session, struct db_unit *unit, const char *when_empty,
                   struct err *err)
{
    return print(session, unit, when_empty, false, err);
}

bool session_print_plain(struct session *session, struct db_unit *unit, const char *when_empty,
                         struct err *err)
{
    return print(session, unit, when_empty, true, err);
}
