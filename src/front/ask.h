/* ask.h - what commands that ask the engine's database share: rows as a table or as JSON, and a
 * person's yes. */
#ifndef FRONT_ASK_H
#define FRONT_ASK_H

#include "front/front.h"
#include "front/session.h"

/* The rows of a query, whose columns' names are the keys and the titles: with --json one array,
 * else a table, and when_empty without rows. n text parameters follow. */
bool ask_rows(struct ask *ask, const char *when_empty, struct err *err, const char *sql, int n,
              ...);

/* The first value of the first row, to be freed; NULL with err untouched: there is none, or null.
 */
bool ask_value(struct ask *ask, char **value, struct err *err, const char *sql, int n, ...);
/* The same in another database. */
bool ask_elsewhere(const char *url, char **value, struct err *err, const char *sql, int n, ...);

/* Whether a word that is to be a JSON object is one (NULL: there is none, which is fine); else it
 * is wrong usage. */
bool ask_object(struct ask *ask, const char *text, struct err *err);

/* Asks "QUESTION Type COUNT to go on: "; --yes is yes. Where nobody can be asked it is refused. */
bool ask_agreed(struct ask *ask, long count, const char *question, struct err *err);

/* --json of every verb that has an answer; --yes. */
#define OPTION_JSON                                        \
    {                                                      \
        "--json", NULL, "answer in JSON, with stable keys" \
    }
#define OPTION_YES                 \
    {                              \
        "--yes", NULL, "don't ask" \
    }

#endif
