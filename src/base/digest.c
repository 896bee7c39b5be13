/* digest.c - OpenSSL's hashes and signatures. */
#include "base/digest.h"

#include "base/err.h"
#include "base/mem.h"

#include <limits.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

static void hex(const unsigned char *bytes, size_t count, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = 0;
}

/* Finding the algorithm costs more than hashing a short text, so it is looked for once. */
static void sha256(const void *data, size_t len, unsigned char out[32])
{
    static EVP_MD_CTX *ctx;
    unsigned size = 0;
    const EVP_MD *algorithm = ctx ? NULL : EVP_sha256();
    ctx = ctx ? ctx : EVP_MD_CTX_new();
    must(ctx && EVP_DigestInit_ex(ctx, algorithm, NULL) == 1 &&
         EVP_DigestUpdate(ctx, data, len) == 1 && EVP_DigestFinal_ex(ctx, out, &size) == 1 &&
         size == 32);
}

void digest_sha256_hex(const void *data, size_t len, char out[65])
{
    unsigned char hash[32];
    sha256(data, len, hash);
    hex(hash, sizeof(hash), out);
}

uint64_t digest_hash64(const void *data, size_t len)
{
    unsigned char hash[32];
    sha256(data, len, hash);
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value = value << 8 | hash[i];
    }
    return value;
}

void digest_random_hex(char *out, size_t bytes)
{
    must(bytes <= INT_MAX);
    unsigned char *random = xmalloc(bytes);
    must(RAND_bytes(random, (int)bytes) == 1);
    hex(random, bytes, out);
    free(random);
}

bool digest_base64(struct buf *out, const void *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = data;
    for (size_t i = 0; i < len; i += 3) {
        size_t have = len - i < 3 ? len - i : 3;
        unsigned bits = (unsigned)in[i] << 16 | (have > 1 ? (unsigned)in[i + 1] << 8 : 0) |
                        (have > 2 ? in[i + 2] : 0);
        char code[4] = {digits[bits >> 18], digits[bits >> 12 & 63],
                        have > 1 ? digits[bits >> 6 & 63] : '=',
                        have > 2 ? digits[bits & 63] : '='};
        buf_add(out, code, sizeof(code));
    }
    return !out->overflow;
}

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

bool digest_unbase64(struct buf *out, const char *text, size_t len)
{
    if (len % 4 != 0) {
        return false;
    }
    size_t pad = len == 0 ? 0 : (size_t)(text[len - 1] == '=') + (text[len - 2] == '=');
    if (pad == 1 && text[len - 2] == '=') {
        return false; // "=x"
    }
    for (size_t i = 0; i < len; i += 4) {
        size_t have = i + 4 == len ? 4 - pad : 4;
        unsigned bits = 0;
        for (size_t j = 0; j < 4; j++) {
            int digit = j < have ? base64_digit(text[i + j]) : 0;
            if (digit < 0) {
                return false;
            }
            bits = bits << 6 | (unsigned)digit;
        }
        unsigned char bytes[3] = {(unsigned char)(bits >> 16), (unsigned char)(bits >> 8),
                                  (unsigned char)bits};
        // Bits beyond the last byte are zero, or two texts would mean the same bytes.
        if ((have == 2 && (bits & 0xffff)) || (have == 3 && (bits & 0xff))) {
            return false;
        }
        buf_add(out, bytes, have - 1);
    }
    return !out->overflow;
}

void digest_hmac_sha1_base64(const char *key, const void *data, size_t len, char out[32])
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    must(HMAC(EVP_sha1(), key, (int)strlen(key), data, len, mac, &size) && size == 20);
    struct buf text;
    buf_init(&text, 31);
    must(digest_base64(&text, mac, size));
    memcpy(out, text.data, text.len + 1);
    buf_fini(&text);
}

static EVP_PKEY *read_key(const char *text)
{
    EVP_PKEY *key = NULL;
    if (strstr(text, "-----BEGIN")) {
        BIO *bio = BIO_new_mem_buf(text, -1);
        must(bio);
        key = PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
        BIO_free(bio);
        return key;
    }
    struct buf der;
    buf_init(&der, 4096);
    if (digest_unbase64(&der, text, strlen(text))) {
        const unsigned char *at = (const unsigned char *)der.data;
        key = d2i_PUBKEY(NULL, &at, (long)der.len);
    }
    buf_fini(&der);
    return key;
}

// Ed25519 hashes by itself: md is NULL.
static bool verify(EVP_PKEY *key, const EVP_MD *md, const char *signature, const void *data,
                   size_t len)
{
    bool ok = false;
    struct buf raw;
    buf_init(&raw, 1024);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    must(ctx);
    if (digest_unbase64(&raw, signature, strlen(signature)) && raw.len > 0 &&
        EVP_DigestVerifyInit(ctx, NULL, md, NULL, key) == 1) {
        ok = EVP_DigestVerify(ctx, (const unsigned char *)raw.data, raw.len, data, len) == 1;
    }
    EVP_MD_CTX_free(ctx);
    buf_fini(&raw);
    return ok;
}

bool digest_verify_ecdsa(const char *public_key, const char *signature, const void *data,
                         size_t len)
{
    EVP_PKEY *key = read_key(public_key);
    char group[32] = "";
    bool ok = key && EVP_PKEY_is_a(key, "EC") &&
              EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1 &&
              strcmp(group, "prime256v1") == 0 && verify(key, EVP_sha256(), signature, data, len);
    EVP_PKEY_free(key);
    return ok;
}

bool digest_verify_ed25519(const char *public_key, const char *signature, const void *data,
                           size_t len)
{
    EVP_PKEY *key = read_key(public_key);
    bool ok = key && EVP_PKEY_is_a(key, "ED25519") && verify(key, NULL, signature, data, len);
    EVP_PKEY_free(key);
    return ok;
}

bool digest_equal(const char *a, const char *b)
{
    size_t len = strlen(a);
    return strlen(b) == len && CRYPTO_memcmp(a, b, len) == 0;
}
