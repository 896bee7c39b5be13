/* Log lines: one line each, nothing smuggled in, no secret out. */
#include "unit.h"

#include "base/log.h"

#include <unistd.h>

static FILE *caught;
static int saved_stderr;
static char line[200000];
static long at; // what was read of it

static int setup(void **state)
{
    (void)state;
    caught = tmpfile();
    at = 0;
    must(caught);
    fflush(stderr);
    saved_stderr = dup(STDERR_FILENO);
    must(dup2(fileno(caught), STDERR_FILENO) >= 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    fclose(caught);
    log_set_json(false);
    log_set_role(NULL);
    log_set_level(LOG_INFO);
    return 0;
}

// What was logged since the last call, without the time in front.
static const char *logged(void)
{
    fseek(caught, 0, SEEK_END);
    long end = ftell(caught);
    fseek(caught, at, SEEK_SET);
    size_t n = fread(line, 1, sizeof(line) - 1, caught);
    line[n] = 0;
    at = end;
    return n > 30 ? line + strcspn(line, line[0] == '{' ? "," : " ") + 1 : line;
}

static void test_logfmt(void **state)
{
    (void)state;
    log_info("sync", "page written", "entity", "jobs", "rows", log_int(-7), "note", NULL, NULL);
    assert_string_equal(logged(), "level=info module=sync message=\"page written\" entity=jobs "
                                  "rows=-7 note=\"\"\n");
    log_set_role("worker");
    log_warn("db", "lost", "error", "a=\"b\"\nlevel=info\x1b[31m", NULL);
    assert_string_equal(logged(), "level=warn role=worker module=db message=lost "
                                  "error=\"a=\\\"b\\\"\\nlevel=info\\u001b[31m\"\n");
    log_debug("db", "hidden", NULL);
    assert_string_equal(logged(), "");
    log_set_level(LOG_DEBUG);
    log_debug("db", "shown", NULL);
    assert_string_equal(logged(), "level=debug role=worker module=db message=shown\n");
}

/* Terminals obey the second set of controls too; what isn't UTF-8 is nobody's text. */
static void test_no_control_byte_gets_through(void **state)
{
    (void)state;
    for (int json = 0; json <= 1; json++) {
        log_set_json(json);
        for (int c = 1; c < 256; c++) {
            char raw[] = {'a', (char)c, 'b', 0}, pair[] = {'a', (char)0xc2, (char)c, 'b', 0};
            log_info("x", "m", "raw", raw, "pair", pair, raw, "as a name", NULL);
            const char *out = logged();
            size_t len = strlen(out);
            assert_int_equal(out[len - 1], '\n');
            for (size_t i = 0; i + 1 < len; i++) {
                unsigned char byte = (unsigned char)out[i], next = (unsigned char)out[i + 1];
                if (byte < 0x20 || byte == 0x7f || (byte == 0xc2 && next < 0xa0))
                    fail_msg("byte %02x got through of %02x: %s", byte, c, out);
                if (byte >= 0x80 && byte < 0xc0 && (i == 0 || (unsigned char)out[i - 1] < 0x80))
                    fail_msg("half a character of %02x: %s", c, out);
            }
        }
    }
    log_set_json(false);
    log_info("x", "m", "a b=\n", "c", "", "d", NULL);
    assert_string_equal(logged(), "level=info module=x message=m a_b__=c =d\n");
    log_info("x", "m", "name", "Zo\xc3\xab", NULL);
    assert_string_equal(logged(), "level=info module=x message=m name=\"Zo\xc3\xab\"\n");
}

static void test_a_secret_out_of_use_is_forgotten(void **state)
{
    (void)state;
    log_add_secret("old+token+value");
    log_add_secret("new+token+value");
    log_forget_secret("old+token+value");
    log_forget_secret("never known");
    log_forget_secret(NULL);
    log_info("x", "m", "a", "old+token+value", "b", "new+token+value", "c", "new%2Btoken%2Bvalue",
             "d", "old%2Btoken%2Bvalue", NULL);
    assert_string_equal(logged(), "level=info module=x message=m a=old+token+value b=*** c=*** "
                                  "d=old%2Btoken%2Bvalue\n");
}

static void test_json(void **state)
{
    (void)state;
    log_set_json(true);
    log_error("x", "bad \"news\"", "text", "a\nb", NULL);
    assert_string_equal(logged(), "\"level\":\"error\",\"module\":\"x\","
                                  "\"message\":\"bad \\\"news\\\"\",\"text\":\"a\\nb\"}\n");
}

static void test_secrets_are_masked(void **state)
{
    (void)state;
    log_add_secret("s3cr\"et+value");
    log_add_secret("s3cr\"et+value-longer");
    log_add_secret("short");
    log_add_secret(NULL);
    log_info("x", "with s3cr\"et+value inside", "both", "s3cr\"et+value-longer,s3cr\"et+value.",
             "encoded", "q=s3cr%22et%2Bvalue", "short", "short", NULL);
    assert_string_equal(logged(), "level=info module=x message=\"with *** inside\" "
                                  "both=***,***. encoded=\"q=***\" short=short\n");
    char text[] = "a s3cr\"et+value b";
    log_mask(text);
    assert_string_equal(text, "a *** b");
}

static void test_a_secret_is_not_half_shown_at_the_cut(void **state)
{
    (void)state;
    static char text[4200];
    log_add_secret("a-secret-that-is-cut");
    for (int shift = 0; shift < 24; shift++) {
        memset(text, 'x', sizeof(text));
        snprintf(text + 4076 + shift, 100, "a-secret-that-is-cut");
        log_info("x", "long", "text", text, NULL);
        assert_null(strstr(logged(), "a-se"));
    }
}

static void test_long_lines_end_whole(void **state)
{
    (void)state;
    static char text[5000];
    memset(text, '\n', sizeof(text) - 1);
    log_set_json(true);
    log_info("x", "long", "a", text, "b", text, "c", text, "d", text, "e", text, "f", text, "g",
             text, "h", text, "i", text, NULL);
    const char *out = logged();
    size_t len = strlen(out);
    assert_true(len > 8000 && len < 70000);
    assert_string_equal(out + len - 3, "\"}\n");
    assert_ptr_equal(strchr(out, '\n'), out + len - 1);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_logfmt),
        T(test_json),
        T(test_no_control_byte_gets_through),
        T(test_a_secret_out_of_use_is_forgotten),
        T(test_secrets_are_masked),
        T(test_a_secret_is_not_half_shown_at_the_cut),
        T(test_long_lines_end_whole),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
