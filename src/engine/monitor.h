/* monitor.h - looks after the rest: what is late, stuck or silent becomes a row in system_alerts.
 */
#ifndef ENGINE_MONITOR_H
#define ENGINE_MONITOR_H

#include "engine/engine.h"

struct monitor;

struct monitor *monitor_start(const struct engine *engine);
void monitor_stop(struct monitor *monitor); /* NULL is fine */

#endif
