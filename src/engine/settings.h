/* settings.h - configuration: the environment, then `.env`; one table says every name we know. */
#ifndef ENGINE_SETTINGS_H
#define ENGINE_SETTINGS_H

#include "base/err.h"

#include <stdint.h>

struct settings;

/* Reads the environment and the `.env` file in the working folder (the environment wins). A
 * malformed line or value is an error with file and line. */
struct settings *settings_load(const char *env_file, struct err *err);
void settings_free(struct settings *settings);

/* The value in force, with the default of the table; "" when there is none. Asking for a name
 * that is not in the table is a programmer's error. */
const char *setting(const struct settings *settings, const char *name);
int64_t setting_int(const struct settings *settings, const char *name);
bool setting_on(const struct settings *settings, const char *name); /* 1, true, yes, on */

/* Every setting, in the table's order. */
struct setting_info {
    const char *name, *fallback, *needed_for, *meaning;
    bool secret;
};
const struct setting_info *settings_table(int *count);

#endif
