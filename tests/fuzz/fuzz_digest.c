/* fuzz_digest.c - base64 has one text per value; keys and signatures of any shape are only ever
 * refused: nobody signs by chance. */
#include "fuzz.h"

#include "base/buf.h"
#include "base/digest.h"

// Public keys whose private halves nobody has.
static const char P256[] = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYEqaPOR9h7rXonTLpb69cGSp14Z7"
                           "R26y8X9uMdmfqpJ+Rq/NWjm42D4YBzdB+mZ9zZaloDSn81Xp6KNMefG6Aw==";
static const char ED25519[] = "MCowBQYDK2VwAyEAzWiFv/W3H79qaGoBqG1UcX0jpCnzxtJKlP4mZIJFZOE=";

static void base64(const char *text, size_t len)
{
    struct buf bytes, again;
    buf_init(&bytes, 1 << 20);
    buf_init(&again, 2 << 20);
    if (digest_unbase64(&bytes, text, len)) {
        must(digest_base64(&again, bytes.data, bytes.len));
        must(again.len == len && memcmp(again.data, text, len) == 0);
    }
    buf_clear(&bytes);
    buf_clear(&again);
    must(digest_base64(&again, text, len));
    must(digest_unbase64(&bytes, again.data, again.len));
    must(bytes.len == len && memcmp(bytes.data, text, len) == 0);
    buf_fini(&bytes);
    buf_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char signed_text[] = "1700000000[{\"event\":\"delivered\"}]";
    base64((const char *)data, size);
    // As it came, and with its bytes in base64 so that what they are is read.
    char *text = fuzz_text(data, size);
    struct buf coded;
    buf_init(&coded, 2 << 20);
    must(digest_base64(&coded, data, size));
    const char *forms[] = {text, coded.data};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        must(!digest_verify_ecdsa(P256, forms[i], signed_text, sizeof(signed_text) - 1));
        must(!digest_verify_ed25519(ED25519, forms[i], signed_text, sizeof(signed_text) - 1));
        if (!strstr(forms[i], "-----BEGIN")) { // PEM is only ever our own setting
            must(!digest_verify_ecdsa(forms[i], coded.data, signed_text, 5));
            must(!digest_verify_ed25519(forms[i], coded.data, signed_text, 5));
        }
    }
    must(digest_equal(text, text));
    must(digest_equal(text, coded.data) == (strcmp(text, coded.data) == 0));
    buf_fini(&coded);
    free(text);
    return 0;
}
