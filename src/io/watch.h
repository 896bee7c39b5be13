/* watch.h - tells that something below a folder changed (inotify), once things are quiet. */
#ifndef IO_WATCH_H
#define IO_WATCH_H

#include "base/err.h"
#include "io/loop.h"

struct watch;
/* Follows the folder and those in it, new ones too. fn is called 100 ms after the last change. */
struct watch *watch_start(struct loop *loop, const char *folder, loop_fn *fn, void *ctx,
                          struct err *err);
void watch_stop(struct watch *watch);

#endif
