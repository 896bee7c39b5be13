/* The vm: what a script may not do, and that it can't get around it. Each attack is followed by an
 * honest call, which must work. */
#include "unit.h"

#include "script/vm.h"

struct fixture {
    struct vm *vm;
    struct err err;
    char answer[2048];
};

static void vm_up(struct fixture *f, const struct vm_options *options)
{
    memset(f, 0, sizeof(*f));
    f->vm = vm_new(NULL, options, &f->err);
    if (!f->vm)
        fail_msg("%s", f->err.message);
}

static bool eval(struct fixture *f, const char *code)
{
    struct buf out;
    struct slice arg = slice_of(code);
    buf_init(&out, sizeof(f->answer) - 1);
    bool ok = vm_call(f->vm, "eval", &arg, 1, &out, &f->err);
    snprintf(f->answer, sizeof(f->answer), "%s", out.data && ok ? out.data : "");
    buf_fini(&out);
    return ok;
}

static void goes_on(struct fixture *f)
{
    if (!eval(f, "return 6 * 7"))
        fail_msg("%s", f->err.message);
    assert_string_equal("42", f->answer);
}

static void killed(struct fixture *f, const char *code, const char *why)
{
    int64_t before = clock_mono_ms();
    if (eval(f, code))
        fail_msg("it went on: %s", code);
    assert_int_equal(ERR_LIMIT, f->err.code);
    if (!strstr(f->err.message, why))
        fail_msg("\"%s\" doesn't say \"%s\"", f->err.message, why);
    assert_true(clock_mono_ms() - before < 20000);
    goes_on(f);
}

static void an_error_has_its_place(void **state)
{
    (void)state;
    struct fixture f;
    vm_up(&f, &(struct vm_options){.main = "probe", .lua_dir = FIXTURE_DIR});
    assert_false(eval(&f, "local t = nil\nreturn t.x"));
    assert_int_equal(ERR_SCRIPT, f.err.code);
    assert_non_null(strstr(f.err.message, "test.lua:2: attempt to index a nil value"));
    assert_false(eval(&f, "error { code = 'refused', message = 'no such customer' }"));
    assert_string_equal("no such customer", f.err.message);
    assert_false(
        eval(&f, "error(setmetatable({}, { __tostring = function() error 'again' end }))"));
    assert_false(vm_call(f.vm, "absent", NULL, 0, NULL, &f.err));
    assert_non_null(strstr(f.err.message, "no function 'absent'"));
    goes_on(&f);
    vm_free(f.vm);
}

static void a_bad_main_module_is_refused(void **state)
{
    (void)state;
    struct err err = {0};
    assert_null(vm_new(NULL, &(struct vm_options){.main = "absent", .lua_dir = FIXTURE_DIR}, &err));
    assert_non_null(strstr(err.message, "absent"));
    assert_null(vm_new(NULL, &(struct vm_options){.main = "broken", .lua_dir = FIXTURE_DIR}, &err));
    assert_non_null(strstr(err.message, "lua/broken.lua:2:"));
    assert_null(vm_new(NULL, &(struct vm_options){.main = "circle", .lua_dir = FIXTURE_DIR}, &err));
    assert_non_null(strstr(err.message, "requires itself"));
    struct vm_options tiny = {.main = "probe", .lua_dir = FIXTURE_DIR, .memory = 10000};
    assert_null(vm_new(NULL, &tiny, &err));
    assert_int_equal(ERR_LIMIT, err.code);
}

static void trusted_lua_has_no_files_and_no_programs(void **state)
{
    (void)state;
    struct fixture f;
    vm_up(&f, &(struct vm_options){.main = "probe", .lua_dir = FIXTURE_DIR});
    assert_true(eval(&f, "local found = {} "
                         "for _, name in ipairs { 'os', 'io', 'debug', 'package', 'dofile', "
                         "'loadfile', 'print', 'cjson' } do "
                         "  if _G[name] ~= nil then found[#found + 1] = name end end "
                         "return table.concat(found, ' ')"));
    assert_string_equal("", f.answer);
    assert_false(eval(&f, "require '../../etc/passwd'"));
    assert_false(eval(&f, "require '..probe'"));
    assert_false(eval(&f, "require 'cjson'"));
    assert_true(eval(&f, "return require 'probe' == require 'probe'"));
    vm_free(f.vm);
}

static void an_endless_loop_ends(void **state)
{
    (void)state;
    struct fixture f;
    vm_up(&f, &(struct vm_options){.main = "probe", .lua_dir = FIXTURE_DIR});
    killed(&f, "while true do end", "50 ms of CPU without a wait (test.lua:1)");
    killed(&f, "while true do pcall(function() while true do end end) end", "CPU");
    killed(&f, "pcall(function() while true do end end) return 'fine'", "CPU");
    killed(&f,
           "local co = coroutine.create(function() while true do end end) "
           "while true do coroutine.resume(co) end",
           "CPU");
    killed(&f,
           "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
           "CPU");
    killed(&f,
           "local t <close> = setmetatable({}, { __close = function() while true do end end }) "
           "while true do end",
           "CPU");
    vm_free(f.vm);
}

static void memory_has_an_end(void **state)
{
    (void)state;
    struct fixture f;
    vm_up(&f, &(struct vm_options){
                  .main = "probe", .lua_dir = FIXTURE_DIR, .memory = 8 << 20, .burst_ms = 5000});
    killed(&f, "return #string.rep('x', 1 << 30)", "8 MB of memory");
    killed(&f, "local t = {} for i = 1, 1 << 30 do t[i] = { i } end", "8 MB of memory");
    killed(&f, "local s = 'x' while true do s = s .. s end", "8 MB of memory");
    killed(&f, "local s = ('x'):rep(1000) return pcall(string.gsub, ('x'):rep(1e6), 'x', s) and 1",
           "8 MB of memory");
    killed(&f, "pcall(string.rep, 'x', 1 << 30) return 'fine'", "8 MB of memory");
    killed(&f,
           "for i = 1, 10 do pcall(function() local t = {} "
           "for j = 1, 1 << 30 do t[j] = { j } end end) end return 'fine'",
           "8 MB of memory");
    assert_true(vm_memory(f.vm) <= 8 << 20);
    vm_free(f.vm);
}

static void rest_gives_back_what_a_busy_time_took(void **state)
{
    (void)state;
    struct fixture f;
    struct buf out;
    vm_up(&f, &(struct vm_options){.main = "probe", .lua_dir = FIXTURE_DIR, .burst_ms = 20000});
    buf_init(&out, 100);
    struct slice arg = slice_of("kept = {} for i = 1, 1000 do kept[i] = { 'kept', i } end "
                                "local t = {} for i = 1, 100000 do t[i] = { i } end");
    assert_true(vm_call(f.vm, "eval", &arg, 1, NULL, &f.err));
    size_t before = vm_held(f.vm);
    vm_rest(f.vm);
    assert_true(before == 0 || vm_held(f.vm) < before / 4); /* 0: each block is malloc's */
    arg = slice_of("local sum = 0 for i = 1, 1000 do sum = sum + kept[i][2] end "
                   "local t = {} for i = 1, 1000 do t[i] = { i } end return sum");
    assert_true(vm_call(f.vm, "eval", &arg, 1, &out, &f.err));
    assert_string_equal("500500", out.data);
    buf_fini(&out);
    vm_free(f.vm);
}

static void garbage_is_no_exhaustion(void **state)
{
    (void)state;
    struct fixture f;
    vm_up(&f, &(struct vm_options){
                  .main = "probe", .lua_dir = FIXTURE_DIR, .memory = 4 << 20, .burst_ms = 20000});
    for (int i = 0; i < 20; i++) {
        if (!eval(&f, "local n = 0 for i = 1, 2000 do n = n + #{ ('x'):rep(5000), i } .. '' end "
                      "local t = {} for i = 1, 20000 do t[i] = { i } end return n"))
            fail_msg("%s", f.err.message);
    }
    vm_free(f.vm);
}

static void recursion_ends(void **state)
{
    (void)state;
    struct fixture f;
    vm_up(&f, &(struct vm_options){
                  .main = "probe", .lua_dir = FIXTURE_DIR, .burst_ms = 5000, .memory = 256 << 20});
    assert_false(eval(&f, "local function f() return 1 + f() end return f()"));
    assert_non_null(strstr(f.err.message, "stack overflow"));
    assert_false(eval(&f, "local function f() return pcall(f) end error(tostring(f()))"));
    goes_on(&f);
    assert_false(eval(&f, "local t = {} for i = 1, 2000 do t[i] = i % 7 end "
                          "table.sort(t, function() return true end)"));
    assert_non_null(strstr(f.err.message, "invalid order function"));
    goes_on(&f);
    vm_free(f.vm);
}

static void any_bytes_go_in_and_out(void **state)
{
    (void)state;
    struct fixture f;
    vm_up(&f, &(struct vm_options){.main = "probe", .lua_dir = FIXTURE_DIR});
    struct buf out;
    buf_init(&out, 100);
    struct slice args[] = {slice_of("local a, b = ... assert(b == nil) return a .. '\\0' .. a"),
                           {"x\0y", 3},
                           slice_of(NULL)};
    assert_true(vm_call(f.vm, "run", args, 3, &out, &f.err));
    assert_int_equal(7, out.len);
    assert_memory_equal("x\0y\0x\0y", out.data, 7);
    args[0] = slice_of("return {}");
    assert_false(vm_call(f.vm, "run", args, 1, &out, &f.err));
    args[0] = slice_of("return ('x'):rep(200)");
    assert_false(vm_call(f.vm, "run", args, 1, &out, &f.err));
    assert_int_equal(ERR_LIMIT, f.err.code);
    buf_fini(&out);
    vm_free(f.vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_has_its_place),
        cmocka_unit_test(a_bad_main_module_is_refused),
        cmocka_unit_test(trusted_lua_has_no_files_and_no_programs),
        cmocka_unit_test(an_endless_loop_ends),
        cmocka_unit_test(memory_has_an_end),
        cmocka_unit_test(rest_gives_back_what_a_busy_time_took),
        cmocka_unit_test(garbage_is_no_exhaustion),
        cmocka_unit_test(recursion_ends),
        cmocka_unit_test(any_bytes_go_in_and_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
