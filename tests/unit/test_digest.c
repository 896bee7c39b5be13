/* Signatures against the vendors' own vectors, and the encodings they come in. */
#include "unit.h"

#include "base/digest.h"
#include "base/mem.h"

static char *vectors; // the file's text

static int setup(void **state)
{
    (void)state;
    FILE *file = fopen(VECTORS, "r");
    must(file);
    struct buf text;
    buf_init(&text, 1 << 20);
    for (int c; (c = fgetc(file)) != EOF;) {
        buf_addc(&text, (char)c);
    }
    fclose(file);
    vectors = buf_take(&text);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(vectors);
    return 0;
}

// The text of a field of a vendor's vector. Caller frees.
static char *field(const char *vendor, const char *name)
{
    char key[64];
    snprintf(key, sizeof(key), "\"%s\": {", vendor);
    const char *at = strstr(vectors, key);
    must(at);
    snprintf(key, sizeof(key), "\"%s\": \"", name);
    at = strstr(at, key);
    must(at);
    struct buf text;
    buf_init(&text, 1 << 16);
    for (at += strlen(key); *at != '"'; at++) {
        if (*at == '\\') {
            at++;
            must(*at == '"' || *at == '\\' || *at == '/' || *at == 'r' || *at == 'n');
            buf_addc(&text, *at == 'r' ? '\r' : *at == 'n' ? '\n' : *at);
        } else {
            buf_addc(&text, *at);
        }
    }
    return buf_take(&text);
}

static void test_sha256(void **state)
{
    (void)state;
    char hex[65];
    digest_sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(digest_hash64("abc", 3) == UINT64_C(0xba7816bf8f01cfea));
    digest_sha256_hex("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void test_base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"},
                                           {"\xfb\xff\xfe", "+//+"}};
    struct buf out;
    buf_init(&out, 100);
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        buf_clear(&out);
        assert_true(digest_base64(&out, pairs[i][0], strlen(pairs[i][0])));
        assert_string_equal(out.data, pairs[i][1]);
        buf_clear(&out);
        assert_true(digest_unbase64(&out, pairs[i][1], strlen(pairs[i][1])));
        assert_string_equal(out.data, pairs[i][0]);
    }
    static const char *const bad[] = {"Z",    "Zg",   "Zg=",    "Zh==",     "Zm9=", "Z===",
                                      "====", "=Zg=", "Zm9v\n", "Zg==Zg==", "Zm-_", "Z=g="};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        buf_clear(&out);
        assert_false(digest_unbase64(&out, bad[i], strlen(bad[i])));
    }
    buf_fini(&out);
    buf_init(&out, 3);
    assert_false(digest_base64(&out, "foo", 3));
    buf_fini(&out);
}

static void test_random(void **state)
{
    (void)state;
    char a[41], b[41];
    digest_random_hex(a, 20);
    digest_random_hex(b, 20);
    assert_int_equal(strlen(a), 40);
    assert_int_equal(strspn(a, "0123456789abcdef"), 40);
    assert_string_not_equal(a, b);
}

static void test_equal(void **state)
{
    (void)state;
    assert_true(digest_equal("abc", "abc"));
    assert_true(digest_equal("", ""));
    assert_false(digest_equal("abc", "abd"));
    assert_false(digest_equal("abc", "ab"));
    assert_false(digest_equal("", "a"));
}

static void test_callrail(void **state)
{
    (void)state;
    char *key = field("callrail", "key"), *body = field("callrail", "body");
    char *wanted = field("callrail", "signature"), out[32];
    digest_hmac_sha1_base64(key, body, strlen(body), out);
    assert_string_equal(out, wanted);
    free(key);
    free(body);
    free(wanted);
}

static void test_twilio(void **state)
{
    (void)state;
    static const char *const sorted[] = {"CallSid", "Caller", "Digits", "From", "To"};
    struct buf text;
    buf_init(&text, 4096);
    char *token = field("twilio", "auth_token"), *wanted = field("twilio", "signature");
    char *url = field("twilio", "url"), out[32];
    buf_adds(&text, url);
    for (size_t i = 0; i < ARRAY_LEN(sorted); i++) {
        char *value = field("twilio", sorted[i]);
        buf_adds(&text, sorted[i]);
        buf_adds(&text, value);
        free(value);
    }
    digest_hmac_sha1_base64(token, text.data, text.len, out);
    assert_string_equal(out, wanted);
    buf_fini(&text);
    free(token);
    free(wanted);
    free(url);
}

static void test_sendgrid(void **state)
{
    (void)state;
    char *key = field("sendgrid", "public_key"), *signature = field("sendgrid", "signature");
    char *timestamp = field("sendgrid", "timestamp"), *body = field("sendgrid", "body");
    char *data = xprintf("%s%s", timestamp, body);
    size_t len = strlen(data);
    assert_true(digest_verify_ecdsa(key, signature, data, len));
    assert_false(digest_verify_ecdsa(key, signature, data, len - 2)); // the last line break counts
    assert_false(digest_verify_ed25519(key, signature, data, len));
    char *pem = xprintf("-----BEGIN PUBLIC KEY-----\n%.64s\n%s\n-----END PUBLIC KEY-----\n", key,
                        key + 64);
    assert_true(digest_verify_ecdsa(pem, signature, data, len));
    free(pem);
    data[0] ^= 1;
    assert_false(digest_verify_ecdsa(key, signature, data, len));
    data[0] ^= 1;
    assert_false(digest_verify_ecdsa(key, "", data, len));
    assert_false(digest_verify_ecdsa(key, "AAAA", data, len));
    assert_false(digest_verify_ecdsa("", signature, data, len));
    assert_false(digest_verify_ecdsa("no key", signature, data, len));
    free(key);
    free(signature);
    free(timestamp);
    free(body);
    free(data);
}

static void test_gohighlevel(void **state)
{
    (void)state;
    char *key = field("gohighlevel", "public_key_spki_base64");
    char *other = field("gohighlevel", "vendor_public_key_spki_base64");
    char *signature = field("gohighlevel", "signature"), *body = field("gohighlevel", "body");
    size_t len = strlen(body);
    assert_true(digest_verify_ed25519(key, signature, body, len));
    assert_false(digest_verify_ed25519(other, signature, body, len));
    assert_false(digest_verify_ecdsa(key, signature, body, len));
    assert_false(digest_verify_ed25519(key, signature, body, len - 1));
    signature[3] = signature[3] == 'A' ? 'B' : 'A';
    assert_false(digest_verify_ed25519(key, signature, body, len));
    free(key);
    free(other);
    free(signature);
    free(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),   cmocka_unit_test(test_base64),
        cmocka_unit_test(test_random),   cmocka_unit_test(test_equal),
        cmocka_unit_test(test_callrail), cmocka_unit_test(test_twilio),
        cmocka_unit_test(test_sendgrid), cmocka_unit_test(test_gohighlevel),
    };
    return cmocka_run_group_tests_name("digest", tests, setup, teardown);
}
