/* cmd_config.c - `moonwright config`: what is in force, where it comes from, what is missing. */
#include "front/ask.h"

#include "base/buf.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A connection string with its password masked; of any other secret only that it is there. */
static void add_secret(struct buf *out, const char *value)
{
    const char *scheme = strstr(value, "://"), *at = scheme ? strrchr(value, '@') : NULL;
    const char *colon = at != NULL ? strchr(scheme + 3, ':') : NULL;
    const char *word = scheme == NULL ? strstr(value, "password=") : NULL;
    if (scheme == NULL && strchr(value, '=') == NULL) {
        buf_adds(out, "***");
    } else if (colon != NULL && colon < at) {
        buf_printf(out, "%.*s***%s", (int)(colon + 1 - value), value, at);
    } else if (word != NULL) {
        const char *end = word + 9;
        end += *end == '\'' ? 1 + strcspn(end + 1, "'") : strcspn(end, " ");
        buf_printf(out, "%.*s***%s", (int)(word + 9 - value), value, end + (*end == '\''));
    } else {
        buf_adds(out, value);
    }
}

static void add_value(struct buf *out, const struct setting_info *info, const char *value)
{
    if (info->secret && strstr(info->name, "_URL") != NULL)
        add_secret(out, value);
    else
        buf_adds(out, info->secret ? "***" : value);
}

/* A setting as a line, or as a member of {NAME: {value, source}}. */
static void print_setting(const struct front *front, const struct setting_info *info, bool json)
{
    static const char *const sources[] = {"default", "environment", ".env", "private server"};
    const char *value = setting(front->settings, info->name);
    const char *source = sources[setting_source(front->settings, info->name)];
    struct buf shown, quoted;
    buf_init(&shown, 1u << 20);
    buf_init(&quoted, 1u << 20);
    add_value(&shown, info, value);
    if (json && value[0] == '\0') {
        printf("\"%s\": null", info->name);
    } else if (json) {
        buf_json(&quoted, shown.data, shown.len);
        printf("\"%s\": {\"value\": %s, \"source\": \"%s\"}", info->name, quoted.data, source);
    } else if (value[0] == '\0') {
        printf("%-30s -\n", info->name);
    } else {
        printf("%-30s ", info->name);
        for (const char *p = shown.data; *p != '\0'; p++)
            putchar((unsigned char)*p < ' ' ? ' ' : *p);
        printf("  (%s)\n", source);
    }
    buf_fini(&shown);
    buf_fini(&quoted);
}

static const struct feature {
    const char *name, *what;
} features[] = {{"sync", "copying from ServiceTitan"},
                {"ghl", "GoHighLevel"},
                {"sms", "texts"},
                {"email", "e-mails"},
                {"webhooks", "answers from vendors"}};

/* The names of what a feature lacks, each behind `before` and followed by `after`. */
static void add_missing(struct buf *out, const struct front *front, const char *feature,
                        const char *before, const char *after)
{
    int count;
    const struct setting_info *table = settings_table(&count);
    for (int i = 0; i < count; i++) {
        if (strcmp(table[i].needed_for, feature) == 0 &&
            setting(front->settings, table[i].name)[0] == '\0')
            buf_printf(out, "%s%s%s", before, table[i].name, after);
    }
    if (strcmp(feature, "sms") == 0 && setting(front->settings, "TWILIO_PHONE_NUMBER")[0] == '\0' &&
        setting(front->settings, "TWILIO_MESSAGING_SERVICE_SID")[0] == '\0')
        buf_printf(out, "%sTWILIO_PHONE_NUMBER (or TWILIO_MESSAGING_SERVICE_SID)%s", before, after);
}

static bool sends_never(const struct front *front)
{
    const char *live = setting(front->settings, "MOONWRIGHT_LIVE");
    return live[0] != '\0' && !setting_on(front->settings, "MOONWRIGHT_LIVE");
}

/* One line per feature: on, or off and what it lacks. */
static void print_features(const struct front *front)
{
    printf("\n");
    for (size_t f = 0; f < ARRAY_LEN(features); f++) {
        struct buf missing;
        buf_init(&missing, 4096);
        add_missing(&missing, front, features[f].name, " ", "");
        if (missing.len == 0)
            printf("%-10s complete: %s\n", features[f].name, features[f].what);
        else
            printf("%-10s off: %s; missing:%s\n", features[f].name, features[f].what, missing.data);
        buf_fini(&missing);
    }
    if (sends_never(front))
        printf("%-10s never: MOONWRIGHT_LIVE is 0, whatever `moonwright live` says\n", "sending");
    else
        printf("%-10s as `moonwright live` says (off in a new database)\n", "sending");
}

/* {settings: {NAME: null | {value, source}}, missing: {FEATURE: [NAME]}, sends_never} */
static void print_json(const struct front *front)
{
    int count;
    const struct setting_info *table = settings_table(&count);
    printf("{\"settings\": {");
    for (int i = 0; i < count; i++) {
        printf("%s", i > 0 ? ", " : "");
        print_setting(front, &table[i], true);
    }
    printf("}, \"missing\": {");
    for (size_t f = 0; f < ARRAY_LEN(features); f++) {
        struct buf missing;
        buf_init(&missing, 4096);
        add_missing(&missing, front, features[f].name, ", \"", "\"");
        printf("%s\"%s\": [%s]", f > 0 ? ", " : "", features[f].name,
               missing.len > 0 ? missing.data + 2 : "");
        buf_fini(&missing);
    }
    printf("}, \"sends_never\": %s}\n", sends_never(front) ? "true" : "false");
}

static int config(struct front *front, const struct args *args)
{
    int count;
    const struct setting_info *table = settings_table(&count);
    if (args_has(args, "--json")) {
        print_json(front);
        return EXIT_OK;
    }
    for (int i = 0; i < count; i++)
        print_setting(front, &table[i], false);
    print_features(front);
    return EXIT_OK;
}

static const struct option options[] = {OPTION_JSON, {0}};
static const struct verb verbs[] = {
    {NULL, NULL, "every setting in force, secrets masked, and what each feature lacks", options,
     NULL, config},
    {0}};

const struct command command_config = {
    "config", "show the settings in force and what is missing for what", verbs, false};
