/* loop_internal.h - what the rest of io/ needs of the loop; not for the layers above. */
#ifndef IO_LOOP_INTERNAL_H
#define IO_LOOP_INTERNAL_H

#include "io/loop.h"

struct event_base *loop_base(struct loop *loop);

/* loop_defer for a call that owns its ctx: when the loop is freed before the call was made, drop
 * is called instead of fn, to release ctx without telling anybody. */
void loop_defer_owned(struct loop *loop, loop_fn *fn, loop_fn *drop, void *ctx);

#endif
