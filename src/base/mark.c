/* mark.c - see mark.h. The state of this file is the process's: it does one thing at a time. */
#include "base/mark.h"

static char nowhere[MARK_SIZE];
char *mark_place = nowhere;

void mark_at(char *place)
{
    mark_place = place ? place : nowhere;
}
