// action_key.c - what an action call is known by: to the ledger, to policy, and to its own Lua.
#include "engine/outbound.h"

#include "base/mem.h"
#include "engine/settings.h"

#include <stdlib.h>
#include <string.h>

static void add_field(struct buf *out, const char *name, const char *value)
{
    if (value) {
        buf_json_member(out, name, value);
    }
}

// What the ledger is keyed by and policy goes by; no script can change it.
char *action_key(const struct engine *engine, bool live, const struct action_call *call)
{
    struct buf key;
    buf_init(&key, 64 << 10);
    buf_printf(&key, "{\"run\":%d", call->run);
    add_field(&key, "instance", call->instance);
    add_field(&key, "step", call->step);
    add_field(&key, "action", call->name);
    add_field(&key, "workflow", call->workflow);
    add_field(&key, "mode", call->mode);
    add_field(&key, "class", call->class_);
    add_field(&key, "now", call->now);
    add_field(&key, "due", call->due);
    buf_printf(&key, ",\"live\":%s,\"stale_ms\":%lld,\"late_ms\":%lld", live ? "true" : "false",
               (long long)setting_int(engine->settings, "SYNC_STALE_MS"),
               (long long)setting_int(engine->settings, "LATE_MS"));
    buf_adds(&key, ",\"test\":[");
    char *list = xstrdup(setting(engine->settings, "MOONWRIGHT_TEST_RECIPIENTS"));
    char *rest = list, *one;
    bool first = true;
    while ((one = strsep(&rest, ", ")) != NULL) {
        if (*one) {
            buf_adds(&key, first ? "" : ",");
            buf_json(&key, one, strlen(one));
            first = false;
        }
    }
    free(list);
    buf_adds(&key, "]}");
    must(!key.overflow);
    return buf_take(&key);
}

struct slice action_lend(const struct action_call *call, const char *name, char **owner)
{
    if (strcmp(name, "event") == 0) {
        return call->event;
    } else if (strcmp(name, "now") == 0) {
        return slice_of(call->now);
    } else if (strcmp(name, "options") == 0) {
        return slice_of(call->options);
    }
    must(strcmp(name, "owner") == 0);
    if (!*owner) {
        *owner = xprintf("%s/%d/%s", call->instance, call->run, call->step);
    }
    return slice_of(*owner);
}
