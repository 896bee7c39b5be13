/* cmd_config.c - `moonwright config`: what is in force, where it comes from, what is missing. */
#include "front/front.h"

#include "base/buf.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A connection string with its password masked; any other secret shows only that it is there. */
static void print_secret(const char *value)
{
    const char *scheme = strstr(value, "://"), *at = scheme ? strrchr(value, '@') : NULL;
    const char *colon = at != NULL ? strchr(scheme + 3, ':') : NULL;
    const char *word = scheme == NULL ? strstr(value, "password=") : NULL;
    if (scheme == NULL && strchr(value, '=') == NULL) {
        printf("***");
    } else if (colon != NULL && colon < at) {
        printf("%.*s***%s", (int)(colon + 1 - value), value, at);
    } else if (word != NULL) {
        const char *end = word + 9;
        end += *end == '\'' ? 1 + strcspn(end + 1, "'") : strcspn(end, " ");
        printf("%.*s***%s", (int)(word + 9 - value), value, end + (*end == '\''));
    } else {
        printf("%s", value);
    }
}

static void print_setting(const struct front *front, const struct setting_info *info)
{
    static const char *const sources[] = {"default", "environment", ".env", "private server"};
    const char *value = setting(front->settings, info->name);
    printf("%-30s ", info->name);
    if (value[0] == '\0') {
        printf("-");
    } else if (info->secret && strstr(info->name, "_URL") != NULL) {
        print_secret(value);
    } else if (info->secret) {
        printf("***");
    } else {
        for (const char *p = value; *p != '\0'; p++)
            putchar((unsigned char)*p < ' ' ? ' ' : *p);
    }
    if (value[0] != '\0')
        printf("  (%s)", sources[setting_source(front->settings, info->name)]);
    printf("\n");
}

/* One line per feature: on, or off and what it lacks. */
static void print_features(const struct front *front)
{
    static const struct {
        const char *name, *what;
    } features[] = {{"sync", "copying from ServiceTitan"},
                    {"ghl", "GoHighLevel"},
                    {"sms", "texts"},
                    {"email", "e-mails"},
                    {"webhooks", "answers from vendors"}};
    int count;
    const struct setting_info *table = settings_table(&count);
    printf("\n");
    for (size_t f = 0; f < ARRAY_LEN(features); f++) {
        struct buf missing;
        buf_init(&missing, 4096);
        for (int i = 0; i < count; i++) {
            if (strcmp(table[i].needed_for, features[f].name) == 0 &&
                setting(front->settings, table[i].name)[0] == '\0')
                buf_printf(&missing, " %s", table[i].name);
        }
        if (strcmp(features[f].name, "sms") == 0 &&
            setting(front->settings, "TWILIO_PHONE_NUMBER")[0] == '\0' &&
            setting(front->settings, "TWILIO_MESSAGING_SERVICE_SID")[0] == '\0')
            buf_adds(&missing, " TWILIO_PHONE_NUMBER (or TWILIO_MESSAGING_SERVICE_SID)");
        if (missing.len == 0)
            printf("%-10s complete: %s\n", features[f].name, features[f].what);
        else
            printf("%-10s off: %s; missing:%s\n", features[f].name, features[f].what, missing.data);
        buf_fini(&missing);
    }
    const char *live = setting(front->settings, "MOONWRIGHT_LIVE");
    if (live[0] != '\0' && !setting_on(front->settings, "MOONWRIGHT_LIVE"))
        printf("%-10s never: MOONWRIGHT_LIVE is 0, whatever `moonwright live` says\n", "sending");
    else
        printf("%-10s as `moonwright live` says (off in a new database)\n", "sending");
}

static int config(struct front *front, const struct args *args)
{
    int count;
    const struct setting_info *table = settings_table(&count);
    (void)args;
    for (int i = 0; i < count; i++)
        print_setting(front, &table[i]);
    print_features(front);
    return EXIT_OK;
}

static const struct verb verbs[] = {
    {NULL, NULL, "every setting in force, secrets masked, and what each feature lacks", NULL, NULL,
     config},
    {0}};

const struct command command_config = {
    "config", "show the settings in force and what is missing for what", verbs, false};
