/* main.c - the table of commands, and what each of them starts from: settings and folders. */
#include "front/ask.h"

#include "base/log.h"
#include "base/mem.h"
#include "front/postgres.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command *const commands[] = {
    &command_run,       &command_migrate, &command_config,   &command_live,
    &command_status,    &command_sync,    &command_watch,    &command_workflows,
    &command_instances, &command_start,   &command_events,   &command_signal,
    &command_inbox,     &command_sends,   &command_schedule, &command_completion};

const struct command *const *front_commands(size_t *count)
{
    *count = ARRAY_LEN(commands);
    return commands;
}

static void print_help(FILE *out)
{
    fprintf(out,
            "Moonwright %s: durable workflows for home-service companies\n\n"
            "usage: moonwright <command> [verb] [words and options]\n\n",
            MOONWRIGHT_VERSION);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->says);
    fprintf(
        out,
        "\nSettings come from the environment and the file .env; see `moonwright config`.\n"
        "`moonwright help <command>` says how a command is used.\n"
        "Exit codes: %d done, %d failed, %d wrong usage, %d not found, %d refused as things stand"
        " (or not\ndone to all), %d the database is away: try again.\n",
        EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_AGAIN);
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}

/* The SQL functions for people say by their SQLSTATE what kind of no it is. */
static int code_of(const struct err *err)
{
    if (err->code == ERR_CONN)
        return EXIT_AGAIN;
    if (err->code == ERR_MISSING || strcmp(err->sqlstate, "MWN01") == 0)
        return EXIT_NOT_FOUND;
    if (strcmp(err->sqlstate, "MWU01") == 0)
        return EXIT_USAGE;
    if (err->code == ERR_REFUSED || strcmp(err->sqlstate, "MWI01") == 0 ||
        strcmp(err->sqlstate, "P0001") == 0)
        return EXIT_REFUSED;
    return EXIT_FAILED;
}

/* A table, column or function isn't there. */
static bool lacks_schema(const struct err *err)
{
    return strcmp(err->sqlstate, "42P01") == 0 || strcmp(err->sqlstate, "42703") == 0 ||
           strcmp(err->sqlstate, "42883") == 0;
}

int front_fail(const struct err *err)
{
    fflush(stdout);
    char *text = xstrdup(err->message);
    log_mask(text);
    fprintf(stderr, "moonwright: %s%s\n", text,
            lacks_schema(err)
                ? "; run `moonwright migrate`, the database is older than this program"
                : "");
    free(text);
    return code_of(err);
}

int front_usage(const struct args *args, const char *why)
{
    fprintf(stderr, "moonwright: %s\n", why);
    args_explain(args->command, args->verb, stderr);
    return EXIT_USAGE;
}

const char *front_st_url(const struct front *front)
{
    const char *st = setting(front->settings, "SERVICETITAN_DATABASE_URL");
    return st[0] != '\0' ? st : setting(front->settings, "DATABASE_URL");
}

static bool is_home(const char *folder)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/schema/0001_servicetitan.sql", folder);
    return n > 0 && n < (int)sizeof(path) && access(path, R_OK) == 0;
}

/* The folder with lua/ and schema/: as set, or beside the program (as built, as installed), or
 * where we are. */
static char *find_home(const struct settings *settings, struct err *err)
{
    static const char *const beside[] = {"..", "../share/moonwright", "."};
    const char *set = setting(settings, "MOONWRIGHT_HOME");
    if (set[0] != '\0') {
        if (is_home(set))
            return xstrdup(set);
        err_set(err, ERR_CONFIG, "there is no schema/ in MOONWRIGHT_HOME (%s)", set);
        return NULL;
    }
    char program[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", program, sizeof(program) - 1);
    program[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(program, '/');
    for (size_t i = 0; slash != NULL && i < ARRAY_LEN(beside); i++) {
        char path[PATH_MAX + 32], real[PATH_MAX];
        *slash = '\0';
        snprintf(path, sizeof(path), "%s/%s", program, beside[i]);
        if (is_home(path) && realpath(path, real) != NULL)
            return xstrdup(real);
    }
    if (is_home("."))
        return xstrdup(".");
    err_set(err, ERR_CONFIG, "lua/ and schema/ are not beside the program: set MOONWRIGHT_HOME");
    return NULL;
}

static bool open_front(struct front *front, struct err *err)
{
    front->settings = settings_load(".env", err);
    if (front->settings == NULL)
        return false;
    const char *level = setting(front->settings, "MOONWRIGHT_LOG_LEVEL");
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    size_t at = 0;
    while (at < ARRAY_LEN(levels) && strcmp(levels[at], level) != 0)
        at++;
    if (at == ARRAY_LEN(levels))
        return err_set(err, ERR_CONFIG,
                       "MOONWRIGHT_LOG_LEVEL must be debug, info, warn or error, not \"%s\"",
                       level);
    log_set_level((enum log_level)at);
    const char *form = setting(front->settings, "MOONWRIGHT_LOG");
    if (strcmp(form, "text") != 0 && strcmp(form, "json") != 0)
        return err_set(err, ERR_CONFIG, "MOONWRIGHT_LOG must be text or json, not \"%s\"", form);
    log_set_json(form[0] == 'j');
    char *home = find_home(front->settings, err);
    if (home == NULL)
        return false;
    const char *workflows = setting(front->settings, "MOONWRIGHT_WORKFLOWS");
    front->lua_dir = xprintf("%s/lua", home);
    front->schema_dir = xprintf("%s/schema", home);
    front->workflows_dir = workflows[0] != '\0' ? xstrdup(workflows)
                                                : xprintf("%s/workflows", home);
    front->data_dir = xstrdup(setting(front->settings, "MOONWRIGHT_DATA"));
    free(home);
    return true;
}

static void close_front(struct front *front)
{
    settings_free(front->settings);
    free(front->data_dir);
    free(front->lua_dir);
    free(front->schema_dir);
    free(front->workflows_dir);
}

static int ask(struct front *front, const struct args *args)
{
    struct err err;
    bool json = false;
    for (const struct option *o = args->verb->options; o != NULL && o->name != NULL; o++)
        json |= strcmp(o->name, "--json") == 0 && args_has(args, o->name);
    struct ask ask = {.front = front, .args = args, .json = json, .code = EXIT_OK};
    ask.session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (ask.session == NULL)
        return front_fail(&err);
    bool ok = args->verb->ask(&ask, &err);
    session_close(ask.session);
    if (!ok && ask.code == EXIT_USAGE)
        return front_usage(args, err.message);
    return ok ? ask.code : front_fail(&err);
}

static int run_verb(struct front *front, const struct args *args)
{
    return args->verb->ask != NULL ? ask(front, args) : args->verb->run(front, args);
}

/* Runs a command that needs the database, with the private one around it if that is what we have.
 */
static int run_with_database(struct front *front, const struct args *args)
{
    struct err err;
    if (setting(front->settings, "MOONWRIGHT_LOG_LEVEL")[0] != 'd')
        log_set_level(LOG_ERROR);
    if (setting(front->settings, "DATABASE_URL")[0] != '\0')
        return run_verb(front, args);
    struct postgres *postgres = postgres_open(front->settings, front->data_dir, &err);
    if (postgres == NULL)
        return front_fail(&err);
    int code;
    if (postgres_start(postgres, &err)) {
        postgres_derive(postgres, front->settings);
        front->private_server = true;
        code = run_verb(front, args);
    } else {
        code = front_fail(&err);
    }
    postgres_stop(postgres, false);
    postgres_free(postgres);
    return code;
}

static int unknown(const char *name)
{
    fprintf(stderr, "moonwright: there is no command '%s'; see `moonwright help`\n", name);
    return EXIT_USAGE;
}

static int explain(int count, char **words)
{
    const struct command *command = count > 0 ? find_command(words[0]) : NULL;
    if (count > 0 && command == NULL)
        return unknown(words[0]);
    if (command != NULL)
        args_explain(command, NULL, stdout);
    else
        print_help(stdout);
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return explain(argc - 2, argv + 2);
    if (strcmp(name, "--version") == 0) {
        printf("moonwright %s\n", MOONWRIGHT_VERSION);
        return EXIT_OK;
    }
    const struct command *command = find_command(name);
    if (command == NULL)
        return unknown(name);
    if (argc > 2 && strcmp(argv[argc - 1], "--help") == 0)
        return explain(1, argv + 1);
    struct args args;
    struct err err;
    if (!args_read(&args, command, argc - 1, argv + 1, &err))
        return front_usage(&args, err.message);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct front front = {0};
    int code;
    if (!open_front(&front, &err))
        code = front_fail(&err);
    else if (args.verb->ask != NULL && args.verb->run != NULL)
        code = args.verb->run(&front, &args);
    else
        code = RUN_ASKS;
    if (code == RUN_ASKS && command->database)
        code = run_with_database(&front, &args);
    else if (code == RUN_ASKS)
        code = run_verb(&front, &args);
    close_front(&front);
    return code;
}
