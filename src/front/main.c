/* main.c - the table of commands, and what each of them starts from: settings and folders. */
#include "front/front.h"

#include "base/log.h"
#include "base/mem.h"
#include "front/postgres.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command commands[] = {
    {"run", "[--role sync,workflow,web,monitor] [--workers N]", "run everything, or some roles",
     false, cmd_run},
    {"migrate", "", "bring the database up to this version", true, cmd_migrate},
    {"config", "", "show the settings in force and what is missing for what", false, cmd_config},
    {"live", "[on|off]", "whether new instances really send; without a word: say so", true,
     cmd_live},
    {"status", "[--json]", "count what is there", true, cmd_status},
    {"sync", "[entity...] [--full]", "fetch from ServiceTitan now", true, cmd_sync},
    {"watch", "[--plain]", "follow what happens, line by line", true, cmd_watch},
    {"workflows",
     "list | show NAME [VERSION] | diff NAME [FROM [TO]] | activate NAME VERSION [--check]"
     " | migrate NAME [VERSION] [--dry-run] [--decided] [--instance ID]",
     "what is in force and refused; versions, and moving instances between them", true,
     cmd_workflows},
    {"instances", "list [--state S] [--workflow W] | show ID", "running and past instances", true,
     cmd_instances},
    {"events", "list [--type T] | retry [ID...]", "events, and changes that raised", true,
     cmd_events},
    {"inbox", "list | answer TASK yes|no|done [--by NAME] [--text TEXT] [--note NOTE]",
     "what people are asked, and their answers", true, cmd_inbox},
    {"signal", "INSTANCE NAME [JSON]", "send an event signal_NAME to one instance", true,
     cmd_signal},
    {"sends", "list [--held] | settle ID sent|not_sent|drop", "the ledger of what was sent", true,
     cmd_sends},
};

static void print_help(FILE *out)
{
    fprintf(out,
            "Moonwright %s: durable workflows for home-service companies\n\n"
            "usage: moonwright <command> [arguments]\n\n",
            MOONWRIGHT_VERSION);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(out,
            "\nSettings come from the environment and the file .env; see `moonwright config`.\n"
            "`moonwright help <command>` says how a command is used.\n");
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

int front_fail(const struct err *err)
{
    fflush(stdout);
    char *text = xstrdup(err->message);
    log_mask(text);
    fprintf(stderr, "moonwright: %s\n", text);
    free(text);
    return err->code == ERR_CONN ? EXIT_AGAIN : EXIT_FAILED;
}

int front_usage(const char *name, const char *why)
{
    const struct command *command = find_command(name);
    must(command != NULL);
    if (why != NULL)
        fprintf(stderr, "moonwright: %s\n", why);
    fprintf(why != NULL ? stderr : stdout, "usage: moonwright %s %s\n", command->name,
            command->arguments);
    return why != NULL ? EXIT_USAGE : EXIT_OK;
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

/* Runs a command that needs the database, with the private one around it if that is what we have.
 */
static int run_with_database(const struct command *command, struct front *front, int argc,
                             char **argv)
{
    struct err err;
    if (setting(front->settings, "MOONWRIGHT_LOG_LEVEL")[0] != 'd')
        log_set_level(LOG_ERROR);
    if (setting(front->settings, "DATABASE_URL")[0] != '\0')
        return command->run(front, argc, argv);
    struct postgres *postgres = postgres_open(front->settings, front->data_dir, &err);
    if (postgres == NULL)
        return front_fail(&err);
    int code;
    if (postgres_start(postgres, &err)) {
        postgres_derive(postgres, front->settings);
        front->private_server = true;
        code = command->run(front, argc, argv);
    } else {
        code = front_fail(&err);
    }
    postgres_stop(postgres, false);
    postgres_free(postgres);
    return code;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        if (argc > 2 && find_command(argv[2]) != NULL)
            return front_usage(argv[2], NULL);
        print_help(stdout);
        return EXIT_OK;
    }
    if (strcmp(name, "--version") == 0) {
        printf("moonwright %s\n", MOONWRIGHT_VERSION);
        return EXIT_OK;
    }
    const struct command *command = find_command(name);
    if (command == NULL) {
        fprintf(stderr, "moonwright: there is no command '%s'; see `moonwright help`\n", name);
        return EXIT_USAGE;
    }
    if (argc > 2 && strcmp(argv[2], "--help") == 0)
        return front_usage(name, NULL);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct front front = {0};
    struct err err;
    int code;
    if (!open_front(&front, &err))
        code = front_fail(&err);
    else if (command->database)
        code = run_with_database(command, &front, argc - 1, argv + 1);
    else
        code = command->run(&front, argc - 1, argv + 1);
    close_front(&front);
    return code;
}
