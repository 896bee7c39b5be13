/* args.h - what a command can be asked, as data: one table parses, explains and completes.
 *
 * A pattern of words is "ID... [VERSION] yes|no": a word in capitals is a value, one in small
 * letters with bars is a choice, brackets make it optional, and dots at the end let it come again.
 * What stands for a value also says how it is completed (WORKFLOW, STATE, ...). */
#ifndef FRONT_ARGS_H
#define FRONT_ARGS_H

#include "base/err.h"

#include <stdio.h>

struct front;
struct ask;
struct args;

/* With a session, which main opens and closes; false: err says why. */
typedef bool ask_fn(struct ask *ask, struct err *err);
/* On its own; returns the exit code, or RUN_ASKS. */
enum { RUN_ASKS = -1 };
typedef int run_fn(struct front *front, const struct args *args);

struct option {
    const char *name;  /* "--state" */
    const char *takes; /* a pattern of one word; NULL: nothing */
    const char *says;
};

struct verb {
    const char *name;  /* NULL: the command itself */
    const char *words; /* the pattern of what follows; NULL: nothing */
    const char *says;
    const struct option *options; /* ended by one without a name; NULL: none */
    ask_fn *ask; /* one of the two, or both: run first, which may leave it to ask */
    run_fn *run;
};

struct command {
    const char *name;
    const char *says;
    const struct verb
        *verbs;    /* ended by one without ask and run; the first is meant without a word */
    bool database; /* main starts the private PostgreSQL for it, and stops it afterwards */
};

enum { ARGS_OPTIONS_MAX = 24 };

struct args {
    const struct command *command;
    const struct verb *verb;
    int count; /* of words behind the verb */
    char **words;
    const char *values[ARGS_OPTIONS_MAX]; /* by option; a switch that is on has "" */
};

/* argv[0] is the command's name; the words are sorted to the front of argv. False: err has one
 * sentence about what is wrong. */
bool args_read(struct args *args, const struct command *command, int argc, char **argv,
               struct err *err);
/* The value of an option the verb has; NULL: it wasn't given. */
const char *args_value(const struct args *args, const char *option);
bool args_has(const struct args *args, const char *option);
const char *args_word(const struct args *args, int n); /* NULL: there are fewer */

/* "moonwright NAME list [--state STATE] ..." for each verb, with what it means. */
void args_explain(const struct command *command, const struct verb *only, FILE *out);

/* The script by which bash completes all of it. */
void args_completion(const struct command *const *commands, size_t count, FILE *out);

#endif
