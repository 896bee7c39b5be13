/* JSON: what is read is what was written, and what can't be carried is said. Each trap of the
 * packaged lua-cjson has a test here. */
#include "unit.h"

#include "script/json.h"
#include "script/vm.h"

static void says(const char *text, const char *canonical)
{
    struct err err = {0};
    struct json *json = json_parse(text, strlen(text), &err);
    if (!json)
        fail_msg("%s: %s", text, err.message);
    char *encoded = json_encode(json, "");
    assert_string_equal(canonical, encoded);
    free(encoded);
    json_free(json);
}

static void refuses(const char *text, size_t len, const char *why)
{
    struct err err = {0};
    struct json *json = json_parse(text, len, &err);
    if (json)
        fail_msg("accepted: %s", text);
    assert_int_equal(ERR_INPUT, err.code);
    if (!strstr(err.message, why))
        fail_msg("%s: \"%s\" doesn't say \"%s\"", text, err.message, why);
}

static void values_keep_their_kind(void **state)
{
    (void)state;
    says("42", "42");
    says("\"42\"", "\"42\"");
    says("[1.0, 2.50, -0, 1e3, 0.1]", "[1,2.5,0,1000,0.1]");
    says("{\"b\":1,\"a\":{\"d\":true,\"c\":null}}", "{\"a\":{\"c\":null,\"d\":true},\"b\":1}");
    says("[[],{},[ ],[\n]]", "[[],{},[],[]]");
    says("\"a/b\\u00e9\\n\"", "\"a/b\xc3\xa9\\n\"");
    says("\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\"");
    says("[null]", "[null]");
}

static void integers_are_exact(void **state)
{
    (void)state;
    says("9007199254740992", "9007199254740992");
    says("-9007199254740992", "-9007199254740992");
    says("9007199254740993", "9007199254740993");
    says("[1234567890123456789012345,{\"id\":-9223372036854775808}]",
         "[1234567890123456789012345,{\"id\":-9223372036854775808}]");
    says("12345678901", "12345678901");
    says("1718000000000000", "1718000000000000");
    says("[1234567.89,1e+300,3.0000000000000004e-7]", "[1234567.89,1e+300,3.0000000000000004e-07]");
}

static void bad_text_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } cases[] = {{"", "JSON"},
                 {"{\"a\":1", "JSON"},
                 {"[1,]", "JSON"},
                 {"[01]", "malformed number"},
                 {"[1.]", "malformed number"},
                 {"[-.5]", "malformed number"},
                 {"[1e+]", "malformed number"},
                 {"[.5]", "JSON"},
                 {"[-]", "malformed number"},
                 {"[0x10]", "JSON"},
                 {"[NaN]", "JSON"},
                 {"[Infinity]", "JSON"},
                 {"[1e400]", "too large (byte 2)"},
                 {"{\"a\":-9e308,\"a\":1}", "too large (byte 6)"},
                 {"[\"\\u0000\"]", "\\u0000"},
                 {"[\"\\ud800\"]", "JSON"},
                 {"[\"\xff\"]", "UTF-8"},
                 {"[\"\xed\xa0\x80\"]", "UTF-8"},
                 {"[\"a\nb\"]", "control"},
                 {"[1] x", "JSON"},
                 {"{[]:1}", "key"},
                 {"{12345678901234567890 : 1}", "key"},
                 {"[[],1 2]", "character 7"}, // of this text, not of one made of it
                 {"[12345678901234567890 [ ] ]", "character 23"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        refuses(cases[i].text, strlen(cases[i].text), cases[i].why);
    refuses("[1]\0[2]", 7, "NUL");
    char large[400] = "[";
    memset(large + 1, '9', 309);
    strcpy(large + 310, ".5]");
    refuses(large, strlen(large), "too large");
    char deep[2000];
    memset(deep, '[', 1000);
    memset(deep + 1000, ']', 1000);
    refuses(deep, sizeof(deep), "levels");
}

static void a_field_is_found_by_its_path(void **state)
{
    (void)state;
    const char *text = "{\"data\":[{\"id\":7},{\"id\":\"x\"}],\"big\":9223372036854775807,"
                       "\"yes\":true,\"none\":null,\"n\":1.5,\"1\":\"key\",\"e\":[]}";
    struct json *json = json_parse(text, strlen(text), NULL);
    assert_non_null(json);
    const char *first = json_text(json, "data.0.id");
    assert_string_equal("x", json_text(json, "data.1.id"));
    assert_string_equal("1.5", json_text(json, "n"));
    assert_string_equal("true", json_text(json, "yes"));
    assert_string_equal("9223372036854775807", json_text(json, "big"));
    assert_string_equal("key", json_text(json, "1"));
    assert_string_equal("7", first); // still valid
    assert_null(json_text(json, "none"));
    assert_null(json_text(json, "data"));
    assert_null(json_text(json, "data.2.id"));
    assert_null(json_text(json, "data.0.id.more"));
    int64_t value = 0;
    assert_true(json_int(json, "big", &value));
    assert_true(value == INT64_MAX);
    assert_false(json_int(json, "n", &value));
    assert_true(json_bool(json, "yes"));
    assert_false(json_bool(json, "no"));
    assert_int_equal(2, json_count(json, "data"));
    assert_int_equal(0, json_count(json, "e"));
    char *part = json_encode(json, "data.1");
    assert_string_equal("{\"id\":\"x\"}", part);
    free(part);
    assert_null(json_encode(json, "nothing"));
    json_free(json);
}

/* Runs an expression in a vm whose main module evaluates it; returns its text. */
static const char *lua(const char *code)
{
    static char answer[4096];
    struct err err = {0};
    struct vm_options options = {.main = "probe", .lua_dir = FIXTURE_DIR};
    struct vm *vm = vm_new(NULL, &options, &err);
    if (!vm)
        fail_msg("%s", err.message);
    struct buf out;
    buf_init(&out, sizeof(answer) - 1);
    struct slice arg = slice_of(code);
    if (vm_call(vm, "eval", &arg, 1, &out, &err))
        snprintf(answer, sizeof(answer), "%s", out.data ? out.data : "nil");
    else
        snprintf(answer, sizeof(answer), "error: %s", err.message);
    buf_fini(&out);
    vm_free(vm);
    return answer;
}

static void lua_gets_integers_and_no_nulls(void **state)
{
    (void)state;
    assert_string_equal("/customers/42", lua("return '/customers/' .. host.json.decode('42')"));
    assert_string_equal("integer", lua("return math.type(host.json.decode('[5.0]')[1])"));
    assert_string_equal("string", lua("return type(host.json.decode('9007199254740993'))"));
    assert_string_equal("9007199254740993", lua("return host.json.decode('9007199254740993')"));
    assert_string_equal("nil", lua("return tostring(host.json.decode('{\"a\":null}').a)"));
    assert_string_equal("true", lua("return tostring(host.json.decode('{\"a\":null}', true).a == "
                                    "host.json.null)"));
    assert_string_equal("13", lua("return table.concat(host.json.decode('[1,null,3]'))"));
    assert_string_equal("{\"a\":null}", lua("return host.json.encode { a = host.json.null }"));
    assert_string_equal("nil", lua("return tostring(host.json.decode('null'))"));
    assert_string_equal("false", lua("return tostring(package ~= nil or cjson ~= nil)"));
}

static void lists_and_maps_are_told_apart(void **state)
{
    (void)state;
    assert_string_equal("{}", lua("return host.json.encode {}"));
    assert_string_equal("[]", lua("return host.json.encode(host.json.array {})"));
    assert_string_equal("{\"a\":[],\"b\":{}}",
                        lua("return host.json.encode(host.json.decode('{\"b\":{},\"a\":[]}'))"));
    assert_string_equal("[]", lua("local t = host.json.decode('[1]') t[1] = nil "
                                  "return host.json.encode(t)"));
    assert_string_equal("[]", lua("return host.json.encode(host.json.decode('[null]'))"));
}

static void what_json_cannot_carry_is_an_error_with_its_path(void **state)
{
    (void)state;
    static const struct {
        const char *code, *why;
    } cases[] = {{"{ a = { b = print or next } }", "$.a.b: a function can't be stored"},
                 {"{ list = { 1, { f = next } } }", "$.list[2].f: a function"},
                 {"{ x = 0/0 }", "$.x: "},
                 {"{ x = 1/0 }", "$.x: an infinite number"},
                 {"{ 1, nil, 3 }", "$: a list with holes"},
                 {"{ 1, a = 2 }", "$: a table that is both"},
                 {"{ [1.5] = 1 }", "$: the key 1.5"},
                 {"{ [true] = 1 }", "$: a boolean as key"},
                 {"{ [0] = 1 }", "$: the key 0"},
                 {"{ s = 'a\\0b' }", "$.s: a text with a NUL"},
                 {"{ s = '\\xff' }", "$.s: a text that isn't UTF-8"},
                 {"{ n = 2^53 + 2 | 0 }", "$.n: 9007199254740994 is beyond 2^53"},
                 {"setmetatable({}, {})", "$: an object with a metatable"},
                 {"coroutine.create(next)", "$: a thread"},
                 {"(function() local t = {} t.t = t return t end)()", "$.t: a table that contains"},
                 {"(function() local t = {} for _ = 1, 40 do t = { t } end return t end)()",
                  "more than 32 levels"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char code[300];
        snprintf(code, sizeof(code), "return host.json.encode(%s)", cases[i].code);
        const char *said = lua(code);
        if (strncmp(said, "error:", 6) != 0 || !strstr(said, cases[i].why))
            fail_msg("%s: \"%s\" doesn't say \"%s\"", cases[i].code, said, cases[i].why);
    }
    assert_string_equal("true", lua("local t = {} local shared = { t, t } "
                                    "return tostring(host.json.encode(shared) == '[{},{}]')"));
}

static void the_canonical_text_reads_back_the_same(void **state)
{
    (void)state;
    const char *code =
        "local t = {} "
        "for i = 1, 2000 do "
        "  local x = (math.random() - 0.5) * 10 ^ math.random(-20, 20) "
        "  if host.json.decode(host.json.encode(x)) ~= x then return 'lost ' .. x end "
        "  t['k' .. math.random(1, 1 << 40)] = x "
        "end "
        "local text = host.json.encode(t) "
        "return host.json.encode(host.json.decode(text)) == text and 'same' or text";
    assert_string_equal("same", lua(code));
}

/* Tables grow in steps: at and beyond each of them. */
static void size_makes_no_difference(void **state)
{
    (void)state;
    assert_string_equal("fine",
                        lua("for n = 0, 70 do "
                            "  local list, map, text = {}, {}, {} "
                            "  for i = 1, n do list[i] = i map['k' .. i] = { i } "
                            "    text[#text + 1] = i "
                            "    if i % 3 == 0 then text[#text + 1] = 'null' end end "
                            "  local a = host.json.decode('[' .. table.concat(text, ',') .. ']') "
                            "  assert(#a == n and host.json.is_array(a)) "
                            "  for i = 1, n do assert(a[i] == i) end "
                            "  local again = host.json.decode(host.json.encode(map)) "
                            "  for k, v in pairs(map) do assert(again[k][1] == v[1]) end "
                            "  for k in pairs(again) do assert(map[k]) end "
                            "end return 'fine'"));
    says("{\"a\":1,\"b\":0,\"a\":2}", "{\"a\":2,\"b\":0}");
    assert_string_equal("nil", lua("return tostring(host.json.decode('{\"a\":1,\"a\":null}').a)"));
    refuses("[\"\\udc00\"]", 10, "unicode escape");
    refuses("[\"\\ud83d\\n\"]", 12, "unicode escape");
    refuses("[\"\\u12g4\"]", 10, "unicode escape");
    refuses("[\"\\x\"]", 6, "escape");
    refuses("{1:2}", 5, "key");
    refuses("{\"a\" 1}", 7, "colon");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_keep_their_kind),
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(bad_text_is_refused),
        cmocka_unit_test(a_field_is_found_by_its_path),
        cmocka_unit_test(lua_gets_integers_and_no_nulls),
        cmocka_unit_test(size_makes_no_difference),
        cmocka_unit_test(lists_and_maps_are_told_apart),
        cmocka_unit_test(what_json_cannot_carry_is_an_error_with_its_path),
        cmocka_unit_test(the_canonical_text_reads_back_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
