/* sources.c - see sources.h. */
#include "engine/sources.h"

#include "base/mem.h"
#include "engine/outbound.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX ((size_t)1 << 20)
#define ALL_MAX ((size_t)32 << 20)

void sources_init(struct sources *sources)
{
    buf_init(&sources->files, ALL_MAX);
    buf_init(&sources->aside, FILE_MAX);
    buf_init(&sources->bundle, ALL_MAX);
}

void sources_fini(struct sources *sources)
{
    buf_fini(&sources->files);
    buf_fini(&sources->aside);
    buf_fini(&sources->bundle);
}

bool sources_set_aside(struct sources *sources, const char *key, const char *why)
{
    char *name = xprintf("\"%s\":", key);
    bool fresh = sources->aside.len == 0 || strstr(sources->aside.data, name) == NULL;
    if (fresh) {
        buf_printf(&sources->aside, "%s%s{\"message\":", sources->aside.len > 0 ? "," : "", name);
        buf_json(&sources->aside, why, strlen(why));
        buf_addc(&sources->aside, '}');
    }
    free(name);
    return fresh && !sources->aside.overflow;
}

static bool is_name(const char *name)
{
    size_t len = strlen(name), stem = len - 4;
    return len > 4 && strcmp(name + stem, ".lua") == 0 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == stem;
}

/* The text of a file, or NULL with the reason; that it is gone is none: then *why is NULL too. */
static char *read_text(const char *path, size_t *len, const char **why)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    *why = fd < 0 && errno == ENOENT ? NULL : "it can't be read";
    if (fd < 0)
        return NULL;
    char *text = NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        ssize_t n = 1;
        text = xmalloc(FILE_MAX + 1);
        for (*len = 0; *len <= FILE_MAX && n > 0; *len += n > 0 ? (size_t)n : 0)
            n = read(fd, text + *len, FILE_MAX + 1 - *len);
        if (n < 0 || *len > FILE_MAX || memchr(text, 0, *len) != NULL) {
            *why = n < 0             ? "it can't be read"
                   : *len > FILE_MAX ? "it is larger than 1 MB"
                                     : "it holds a zero byte: it is no text";
            free(text);
            text = NULL;
        }
    }
    close(fd);
    size_t mark = text != NULL && *len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    if (mark > 0) /* some editors write it */
        memmove(text, text + mark, *len -= mark);
    return text;
}

static bool add_file(struct sources *s, const char *file, const char *path)
{
    size_t len = 0;
    const char *why;
    char *text = read_text(path, &len, &why);
    if (text == NULL && why == NULL)
        return true;
    if (text == NULL) {
        len = 0;
        char *key = xprintf("file workflows/%s", file);
        sources_set_aside(s, key, why);
        free(key);
    }
    buf_printf(&s->files, "%s\"workflows/%s\":", s->files.len > 1 ? "," : "", file);
    buf_json(&s->files, text != NULL ? text : "", len);
    free(text);
    return !s->files.overflow;
}

/* A file that looks like a workflow's and can't be one for its name; one beginning with a dot is an
 * editor's. */
static bool is_misnamed(const char *folder, const char *name)
{
    size_t len = strlen(name);
    return *folder == '\0' && len > 4 && name[0] != '.' && !is_name(name) &&
           strcmp(name + len - 4, ".lua") == 0 &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-. ()") ==
               len;
}

static bool refuse_name(struct sources *s, const char *name)
{
    char *key = xprintf("file workflows/%s", name);
    sources_set_aside(s, key,
                      "a workflow's file is named in lower_snake_case, such as thank_you.lua");
    free(key);
    buf_printf(&s->files, "%s\"workflows/%s\":\"\"", s->files.len > 1 ? "," : "", name);
    return !s->files.overflow;
}

/* Adds the Lua files of one folder below workflows_dir ("" is that folder itself). */
static bool read_folder(struct sources *s, const char *root, const char *folder, struct err *err)
{
    char *path = xprintf("%s%s%s", root, *folder ? "/" : "", folder);
    struct dirent **names;
    int count = scandir(path, &names, NULL, alphasort);
    bool ok = count >= 0 || (*folder && errno == ENOENT) ||
              err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    for (int i = 0; i < count; i++) {
        if (ok && is_name(names[i]->d_name)) {
            char *full = xprintf("%s/%s", path, names[i]->d_name);
            char *file = xprintf("%s%s%s", folder, *folder ? "/" : "", names[i]->d_name);
            ok = add_file(s, file, full) ||
                 err_set(err, ERR_LIMIT, "the files of the company are larger than 32 MB");
            free(full);
            free(file);
        } else if (ok && is_misnamed(folder, names[i]->d_name)) {
            ok = refuse_name(s, names[i]->d_name) ||
                 err_set(err, ERR_LIMIT, "the files of the company are larger than 32 MB");
        }
        free(names[i]);
    }
    if (count >= 0)
        free(names);
    free(path);
    return ok;
}

/* "ghl/contact.lua:3: reason" as {file, line, message}. */
static void add_refusal(struct buf *out, const char *why)
{
    const char *colon = strstr(why, ".lua:");
    size_t len = colon ? (size_t)(colon + 4 - why) : 0;
    bool named = len > 0 && strcspn(why, " ") > len;
    buf_adds(out, ",\"refused\":{\"file\":");
    char *file = named ? xprintf("workflows/%.*s", (int)len, why) : xstrdup("workflows/actions");
    buf_json(out, file, strlen(file));
    free(file);
    buf_printf(out, ",\"line\":%d,\"message\":", named ? atoi(colon + 5) : 0);
    buf_json(out, why, strlen(why));
    buf_addc(out, '}');
}

/* What the actions are made of, tried in a VM of its own. */
static void read_bundle(struct sources *s, const struct engine *engine)
{
    struct err err;
    char *files = action_sources(engine, &err);
    bool ok = files != NULL && actions_check(engine, files, &err);
    buf_adds(&s->bundle, "{\"files\":");
    buf_adds(&s->bundle, files != NULL ? files : "{}");
    if (!ok)
        add_refusal(&s->bundle, err.message);
    buf_addc(&s->bundle, '}');
    free(files);
}

bool sources_read(struct sources *sources, const struct engine *engine, struct err *err)
{
    buf_clear(&sources->files);
    buf_clear(&sources->aside);
    buf_clear(&sources->bundle);
    buf_addc(&sources->files, '{');
    bool ok = read_folder(sources, engine->workflows_dir, "", err) &&
              read_folder(sources, engine->workflows_dir, "lib", err) &&
              read_folder(sources, engine->workflows_dir, "actions", err);
    buf_addc(&sources->files, '}');
    if (ok)
        read_bundle(sources, engine);
    return ok;
}

char *sources_tree(const struct engine *engine)
{
    char host[128] = "", path[PATH_MAX];
    gethostname(host, sizeof(host) - 1);
    const char *folder = realpath(engine->workflows_dir, path) ? path : engine->workflows_dir;
    return xprintf("%s:%s", host, folder);
}
