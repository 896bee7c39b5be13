/* json.h - reading a vendor's or our own JSON in C: the few fields that C itself needs.
 *
 * The parser is lua-cjson in a private state (script/ is the only place for it); bulk data goes to
 * PostgreSQL unread. */
#ifndef SCRIPT_JSON_H
#define SCRIPT_JSON_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json; /* a parsed document */

struct json *json_parse(const char *text, size_t len, struct err *err); /* NULL: not JSON */
void json_free(struct json *json);

/* A value by its path: "meta.contactId", "data.0.id". Text of strings, numbers and booleans as
 * text ("42", "true"); NULL when absent, null, or a table. Valid until json_free. */
const char *json_text(const struct json *json, const char *path);
bool json_int(const struct json *json, const char *path, int64_t *value);
bool json_bool(const struct json *json, const char *path);    /* false when absent */
size_t json_count(const struct json *json, const char *path); /* elements of an array, else 0 */
/* The canonical text of the value at path ("" is the document): keys sorted, integers exact.
 * Caller frees; NULL when absent. */
char *json_encode(const struct json *json, const char *path);

#endif
