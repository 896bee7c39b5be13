/* sources.h - reads the company's folder: the Lua files of workflows_dir and of lib and actions in
 * it, and what the actions are made of.
 *
 * A file that is there and can't be read is given as an empty text and named in `aside`, so that it
 * is refused and isn't taken for a deleted one. */
#ifndef ENGINE_SOURCES_H
#define ENGINE_SOURCES_H

#include "base/buf.h"
#include "engine/engine.h"

struct sources {
    struct buf files;  /* {"workflows/x.lua": "source", ...} */
    struct buf aside;  /* "file workflows/x.lua": {"message": "..."}, ... without the braces */
    struct buf bundle; /* {"files": {...}} or {"files": {}, "refused": {file, line, message}} */
};

void sources_init(struct sources *sources);
void sources_fini(struct sources *sources);
/* False: the folder itself can't be read. */
bool sources_read(struct sources *sources, const struct engine *engine, struct err *err);
/* Says that a file isn't to be loaded, and why. False: it was said already. */
bool sources_set_aside(struct sources *sources, const char *key, const char *why);
/* A name for this folder of this machine. Caller frees. */
char *sources_tree(const struct engine *engine);

#endif
