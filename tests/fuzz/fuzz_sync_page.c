/* fuzz_sync_page.c - a vendor's page, cut without being read: of a page that is JSON, the rows and
 * fields are those that a parser finds; of any other, the pieces stay inside of it. */
#include "fuzz.h"

#include "engine/sync_page.h"
#include "script/json.h"

#include <stdio.h>

static void inside(const struct sync_page *page, size_t len)
{
    char out[40];
    size_t end = 0;
    must(strlen(page->text) == len); // no NUL is left
    for (size_t i = 0; i < page->count; i++) {
        must(page->begin[i] >= end && page->end[i] > page->begin[i] && page->end[i] <= len);
        end = page->end[i];
        sync_page_field(page, i, "id", out, sizeof(out));
        sync_page_field(page, i, "modifiedOn", out, 3);
        must(strlen(out) < 3);
    }
    struct buf rows;
    buf_init(&rows, len + 2);
    must(sync_page_rows(page, 0, page->count, &rows));
    must(sync_page_rows(page, page->count, page->count, &rows) || rows.overflow);
    buf_fini(&rows);
}

static void same_as_parsed(const struct sync_page *page, const struct json *json)
{
    must(json_count(json, "data") == page->count);
    for (size_t i = 0; i < page->count; i++) {
        char path[48], field[64];
        snprintf(path, sizeof(path), "data.%zu", i);
        struct json *row = json_parse(page->text + page->begin[i], page->end[i] - page->begin[i],
                                      NULL);
        must(row);
        char *ours = json_encode(row, ""), *theirs = json_encode(json, path);
        must(ours && theirs && strcmp(ours, theirs) == 0);
        int64_t id;
        sync_page_field(page, i, "id", field, sizeof(field));
        if (json_int(row, "id", &id) && strlen(json_text(row, "id")) < 20)
            must(strtoll(field, NULL, 10) == id || strpbrk(field, ".eE"));
        free(ours);
        free(theirs);
        json_free(row);
    }
}

static size_t occurrences(const char *text, const char *word)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, word)); at++)
        count++;
    return count;
}

/* A key that comes twice, or is written with escapes, may be read in two ways. */
static bool is_plain(const char *text)
{
    return occurrences(text, "data") == 1 && occurrences(text, "hasMore") == 1 &&
           occurrences(text, "id\"") <= 1 && !strstr(text, "\\u");
}

static bool is_page(const struct json *json)
{
    char *rows = json_encode(json, "data");
    bool is = rows && rows[0] == '[' && json_text(json, "hasMore");
    free(rows);
    return is;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {0};
    struct sync_page *page = sync_page_read((const char *)data, size, &err);
    char *text = fuzz_text(data, size);
    struct json *json = is_plain(text) ? json_parse((const char *)data, size, NULL) : NULL;
    must(page || (err.code == ERR_INPUT && !strchr(err.message, '\n')));
    must(page || !json || !is_page(json));
    if (page)
        inside(page, size);
    if (page && json)
        same_as_parsed(page, json);
    json_free(json);
    free(text);
    sync_page_free(page);
    return 0;
}
