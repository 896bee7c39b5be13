/* clock.c - the kernel's clocks, and identifiers that sort by time. */
#include "base/clock.h"

#include "base/err.h"

#include <stdio.h>
#include <sys/random.h>
#include <time.h>

static int64_t now_ns(clockid_t clock)
{
    struct timespec ts;
    must(clock_gettime(clock, &ts) == 0);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t clock_mono_ms(void)
{
    return now_ns(CLOCK_MONOTONIC) / 1000000;
}

int64_t clock_mono_us(void)
{
    return now_ns(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_wall_us(void)
{
    return now_ns(CLOCK_REALTIME) / 1000;
}

// RFC 9562, section 5.7, with the fraction of the millisecond in rand_a (section 6.2, method 3), so
// that identifiers made one after the other sort in that order.
void uuid_v7(char out[37])
{
    unsigned char b[16];
    must(getrandom(b + 8, 8, 0) == 8);
    int64_t ns = now_ns(CLOCK_REALTIME);
    uint64_t ms = (uint64_t)(ns / 1000000);
    uint64_t fraction = (uint64_t)(ns % 1000000) * 4096 / 1000000;
    for (int i = 0; i < 6; i++) {
        b[i] = (unsigned char)(ms >> (40 - 8 * i));
    }
    b[6] = (unsigned char)(0x70 | (fraction >> 8));
    b[7] = (unsigned char)fraction;
    b[8] = (unsigned char)(0x80 | (b[8] & 0x3f));
    static const char hex[] = "0123456789abcdef";
    char *o = out;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *o++ = '-';
        }
        *o++ = hex[b[i] >> 4];
        *o++ = hex[b[i] & 15];
    }
    *o = 0;
}
