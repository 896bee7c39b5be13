/* The loop: order, timers that are never early, and calls that are forgotten. */
#include "unit.h"

#include "io/loop_internal.h"

#include <signal.h>

struct fixture {
    struct loop *loop;
    char trace[64];
    struct loop_timer *timer;
    int64_t fired_us;
    int count;
};

struct step {
    struct fixture *fixture;
    char name;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->loop = loop_new();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    loop_timer_free(f->timer);
    loop_free(f->loop);
    free(f);
    return 0;
}

static void trace(void *ctx)
{
    struct step *step = ctx;
    size_t len = strlen(step->fixture->trace);
    must(len + 1 < sizeof(step->fixture->trace));
    step->fixture->trace[len] = step->name;
}

static void stop(void *ctx)
{
    loop_stop(ctx);
}

static void test_deferred_calls_keep_their_order(void **state)
{
    struct fixture *f = *state;
    struct step steps[26];
    for (int i = 0; i < 26; i++) {
        steps[i] = (struct step){f, (char)('a' + i)};
        loop_defer(f->loop, trace, &steps[i]);
    }
    loop_defer(f->loop, trace, &steps[0]);
    loop_undefer(f->loop, &steps[0]); // both of its calls
    loop_undefer(f->loop, &steps[25]);
    assert_string_equal(f->trace, "");
    loop_defer(f->loop, stop, f->loop);
    loop_run(f->loop);
    assert_string_equal(f->trace, "bcdefghijklmnopqrstuvwxy");
}

static void trace_and_ask(void *ctx)
{
    struct step *step = ctx;
    trace(step);
    if (step->name < 'c') {
        loop_next(step->fixture->loop, trace_and_ask, step + 1);
        loop_next(step->fixture->loop, trace, step + 10);
    }
}

static void test_what_is_asked_for_next_comes_before_the_others(void **state)
{
    struct fixture *f = *state;
    struct step steps[26];
    for (int i = 0; i < 26; i++) {
        steps[i] = (struct step){f, (char)('a' + i)};
    }
    loop_next(f->loop, trace_and_ask, &steps[0]); // nothing runs: the end of the queue
    loop_defer(f->loop, trace, &steps[25]);
    run_for(f->loop, 5);
    assert_string_equal(f->trace, "abczkl"); // one each
}

static void again(void *ctx)
{
    struct fixture *f = ctx;
    f->count++;
    loop_defer(f->loop, again, f);
}

static void again_next(void *ctx)
{
    struct fixture *f = ctx;
    f->count++;
    loop_next(f->loop, again_next, f);
}

static void test_a_chain_does_not_starve_the_others(void **state)
{
    struct fixture *f = *state;
    struct step step = {f, 'x'};
    loop_defer(f->loop, again_next, f);
    loop_defer(f->loop, trace, &step);
    loop_defer(f->loop, stop, f->loop);
    loop_run(f->loop);
    assert_string_equal(f->trace, "x");
    assert_true(f->count > 1 && f->count < 100);
}

static void count(void *ctx)
{
    ((struct fixture *)ctx)->count++;
}

static void test_calls_that_defer_calls_do_not_starve_timers(void **state)
{
    struct fixture *f = *state;
    loop_defer(f->loop, again, f);
    run_for(f->loop, 20);
    assert_true(f->count > 10);
}

static void forget_next(void *ctx)
{
    struct step *next = ctx;
    loop_undefer(next->fixture->loop, next);
}

static void test_a_call_may_forget_the_next(void **state)
{
    struct fixture *f = *state;
    struct step step = {f, 'x'};
    loop_defer(f->loop, forget_next, &step);
    loop_defer(f->loop, trace, &step);
    run_for(f->loop, 5);
    assert_string_equal(f->trace, "");
}

static void test_a_thousand_calls_across_turns(void **state)
{
    struct fixture *f = *state;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 1000; i++) {
            loop_defer(f->loop, count, f);
        }
        loop_defer(f->loop, stop, f->loop);
        loop_run(f->loop);
        assert_int_equal(f->count, 1000 * (round + 1));
    }
}

static void fired(void *ctx)
{
    struct fixture *f = ctx;
    f->fired_us = clock_mono_us();
    f->count++;
}

static void test_a_timer_is_never_early(void **state)
{
    struct fixture *f = *state;
    f->timer = loop_timer_new(f->loop, fired, f);
    assert_false(loop_timer_armed(f->timer));
    for (int ms = 0; ms < 25; ms++) {
        int64_t began = clock_mono_us();
        f->count = 0;
        loop_timer_set(f->timer, ms);
        assert_true(loop_timer_armed(f->timer));
        run_for(f->loop, ms + 15);
        assert_int_equal(f->count, 1);
        assert_true(f->fired_us - began >= ms * 1000);
        assert_false(loop_timer_armed(f->timer));
    }
}

static void test_a_timer_set_again_fires_once(void **state)
{
    struct fixture *f = *state;
    f->timer = loop_timer_new(f->loop, fired, f);
    loop_timer_set(f->timer, 10);
    loop_timer_set(f->timer, 400);
    run_for(f->loop, 50);
    assert_int_equal(f->count, 0);
    run_for(f->loop, 400);
    assert_int_equal(f->count, 1);
    loop_timer_set(f->timer, 5);
    loop_timer_clear(f->timer);
    assert_false(loop_timer_armed(f->timer));
    run_for(f->loop, 30);
    assert_int_equal(f->count, 1);
}

static void free_itself(void *ctx)
{
    struct fixture *f = ctx;
    loop_timer_free(f->timer);
    f->timer = NULL;
    f->count++;
}

static void test_a_timer_may_free_itself(void **state)
{
    struct fixture *f = *state;
    f->timer = loop_timer_new(f->loop, free_itself, f);
    loop_timer_set(f->timer, 1);
    run_for(f->loop, 20);
    assert_int_equal(f->count, 1);
    assert_null(f->timer);
}

static void test_a_stop_before_the_run_counts(void **state)
{
    struct fixture *f = *state;
    loop_defer(f->loop, count, f);
    loop_stop(f->loop);
    loop_run(f->loop);
    assert_int_equal(f->count, 0);
    run_for(f->loop, 5);
    assert_int_equal(f->count, 1);
}

static void test_a_signal(void **state)
{
    struct fixture *f = *state;
    struct loop_signal *sig = loop_signal_new(f->loop, SIGUSR1, count, f);
    raise(SIGUSR1);
    assert_int_equal(f->count, 0);
    run_for(f->loop, 10);
    raise(SIGUSR1);
    run_for(f->loop, 10);
    assert_int_equal(f->count, 2);
    loop_signal_free(sig);
}

static void test_what_is_left_is_dropped_not_called(void **state)
{
    struct fixture *f = *state;
    int called = 0;
    struct loop *loop = loop_new();
    loop_defer(loop, count, &called);
    loop_defer_owned(loop, fired, count, f);
    loop_defer_owned(loop, fired, count, f);
    loop_undefer(loop, &called);
    loop_free(loop);
    assert_int_equal(f->count, 2);
    assert_int_equal(f->fired_us, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_deferred_calls_keep_their_order),
        T(test_what_is_asked_for_next_comes_before_the_others),
        T(test_a_chain_does_not_starve_the_others),
        T(test_calls_that_defer_calls_do_not_starve_timers),
        T(test_a_call_may_forget_the_next),
        T(test_a_thousand_calls_across_turns),
        T(test_a_timer_is_never_early),
        T(test_a_timer_set_again_fires_once),
        T(test_a_timer_may_free_itself),
        T(test_a_stop_before_the_run_counts),
        T(test_a_signal),
        T(test_what_is_left_is_dropped_not_called),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
