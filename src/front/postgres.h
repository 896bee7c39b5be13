/* postgres.h - the private PostgreSQL that runs when DATABASE_URL is empty.
 *
 * Its cluster is MOONWRIGHT_DATA/postgres, reached only through a unix socket in a folder that
 * nobody else may enter. As root it runs as MOONWRIGHT_POSTGRES_USER. One process at a time owns
 * it (a lock file says which): it starts it, starts it again when it dies, and stops it. */
#ifndef FRONT_POSTGRES_H
#define FRONT_POSTGRES_H

#include "base/err.h"
#include "engine/settings.h"

struct postgres;

enum postgres_state {
    POSTGRES_GONE,     /* no postmaster runs on our folder */
    POSTGRES_STARTING, /* or recovering */
    POSTGRES_READY,
    POSTGRES_STOPPING
};

/* Finds the programs and checks the folder; makes nothing but that folder, starts nothing. */
struct postgres *postgres_open(const struct settings *settings, const char *data_dir,
                               struct err *err);
void postgres_free(struct postgres *postgres); /* NULL is fine; leaves the server running */

/* Returns once it answers: adopts the one that runs, or makes the cluster and starts it. */
bool postgres_start(struct postgres *postgres, struct err *err);
/* Starts it and does not wait; to be followed by looking at the state. */
bool postgres_launch(struct postgres *postgres, struct err *err);
enum postgres_state postgres_look(struct postgres *postgres);
bool postgres_is_child(const struct postgres *postgres); /* whoever reaps hears of its end */
bool postgres_is_ours(struct postgres *postgres);        /* we own it, or could just take it over */
/* Ends it in an orderly way if we started it, or own it and `adopted` says to. */
void postgres_stop(struct postgres *postgres, bool adopted);

/* Puts its addresses into DATABASE_URL and MOONWRIGHT_READONLY_URL. */
void postgres_derive(const struct postgres *postgres, struct settings *settings);

#endif
