/* sync_client.h - asking ServiceTitan: one token, one rate limit, patience.
 *
 * A call waits for a token of the rate limit, is sent with the access token and the app key, and is
 * repeated after 429 (when Retry-After says), 5xx, pages that aren't JSON and lost connections,
 * with growing pauses. 401 makes it ask for a new access token once. */
#ifndef ENGINE_SYNC_CLIENT_H
#define ENGINE_SYNC_CLIENT_H

#include "engine/engine.h"

struct sync_client;
struct sync_call;

struct sync_answer {       /* valid during the call */
    const struct err *err; /* NULL: body is JSON that came with 200 */
    const char *body;
    size_t len;
    const char *date; /* the answer's Date header; NULL when there was none */
};
typedef void sync_answer_fn(void *ctx, const struct sync_answer *answer);

/* NULL: a setting is missing, err says which. */
struct sync_client *sync_client_new(const struct engine *engine, struct err *err);
void sync_client_free(struct sync_client *client); /* its calls are cancelled */

/* GET of a path below SERVICE_TITAN_API_URL, with its query. */
struct sync_call *sync_get(struct sync_client *client, const char *path, sync_answer_fn *done,
                           void *ctx);
void sync_call_cancel(struct sync_call *call); /* NULL is fine */

#endif
