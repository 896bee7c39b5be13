/* address.h - which addresses are the world's, and which are somebody's own network. */
#ifndef IO_ADDRESS_H
#define IO_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* False for loopback, private, link-local, shared and reserved ranges, for groups, for an IPv4
 * address of those inside an IPv6 one, and for any other family. */
bool address_is_public(const struct sockaddr *address);
/* Whether a host of a URL (without its port) is an address itself: "10.0.0.7", "[fd00::7]". */
bool address_is_literal(const char *host, size_t len);

#endif
