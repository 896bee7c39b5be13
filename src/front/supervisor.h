/* supervisor.h - keeps a worker process per role alive, and the private PostgreSQL under them. */
#ifndef FRONT_SUPERVISOR_H
#define FRONT_SUPERVISOR_H

#include "front/front.h"
#include "front/postgres.h"

enum { ROLE_SYNC = 1, ROLE_WORKFLOW = 2, ROLE_WEB = 4, ROLE_MONITOR = 8, ROLE_ALL = 15 };

/* Blocks until a signal ends it. workers is how many of the workflow role. postgres may be NULL. */
int supervise(struct front *front, struct postgres *postgres, unsigned roles, int workers);

/* A worker's whole life, in its own process; role.c. name is "workflow", "workflow-2", ... It ends
 * with EXIT_CONFIG when it can never work as things are set. */
enum { EXIT_CONFIG = 78 };
int role_main(struct front *front, const char *role, const char *name);

#endif
