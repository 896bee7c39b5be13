/* figures.c - see figures.h: the words by name, and as JSON for the worker's row. */
#include "engine/figures.h"

#include "engine/page.h"
#include "script/json.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define WORD(name)                            \
    {                                         \
#name, offsetof(struct figures, name) \
    }
static const struct {
    const char *name;
    size_t at;
} words[] = {
    WORD(events),      WORD(started),           WORD(steps), WORD(live),          WORD(loop_lag_us),
    WORD(connections), WORD(connections_ready), WORD(units), WORD(resident_bytes)};

const char *stage_name(enum stage stage)
{
    static const char *const names[] = {"sync", "detect", "execute", "outbound"};
    _Static_assert(ARRAY_LEN(names) == STAGES, "a name for each");
    return names[stage];
}

struct figures *figures(void)
{
    return &page()->figures;
}

void figures_outbound(bool well)
{
    struct stage_figures *stage = &figures()->stages[STAGE_OUTBOUND];
    *(well ? &stage->settled : &stage->failed) += 1;
}

struct provider_figures *provider_figures(const char *name)
{
    struct provider_figures *all = figures()->providers;
    for (int i = 0; i < PROVIDERS_MAX - 1; i++) {
        if (!all[i].name[0])
            snprintf(all[i].name, PROVIDER_NAME, "%s", name);
        if (strncmp(all[i].name, name, PROVIDER_NAME - 1) == 0)
            return &all[i];
    }
    snprintf(all[PROVIDERS_MAX - 1].name, PROVIDER_NAME, "others");
    return &all[PROVIDERS_MAX - 1];
}

static int64_t *word_of(struct figures *figures, size_t i)
{
    return (int64_t *)((char *)figures + words[i].at);
}

void figures_write(struct figures *f, struct buf *out)
{
    buf_adds(out, "{\"stages\":{");
    for (int i = 0; i < STAGES; i++) {
        const struct stage_figures *s = &f->stages[i];
        buf_printf(out,
                   "%s\"%s\":{\"claimed\":%" PRId64 ",\"settled\":%" PRId64 ",\"failed\":%" PRId64
                   "}",
                   i ? "," : "", stage_name((enum stage)i), s->claimed, s->settled, s->failed);
    }
    buf_adds(out, "},\"providers\":[");
    for (int i = 0; i < PROVIDERS_MAX && f->providers[i].name[0]; i++) {
        const struct provider_figures *p = &f->providers[i];
        buf_printf(out, "%s{\"name\":", i ? "," : "");
        buf_json(out, p->name, strlen(p->name));
        buf_printf(out,
                   ",\"calls\":%" PRId64 ",\"errors\":%" PRId64 ",\"waits\":%" PRId64
                   ",\"wait_ms\":%" PRId64 "}",
                   p->calls, p->errors, p->waits, p->wait_ms);
    }
    buf_addc(out, ']');
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        buf_printf(out, ",\"%s\":%" PRId64, words[i].name, *word_of(f, i));
    }
    buf_addc(out, '}');
}

static void read_word(const struct json *json, const char *path, int64_t *value)
{
    *value = 0;
    json_int(json, path, value);
}

void figures_read(struct figures *f, const char *text)
{
    struct json *json = text ? json_parse(text, strlen(text), NULL) : NULL;
    memset(f, 0, sizeof(*f));
    if (!json)
        return;
    char path[64];
    for (int i = 0; i < STAGES; i++) {
        const char *stage = stage_name((enum stage)i);
        snprintf(path, sizeof(path), "stages.%s.claimed", stage);
        read_word(json, path, &f->stages[i].claimed);
        snprintf(path, sizeof(path), "stages.%s.settled", stage);
        read_word(json, path, &f->stages[i].settled);
        snprintf(path, sizeof(path), "stages.%s.failed", stage);
        read_word(json, path, &f->stages[i].failed);
    }
    size_t providers = json_count(json, "providers");
    for (size_t i = 0; i < providers && i < PROVIDERS_MAX; i++) {
        struct provider_figures *p = &f->providers[i];
        snprintf(path, sizeof(path), "providers.%zu.name", i);
        const char *name = json_text(json, path);
        snprintf(p->name, sizeof(p->name), "%s", name ? name : "?");
        snprintf(path, sizeof(path), "providers.%zu.calls", i);
        read_word(json, path, &p->calls);
        snprintf(path, sizeof(path), "providers.%zu.errors", i);
        read_word(json, path, &p->errors);
        snprintf(path, sizeof(path), "providers.%zu.waits", i);
        read_word(json, path, &p->waits);
        snprintf(path, sizeof(path), "providers.%zu.wait_ms", i);
        read_word(json, path, &p->wait_ms);
    }
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        read_word(json, words[i].name, word_of(f, i));
    }
    json_free(json);
}
