/* engine.h - what one worker process is made of. front/ fills it; the stages borrow it.
 *
 * Each stage is started and stopped on its own; data goes between them through tables. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/err.h"
#include "io/fetch.h"
#include "io/http.h"
#include "io/pool.h"
#include "script/vm.h"

struct settings; /* engine/settings.h */
struct worker;   /* engine/worker.h */

struct engine {
    struct loop *loop;
    const struct settings *settings;
    struct pool *db; /* DATABASE_URL */
    struct pool *st; /* SERVICETITAN_DATABASE_URL; the same pool as db with one database */
    bool one_database;
    struct pool *readonly; /* the read-only login role; NULL when there is none */
    struct fetcher *fetcher;
    struct worker *worker; /* our lease; NULL in roles that hold no instances */
    const char *lua_dir;   /* trusted Lua */
    const char *workflows_dir;
};

#endif
