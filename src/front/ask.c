/* ask.c - see ask.h. */
#include "front/ask.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PARAMETERS_MAX = 8 };

static struct db_unit *unit_of(const char *sql, int n, va_list list)
{
    const char *values[PARAMETERS_MAX];
    must(n <= PARAMETERS_MAX);
    for (int i = 0; i < n; i++)
        values[i] = va_arg(list, const char *);
    struct db_unit *unit = db_unit_new();
    db_unit_add_once(unit, sql, n, values);
    return unit;
}

static void print_json(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    printf("%s\n", db_value(reply, 0, 0, 0));
}

bool ask_rows(struct ask *ask, const char *when_empty, struct err *err, const char *sql, int n, ...)
{
    va_list list;
    va_start(list, n);
    char *text = ask->json ? xprintf("select coalesce(json_agg(x), '[]') from (%s) x", sql)
                           : xstrdup(sql);
    struct db_unit *unit = unit_of(text, n, list);
    va_end(list);
    free(text);
    return ask->json ? session_run(ask->session, unit, print_json, NULL, err)
                     : session_print(ask->session, unit, when_empty, err);
}

static void take(void *ctx, const struct db_reply *reply)
{
    char **value = ctx;
    const char *text = db_rows(reply, 0) > 0 ? db_value(reply, 0, 0, 0) : NULL;
    *value = text != NULL ? xstrdup(text) : NULL;
}

bool ask_value(struct ask *ask, char **value, struct err *err, const char *sql, int n, ...)
{
    va_list list;
    va_start(list, n);
    struct db_unit *unit = unit_of(sql, n, list);
    va_end(list);
    *value = NULL;
    return session_run(ask->session, unit, take, value, err);
}

bool ask_elsewhere(const char *url, char **value, struct err *err, const char *sql, int n, ...)
{
    *value = NULL;
    struct session *session = session_open(url, err);
    if (session == NULL)
        return false;
    va_list list;
    va_start(list, n);
    struct db_unit *unit = unit_of(sql, n, list);
    va_end(list);
    bool ok = session_run(session, unit, take, value, err);
    session_close(session);
    return ok;
}

bool ask_object(struct ask *ask, const char *text, struct err *err)
{
    char *kind = NULL;
    struct err why;
    if (text == NULL)
        return true;
    bool ok = ask_value(ask, &kind, &why, "select json_typeof($1::json)", 1, text);
    if (!ok && strncmp(why.sqlstate, "22", 2) != 0) {
        *err = why;
        return false;
    }
    if (!ok || strcmp(kind, "object") != 0) {
        ok = err_set(err, ERR_INPUT, "\"%s\" is not a JSON object, such as '{\"size\": 3}'", text);
        ask->code = EXIT_USAGE;
    }
    free(kind);
    return ok;
}

bool ask_agreed(struct ask *ask, long count, const char *question, struct err *err)
{
    char line[64];
    if (args_has(ask->args, "--yes"))
        return true;
    if (!isatty(0))
        return err_set(err, ERR_REFUSED, "%s: nobody is there to be asked, so say --yes", question);
    fprintf(stderr, "%s. Type %ld to go on: ", question, count);
    if (fgets(line, sizeof(line), stdin) == NULL || strtol(line, NULL, 10) != count ||
        line[strspn(line, "0123456789")] != '\n')
        return err_set(err, ERR_REFUSED, "nothing was done");
    return true;
}
