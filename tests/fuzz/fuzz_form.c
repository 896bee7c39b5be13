/* fuzz_form.c - forms and query strings: what is accepted can be written and read back, and any
 * text without a NUL survives being encoded. */
#include "fuzz.h"

#include "base/buf.h"
#include "io/http.h"

static char *encode(const struct http_pair *pairs, size_t count, size_t *len)
{
    struct buf out;
    buf_init(&out, 64 << 20);
    for (size_t i = 0; i < count; i++) {
        if (i)
            buf_addc(&out, '&');
        buf_urlencode(&out, pairs[i].name, strlen(pairs[i].name));
        buf_addc(&out, '=');
        buf_urlencode(&out, pairs[i].value, strlen(pairs[i].value));
    }
    must(!out.overflow);
    *len = out.len;
    return buf_take(&out);
}

/* Whether every '%' is followed by two digits of a byte other than NUL, and no NUL stands there. */
static bool well_formed(const char *text, size_t len)
{
    static const char hex[] = "0123456789abcdefABCDEF";
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\0')
            return false;
        if (text[i] != '%')
            continue;
        if (len - i < 3 || !memchr(hex, text[i + 1], 22) || !memchr(hex, text[i + 2], 22) ||
            (text[i + 1] == '0' && text[i + 2] == '0'))
            return false;
    }
    return true;
}

static void round_trip(const char *text)
{
    struct http_pair one = {.name = "n", .value = text};
    size_t len, count;
    char *form = encode(&one, 1, &len);
    struct http_pair *pairs = http_form(form, len, &count);
    must(pairs && count == 1);
    must(strcmp(pairs[0].name, "n") == 0 && strcmp(pairs[0].value, text) == 0);
    free(pairs);
    free(form);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t count = 1, len, again;
    struct http_pair *pairs = http_form((const char *)data, size, &count);
    must((pairs != NULL) == well_formed((const char *)data, size));
    must(pairs || count == 0);
    if (pairs) {
        char *form = encode(pairs, count, &len);
        struct http_pair *same = http_form(form, len, &again);
        must(same && again == count);
        for (size_t i = 0; i < count; i++) {
            must(strcmp(same[i].name, pairs[i].name) == 0);
            must(strcmp(same[i].value, pairs[i].value) == 0);
        }
        free(same);
        free(form);
        free(pairs);
    }
    char *text = fuzz_text(data, size);
    round_trip(text);
    free(text);
    return 0;
}
