/* loop.c - the event loop on libevent.
 *
 * One turn: as many deferred calls as there were when it began, in order, then whatever libevent
 * has. So neither side can starve the other; while some wait, libevent is only polled. Timers and
 * signals belong to whoever made them. */
#include "io/loop.h"

#include "io/loop_internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"

#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>

enum { MAX_CHAIN = 16 };

struct call {
    loop_fn *fn; // NULL: forgotten
    loop_fn *drop;
    void *ctx;
};

struct loop {
    struct event_base *base;
    struct call *calls; // a ring
    size_t first, count, size;
    int chain;  // calls in a row that were asked for by the one before; -1: none runs
    bool asked; // by the one that runs now
    int64_t lag_us;
    bool stopped;
};

struct loop_timer {
    struct event *event;
    struct loop *loop;
    loop_fn *fn;
    void *ctx;
    int64_t at_us; // -1: not armed
};

struct loop_signal {
    struct event *event;
    loop_fn *fn;
    void *ctx;
};

static void on_libevent_log(int severity, const char *message)
{
    enum log_level level = severity == EVENT_LOG_DEBUG ? LOG_DEBUG
                           : severity == EVENT_LOG_MSG ? LOG_INFO
                                                       : LOG_WARN;
    log_write(level, "loop", "libevent", "error", message, NULL);
}

static void on_libevent_fatal(int code)
{
    log_error("loop", "libevent can't go on", "code", log_int(code), NULL);
    abort();
}

struct loop *loop_new(void)
{
    event_set_log_callback(on_libevent_log);
    event_set_fatal_callback(on_libevent_fatal);
    signal(SIGPIPE, SIG_IGN); // a lost peer is told by write's result
    struct event_config *config = event_config_new();
    must(config);
    // A timer counts from when it is set, not from when this turn began.
    must(event_config_set_flag(config, EVENT_BASE_FLAG_NO_CACHE_TIME) == 0);
    struct loop *loop = xcalloc(1, sizeof(*loop));
    loop->base = event_base_new_with_config(config);
    event_config_free(config);
    must(loop->base);
    loop->chain = -1;
    return loop;
}

struct event_base *loop_base(struct loop *loop)
{
    return loop->base;
}

static struct call *call_at(struct loop *loop, size_t i)
{
    return &loop->calls[(loop->first + i) % loop->size];
}

static struct call take_call(struct loop *loop)
{
    struct call call = *call_at(loop, 0);
    loop->first = (loop->first + 1) % loop->size;
    loop->count--;
    return call;
}

void loop_free(struct loop *loop)
{
    if (!loop) {
        return;
    }
    while (loop->count > 0) {
        struct call call = take_call(loop);
        if (call.fn && call.drop) {
            call.drop(call.ctx);
        }
    }
    free(loop->calls);
    event_base_free(loop->base);
    free(loop);
}

/* Runs the first call, and what each asks to be run next. */
static void run_first(struct loop *loop)
{
    loop->chain = 0;
    do {
        struct call call = take_call(loop);
        loop->asked = false;
        if (call.fn) {
            call.fn(call.ctx);
        }
    } while (loop->asked && !loop->stopped);
    loop->chain = -1;
}

void loop_run(struct loop *loop)
{
    while (!loop->stopped) {
        for (size_t n = loop->count; n > 0 && loop->count > 0 && !loop->stopped; n--) {
            run_first(loop);
        }
        if (loop->stopped) {
            break;
        }
        int flags = EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY;
        must(event_base_loop(loop->base, loop->count > 0 ? flags | EVLOOP_NONBLOCK : flags) >= 0);
    }
    loop->stopped = false; // it may be run again
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
    event_base_loopbreak(loop->base);
}

static void make_room(struct loop *loop)
{
    if (loop->count == loop->size) {
        size_t size = loop->size ? loop->size * 2 : 64;
        struct call *calls = xmalloc(size * sizeof(*calls));
        for (size_t i = 0; i < loop->count; i++) {
            calls[i] = *call_at(loop, i);
        }
        free(loop->calls);
        loop->calls = calls;
        loop->size = size;
        loop->first = 0;
    }
}

void loop_defer_owned(struct loop *loop, loop_fn *fn, loop_fn *drop, void *ctx)
{
    make_room(loop);
    loop->count++;
    *call_at(loop, loop->count - 1) = (struct call){fn, drop, ctx};
}

void loop_next(struct loop *loop, loop_fn *fn, void *ctx)
{
    if (loop->chain < 0 || loop->asked || loop->chain == MAX_CHAIN) {
        loop_defer(loop, fn, ctx);
        return;
    }
    make_room(loop);
    loop->first = (loop->first + loop->size - 1) % loop->size;
    loop->count++;
    loop->chain++;
    loop->asked = true;
    *call_at(loop, 0) = (struct call){fn, NULL, ctx};
}

void loop_defer(struct loop *loop, loop_fn *fn, void *ctx)
{
    loop_defer_owned(loop, fn, NULL, ctx);
}

size_t loop_deferred(const struct loop *loop)
{
    return loop->count;
}

void loop_undefer(struct loop *loop, void *ctx)
{
    for (size_t i = 0; i < loop->count; i++) {
        struct call *call = call_at(loop, i);
        if (call->ctx == ctx) {
            call->fn = NULL;
        }
    }
}

static void arm(struct loop_timer *timer, int64_t us)
{
    struct timeval tv = {us / 1000000, us % 1000000};
    must(event_add(timer->event, &tv) == 0);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct loop_timer *timer = arg;
    // libevent's clock is the coarse one and may be some milliseconds early; we never are.
    int64_t left = timer->at_us - clock_mono_us();
    if (left > 0) {
        arm(timer, left);
        return;
    }
    timer->loop->lag_us = -left > timer->loop->lag_us ? -left : timer->loop->lag_us;
    timer->at_us = -1;
    timer->fn(timer->ctx); // may free the timer
}

struct loop_timer *loop_timer_new(struct loop *loop, loop_fn *fn, void *ctx)
{
    struct loop_timer *timer = xmalloc(sizeof(*timer));
    *timer = (struct loop_timer){.loop = loop, .fn = fn, .ctx = ctx, .at_us = -1};
    timer->event = evtimer_new(loop->base, on_timer, timer);
    must(timer->event);
    return timer;
}

void loop_timer_set(struct loop_timer *timer, int64_t ms)
{
    int64_t us = ms > 0 ? ms * 1000 : 0;
    timer->at_us = clock_mono_us() + us;
    arm(timer, us);
}

int64_t loop_lag_us(struct loop *loop)
{
    int64_t lag = loop->lag_us;
    loop->lag_us = 0;
    return lag;
}

bool loop_timer_armed(const struct loop_timer *timer)
{
    return timer->at_us >= 0;
}

void loop_timer_clear(struct loop_timer *timer)
{
    timer->at_us = -1;
    event_del(timer->event);
}

void loop_timer_free(struct loop_timer *timer)
{
    if (timer) {
        event_free(timer->event);
        free(timer);
    }
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct loop_signal *sig = arg;
    sig->fn(sig->ctx);
}

struct loop_signal *loop_signal_new(struct loop *loop, int signum, loop_fn *fn, void *ctx)
{
    struct loop_signal *sig = xmalloc(sizeof(*sig));
    *sig = (struct loop_signal){.fn = fn, .ctx = ctx};
    sig->event = evsignal_new(loop->base, signum, on_signal, sig);
    must(sig->event && event_add(sig->event, NULL) == 0);
    return sig;
}

void loop_signal_free(struct loop_signal *sig)
{
    if (sig) {
        event_free(sig->event);
        free(sig);
    }
}
