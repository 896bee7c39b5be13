/* db_crash.c - the points of a unit at which a test may have us die; see base/crash.h. */
#include "base/crash.h"
#include "io/db_internal.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

enum { EXECUTED_MS = 20 }; // for the server to do what it was sent

static void flush_all(PGconn *conn)
{
    while (PQflush(conn) == 1) {
        struct pollfd fd = {.fd = PQsocket(conn), .events = POLLOUT};
        poll(&fd, 1, 1000);
    }
}

void db_crash_statement(PGconn *conn, const struct db_statement *s)
{
    if (crash_armed() && crash_due("statement", s->sql)) {
        flush_all(conn);
        poll(NULL, 0, EXECUTED_MS);
        crash_now();
    }
}

void db_crash_unit(PGconn *conn, const struct db_unit *unit, const char *kind)
{
    if (!crash_armed()) {
        return;
    }
    // The point's text is all of the unit's statements.
    char text[2000];
    size_t n = 0;
    for (int i = 0; i < unit->count && n < sizeof(text); i++) {
        int more = snprintf(text + n, sizeof(text) - n, "%.60s; ", unit->statements[i].sql);
        n += more > 0 ? (size_t)more : 0;
    }
    if (crash_due(kind, unit->count ? text : "")) {
        flush_all(conn);
        if (strcmp(kind, "sync") == 0) {
            poll(NULL, 0, EXECUTED_MS);
        }
        crash_now();
    }
}
