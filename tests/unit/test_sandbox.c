/* Company files in a real vm: every attempt to get out, to hang or to fill the memory ends with an
 * error, and the next file finds everything as it was. */
#include "unit.h"

#include "script/vm.h"

#include <unistd.h>

static char dir[] = "/tmp/moonwright-sandbox-XXXXXX";
static const char *const modules[] = {"sandbox", "plain", "suggest", "company_file"};

static void path_of(char *out, size_t size, const char *folder, const char *module)
{
    snprintf(out, size, "%s/%s.lua", folder, module);
}

/* A folder of trusted modules: ours and the test's main module. */
static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(modules); i++) {
        char from[4096], to[4096];
        bool ours = strcmp(modules[i], "company_file") != 0;
        path_of(from, sizeof(from), ours ? LUA_DIR : FIXTURE_DIR, modules[i]);
        path_of(to, sizeof(to), dir, modules[i]);
        if (symlink(from, to) != 0) {
            return -1;
        }
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(modules); i++) {
        char path[4096];
        path_of(path, sizeof(path), dir, modules[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static struct vm *vm_up(int burst_ms)
{
    struct err err = {0};
    struct vm_options options = {
        .main = "company_file", .lua_dir = dir, .memory = 16 << 20, .burst_ms = burst_ms};
    struct vm *vm = vm_new(NULL, &options, &err);
    if (!vm) {
        fail_msg("%s", err.message);
    }
    return vm;
}

/* What the file returned, or the message of its error. */
static const char *eval(struct vm *vm, const char *source, struct err *err)
{
    static char answer[2048];
    struct buf out;
    struct slice arg = slice_of(source);
    memset(err, 0, sizeof(*err));
    buf_init(&out, sizeof(answer) - 1);
    bool ok = vm_call(vm, "eval", &arg, 1, &out, err);
    snprintf(answer, sizeof(answer), "%s", ok ? (out.data ? out.data : "nil") : err->message);
    buf_fini(&out);
    return answer;
}

static void refused(struct vm *vm, const char *source, enum err_code code, const char *why)
{
    struct err err;
    const char *said = eval(vm, source, &err);
    if (err.code != code || !strstr(said, why)) {
        fail_msg("%s: code %d, \"%s\" doesn't say \"%s\"", source, err.code, said, why);
    }
    said = eval(vm, "return ('ab'):rep(2) .. #company.name .. table.concat({ 1 }) .. say 'x'",
                &err);
    assert_string_equal("abab101x", said);
}

static void nothing_leads_outside(void **state)
{
    (void)state;
    struct vm *vm = vm_up(0);
    refused(vm, "return os.execute('true')", ERR_SCRIPT, "workflows/x.lua:1: there is no 'os'");
    refused(vm, "return load('return 1')", ERR_SCRIPT, "there is no 'load'");
    refused(vm, "return host.random_hex(4)", ERR_SCRIPT, "there is no 'host'");
    refused(vm, "return require 'sandbox'", ERR_SCRIPT, "require works at the top");
    refused(vm, "return getmetatable('')", ERR_SCRIPT, "there is no 'getmetatable'");
    refused(vm, "local s = '' s.x = 1", ERR_SCRIPT, "attempt to index a string value");
    refused(vm, "('').format.x = 1", ERR_SCRIPT, "attempt to index a function value");
    refused(vm, "string.rep = function() return 'poisoned' end", ERR_SCRIPT, "read-only");
    refused(vm, "table.insert(string, 'x')", ERR_SCRIPT, "read-only");
    refused(vm, "company.name = 'poisoned'", ERR_SCRIPT, "read-only");
    refused(vm, "table.concat = nil", ERR_SCRIPT, "read-only");
    refused(vm, "say = nil", ERR_SCRIPT, "global 'say' assigned; write: local say = ");
    refused(vm, "return _ENV.os", ERR_SCRIPT, "there is no 'os'");
    refused(vm, "_ENV.x = 1", ERR_SCRIPT, "global 'x' assigned");
    refused(vm, "\x1bLua\x54 bytecode", ERR_SCRIPT, "binary chunk");
    vm_free(vm);
}

static void nothing_hangs(void **state)
{
    (void)state;
    struct vm *vm = vm_up(0);
    refused(vm, "while true do end", ERR_LIMIT, "CPU without a wait (workflows/x.lua:1)");
    refused(vm, "while true do pcall(function() while true do end end) end", ERR_LIMIT, "CPU");
    refused(vm, "local function f() pcall(f) f() end f()", ERR_LIMIT, "");
    refused(vm,
            "for _ in pairs {} do end repeat local t = {} for i = 1, 999 do t[i] = i end "
            "table.sort(t, function() return true end) until false",
            ERR_LIMIT, "CPU");
    refused(vm,
            "repeat local s = ('x'):rep(60000):gsub('x', function() return 'y' end) until not s",
            ERR_LIMIT, "CPU");
    refused(vm, "return next(table.move({}, 1, 1e9, 2))", ERR_SCRIPT, "1000000");
    vm_free(vm);
}

static void a_hostile_pattern_ends(void **state)
{
    (void)state;
    struct vm *vm = vm_up(0);
    int64_t before = clock_mono_ms();
    refused(vm, "return ('a'):rep(60000):find(('a-'):rep(30) .. 'b')", ERR_LIMIT, "CPU");
    refused(vm, "return ('a'):rep(60000):match('.-.-.-b')", ERR_LIMIT, "CPU");
    refused(vm, "return (('a'):rep(60000):gsub('a*a*a*b', ''))", ERR_LIMIT, "CPU");
    refused(vm, "for _ in ('a'):rep(60000):gmatch('a*a*a*b') do end", ERR_LIMIT, "CPU");
    refused(vm, "while true do pcall(string.find, ('a'):rep(60000), 'a*a*a*b') end", ERR_LIMIT,
            "CPU");
    assert_true(clock_mono_ms() - before < 20000);
    vm_free(vm);
}

static void nothing_fills_the_memory(void **state)
{
    (void)state;
    struct vm *vm = vm_up(5000); /* filling it takes time, with a sanitizer much */
    refused(vm, "return #('x'):rep(1 << 30)", ERR_SCRIPT, "1 MB at most");
    refused(vm, "local s = 'x' while true do s = s .. s end", ERR_LIMIT, "16 MB of memory");
    refused(vm, "pcall(function() local s = 'x' while true do s = s .. s end end)", ERR_LIMIT,
            "16 MB of memory");
    refused(vm, "return (('x'):rep(60000):gsub('x', ('y'):rep(60000)))", ERR_LIMIT,
            "16 MB of memory");
    refused(vm, "local function f() return 1 + f() end return f()", ERR_LIMIT, "memory");
    refused(vm,
            "return table.concat({ ('x'):rep(1 << 20), ('x'):rep(1 << 20) }, "
            "('y'):rep(1 << 20)):rep(2)",
            ERR_SCRIPT, "1 MB at most");
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_leads_outside),
        cmocka_unit_test(nothing_hangs),
        cmocka_unit_test(a_hostile_pattern_ends),
        cmocka_unit_test(nothing_fills_the_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
