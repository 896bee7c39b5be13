/* digest.h - hashes, signatures and encodings, through OpenSSL, which is included nowhere else. */
#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void digest_sha256_hex(const void *data, size_t len, char out[65]);
uint64_t digest_hash64(const void *data, size_t len); /* first 8 bytes of SHA-256, big-endian */
void digest_random_hex(char *out, size_t bytes);      /* writes 2 * bytes + 1 characters */

bool digest_base64(struct buf *out, const void *data, size_t len);
bool digest_unbase64(struct buf *out, const char *text, size_t len); /* false: not base64 */

/* base64(HMAC-SHA1(key, data)): Twilio's and CallRail's signature. */
void digest_hmac_sha1_base64(const char *key, const void *data, size_t len, char out[32]);
/* Verifies base64 signatures; public keys are base64 DER (SubjectPublicKeyInfo) or PEM. */
bool digest_verify_ecdsa(const char *public_key, const char *signature, const void *data,
                         size_t len); /* P-256 / SHA-256: SendGrid */
bool digest_verify_ed25519(const char *public_key, const char *signature, const void *data,
                           size_t len); /* GoHighLevel */

/* Equal, in time that depends only on the lengths. */
bool digest_equal(const char *a, const char *b);

#endif
