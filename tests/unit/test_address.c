/* Which addresses are the world's: what a name may lead to, when others wrote the name. */
#include "unit.h"

#include "io/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static bool is_public(const char *text)
{
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &four.sin_addr) == 1) {
        return address_is_public((const struct sockaddr *)&four);
    }
    assert_int_equal(inet_pton(AF_INET6, text, &six.sin6_addr), 1);
    return address_is_public((const struct sockaddr *)&six);
}

static void test_the_world(void **state)
{
    (void)state;
    static const char *const world[] = {
        "1.1.1.1",          "8.8.8.8",         "9.255.255.255", "11.0.0.0",    "100.63.255.255",
        "100.128.0.0",      "126.0.0.1",       "128.0.0.1",     "169.253.0.1", "172.15.255.255",
        "172.32.0.0",       "192.167.0.1",     "192.169.0.1",   "198.17.0.1",  "198.20.0.1",
        "223.255.0.1",      "2606:4700::1111", "2a00:1450::1",  "2400::1",     "::ffff:8.8.8.8",
        "64:ff9b::808:808", "2002:808:808::1"};
    for (size_t i = 0; i < ARRAY_LEN(world); i++) {
        assert_true(is_public(world[i]));
    }
}

static void test_own_networks(void **state)
{
    (void)state;
    static const char *const own[] = {
        "0.0.0.0",       "10.0.0.1",     "10.255.255.255",   "100.64.0.1",      "100.127.255.255",
        "127.0.0.1",     "127.255.0.1",  "169.254.169.254",  "172.16.0.1",      "172.31.255.255",
        "192.0.0.1",     "192.0.2.1",    "192.168.1.1",      "198.18.0.1",      "198.19.255.255",
        "224.0.0.1",     "239.1.1.1",    "240.0.0.1",        "255.255.255.255", "::",
        "::1",           "fe80::1",      "fc00::1",          "fd12::1",         "ff02::1",
        "2001:db8::1",   "2001::1",      "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
        "2002:7f00:1::", "64:ff9b:1::1", "100::1",           "::127.0.0.1"};
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        assert_false(is_public(own[i]));
    }
    struct sockaddr local = {.sa_family = AF_UNIX};
    assert_false(address_is_public(&local));
}

static void test_literals(void **state)
{
    (void)state;
    static const char *const literal[] = {"127.0.0.1", "10.0.0.7", "[::1]", "[fd00::7]"};
    static const char *const names[] = {"localhost",  "",          "[",     "[]",
                                        "::1",        "10.0.0",    "127.1", "10.0.0.7.example",
                                        "[10.0.0.7]", "0x7f000001"};
    for (size_t i = 0; i < ARRAY_LEN(literal); i++) {
        assert_true(address_is_literal(literal[i], strlen(literal[i])));
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        assert_false(address_is_literal(names[i], strlen(names[i])));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_world),
        cmocka_unit_test(test_own_networks),
        cmocka_unit_test(test_literals),
    };
    return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
