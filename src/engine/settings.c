/* settings.c - reads the environment and `.env` into one array beside the table. */
#include "engine/settings.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/cron.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENV_FILE_MAX (256 * 1024)

struct value {
    char *text; /* NULL: the table's fallback */
    enum setting_source source;
};

struct settings {
    struct value *values; /* one per line of the table */
};

static int find(const char *name)
{
    int count;
    const struct setting_info *table = settings_table(&count);
    for (int i = 0; i < count; i++) {
        if (strcmp(table[i].name, name) == 0)
            return i;
    }
    return -1;
}

/* Levenshtein's distance, for "did you mean"; long names count as far apart. */
static int distance(const char *a, const char *b)
{
    int row[65];
    size_t la = strlen(a), lb = strlen(b);
    if (la > 64 || lb > 64)
        return 99;
    for (size_t j = 0; j <= lb; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= la; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= lb; j++) {
            int above = row[j];
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best)
                best = above + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[lb];
}

static const char *nearest(const char *name)
{
    int count, best = 4;
    const struct setting_info *table = settings_table(&count);
    const char *found = NULL;
    for (int i = 0; i < count; i++) {
        int d = distance(name, table[i].name);
        if (d < best) {
            best = d;
            found = table[i].name;
        }
    }
    return found;
}

static bool is_switch(const char *text, bool *on)
{
    static const char *const yes[] = {"1", "true", "yes", "on"};
    static const char *const no[] = {"0", "false", "no", "off"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *on = strcasecmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static bool is_int(const char *text, int64_t *value)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || isspace((unsigned char)text[0]))
        return false;
    *value = n;
    return true;
}

bool setting_address(const char *value, char *host, int *port)
{
    const char *colon = strrchr(value, ':');
    int64_t number;
    if (colon == NULL || colon == value || colon - value > 255)
        return false;
    if (!is_int(colon + 1, &number) || number < 0 || number > 65535)
        return false;
    memcpy(host, value, (size_t)(colon - value));
    host[colon - value] = '\0';
    *port = (int)number;
    return true;
}

static bool check(const struct setting_info *info, const char *text, struct err *err)
{
    bool on;
    int64_t n;
    char host[256];
    int port;
    struct cron cron;
    if (text[0] == '\0')
        return true;
    switch (info->kind) {
    case SETTING_INT:
        if (!is_int(text, &n) || n < info->min || n > info->max)
            return err_set(err, ERR_CONFIG,
                           "%s must be a whole number from %lld to %lld, not \"%s\"", info->name,
                           (long long)info->min, (long long)info->max, text);
        return true;
    case SETTING_SWITCH:
        if (!is_switch(text, &on))
            return err_set(err, ERR_CONFIG, "%s must be 1 or 0, not \"%s\"", info->name, text);
        return true;
    case SETTING_URL:
        if ((strncmp(text, "http://", 7) != 0 && strncmp(text, "https://", 8) != 0) ||
            strpbrk(text, " \t\"<>") != NULL)
            return err_set(err, ERR_CONFIG, "%s must begin with https:// or http://, not \"%s\"",
                           info->name, text);
        return true;
    case SETTING_ADDRESS:
        if (!setting_address(text, host, &port))
            return err_set(err, ERR_CONFIG, "%s must be host:port, not \"%s\"", info->name, text);
        return true;
    case SETTING_CRON:
        return cron_parse(text, &cron, err) || err_wrap(err, "%s", info->name);
    case SETTING_DATABASE: /* a secret: what it is isn't said */
        return strncmp(text, "postgres://", 11) == 0 || strncmp(text, "postgresql://", 13) == 0 ||
               strchr(text, '=') != NULL ||
               err_set(err, ERR_CONFIG,
                       "%s must be postgresql://USER:PASSWORD@HOST/DATABASE, or like"
                       " \"host=… dbname=… user=…\"",
                       info->name);
    case SETTING_TEXT:
        break;
    }
    return true;
}

/* Takes a value; the trailing slashes of a URL go, so that paths can be put after it. */
static bool take(struct settings *settings, int at, const char *text, enum setting_source source,
                 struct err *err)
{
    int count;
    const struct setting_info *info = &settings_table(&count)[at];
    if (!check(info, text, err))
        return false;
    struct value *value = &settings->values[at];
    free(value->text);
    value->text = text[0] != '\0' ? xstrdup(text) : NULL;
    value->source = value->text != NULL ? source : SETTING_DEFAULT;
    if (value->text != NULL && info->kind == SETTING_URL) {
        size_t len = strlen(value->text);
        while (len > 0 && value->text[len - 1] == '/')
            value->text[--len] = '\0';
    }
    return true;
}

/* Cuts the value out of a line of `.env`, in place: 'as it is', "with \n \" \\", or up to ` #`. */
static bool cut_value(char *text, char **value, struct err *err)
{
    while (*text == ' ' || *text == '\t')
        text++;
    char quote = *text == '\'' || *text == '"' ? *text : '\0';
    char *out = quote != '\0' ? text + 1 : text, *in = out;
    *value = out;
    if (quote == '\0') {
        char *end = text + strlen(text);
        for (char *p = text; *p != '\0'; p++) {
            if (*p == '#' && (p == text || p[-1] == ' ' || p[-1] == '\t')) {
                end = p;
                break;
            }
        }
        while (end > text && isspace((unsigned char)end[-1]))
            end--;
        *end = '\0';
        return true;
    }
    for (; *in != '\0' && *in != quote; in++) {
        if (quote == '"' && *in == '\\' && in[1] != '\0') {
            in++;
            *out++ = *in == 'n' ? '\n' : *in == 't' ? '\t' : *in;
        } else {
            *out++ = *in;
        }
    }
    if (*in != quote)
        return err_set(err, ERR_CONFIG, "the closing %c is missing", quote);
    char *rest = in + 1;
    while (isspace((unsigned char)*rest))
        rest++;
    if (*rest != '\0' && *rest != '#')
        return err_set(err, ERR_CONFIG, "there is something after the closing %c", quote);
    *out = '\0';
    return true;
}

static bool read_line(struct settings *settings, char *line, bool *seen, struct err *err)
{
    char *value;
    while (isspace((unsigned char)*line))
        line++;
    if (*line == '\0' || *line == '#')
        return true;
    if (strncmp(line, "export ", 7) == 0)
        line += 7;
    size_t len = strspn(line, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
    char *equals = line + len;
    while (*equals == ' ' || *equals == '\t')
        equals++;
    if (len == 0 || *equals != '=')
        return err_set(err, ERR_CONFIG, "expected NAME=value");
    line[len] = '\0';
    int at = find(line);
    if (at < 0) {
        const char *meant = nearest(line);
        return meant != NULL ? err_set(err, ERR_CONFIG,
                                       "there is no setting '%s'; did you mean '%s'?", line, meant)
                             : err_set(err, ERR_CONFIG,
                                       "there is no setting '%s'; what your own actions read by"
                                       " setting \"%s\" goes into the environment",
                                       line, line);
    }
    if (seen[at])
        return err_set(err, ERR_CONFIG, "'%s' is set twice", line);
    seen[at] = true;
    return cut_value(equals + 1, &value, err) && take(settings, at, value, SETTING_FILE, err);
}

static bool read_file(struct settings *settings, const char *path, struct err *err)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return errno == ENOENT || errno == ENOTDIR ||
               err_set(err, ERR_CONFIG, "can't read %s: %s", path, strerror(errno));
    int count, number = 0;
    settings_table(&count);
    bool *seen = xcalloc((size_t)count, sizeof(*seen)), ok = true;
    char *line = NULL;
    size_t room = 0, total = 0;
    ssize_t len;
    while (ok && (len = getline(&line, &room, file)) >= 0) {
        number++;
        total += (size_t)len;
        char *text = number == 1 && strncmp(line, "\xef\xbb\xbf", 3) == 0 ? line + 3 : line;
        if (total > ENV_FILE_MAX || strlen(line) != (size_t)len)
            ok = err_set(err, ERR_CONFIG, "this is not a text file of settings");
        else
            ok = read_line(settings, text, seen, err);
        if (!ok)
            err_wrap(err, "%s:%d", path, number);
    }
    if (ok && ferror(file))
        ok = err_set(err, ERR_CONFIG, "can't read %s: %s", path, strerror(errno));
    free(line);
    free(seen);
    fclose(file);
    return ok;
}

/* The password of a connection URL or string, so that the log can mask it. */
static void hide_password(const char *url)
{
    const char *at = strstr(url, "://");
    const char *end = at != NULL ? strrchr(url, '@') : NULL;
    const char *start = end != NULL ? strchr(at + 3, ':') : NULL;
    if (start == NULL || start >= end) {
        start = strstr(url, "password=");
        if (start == NULL)
            return;
        start += 8;
        end = start + 1 + strcspn(start + 1, " &");
    }
    char *password = xstrndup(start + 1, (size_t)(end - start - 1));
    log_add_secret(password);
    free(password);
}

struct settings *settings_load(const char *env_file, struct err *err)
{
    int count;
    const struct setting_info *table = settings_table(&count);
    struct settings *settings = xcalloc(1, sizeof(*settings));
    settings->values = xcalloc((size_t)count, sizeof(*settings->values));
    if (env_file != NULL && !read_file(settings, env_file, err))
        goto fail;
    for (int i = 0; i < count; i++) {
        const char *text = getenv(table[i].name);
        if (text != NULL && !take(settings, i, text, SETTING_ENVIRONMENT, err)) {
            err_wrap(err, "in the environment");
            goto fail;
        }
        const char *value = setting(settings, table[i].name);
        if (table[i].secret && strstr(table[i].name, "_URL") != NULL)
            hide_password(value);
        else if (table[i].secret)
            log_add_secret(value);
    }
    return settings;
fail:
    settings_free(settings);
    return NULL;
}

void settings_free(struct settings *settings)
{
    int count;
    if (settings == NULL)
        return;
    settings_table(&count);
    for (int i = 0; i < count; i++)
        free(settings->values[i].text);
    free(settings->values);
    free(settings);
}

static int must_find(const char *name)
{
    int at = find(name);
    if (at < 0)
        log_error("settings", "no such setting", "name", name, NULL);
    must(at >= 0);
    return at;
}

const char *setting(const struct settings *settings, const char *name)
{
    int count, at = must_find(name);
    const struct setting_info *table = settings_table(&count);
    return settings->values[at].text != NULL ? settings->values[at].text : table[at].fallback;
}

int64_t setting_int(const struct settings *settings, const char *name)
{
    int64_t value = 0;
    const char *text = setting(settings, name);
    must(text[0] == '\0' || is_int(text, &value));
    return value;
}

bool setting_on(const struct settings *settings, const char *name)
{
    bool on = false;
    return is_switch(setting(settings, name), &on) && on;
}

enum setting_source setting_source(const struct settings *settings, const char *name)
{
    return settings->values[must_find(name)].source;
}

void settings_derive(struct settings *settings, const char *name, const char *value)
{
    must(take(settings, must_find(name), value, SETTING_DERIVED, NULL));
}
