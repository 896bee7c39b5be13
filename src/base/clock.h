/* clock.h - real time. Business time, which may be scaled, is the database's affair. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

int64_t clock_mono_ms(void); /* CLOCK_MONOTONIC, for every duration we measure */
int64_t clock_mono_us(void);
int64_t clock_wall_us(void); /* microseconds since 1970 UTC */

/* A UUID version 7 (time-ordered), lower case with dashes, terminated. */
void uuid_v7(char out[37]);

#endif
