/* postgres_init.h - PostgreSQL's programs on this machine, and making a cluster. */
#ifndef FRONT_POSTGRES_INIT_H
#define FRONT_POSTGRES_INIT_H

#include "base/err.h"

#include <limits.h>
#include <sys/types.h>

struct postgres_place {
    char data[PATH_MAX];    /* MOONWRIGHT_DATA, absolute */
    char cluster[PATH_MAX]; /* .../postgres */
    char bin[PATH_MAX];     /* the folder of the programs */
    int major;
    const char *user; /* whom to become; NULL: stay who we are */
    uid_t uid;        /* who the server runs as */
    gid_t gid;
};

/* Fills the place: programs of the cluster's major, or the newest when there is no cluster. */
bool postgres_find(struct postgres_place *place, const char *data_dir, const char *user,
                   struct err *err);

/* Makes the cluster with its roles and database beside its place and moves it there whole. */
bool postgres_make(const struct postgres_place *place, struct err *err);

/* In a forked child: become the server's user, die when the parent does. False: say errno. */
bool postgres_become(const struct postgres_place *place, int death_signal);

#endif
