/* completion.c - the script by which bash completes the table of commands. What only the database
 * knows (names of workflows, events, entities) it asks the program for. */
#include "front/args.h"

#include <string.h>

static const char body[] =
    "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
    "  local command=${COMP_WORDS[1]} verb= first=2 at=0 options places takes i p\n"
    "  if [ \"$prev\" = '=' ]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
    "  if [ \"$cur\" = '=' ]; then cur=; fi\n"
    "  if [ \"$COMP_CWORD\" = 1 ]; then\n"
    "    takes=$commands\n"
    "  elif [ \"$COMP_CWORD\" = 2 ] && [ -n \"$verbs\" ] && [[ $cur != -* ]]; then\n"
    "    takes=$verbs\n"
    "  else\n"
    "    if [ -n \"$verbs\" ]; then verb=${COMP_WORDS[2]} first=3; fi\n"
    "    _moonwright_table \"$command\" \"$verb\" \"$prev\"\n"
    "    if [ -z \"$takes\" ] && [[ $cur != -* ]]; then\n"
    "      # Which word it is: options and their values are none.\n"
    "      for ((i = first; i < COMP_CWORD; i++)); do\n"
    "        _moonwright_table \"$command\" \"$verb\" \"${COMP_WORDS[i]}\"\n"
    "        if [ -n \"$takes\" ]; then\n"
    "          i=$((i + 1))\n"
    "          if [ \"${COMP_WORDS[i]}\" = '=' ]; then i=$((i + 1)); fi\n"
    "        elif [[ ${COMP_WORDS[i]} != -* ]]; then\n"
    "          at=$((at + 1))\n"
    "        fi\n"
    "      done\n"
    "      takes=\n"
    "      for p in $places; do\n"
    "        if [ $at = 0 ] || [ \"${p%+}\" != \"$p\" ]; then takes=${p%+}; break; fi\n"
    "        at=$((at - 1))\n"
    "      done\n"
    "    fi\n"
    "    if [ -z \"$takes\" ]; then takes=$options; fi\n"
    "  fi\n"
    "  case $takes in\n"
    "    WORKFLOW | EVENT | ENTITY)\n"
    "      takes=$(timeout 3 \"${COMP_WORDS[0]}\" completion values \"$takes\" 2> /dev/null) ;;\n"
    "    ROLES) takes='sync|workflow|web|monitor' ;;\n"
    "    [[:upper:]]*) takes= ;;\n"
    "  esac\n"
    "  COMPREPLY=($(compgen -W \"${takes//|/ }\" -- \"$cur\"))\n"
    "}\n"
    "complete -F _moonwright moonwright\n";

/* "ID... [A] b|c" as "ID+ A b|c". */
static void print_places(const char *pattern, FILE *out)
{
    for (const char *p = pattern != NULL ? pattern : ""; *p != '\0'; p++) {
        if (strncmp(p, "...", 3) == 0) {
            fputc('+', out);
            p += 2;
        } else if (*p != '[' && *p != ']') {
            fputc(*p, out);
        }
    }
}

static void print_verb(const struct command *command, const struct verb *verb, FILE *out)
{
    fprintf(out, "    '%s %s')\n      options='", command->name,
            verb->name != NULL ? verb->name : "");
    for (const struct option *o = verb->options; o != NULL && o->name != NULL; o++)
        fprintf(out, "%s%s", o == verb->options ? "" : "|", o->name);
    fprintf(out, "' places='");
    print_places(verb->words, out);
    fprintf(out, "'\n      case $3 in\n");
    for (const struct option *o = verb->options; o != NULL && o->name != NULL; o++) {
        if (o->takes != NULL)
            fprintf(out, "        %s) takes='%s' ;;\n", o->name, o->takes);
    }
    fprintf(out, "      esac ;;\n");
}

static void print_verbs(const struct command *command, FILE *out)
{
    if (command->verbs->name == NULL)
        return;
    fprintf(out, "    %s) verbs='", command->name);
    for (const struct verb *v = command->verbs; v->ask != NULL || v->run != NULL; v++)
        fprintf(out, "%s%s", v == command->verbs ? "" : "|", v->name);
    fprintf(out, "' ;;\n");
}

void args_completion(const struct command *const *commands, size_t count, FILE *out)
{
    fprintf(out, "# Completion of moonwright for bash: source <(moonwright completion bash)\n\n"
                 "# A command's verb: its options, what its words are, what the option $3 takes.\n"
                 "_moonwright_table() {\n  options= places= takes=\n  case \"$1 $2\" in\n");
    for (size_t i = 0; i < count; i++) {
        for (const struct verb *v = commands[i]->verbs; v->ask != NULL || v->run != NULL; v++)
            print_verb(commands[i], v, out);
    }
    fprintf(out, "    'help ') places=$commands ;;\n  esac\n}\n\n_moonwright() {\n"
                 "  local verbs= commands='help");
    for (size_t i = 0; i < count; i++)
        fprintf(out, "|%s", commands[i]->name);
    fprintf(out, "'\n  case ${COMP_WORDS[1]} in\n");
    for (size_t i = 0; i < count; i++)
        print_verbs(commands[i], out);
    fprintf(out, "  esac\n%s", body);
}
