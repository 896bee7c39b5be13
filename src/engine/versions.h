/* versions.h - the company's files: watched, validated, put in force.
 *
 * At the start, and whenever something below workflows_dir changes, all files are loaded into a
 * fresh detect VM. A file that is wrong is refused with its line and reason, and what was in force
 * stays; the others are written to workflow_definitions, each with every module it requires, and
 * become the active version of their name. The new VM then replaces the old one. What another
 * daemon puts in force is noticed too. */
#ifndef ENGINE_VERSIONS_H
#define ENGINE_VERSIONS_H

#include "engine/engine.h"

struct versions;
struct vm;

struct versions_events {
    /* A new set is in force; vm is its detect VM and now the receiver's. stamp is that of
     * workflow_stamp. */
    void (*active)(void *ctx, struct vm *vm, int64_t stamp);
    /* Actions, mappings, templates and the company in force, as {path: source}: told before active,
     * the first time and when they have changed. May be NULL. */
    void (*actions)(void *ctx, const char *files);
    void *ctx;
};

struct versions *versions_start(const struct engine *engine, const struct versions_events *events,
                                struct err *err);
void versions_stop(struct versions *versions);
/* Looks again without waiting for the file system. */
void versions_reload(struct versions *versions);

/* Why files were refused the last time: "followup.lua:4: unknown event ...". */
struct versions_refusal {
    const char *file, *message;
    int line; /* 0: the file as a whole */
};
const struct versions_refusal *versions_refused(const struct versions *versions, size_t *count);

#endif
