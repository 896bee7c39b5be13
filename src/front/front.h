/* front.h - what a command gets, and how it answers. */
#ifndef FRONT_FRONT_H
#define FRONT_FRONT_H

#include "engine/settings.h"
#include "front/args.h"

struct session;

struct front {
    struct settings *settings;
    char *data_dir;      /* MOONWRIGHT_DATA */
    char *lua_dir;       /* trusted Lua */
    char *schema_dir;    /* numbered SQL files */
    char *workflows_dir; /* the company's Lua */
    bool private_server; /* DATABASE_URL was derived: PostgreSQL is ours */
};

/* Exit codes. REFUSED: as things stand it can't be done, or not with all that were named; AGAIN:
 * the database is away. */
enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_NOT_FOUND = 3,
    EXIT_REFUSED = 4,
    EXIT_AGAIN = 75
};

/* A command that asks the engine's database. */
struct ask {
    struct front *front;
    const struct args *args;
    struct session *session;
    bool json; /* --json was given */
    int code;  /* EXIT_OK, unless the command says otherwise */
};

extern const struct command command_run, command_migrate, command_config, command_sync,
    command_sends, command_live, command_workflows, command_instances, command_events,
    command_status, command_watch, command_signal, command_inbox, command_start, command_schedule,
    command_completion;

/* Prints "moonwright: <message>" for the person who reads it; returns the exit code for it. */
int front_fail(const struct err *err);
/* Prints why, and how the verb is used; returns EXIT_USAGE. */
int front_usage(const struct args *args, const char *why);

/* The table of all commands. */
const struct command *const *front_commands(size_t *count);

/* The address of the database with the st_ tables. */
const char *front_st_url(const struct front *front);

#endif
