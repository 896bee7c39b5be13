/* files.c - reads the company's files that actions are made of: company.lua, actions/, ghl/, lib/,
 * templates/. They are read anew whenever one of them changes; workflows have versions instead. */
#include "engine/outbound.h"

#include "engine/settings.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 1 << 20, ALL_MAX = 16 << 20 };

// Appends the file as a JSON string. A file that isn't there is not an error of its own.
static bool add_file(struct buf *out, const char *path, bool *found, struct err *err)
{
    *found = false;
    FILE *file = fopen(path, "r");
    if (!file) {
        return errno == ENOENT || err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    }
    char *text = xmalloc(FILE_MAX + 1);
    size_t len = fread(text, 1, FILE_MAX + 1, file);
    bool failed = ferror(file) != 0;
    fclose(file);
    if (failed) {
        err_set(err, ERR_IO, "%s: it can't be read", path);
    } else if (len > FILE_MAX) {
        err_set(err, ERR_LIMIT, "%s: larger than 1 MB", path);
        failed = true;
    } else if (memchr(text, 0, len)) {
        err_set(err, ERR_INPUT, "%s: it holds a zero byte and is no text", path);
        failed = true;
    } else {
        // Some editors begin with a byte order mark.
        size_t mark = len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
        *found = buf_json(out, text + mark, len - mark);
    }
    free(text);
    return !failed;
}

static bool is_wanted(const char *folder, const char *name)
{
    const char *dot = strrchr(name, '.');
    if (!dot || name[0] == '.') {
        return false;
    }
    if (strcmp(folder, "templates") == 0) {
        return strcmp(dot, ".txt") == 0 || strcmp(dot, ".html") == 0;
    }
    size_t len = (size_t)(dot - name);
    return strcmp(dot, ".lua") == 0 && !(len > 5 && memcmp(dot - 5, "_spec", 5) == 0);
}

static bool add_named(struct buf *out, const char *root, const char *name, struct err *err)
{
    char *path = xprintf("%s/%s", root, name);
    size_t before = out->len;
    buf_adds(out, out->data[before - 1] == '{' ? "\"workflows/" : ",\"workflows/");
    buf_adds(out, name);
    buf_adds(out, "\":");
    bool found, ok = add_file(out, path, &found, err);
    if (!found) { // take its name back
        out->len = before;
        out->data[before] = 0;
    }
    free(path);
    return ok;
}

static bool add_folder(struct buf *out, const char *root, const char *folder, struct err *err)
{
    char *path = xprintf("%s/%s", root, folder);
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    free(path);
    bool ok = n >= 0 || errno == ENOENT ||
              err_set(err, ERR_IO, "%s/%s: %s", root, folder, strerror(errno));
    for (int i = 0; i < n; i++) {
        if (ok && is_wanted(folder, names[i]->d_name)) {
            char *name = xprintf("%s/%s", folder, names[i]->d_name);
            ok = add_named(out, root, name, err);
            free(name);
        }
        free(names[i]);
    }
    if (n >= 0) {
        free(names);
    }
    return ok;
}

char *action_sources(const struct engine *engine, struct err *err)
{
    static const char *const folders[] = {"actions", "ghl", "lib", "templates"};
    struct buf out;
    buf_init(&out, ALL_MAX);
    buf_addc(&out, '{');
    bool ok = add_named(&out, engine->workflows_dir, "company.lua", err);
    for (size_t i = 0; ok && i < ARRAY_LEN(folders); i++) {
        ok = add_folder(&out, engine->workflows_dir, folders[i], err);
    }
    buf_addc(&out, '}');
    if (ok && out.overflow) {
        ok = err_set(err, ERR_LIMIT, "%s: all files together are larger than 16 MB",
                     engine->workflows_dir);
    }
    char *text = ok ? buf_take(&out) : NULL;
    buf_fini(&out);
    return text;
}

char *action_bundle(const struct engine *engine, const char *files)
{
    static const char *const told[] = {"GHL_LOCATION_ID", "GHL_SYNC_ENABLED",
                                       "GHL_AUTO_SYNC_ESTIMATES", "MOONWRIGHT_LIVE", "PUBLIC_URL"};
    struct buf out;
    buf_init(&out, 2 * (size_t)ALL_MAX);
    buf_adds(&out, "{\"files\":");
    buf_adds(&out, files);
    buf_adds(&out, ",\"settings\":{");
    for (size_t i = 0; i < ARRAY_LEN(told); i++) {
        const char *value = setting(engine->settings, told[i]);
        buf_printf(&out, "%s\"%s\":", i ? "," : "", told[i]);
        buf_json(&out, value, strlen(value));
    }
    buf_adds(&out, "}}");
    return buf_take(&out);
}
