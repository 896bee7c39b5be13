/* fuzz_sql_split.c - cutting SQL files: pieces follow each other, lose nothing but semicolons,
 * blanks and comments between them, and are one statement each when they are cut again. */
#include "fuzz.h"

#include "front/sql_split.h"

#include <ctype.h>

/* What is left out between two statements. */
static bool is_between(const char *at, const char *end)
{
    while (at < end) {
        if (isspace((unsigned char)*at) || *at == ';') {
            at++;
        } else if (at[0] == '-' && at[1] == '-') {
            at += strcspn(at, "\n");
        } else if (at[0] == '/' && at[1] == '*') {
            int depth = 0;
            do {
                bool open = at[0] == '/' && at[1] == '*', close = at[0] == '*' && at[1] == '/';
                depth += open - close;
                at += open || close ? 2 : 1;
            } while (depth > 0 && *at);
        } else {
            return false;
        }
    }
    return at == end;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size);
    const char *at = text, *end = text, *start;
    size_t len;
    while (sql_next(&at, &start, &len)) {
        must(start >= end && len > 0 && at == start + len);
        must(is_between(end, start));
        must(*at == ';' || *at == '\0');
        char *piece = xstrndup(start, len);
        const char *rest = piece, *again;
        size_t same;
        must(sql_next(&rest, &again, &same) && again == piece && same == len);
        must(!sql_next(&rest, &again, &same));
        free(piece);
        end = at;
    }
    must(is_between(end, text + strlen(text)));
    free(text);
    return 0;
}
