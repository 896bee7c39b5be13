/* web.h - what the web role says of the deployment:
 *
 *   /healthz   200 while this process answers; which of the company's files are refused, and why
 *   /readyz    200 when the databases answer, are migrated, all roles beat, and what was there at
 *              the start is done; else 503; both with what is missing
 *   /metrics   Prometheus' text format
 *   /status    the same figures as JSON
 *
 * One look at the databases serves everybody who asks within a second. */
#ifndef FRONT_WEB_H
#define FRONT_WEB_H

#include "engine/engine.h"
#include "front/front.h"

struct web;

struct web *web_start(const struct engine *engine, struct http_server *http, struct front *front);
void web_stop(struct web *web); /* NULL is fine; after the server was told to end */

#endif
