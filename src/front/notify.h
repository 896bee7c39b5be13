/* notify.h - what the service manager is told: systemd's protocol, one datagram per message.
 *
 * Without $NOTIFY_SOCKET nothing is sent. */
#ifndef FRONT_NOTIFY_H
#define FRONT_NOTIFY_H

#include <stdint.h>

/* Reads $NOTIFY_SOCKET and the watchdog's variables and removes them from the environment: what we
 * start (PostgreSQL speaks the protocol too) must not answer in our name. */
void notify_open(void);
void notify_send(const char *message); /* "READY=1" */
void notify_reloading(void);           /* with the time that the protocol wants */
int64_t notify_watchdog_ms(void);      /* how often WATCHDOG=1 is expected at least; 0: never */

#endif
