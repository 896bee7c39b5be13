/* unit.h - what the C tests share: cmocka's headers, and running a loop until something is true. */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "io/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct until {
    struct loop *loop;
    bool (*fn)(void *ctx);
    void *ctx;
    struct loop_timer *timer;
    int64_t end_ms;
    bool met;
};

static inline void until_look(void *ctx)
{
    struct until *until = ctx;
    until->met = until->fn(until->ctx);
    if (until->met || clock_mono_ms() > until->end_ms) {
        loop_stop(until->loop);
    } else {
        loop_timer_set(until->timer, 1);
    }
}

/* Runs the loop until fn(ctx), for at most ms; false when that was not enough. */
static inline bool run_until(struct loop *loop, bool (*fn)(void *ctx), void *ctx, int64_t ms)
{
    struct until until = {.loop = loop, .fn = fn, .ctx = ctx, .end_ms = clock_mono_ms() + ms};
    until.timer = loop_timer_new(loop, until_look, &until);
    loop_timer_set(until.timer, 0);
    loop_run(loop);
    loop_timer_free(until.timer);
    return until.met;
}

static inline bool is_set(void *ctx)
{
    return *(bool *)ctx;
}

static inline bool never(void *ctx)
{
    (void)ctx;
    return false;
}

/* Lets the loop run for ms. */
static inline void run_for(struct loop *loop, int64_t ms)
{
    run_until(loop, never, NULL, ms);
}

/* A count of rounds: few by default, many in a long run. */
static inline int rounds(int few, int many)
{
    const char *value = getenv("MOONWRIGHT_LONG");
    return value && strcmp(value, "1") == 0 ? many : few;
}

/* A seed that is printed, and that MOONWRIGHT_SEED repeats. */
static inline unsigned seed(void)
{
    const char *value = getenv("MOONWRIGHT_SEED");
    unsigned chosen = value ? (unsigned)strtoul(value, NULL, 10) : (unsigned)clock_wall_us();
    print_message("seed: MOONWRIGHT_SEED=%u\n", chosen);
    return chosen;
}

/* The database the tests may use. */
static inline const char *test_database(void)
{
    const char *url = getenv("MOONWRIGHT_TEST_DATABASE_URL");
    if (!url || !*url) {
        fputs("MOONWRIGHT_TEST_DATABASE_URL is not set: it names the PostgreSQL database that this "
              "test fills and empties; tools/test sets it\n",
              stderr);
        _exit(1);
    }
    return url;
}

#endif
