/* fuzz_settings.c - a `.env` that people wrote: it is refused with file and line, or every value
 * in it is one that the program can use. */
#include "fuzz.h"

#include "base/buf.h"
#include "engine/settings.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* Secrets are remembered for the life of a process; here that would be millions. */
void __wrap_log_add_secret(const char *secret);
void __wrap_log_add_secret(const char *secret)
{
    must(secret);
}

static struct settings *load(const void *data, size_t size, struct err *err)
{
    static int fd = -1;
    static char path[32];
    if (fd < 0) {
        must(clearenv() == 0);
        must((fd = memfd_create("settings", MFD_CLOEXEC)) >= 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    must(ftruncate(fd, 0) == 0);
    must(pwrite(fd, data, size, 0) == (ssize_t)size);
    struct settings *settings = settings_load(path, err);
    if (!settings) {
        must(err->code == ERR_CONFIG);
        must(strncmp(err->message, path, strlen(path)) == 0 && err->message[strlen(path)] == ':');
        must(!strchr(err->message, '\n'));
    }
    return settings;
}

static void use_all(struct settings *settings)
{
    int count, port;
    char host[256];
    const struct setting_info *table = settings_table(&count);
    for (int i = 0; i < count; i++) {
        const char *text = setting(settings, table[i].name);
        setting_source(settings, table[i].name);
        if (!*text)
            continue;
        int64_t number = table[i].kind == SETTING_INT ? setting_int(settings, table[i].name) : 0;
        must(table[i].kind != SETTING_INT || (number >= table[i].min && number <= table[i].max));
        if (table[i].kind == SETTING_SWITCH)
            setting_on(settings, table[i].name);
        must(table[i].kind != SETTING_ADDRESS || setting_address(text, host, &port));
        must(table[i].kind != SETTING_URL || strncmp(text, "http", 4) == 0);
    }
}

/* Any text can be written between double quotes, and is what is read then. */
static void quoted(const char *text)
{
    struct buf line;
    struct err err;
    buf_init(&line, 250 << 10);
    buf_adds(&line, " export MOONWRIGHT_HOME = \"");
    for (const char *at = text; *at; at++) {
        if (*at == '"' || *at == '\\')
            buf_addc(&line, '\\');
        *at == '\n' ? buf_adds(&line, "\\n") : buf_addc(&line, *at);
    }
    if (buf_adds(&line, "\"  # \"what follows\" isn't read\n")) {
        struct settings *settings = load(line.data, line.len, &err);
        must(settings && strcmp(setting(settings, "MOONWRIGHT_HOME"), text) == 0);
        settings_free(settings);
    }
    buf_fini(&line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {0};
    struct settings *settings = load(data, size, &err);
    if (settings)
        use_all(settings);
    settings_free(settings);
    char *text = fuzz_text(data, size);
    quoted(text);
    free(text);
    return 0;
}
