/* A followed folder: every kind of change is told, once things are quiet. */
#include "unit.h"

#include "base/mem.h"
#include "io/watch.h"

#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    struct loop *loop;
    struct watch *watch;
    char base[64], root[80];
    int told;
};

static void on_change(void *ctx)
{
    ((struct fixture *)ctx)->told++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->loop = loop_new();
    snprintf(f->base, sizeof(f->base), "/tmp/moonwright-watch-XXXXXX");
    must(mkdtemp(f->base));
    snprintf(f->root, sizeof(f->root), "%s/root", f->base);
    char *below = xprintf("%s/below", f->root);
    must(mkdir(f->root, 0700) == 0 && mkdir(below, 0700) == 0);
    free(below);
    struct err err;
    f->watch = watch_start(f->loop, f->root, on_change, f, &err);
    must(f->watch);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    watch_stop(f->watch);
    loop_free(f->loop);
    char *command = xprintf("rm -r %s", f->base);
    must(system(command) == 0);
    free(command);
    free(f);
    return 0;
}

static void write_file(struct fixture *f, const char *name)
{
    char *path = xprintf("%s/%s", f->root, name);
    FILE *file = fopen(path, "w");
    must(file);
    fputs("text", file);
    fclose(file);
    free(path);
}

static void folder(struct fixture *f, const char *name)
{
    char *path = xprintf("%s/%s", f->root, name);
    must(mkdir(path, 0700) == 0);
    free(path);
}

static void expect_told(struct fixture *f)
{
    run_for(f->loop, 250);
    assert_int_equal(f->told, 1);
    f->told = 0;
}

static void test_files(void **state)
{
    struct fixture *f = *state;
    run_for(f->loop, 200);
    assert_int_equal(f->told, 0);
    write_file(f, "a.lua");
    write_file(f, "below/b.lua");
    expect_told(f); // once for both
    char *from = xprintf("%s/a.lua", f->root), *to = xprintf("%s/below/a.lua", f->root);
    must(rename(from, to) == 0);
    expect_told(f);
    must(unlink(to) == 0);
    expect_told(f);
    free(from);
    free(to);
}

static void test_it_waits_for_quiet(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 12; i++) {
        int64_t began = clock_mono_ms();
        write_file(f, "a.lua");
        run_for(f->loop, 20);
        assert_true(f->told == 0 || clock_mono_ms() - began >= 100); // a machine may be slow
        f->told = 0;
    }
    expect_told(f);
}

static void test_new_folders(void **state)
{
    struct fixture *f = *state;
    folder(f, "new");
    folder(f, "new/deeper"); // before anybody could watch its parent
    write_file(f, "new/deeper/a.lua");
    expect_told(f);
    write_file(f, "new/deeper/b.lua");
    expect_told(f);
    char *from = xprintf("%s/new", f->root), *to = xprintf("%s/renamed", f->root);
    must(rename(from, to) == 0);
    expect_told(f);
    write_file(f, "renamed/deeper/c.lua");
    expect_told(f);
    free(from);
    free(to);
}

static void test_the_folder_itself_is_replaced(void **state)
{
    struct fixture *f = *state;
    char *away = xprintf("%s/away", f->base);
    must(rename(f->root, away) == 0);
    expect_told(f);
    must(mkdir(f->root, 0700) == 0);
    write_file(f, "fresh.lua");
    run_for(f->loop, 1500); // it is looked for once a second
    assert_true(f->told >= 1);
    f->told = 0;
    write_file(f, "fresh.lua");
    expect_told(f);
    free(away);
}

static void test_no_folder(void **state)
{
    struct fixture *f = *state;
    struct err err;
    assert_null(watch_start(f->loop, "/no/such/folder", on_change, f, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.message, "/no/such/folder"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_files),       T(test_it_waits_for_quiet),
        T(test_new_folders), T(test_the_folder_itself_is_replaced),
        T(test_no_folder),
    };
    return cmocka_run_group_tests_name("watch", tests, NULL, NULL);
}
