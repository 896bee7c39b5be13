/* front.h - what a command gets, and the table of commands. */
#ifndef FRONT_FRONT_H
#define FRONT_FRONT_H

#include "base/err.h"
#include "engine/settings.h"

struct front {
    struct settings *settings;
    char *data_dir;      /* MOONWRIGHT_DATA */
    char *lua_dir;       /* trusted Lua */
    char *schema_dir;    /* numbered SQL files */
    char *workflows_dir; /* the company's Lua */
    bool private_server; /* DATABASE_URL was derived: PostgreSQL is ours */
};

/* Exit codes. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_AGAIN = 75 };

typedef int command_fn(struct front *front, int argc, char **argv); /* argv[0] is its name */

struct command {
    const char *name;
    const char *arguments;
    const char *summary;
    bool database; /* main starts the private PostgreSQL for it, and stops it afterwards */
    command_fn *run;
};

command_fn cmd_run, cmd_migrate, cmd_config, cmd_sync, cmd_sends, cmd_live, cmd_workflows,
    cmd_instances, cmd_events, cmd_status, cmd_watch, cmd_signal, cmd_inbox;

/* Prints "moonwright: <message>" for the person who reads it; returns the exit code for it. */
int front_fail(const struct err *err);
/* Prints how the command is used; returns EXIT_USAGE. */
int front_usage(const char *name, const char *why);

#endif
