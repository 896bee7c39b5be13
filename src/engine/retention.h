/* retention.h - what time takes away: payloads and old rows, by the monitor role. */
#ifndef ENGINE_RETENTION_H
#define ENGINE_RETENTION_H

#include "engine/engine.h"

struct retention;

struct retention *retention_start(const struct engine *engine);
void retention_stop(struct retention *retention); /* NULL is fine */

#endif
