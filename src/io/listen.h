/* listen.h - the connection on which a pool's listeners hear. */
#ifndef IO_LISTEN_H
#define IO_LISTEN_H

#include "io/pool.h"

struct ears;
struct ears *ears_new(struct loop *loop, const char *url); /* connects for the first listener */
void ears_free(struct ears *ears);
bool ears_hear(const struct ears *ears);
struct listener *listener_open(struct ears *ears, const char *channel, loop_fn *fn, void *ctx);

#endif
