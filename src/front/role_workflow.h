/* role_workflow.h - the workflow role: a lease, and under it versions, detection, execution. */
#ifndef FRONT_ROLE_WORKFLOW_H
#define FRONT_ROLE_WORKFLOW_H

#include "engine/engine.h"
#include "engine/figures.h"

struct workflow_role;

/* Takes the lease (engine->worker) and starts the stages once it is there. refused is called when
 * one of them can't work as things are set; lost when the lease is gone. */
typedef void refused_fn(void *ctx, const struct err *err);
struct workflow_role *workflow_role_start(struct engine *engine, refused_fn *refused, loop_fn *lost,
                                          void *ctx);
/* Begins nothing more; idle is called when nothing is under way. */
void workflow_role_drain(struct workflow_role *role, loop_fn *idle, void *ctx);
void workflow_role_count(const struct workflow_role *role, struct figures *figures);
void workflow_role_reload(struct workflow_role *role); /* looks at the company's files again */
/* An outcome is still to be written, which needs no lease. */
bool workflow_role_on_the_wire(const struct workflow_role *role);
void workflow_role_stop(struct workflow_role *role); /* the lease is given back through the loop */

#endif
