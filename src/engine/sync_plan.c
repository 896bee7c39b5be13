/* sync_plan.c - runs lua/sync.lua once and keeps what it says.
 *
 * The plans own their texts. A statement's text is the key under which connections prepare it, so
 * plans live as long as the units that were built from them. */
#include "engine/sync_plan.h"

#include "base/mem.h"
#include "engine/settings.h"
#include "script/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text_at(struct arena *arena, const struct json *json, size_t i,
                           const char *field, const char *fallback)
{
    char path[64];
    snprintf(path, sizeof(path), "%zu.%s", i, field);
    const char *text = json_text(json, path);
    return text ? arena_strdup(arena, text) : fallback;
}

/* "/crm/v2/tenant/{tenant}/customers" with the tenant's number. */
static const char *with_tenant(struct arena *arena, const char *path, const char *tenant)
{
    const char *mark = path ? strstr(path, "{tenant}") : NULL;
    if (!mark) {
        return path;
    }
    return arena_printf(arena, "%.*s%s%s", (int)(mark - path), path, tenant,
                        mark + strlen("{tenant}"));
}

static void read_plan(struct sync_plans *plans, const struct json *json, size_t i,
                      const char *tenant)
{
    struct arena *arena = plans->arena;
    struct sync_plan *plan = &plans->plan[i];
    const char *export_path = text_at(arena, json, i, "export", NULL);
    const char *list = text_at(arena, json, i, "list", NULL);
    plan->name = text_at(arena, json, i, "name", "");
    plan->of = text_at(arena, json, i, "of", NULL);
    plan->is_export = export_path != NULL;
    plan->path = with_tenant(arena, export_path ? export_path : list, tenant);
    plan->query = text_at(arena, json, i, "query", "");
    plan->sorted = strstr(plan->query, "sort=%2BModifiedOn") != NULL;
    plan->id_path = with_tenant(arena, text_at(arena, json, i, "by_id.path", NULL), tenant);
    plan->id_parameter = text_at(arena, json, i, "by_id.parameter", "ids");
    plan->id_query = text_at(arena, json, i, "by_id.query", "");
    plan->upsert = text_at(arena, json, i, "upsert", "");
}

static struct json *ask_lua(const struct engine *engine, struct err *err)
{
    struct vm_options options = {.main = "sync", .lua_dir = engine->lua_dir};
    struct vm *vm = vm_new(engine->loop, &options, err);
    if (!vm) {
        return NULL;
    }
    struct buf out;
    buf_init(&out, 1 << 20);
    struct json *json = NULL;
    if (vm_call(vm, "plans", NULL, 0, &out, err)) {
        json = json_parse(out.data, out.len, err);
    }
    buf_fini(&out);
    vm_free(vm);
    return json;
}

struct sync_plans *sync_plans_load(const struct engine *engine, struct err *err)
{
    struct json *json = ask_lua(engine, err);
    if (!json) {
        return NULL;
    }
    struct sync_plans *plans = xcalloc(1, sizeof(*plans));
    plans->arena = arena_new();
    plans->users = 1;
    plans->count = json_count(json, "");
    plans->plan = arena_alloc(plans->arena, (plans->count + 1) * sizeof(*plans->plan));
    for (size_t i = 0; i < plans->count; i++) {
        read_plan(plans, json, i, setting(engine->settings, "SERVICE_TITAN_TENANT_ID"));
    }
    json_free(json);
    return plans;
}

struct sync_plans *sync_plans_use(struct sync_plans *plans)
{
    plans->users++;
    return plans;
}

void sync_plans_free(struct sync_plans *plans)
{
    if (plans && --plans->users == 0) {
        arena_free(plans->arena);
        free(plans);
    }
}

const struct sync_plan *sync_plan_named(const struct sync_plans *plans, const char *name)
{
    for (size_t i = 0; i < plans->count; i++) {
        if (strcmp(plans->plan[i].name, name) == 0) {
            return &plans->plan[i];
        }
    }
    return NULL;
}

const struct sync_plan *sync_plan_of(const struct sync_plans *plans, const char *of)
{
    for (size_t i = 0; i < plans->count; i++) {
        if (plans->plan[i].of && strcmp(plans->plan[i].of, of) == 0) {
            return &plans->plan[i];
        }
    }
    return NULL;
}
