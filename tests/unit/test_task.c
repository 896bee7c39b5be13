/* Tasks: resumed from the loop only, heard of exactly once, and never after their cancel. */
#include "unit.h"

#include "script/task.h"

#include "base/mem.h"

enum { MAX_HEARD = 64 };

struct fixture {
    struct loop *loop;
    struct vm *vm;
    char heard[MAX_HEARD][200]; // what was posted, joined by "|"
    int posts;
    int dones;
    enum task_status status;
    char result[4000];
    bool ended;
    struct task *task;
    void (*on_post)(struct fixture *f, struct task *task);
    bool in_callback;
};

static void posted(void *ctx, struct task *task, const struct slice *args, size_t nargs)
{
    struct fixture *f = ctx;
    assert_null(task_running());
    assert_true(f->posts < MAX_HEARD);
    char *line = f->heard[f->posts++];
    size_t len = 0;
    for (size_t i = 0; i < nargs; i++)
        len += (size_t)snprintf(line + len, 200 - len, "%s%s", i ? "|" : "",
                                args[i].data ? args[i].data : "nil");
    if (f->on_post)
        f->on_post(f, task);
}

static void done(void *ctx, struct task *task, enum task_status status, const char *result,
                 size_t len)
{
    (void)task;
    struct fixture *f = ctx;
    assert_null(task_running());
    assert_int_equal(len, strlen(result));
    f->dones++;
    f->status = status;
    snprintf(f->result, sizeof(f->result), "%s", result);
    f->ended = true;
}

static struct slice lend(void *ctx, const char *name)
{
    struct fixture *f = ctx;
    assert_ptr_equal(f, task_running());
    return slice_of(strcmp(name, "event") == 0 ? "{}" : NULL);
}

static const struct task_owner owner = {posted, done, lend};

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct err err = {0};
    f->loop = loop_new();
    f->vm = vm_new(f->loop, &(struct vm_options){.main = "probe", .lua_dir = FIXTURE_DIR}, &err);
    if (!f->vm)
        fail_msg("%s", err.message);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    vm_free(f->vm);
    loop_free(f->loop);
    free(f);
    return 0;
}

static struct task *start(struct fixture *f, const char *code)
{
    struct slice arg = slice_of(code);
    f->ended = false;
    f->task = task_start(f->vm, "run", &arg, 1, &owner, f);
    return f->task;
}

static void resume(struct fixture *f, const char *text)
{
    struct slice arg = slice_of(text);
    task_resume(f->task, &arg, 1);
}

static void ends(struct fixture *f, enum task_status status, const char *result)
{
    if (!run_until(f->loop, is_set, &f->ended, 20000))
        fail_msg("the task didn't end");
    run_for(f->loop, 5);
    assert_int_equal(1, f->dones);
    if (status != f->status || !strstr(f->result, result))
        fail_msg("ended as %d: \"%s\" doesn't say \"%s\"", f->status, f->result, result);
    f->dones = 0;
    f->posts = 0;
}

static void a_task_talks_with_its_owner(void **state)
{
    struct fixture *f = *state;
    start(f, "host.post('a', nil, 7) local x, y = coroutine.yield() assert(y == nil) "
             "host.post('b', x) host.post('c') local z = coroutine.yield() return z .. '!'");
    assert_int_equal(0, f->posts); // never inside task_start
    run_for(f->loop, 5);
    assert_string_equal("a|nil|7", f->heard[0]);
    assert_int_equal(0, f->dones);
    resume(f, "one");
    resume(f, "two"); // queues up
    assert_int_equal(1, f->posts);
    ends(f, TASK_RETURNED, "two!");
    assert_string_equal("b|one", f->heard[1]);
    assert_string_equal("c", f->heard[2]);
}

static void its_owner_lends_it_texts(void **state)
{
    struct fixture *f = *state;
    start(f, "return host.lent('event') .. tostring(host.lent('other'))");
    ends(f, TASK_RETURNED, "{}nil");
}

static void one_answer_needs_no_address(void **state)
{
    struct fixture *f = *state;
    start(f, "return host.ask('a', 'b')");
    run_for(f->loop, 5);
    assert_string_equal("a|b", f->heard[0]);
    const struct slice args[] = {slice_of("to"), slice_of("its"), slice_of("scheduler"),
                                 slice_of("here")};
    task_resume(f->task, args, 4);
    ends(f, TASK_RETURNED, "here");
}

static void answer_at_once(struct fixture *f, struct task *task)
{
    struct slice arg = slice_of("again");
    (void)f;
    task_resume(task, &arg, 1);
}

static void an_answer_inside_posted_comes_after_it(void **state)
{
    struct fixture *f = *state;
    f->on_post = answer_at_once;
    start(f, "for i = 1, 20 do host.post(i) assert(coroutine.yield() == 'again') end return 'end'");
    ends(f, TASK_RETURNED, "end");
    f->on_post = NULL;
}

static void what_was_posted_before_the_end_is_heard(void **state)
{
    struct fixture *f = *state;
    start(f, "host.post('last')");
    ends(f, TASK_RETURNED, "");
    assert_string_equal("last", f->heard[0]);
}

static void an_error_is_its_message_alone(void **state)
{
    struct fixture *f = *state;
    start(f, "local function inner()\n error 'broken'\nend\ninner()\n");
    ends(f, TASK_RAISED, "test.lua:2: broken");
    assert_null(strstr(f->result, "stack traceback"));
    start(f, "coroutine.yield() error { message = 'refused' }");
    resume(f, "x");
    ends(f, TASK_RAISED, "refused");
    start(f, "this is no Lua");
    ends(f, TASK_RAISED, "syntax error");
}

static void a_task_over_its_budget_is_dead(void **state)
{
    struct fixture *f = *state;
    start(f, "while true do end");
    ends(f, TASK_KILLED, "50 ms of CPU without a wait (test.lua:1)");
    start(f, "host.post('no') pcall(function() while true do end end) return 'swallowed'");
    ends(f, TASK_KILLED, "CPU");
    assert_string_not_equal("no", f->heard[1]);
    start(f, "while true do pcall(function() while true do end end) coroutine.yield() end");
    ends(f, TASK_KILLED, "CPU");
    start(f, "pcall(string.rep, 'x', 1 << 30) return 'swallowed'");
    ends(f, TASK_KILLED, "64 MB of memory");
    start(f, "local t = {} for i = 1, 1 << 40 do t[i] = {} end");
    ends(f, TASK_KILLED, "without a wait");
    start(f, "return 'fine'");
    ends(f, TASK_RETURNED, "fine");
}

static void the_total_counts_over_all_runs(void **state)
{
    struct fixture *f = *state;
    vm_free(f->vm);
    f->vm = vm_new(f->loop,
                   &(struct vm_options){
                       .main = "probe", .lua_dir = FIXTURE_DIR, .burst_ms = 1000, .total_ms = 100},
                   NULL);
    f->on_post = answer_at_once;
    start(f, "while true do for i = 1, 100000 do local _ = i // 3 end "
             "host.post('x') coroutine.yield() end");
    f->on_post = NULL;
    for (int i = 0; i < 100000 && !f->ended; i++) {
        f->posts = 0;
        resume(f, "x");
        run_for(f->loop, 0);
    }
    ends(f, TASK_KILLED, "100 ms of CPU in all");
}

static void each_coroutine_and_each_replayed_turn_has_a_burst_of_its_own(void **state)
{
    struct fixture *f = *state;
    vm_free(f->vm);
    f->vm = vm_new(f->loop,
                   &(struct vm_options){.main = "probe", .lua_dir = FIXTURE_DIR, .burst_ms = 100},
                   NULL);
    start(
        f,
        "local function work(n) for i = 1, n do local _ = i // 3 end end "
        "local co = coroutine.create(function() while true do work(500000) coroutine.yield() end end) "
        "for i = 1, 30 do assert(coroutine.resume(co)) end return 'fine'");
    ends(f, TASK_RETURNED, "fine");
    start(f, "local function work(n) for i = 1, n do local _ = i // 3 end end "
             "for i = 1, 30 do work(500000) host.burst() end return 'fine'");
    ends(f, TASK_RETURNED, "fine");
    start(f, "local function work(n) for i = 1, n do local _ = i // 3 end end "
             "for i = 1, 200 do work(500000) end return 'fine'");
    ends(f, TASK_KILLED, "100 ms of CPU without a wait");
}

static void a_cancelled_task_is_silent(void **state)
{
    struct fixture *f = *state;
    start(f, "host.post('never')");
    task_cancel(f->task); // before its first turn
    start(f, "local guard <close> = setmetatable({}, { __close = function() closed = true end }) "
             "host.post('here') coroutine.yield()");
    run_for(f->loop, 5);
    resume(f, "x");
    task_cancel(f->task);
    run_for(f->loop, 5);
    assert_int_equal(1, f->posts);
    assert_int_equal(0, f->dones);
    start(f, "return tostring(closed)"); // the <close> variable was closed
    ends(f, TASK_RETURNED, "true");
}

static void cancel_here(struct fixture *f, struct task *task)
{
    (void)f;
    task_cancel(task);
}

static void cancel_inside_posted_stops_the_rest(void **state)
{
    struct fixture *f = *state;
    f->on_post = cancel_here;
    start(f, "host.post('1') host.post('2') coroutine.yield()");
    run_for(f->loop, 5);
    assert_int_equal(1, f->posts);
    start(f, "host.post('3') host.post('4') return 'x'");
    run_for(f->loop, 5);
    assert_int_equal(2, f->posts);
    assert_int_equal(0, f->dones);
    f->on_post = NULL;
}

static struct fixture *watched;

static void running_is_null(void *ctx)
{
    (void)ctx;
    assert_null(task_running());
    assert_int_equal(0, watched->dones);
}

static void the_vm_may_go_with_its_tasks(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 10; i++) {
        start(f, "host.post('a') coroutine.yield()");
        if (i % 2 == 0)
            run_for(f->loop, 1);
    }
    vm_free(f->vm);
    f->vm = NULL;
    watched = f;
    loop_defer(f->loop, running_is_null, NULL);
    run_for(f->loop, 5);
}

static void a_thousand_tasks_interleave(void **state)
{
    struct fixture *f = *state;
    static const char code[] = "local n = 0 for i = 1, 3 do n = n + #coroutine.yield() end "
                               "counter = (counter or 0) + n return 'x'";
    enum { COUNT = 1000 };
    static struct task *tasks[COUNT];
    struct slice source = slice_of(code), word = slice_of("four");
    for (int i = 0; i < COUNT; i++)
        tasks[i] = task_start(f->vm, "run", &source, 1, &owner, f);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < COUNT; i++)
            task_resume(tasks[i], &word, 1);
    run_for(f->loop, 300);
    assert_int_equal(COUNT, f->dones);
    f->dones = 0;
    start(f, "return tostring(counter)");
    ends(f, TASK_RETURNED, "12000");
}

int main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH(a_task_talks_with_its_owner),
        WITH(its_owner_lends_it_texts),
        WITH(one_answer_needs_no_address),
        WITH(an_answer_inside_posted_comes_after_it),
        WITH(what_was_posted_before_the_end_is_heard),
        WITH(an_error_is_its_message_alone),
        WITH(a_task_over_its_budget_is_dead),
        WITH(the_total_counts_over_all_runs),
        WITH(each_coroutine_and_each_replayed_turn_has_a_burst_of_its_own),
        WITH(a_cancelled_task_is_silent),
        WITH(cancel_inside_posted_stops_the_rest),
        WITH(the_vm_may_go_with_its_tasks),
        WITH(a_thousand_tasks_interleave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
