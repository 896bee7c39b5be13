/* Trace contexts: what is read, and what is written. */
#include "unit.h"

#include "base/trace.h"

#include <string.h>

#define ID "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"

static void a_good_one_is_read_and_written(void **state)
{
    (void)state;
    struct trace trace;
    char out[TRACE_TEXT];
    assert_true(trace_parse("00-" ID "-" SPAN "-01", &trace));
    assert_string_equal(ID, trace.id);
    assert_string_equal(SPAN, trace.span);
    assert_true(trace.sampled);
    trace_write(&trace, out);
    assert_string_equal("00-" ID "-" SPAN "-01", out);
    assert_true(trace_parse("00-" ID "-" SPAN "-00", &trace));
    assert_false(trace.sampled);
    assert_true(trace_parse("00-" ID "-" SPAN "-ff", &trace)); /* bits that are not known yet */
    assert_true(trace.sampled);
    trace_write(&trace, out);
    assert_string_equal("00-" ID "-" SPAN "-01", out);
    assert_true(trace_parse("cc-" ID "-" SPAN "-01-more.to-come", &trace));
    assert_true(trace_parse("01-" ID "-" SPAN "-01", &trace));
}

static void anything_else_is_none(void **state)
{
    (void)state;
    static const char *const bad[] = {
        NULL,
        "",
        "00",
        "00-" ID "-" SPAN,
        "00-" ID "-" SPAN "-",
        "00-" ID "-" SPAN "-1",
        "00-" ID "-" SPAN "-01-",
        "00-" ID "-" SPAN "-01-x",
        "00-" ID "-" SPAN "-01 ",
        " 00-" ID "-" SPAN "-01",
        "ff-" ID "-" SPAN "-01",
        "0g-" ID "-" SPAN "-01",
        "cc-" ID "-" SPAN "-01.more",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-" ID "-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01",
        "00-" ID "-00F067AA0BA902B7-01",
        "00-" ID "-" SPAN "-0A",
        "00_" ID "-" SPAN "-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-" SPAN "-001",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct trace trace;
        if (trace_parse(bad[i], &trace))
            fail_msg("taken: %s", bad[i]);
    }
}

static void new_ones_differ(void **state)
{
    (void)state;
    struct trace a, b, child;
    char out[TRACE_TEXT];
    trace_new(&a);
    trace_new(&b);
    assert_string_not_equal(a.id, b.id);
    trace_write(&a, out);
    assert_true(trace_parse(out, &child));
    trace_child(&child);
    assert_string_equal(a.id, child.id);
    assert_string_not_equal(a.span, child.span);
    trace_of_uuid("01a22279-8aca-7bb1-8a97-3f0f3bd34cc4", &a);
    assert_string_equal("01a222798aca7bb18a973f0f3bd34cc4", a.id);
    trace_of_uuid("no uuid", &a);
    trace_write(&a, out);
    assert_true(trace_parse(out, &b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_good_one_is_read_and_written),
                                       cmocka_unit_test(anything_else_is_none),
                                       cmocka_unit_test(new_ones_differ)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
