/* instance_claimed.c - an instance as a row of claim() tells it. */
#include "engine/instance_parts.h"

#include "base/mem.h"
#include "script/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* [[event, judged, settled, payload], …] of claim(). */
static void read_stops(struct instance *in, const char *text, size_t len)
{
    struct err err;
    struct json *json = json_parse(text, len, &err);
    size_t n = json ? json_count(json, "") : 0;
    for (size_t i = 0; i < n; i++) {
        char path[32];
        struct candidate *c = xcalloc(1, sizeof(*c));
        snprintf(path, sizeof(path), "%zu.0", i);
        const char *event = json_text(json, path);
        if (event)
            memcpy(c->event, event, strnlen(event, sizeof(c->event) - 1));
        snprintf(path, sizeof(path), "%zu.1", i);
        c->judged = json_bool(json, path);
        snprintf(path, sizeof(path), "%zu.2", i);
        json_int(json, path, &c->settled);
        snprintf(path, sizeof(path), "%zu.3", i);
        c->payload = json_encode(json, path);
        if (!c->payload)
            c->payload = xstrdup("{}");
        if (in->stopping && !in->halt)
            in->halt = c;
        else
            instance_stop(in, c);
    }
    json_free(json);
}

/* When the run under way began, if it isn't the first: its event says so. */
static void read_began(struct instance *in)
{
    struct err err;
    struct json *event = in->run > 1 ? json_parse(in->event, strlen(in->event), &err) : NULL;
    const char *began = event ? json_text(event, "began") : NULL;
    if (began)
        text_copy(in->created, sizeof(in->created), began);
    json_free(event);
}

struct instance *instance_start(struct instance_host *host, const struct db_reply *reply, int s,
                                int row)
{
    struct instance *in = xcalloc(1, sizeof(*in));
    in->host = host;
    text_copy(in->id, sizeof(in->id), db_value(reply, s, row, 0));
    in->run = (int)db_int(reply, s, row, 3);
    const char *state = db_value(reply, s, row, 4);
    in->stopping = strcmp(state, "stopping") == 0;
    in->idle = strcmp(state, "stuck") == 0 || strcmp(state, "paused") == 0;
    const char *mode = db_value(reply, s, row, 6);
    size_t cut = mode ? strcspn(mode, " ") : 0;
    in->mode = mode ? xstrndup(mode, cut) : xstrdup("shadow");
    text_copy(in->created, sizeof(in->created), mode && mode[cut] ? mode + cut + 1 : "");
    const char *event = db_value(reply, s, row, 7);
    in->event_len = event ? db_length(reply, s, row, 7) : 2;
    in->event = xstrndup(event ? event : "{}", in->event_len);
    read_began(in);
    text_copy(in->last_at, sizeof(in->last_at), in->created);
    in->trace = event_trace(in->event);
    if (db_value(reply, s, row, 8))
        in->steps = xstrdup(db_value(reply, s, row, 8));
    in->next_seq = (int)db_int(reply, s, row, 9) + 1;
    if (db_value(reply, s, row, 10))
        read_stops(in, db_value(reply, s, row, 10), db_length(reply, s, row, 10));
    in->watched = db_bool(reply, s, row, 11);
    in->flow = (int)db_int(reply, s, row, 12);
    in->history = in->steps ? strlen(in->steps) : 0;
    in->waits_body = true;
    bodies_get(host->bodies, (int)db_int(reply, s, row, 2), instance_body_there, in);
    return in;
}
