/* bodies.h - the versions that this worker has loaded: a VM each, by definition id.
 *
 * A version never changes, so it is loaded once, from workflow_definitions, and kept while
 * instances use it; of the others the least recently used go first. */
#ifndef ENGINE_BODIES_H
#define ENGINE_BODIES_H

#include "engine/engine.h"

struct bodies;

struct body {
    int id;
    char *workflow; /* its name */
    char *class_;   /* of its sends */
    bool on_stop;   /* it has one */
    bool undoes;    /* it may leave something to be undone */
    struct vm *vm;  /* NULL: it can't be loaded */
    struct err err; /* why not */
};

typedef void body_fn(void *ctx, struct body *body);

struct bodies *bodies_new(const struct engine *engine);
void bodies_free(struct bodies *bodies);
/* Asks for a version; fn is called from the loop, with body->vm NULL when it can't be loaded. Then
 * the caller has it until bodies_put. */
void bodies_get(struct bodies *bodies, int definition, body_fn *fn, void *ctx);
void bodies_put(struct bodies *bodies, struct body *body);
/* Forgets a request that wasn't answered. */
void bodies_forget(struct bodies *bodies, void *ctx);

#endif
