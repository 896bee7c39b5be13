/* approve.h - the links by which people answer approvals: GET and POST /approve/TASK.TOKEN.
 *
 * The token signs the task's id. Looking changes nothing, so a mail scanner that follows links
 * answers for nobody; the first POST decides, every later one is told so. */
#ifndef ENGINE_APPROVE_H
#define ENGINE_APPROVE_H

#include "engine/engine.h"

struct approvals;

struct approvals *approvals_start(const struct engine *engine, struct http_server *server);
/* What is being answered gets a 503. The server must take no more requests. */
void approvals_stop(struct approvals *approvals);

#endif
