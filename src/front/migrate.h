/* migrate.h - brings the databases up to this program's version. */
#ifndef FRONT_MIGRATE_H
#define FRONT_MIGRATE_H

#include "front/front.h"

/* Re-runnable, and safe with several at once. Says on stdout what it did, unless quiet. */
bool migrate_all(struct front *front, bool quiet, struct err *err);

/* This program's files of the engine's database as JSON: [{"number", "sha256"}, ...]. Caller frees;
 * NULL: err says why. */
char *migrate_expects(const char *schema_dir, struct err *err);

#endif
