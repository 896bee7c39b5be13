/* bench_batch.c - the detect VM alone: what Lua needs to judge recorded events; see
 * tools/benchmark.py.
 *
 *     bench_batch FOLDER TIMES
 *
 * FOLDER has load.json, activate.json and batch.json: what the daemon would hand to those functions
 * of lua/detect.lua. The batch is judged TIMES times, under the daemon's limits. Prints the CPU
 * seconds that took and what the last one gave. */
#include "base/mem.h"
#include "engine/detect.h"
#include "script/vm.h"

#include <stdio.h>
#include <stdlib.h>
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

static void call(struct vm *vm, const char *function, const struct buf *input, struct buf *out)
{
    struct err err;
    const struct slice arg = {input->data, input->len};
    buf_clear(out);
    if (!vm_call(vm, function, &arg, 1, out, &err)) {
        fprintf(stderr, "bench_batch: %s: %s\n", function, err.message);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: bench_batch FOLDER TIMES\n");
        return 2;
    }
    struct err err;
    struct vm_options options = {
        .main = "detect", .lua_dir = LUA_DIR, .memory = DETECT_MEMORY, .burst_ms = DETECT_BURST_MS};
    struct vm *vm = vm_new(NULL, &options, &err);
    if (!vm) {
        fprintf(stderr, "bench_batch: %s\n", err.message);
        return 1;
    }
    struct buf input, out;
    buf_init(&input, TEXT_MAX);
    buf_init(&out, TEXT_MAX);
    static const char *const steps[] = {"load", "activate", "batch"};
    for (int i = 0; i < 3; i++) { // the first batch warms up
        buf_clear(&input);
        read_input(argv[1], steps[i], &input);
        call(vm, steps[i], &input, &out);
    }
    double began = cpu_seconds();
    for (int i = atoi(argv[2]); i > 0; i--)
        call(vm, "batch", &input, &out);
    printf("%.6f\n%s\n", cpu_seconds() - began, out.data);
    buf_fini(&input);
    buf_fini(&out);
    vm_free(vm);
    return 0;
}
