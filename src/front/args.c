/* args.c - see args.h. */
#include "front/args.h"

#include <stdlib.h>
#include <string.h>

/* ---- patterns ---- */

struct pattern {
    const char *word; /* without its brackets and dots */
    int len;
    bool optional, again;
};

/* The next word of a pattern; false: there is none. */
static bool next_pattern(const char **at, struct pattern *p)
{
    *at += strspn(*at, " ");
    size_t len = strcspn(*at, " ");
    if (len == 0)
        return false;
    *p = (struct pattern){.word = *at, .len = (int)len};
    *at += len;
    if (p->word[0] == '[') {
        p->optional = true;
        p->word++;
        p->len -= 2;
    }
    if (p->len > 3 && strncmp(p->word + p->len - 3, "...", 3) == 0) {
        p->again = true;
        p->len -= 3;
    }
    return true;
}

static bool is_choice(const struct pattern *p)
{
    return p->word[0] >= 'a' && p->word[0] <= 'z';
}

static bool chooses(const struct pattern *p, const char *value)
{
    size_t len = strlen(value);
    for (const char *at = p->word, *end = p->word + p->len; at < end;) {
        size_t n = strcspn(at, "|");
        n = at + n < end ? n : (size_t)(end - at);
        if (n == len && memcmp(at, value, n) == 0)
            return true;
        at += n + 1;
    }
    return false;
}

static bool fits(const struct pattern *p, const char *what, const char *value, struct err *err)
{
    if (is_choice(p))
        return chooses(p, value) ||
               err_set(err, ERR_INPUT, "%s is %.*s, not \"%s\"", what, p->len, p->word, value);
    if (p->len == 1 && p->word[0] == 'N') {
        char *end;
        long n = strtol(value, &end, 10);
        return (*value != '\0' && *end == '\0' && n >= 1 && n <= 1000000) ||
               err_set(err, ERR_INPUT, "%s takes a number from 1 on, not \"%s\"", what, value);
    }
    return value[0] != '\0' || err_set(err, ERR_INPUT, "%s is empty", what);
}

/* ---- reading ---- */

static const struct verb *find_verb(const struct command *command, const char *name)
{
    for (const struct verb *v = command->verbs; v->ask != NULL || v->run != NULL; v++) {
        if (v->name != NULL && strcmp(v->name, name) == 0)
            return v;
    }
    return NULL;
}

static bool unknown_verb(const struct command *command, const char *name, struct err *err)
{
    char list[256] = "";
    size_t len = 0;
    for (const struct verb *v = command->verbs; v->ask != NULL || v->run != NULL; v++) {
        int n = snprintf(list + len, sizeof(list) - len, "%s%s", len > 0 ? ", " : "", v->name);
        len += n > 0 && (size_t)n < sizeof(list) - len ? (size_t)n : 0;
    }
    return err_set(err, ERR_INPUT, "%s knows no \"%s\", but: %s", command->name, name, list);
}

static int find_option(const struct verb *verb, const char *name, size_t len)
{
    for (int i = 0; verb->options != NULL && verb->options[i].name != NULL; i++) {
        if (strlen(verb->options[i].name) == len && memcmp(verb->options[i].name, name, len) == 0)
            return i;
    }
    return -1;
}

/* --name VALUE, --name=VALUE or --name; how many of argv it took, 0: err says what is wrong. */
static int read_option(struct args *args, int left, char **argv, struct err *err)
{
    const char *text = argv[0], *value = strchr(text, '=');
    size_t len = value != NULL ? (size_t)(value - text) : strlen(text);
    int i = find_option(args->verb, text, len), took = 1;
    if (i < 0)
        return err_set(err, ERR_INPUT, "there is no option %.*s here", (int)len, text);
    const struct option *option = &args->verb->options[i];
    must(i < ARGS_OPTIONS_MAX);
    if (option->takes == NULL) {
        args->values[i] = "";
        return value == NULL ? 1 : err_set(err, ERR_INPUT, "%s takes no value", option->name);
    }
    struct pattern p;
    const char *at = option->takes;
    next_pattern(&at, &p);
    if (value != NULL) {
        value++;
    } else if (left > 1) {
        value = argv[1];
        took = 2;
    } else {
        return err_set(err, ERR_INPUT, "%s takes a value: %s", option->name, option->takes);
    }
    if (!fits(&p, option->name, value, err))
        return 0;
    args->values[i] = value;
    return took;
}

static bool check_words(const struct args *args, struct err *err)
{
    const char *at = args->verb->words != NULL ? args->verb->words : "";
    struct pattern p;
    int n = 0;
    while (next_pattern(&at, &p)) {
        if (n >= args->count && !p.optional)
            return err_set(err, ERR_INPUT, "what is missing: %.*s", p.len, p.word);
        do {
            char what[64];
            if (is_choice(&p))
                snprintf(what, sizeof(what), "the word");
            else
                snprintf(what, sizeof(what), "%.*s", p.len, p.word);
            if (n < args->count && !fits(&p, what, args->words[n], err))
                return false;
            n++;
        } while (p.again && n < args->count);
    }
    return args->count <= n ||
           err_set(err, ERR_INPUT, "\"%s\" is one word too many", args->words[n]);
}

bool args_read(struct args *args, const struct command *command, int argc, char **argv,
               struct err *err)
{
    *args = (struct args){.command = command, .verb = command->verbs};
    int at = 1;
    if (command->verbs->name != NULL && argc > 1 && argv[1][0] != '-') {
        args->verb = find_verb(command, argv[1]);
        if (args->verb == NULL)
            return unknown_verb(command, argv[1], err);
        at = 2;
    }
    args->words = argv + at;
    bool only_words = false;
    while (at < argc) {
        int took = 1;
        if (!only_words && strcmp(argv[at], "--") == 0)
            only_words = true;
        else if (!only_words && argv[at][0] == '-' && argv[at][1] != '\0')
            took = read_option(args, argc - at, argv + at, err);
        else
            args->words[args->count++] = argv[at];
        if (took == 0)
            return false;
        at += took;
    }
    return check_words(args, err);
}

const char *args_value(const struct args *args, const char *option)
{
    int i = find_option(args->verb, option, strlen(option));
    must(i >= 0);
    return args->values[i];
}

bool args_has(const struct args *args, const char *option)
{
    return args_value(args, option) != NULL;
}

const char *args_word(const struct args *args, int n)
{
    return n < args->count ? args->words[n] : NULL;
}

/* ---- explaining ---- */

static void explain_verb(const struct command *command, const struct verb *verb, FILE *out)
{
    const struct verb *before = verb > command->verbs ? verb - 1 : NULL;
    fprintf(out, "usage: moonwright %s%s%s%s%s%s\n", command->name, verb->name != NULL ? " " : "",
            verb->name != NULL ? verb->name : "", verb->words != NULL ? " " : "",
            verb->words != NULL ? verb->words : "", verb->options != NULL ? " [options]" : "");
    fprintf(out, "       %s\n", verb->says);
    if (before != NULL && verb->options != NULL && before->options == verb->options) {
        fprintf(out, "         (the same options)\n");
        return;
    }
    for (const struct option *o = verb->options; o != NULL && o->name != NULL; o++) {
        int n = fprintf(out, "         %s%s%s", o->name, o->takes != NULL ? " " : "",
                        o->takes != NULL ? o->takes : "");
        fprintf(out, "%*s%s\n", n < 31 ? 31 - n : 2, "", o->says);
    }
}

void args_explain(const struct command *command, const struct verb *only, FILE *out)
{
    if (only != NULL) {
        explain_verb(command, only, out);
        return;
    }
    for (const struct verb *v = command->verbs; v->ask != NULL || v->run != NULL; v++)
        explain_verb(command, v, out);
}
