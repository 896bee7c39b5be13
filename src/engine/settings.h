/* settings.h - configuration: the environment, then `.env`; one table says every name we know. */
#ifndef ENGINE_SETTINGS_H
#define ENGINE_SETTINGS_H

#include "base/err.h"

#include <stdint.h>

struct settings;

/* Reads the environment and the `.env` file (the environment wins). A file that is not there is
 * fine; a malformed line, an unknown name or a wrong value is an error with file and line. */
struct settings *settings_load(const char *env_file, struct err *err);
void settings_free(struct settings *settings); /* NULL is fine */

/* The value in force, with the default of the table; "" when there is none. Asking for a name
 * that is not in the table is a programmer's error. */
const char *setting(const struct settings *settings, const char *name);
int64_t setting_int(const struct settings *settings, const char *name);
bool setting_on(const struct settings *settings, const char *name); /* 1, true, yes, on */

enum setting_source { SETTING_DEFAULT, SETTING_ENVIRONMENT, SETTING_FILE, SETTING_DERIVED };
enum setting_source setting_source(const struct settings *settings, const char *name);

/* What the program works out by itself: the private PostgreSQL's address, for one. */
void settings_derive(struct settings *settings, const char *name, const char *value);

/* Every setting, in the table's order. */
enum setting_kind {
    SETTING_TEXT,
    SETTING_INT,
    SETTING_SWITCH,
    SETTING_URL,
    SETTING_ADDRESS,
    SETTING_CRON,
    SETTING_DATABASE
};
struct setting_info {
    const char *name, *fallback;
    const char *needed_for; /* the feature that is off without it; "" when it may be empty */
    const char *meaning;
    bool secret;
    enum setting_kind kind;
    int64_t min, max; /* of SETTING_INT */
};
const struct setting_info *settings_table(int *count);

/* Cuts "host:port" in two; host has room for 256 bytes. */
bool setting_address(const char *value, char *host, int *port);

#endif
