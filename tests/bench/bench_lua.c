/* bench_lua.c - what tools/bench needs of our Lua without the daemon around it.
 *
 *     bench_lua plans                 what is copied and how, as sync.c hears it from lua/sync.lua
 *     bench_lua batch FOLDER TIMES    what Lua alone needs to judge recorded events
 *
 * FOLDER has load.json, activate.json and batch.json: what the daemon would hand to those functions
 * of lua/detect.lua. The batch is judged TIMES times, under the daemon's limits. Prints the CPU
 * seconds that took and what the last one gave. */
#include "base/mem.h"
#include "engine/detect.h"
#include "script/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TEXT_MAX ((size_t)256 << 20)

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void read_input(const char *folder, const char *name, struct buf *out)
{
    char *path = xprintf("%s/%s.json", folder, name), chunk[8192];
    FILE *file = fopen(path, "rbe");
    if (!file) {
        perror(path);
        exit(1);
    }
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
        buf_add(out, chunk, n);
    fclose(file);
    free(path);
}

static struct vm *open_vm(const char *main_module)
{
    struct err err;
    struct vm_options options = {.main = main_module,
                                 .lua_dir = LUA_DIR,
                                 .memory = DETECT_MEMORY,
                                 .burst_ms = DETECT_BURST_MS};
    struct vm *vm = vm_new(NULL, &options, &err);
    if (!vm) {
        fprintf(stderr, "bench_lua: %s\n", err.message);
        exit(1);
    }
    return vm;
}

static void call(struct vm *vm, const char *function, const struct buf *input, struct buf *out)
{
    struct err err;
    const struct slice arg = {input->data, input->len};
    buf_clear(out);
    if (!vm_call(vm, function, &arg, 1, out, &err)) {
        fprintf(stderr, "bench_lua: %s: %s\n", function, err.message);
        exit(1);
    }
}

static void batch(const char *folder, int times, struct buf *input, struct buf *out)
{
    static const char *const steps[] = {"load", "activate", "batch"};
    struct vm *vm = open_vm("detect");
    for (int i = 0; i < 3; i++) { // the first batch warms up
        buf_clear(input);
        read_input(folder, steps[i], input);
        call(vm, steps[i], input, out);
    }
    double began = cpu_seconds();
    for (int i = 0; i < times; i++)
        call(vm, "batch", input, out);
    printf("%.6f\n%s\n", cpu_seconds() - began, out->data);
    vm_free(vm);
}

int main(int argc, char **argv)
{
    struct buf input, out;
    buf_init(&input, TEXT_MAX);
    buf_init(&out, TEXT_MAX);
    if (argc == 2 && strcmp(argv[1], "plans") == 0) {
        struct vm *vm = open_vm("sync");
        call(vm, "plans", &input, &out);
        printf("%s\n", out.data);
        vm_free(vm);
    } else if (argc == 4 && strcmp(argv[1], "batch") == 0) {
        batch(argv[2], atoi(argv[3]), &input, &out);
    } else {
        fprintf(stderr, "usage: bench_lua plans | bench_lua batch FOLDER TIMES\n");
        return 2;
    }
    buf_fini(&input);
    buf_fini(&out);
    return 0;
}
