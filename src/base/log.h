/* log.h - one line per event, logfmt or JSON: time level module message key=value...
 *
 * The message is constant, what varies is a field; field names are the same everywhere
 * (instance step event workflow entity worker). Control bytes are escaped, registered secrets
 * are masked wherever they appear. Lines go to stderr. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Fields are pairs of strings, ended by NULL: log_info("sync", "page written", "entity", name,
 * "rows", log_int(n), NULL). A NULL value prints as empty. */
void log_write(enum log_level level, const char *module, const char *message, ...)
    __attribute__((sentinel));
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)

const char *log_int(int64_t value); /* valid until eight further calls */

void log_set_level(enum log_level level);
void log_set_json(bool json);
void log_set_role(const char *role);        /* printed with each line; NULL for none */
void log_add_secret(const char *secret);    /* copies; shorter than 6 characters is ignored */
void log_forget_secret(const char *secret); /* one that is out of use; NULL is fine */
/* Masks registered secrets in text, in place. */
void log_mask(char *text);

#endif
