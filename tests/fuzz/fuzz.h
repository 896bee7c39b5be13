/* fuzz.h - what the fuzzers share: their entry, and copies that end where the input does.
 *
 * Each program asserts with must(): what was accepted means what an independent reading says, and
 * what was written is read back the same. The sanitizers look for the rest. */
#ifndef FUZZ_H
#define FUZZ_H

#include "base/err.h"
#include "base/mem.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input as text, cut at its first NUL, in memory of just that size; caller frees. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
    return xstrndup((const char *)data, strnlen((const char *)data, size));
}

#endif
