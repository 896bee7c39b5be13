/* cmd_completion.c - `moonwright completion`: the script for bash, and the values it asks for. */
#include "front/ask.h"

#include "base/log.h"
#include "front/postgres.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static int bash(struct front *front, const struct args *args)
{
    size_t count;
    const struct command *const *commands = front_commands(&count);
    (void)front;
    (void)args;
    args_completion(commands, count, stdout);
    return EXIT_OK;
}

static void print_values(void *ctx, const struct db_reply *reply)
{
    (void)ctx;
    for (int row = 0; row < db_rows(reply, 0); row++)
        printf("%s\n", db_value(reply, 0, row, 0));
}

/* A private PostgreSQL is asked when it runs anyhow; it isn't started for this. */
static bool find_database(struct front *front, struct err *err)
{
    if (setting(front->settings, "DATABASE_URL")[0] != '\0')
        return true;
    struct postgres *postgres = postgres_open(front->settings, front->data_dir, err);
    bool ready = postgres != NULL && postgres_look(postgres) == POSTGRES_READY;
    if (ready)
        postgres_derive(postgres, front->settings);
    postgres_free(postgres);
    return ready;
}

static int entities(const struct front *front)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/sync", front->lua_dir);
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        const char *dot = strstr(e->d_name, ".lua");
        if (dot != NULL && dot[4] == '\0')
            printf("%.*s\n", (int)(dot - e->d_name), e->d_name);
    }
    if (dir != NULL)
        closedir(dir);
    return EXIT_OK;
}

static int values(struct front *front, const struct args *args)
{
    static const char workflows[] =
        "select name from workflow_definitions where active"
        " and coalesce(declaration->>'kind', 'workflow') = 'workflow' order by name";
    static const char events[] =
        "select distinct e.key from workflow_definitions d,"
        " json_each(coalesce(d.declaration->'events', '{}')) e where d.active order by 1";
    const char *kind = args_word(args, 0);
    struct err err;
    if (kind[0] == 'E' && kind[1] == 'N')
        return entities(front);
    log_set_level(LOG_ERROR);
    if (!find_database(front, &err))
        return EXIT_AGAIN;
    struct session *session = session_open(setting(front->settings, "DATABASE_URL"), &err);
    if (session == NULL)
        return EXIT_AGAIN;
    struct db_unit *unit = db_unit_new();
    db_unit_add(unit, kind[0] == 'W' ? workflows : events, 0, NULL);
    bool ok = session_run(session, unit, print_values, NULL, &err);
    session_close(session);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct verb verbs[] = {
    {"bash", NULL, "print the script; to have it: source <(moonwright completion bash)", NULL, NULL,
     bash},
    {"values", "KIND", "the names of what is a WORKFLOW, EVENT or ENTITY, a line each", NULL, NULL,
     values},
    {0}};

const struct command command_completion = {"completion", "complete commands in bash", verbs, false};
