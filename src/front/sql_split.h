/* sql_split.h - cuts a file of SQL into its statements. */
#ifndef FRONT_SQL_SPLIT_H
#define FRONT_SQL_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

/* The next statement at *text, without its semicolon; *text moves behind it. It knows quotes,
 * dollar quotes, comments (nested ones too); `begin atomic` bodies it does not. False at
 * the end. *start and *len leave out the blanks and comments before the statement. */
bool sql_next(const char **text, const char **start, size_t *len);

#endif
