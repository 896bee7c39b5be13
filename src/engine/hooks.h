/* hooks.h - the signed receivers: what Twilio and SendGrid tell us about messages and people.
 *
 * POST /hooks/twilio/status, /hooks/twilio/inbound, /hooks/sendgrid. A delivery is answered 200
 * only after everything it means has committed; the vendor repeats it otherwise. A receiver
 * without its secret isn't there (404), which is logged at the start. */
#ifndef ENGINE_HOOKS_H
#define ENGINE_HOOKS_H

#include "engine/engine.h"

struct hooks;

struct hooks *hooks_start(const struct engine *engine, struct http_server *server);
/* What is being received is answered 503. The server must take no more requests. */
void hooks_stop(struct hooks *hooks);

#endif
