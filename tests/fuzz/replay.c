/* replay.c - the fuzzers' main without libFuzzer: every file of the folders that it is given, then
 * each once more with a byte changed, cut or doubled at every place (of the first 300). */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>

enum { MOST = 1 << 20 };

static void feed(const uint8_t *data, size_t size)
{
    uint8_t *copy = xmalloc(size ? size : 1); // of just this size, so that reading on is seen
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void change(const uint8_t *data, size_t size)
{
    static const uint8_t bytes[] = {0, '"', '\\', '%', 0xff, '[', '9', '/', '\n'};
    uint8_t *other = xmalloc(size + 1);
    for (size_t i = 0; i < size && i < 300; i++) {
        feed(data, i);
        memcpy(other, data, size);
        other[i] = bytes[i % sizeof(bytes)];
        feed(other, size);
        memmove(other + i + 1, data + i, size - i);
        other[i] = data[i];
        feed(other, size + 1);
    }
    free(other);
}

static int replay(const char *folder)
{
    static uint8_t data[MOST];
    int count = 0;
    DIR *dir = opendir(folder);
    must(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        char *path = xprintf("%s/%s", folder, entry->d_name);
        FILE *file = fopen(path, "rb");
        must(file);
        size_t size = fread(data, 1, sizeof(data), file);
        fclose(file);
        free(path);
        feed(data, size);
        change(data, size);
        count++;
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    int count = 0;
    feed((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++)
        count += replay(argv[i]);
    printf("%d inputs\n", count);
    return count > 0 ? 0 : 1;
}
