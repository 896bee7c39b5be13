/* address.c - the special ranges of IPv4 and IPv6, as IANA registers them. */
#include "io/address.h"

#include "base/err.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

struct range {
    uint8_t start[16];
    int bits;
};

static const struct range special4[] = {
    {{0}, 8},
    {{10}, 8},
    {{100, 64}, 10},
    {{127}, 8},
    {{169, 254}, 16},
    {{172, 16}, 12},
    {{192, 0, 0}, 24},
    {{192, 0, 2}, 24},
    {{192, 88, 99}, 24},
    {{192, 168}, 16},
    {{198, 18}, 15},
    {{198, 51, 100}, 24},
    {{203, 0, 113}, 24},
    {{224}, 4},
    {{240}, 4},
};

/* All that is assigned to the world is in 2000::/3; these are the exceptions in it. */
static const struct range special6[] = {
    {{0x20, 0x01, 0, 0}, 23}, {{0x20, 0x01, 0x0d, 0xb8}, 32}, {{0x3f, 0xff}, 20}};

/* Where an IPv4 address is inside: mapped, NAT64, 6to4. */
static const struct {
    struct range range;
    int at;
} carriers[] = {
    {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 96}, 12},
    {{{0, 0x64, 0xff, 0x9b}, 96}, 12},
    {{{0x20, 0x02}, 16}, 2},
};

static bool in_range(const uint8_t *address, const struct range *range)
{
    int whole = range->bits / 8, rest = range->bits % 8;
    return memcmp(address, range->start, (size_t)whole) == 0 &&
           (rest == 0 || (address[whole] ^ range->start[whole]) >> (8 - rest) == 0);
}

static bool public4(const uint8_t *address)
{
    for (size_t i = 0; i < ARRAY_LEN(special4); i++) {
        if (in_range(address, &special4[i])) {
            return false;
        }
    }
    return true;
}

static bool public6(const uint8_t *address)
{
    static const struct range world = {{0x20}, 3};
    for (size_t i = 0; i < ARRAY_LEN(carriers); i++) {
        if (in_range(address, &carriers[i].range)) {
            return public4(address + carriers[i].at);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(special6); i++) {
        if (in_range(address, &special6[i])) {
            return false;
        }
    }
    return in_range(address, &world);
}

bool address_is_public(const struct sockaddr *address)
{
    uint8_t bytes[16];
    if (address->sa_family == AF_INET) {
        memcpy(bytes, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
        return public4(bytes);
    }
    if (address->sa_family == AF_INET6) {
        memcpy(bytes, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
        return public6(bytes);
    }
    return false;
}

bool address_is_literal(const char *host, size_t len)
{
    char text[INET6_ADDRSTRLEN];
    uint8_t bytes[16];
    bool six = len > 2 && host[0] == '[' && host[len - 1] == ']';
    host += six;
    len -= six ? 2 : 0;
    if (len >= sizeof(text)) {
        return false;
    }
    memcpy(text, host, len);
    text[len] = 0;
    return inet_pton(six ? AF_INET6 : AF_INET, text, bytes) == 1;
}
