/* fleet.c - see fleet.h.
 *
 * Instances are read a page at a time, each with its record, and run against the candidate in a VM
 * of this command: no worker is asked for anything. Those that may go are moved page by page; one
 * that was claimed meanwhile has another epoch and stays. */
#include "front/fleet.h"

#include "base/buf.h"
#include "base/mem.h"
#include "script/json.h"
#include "script/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX ((size_t)64 << 20)
#define MEMORY ((size_t)512 << 20)
#define BURST_MS 10000

/* $1 workflow, $2 target, $3 after this instance, $4 beginning of an id or null. */
static const char page_sql[] =
    "select q.instance_id, q.epoch, o.version, json_build_object('instance', q.instance_id,"
    " 'run', q.run, 'mode', i.mode, 'workflow', i.workflow, 'created', coalesce((select"
    " e.payload->>'began' from events e where e.id = q.event_id and q.run > 1), utc(i.created_at)),"
    " 'state', q.state, 'held', q.worker is not null, 'stop_when', o.declaration->'stop_when',"
    " 'event', coalesce((select e.payload::text from events e where e.id = q.event_id), '{}'),"
    " 'steps', coalesce((select json_agg(json_build_array(x.seq, x.branch, x.ordinal, x.name,"
    "   x.args_hash, x.state, utc(x.at), x.output) order by x.seq)::text"
    "   from workflow_step_executions x where x.workflow_instance_id = q.instance_id"
    "   and x.run = q.run), '[]'),"
    " 'waits', coalesce((select json_agg(json_build_object('branch', w.branch, 'ordinal',"
    "   w.ordinal, 'kind', w.kind, 'deadline', utc(w.deadline))) from workflow_waits w"
    "   where w.instance_id = q.instance_id and w.run = q.run), '[]'),"
    " 'open', (select min(l.step) from (select m.step from messaging_log m"
    "   where m.instance_id = q.instance_id and m.state in ('intent', 'in_doubt', 'held')"
    "   union all select c.step from outbound_log c where c.instance_id = q.instance_id"
    "   and c.state in ('intent', 'in_doubt', 'held')) l))"
    " from workflow_queue q join workflow_instances i on i.id = q.instance_id"
    " join workflow_definitions o on o.id = q.workflow_definition_id"
    " where i.workflow = $1 and q.workflow_definition_id <> $2::int and q.instance_id > $3::uuid"
    " and ($4::text is null or q.instance_id::text like $4 || '%')"
    " order by q.instance_id limit 50";

struct fleet {
    struct session *session;
    const struct fleet_order *order;
    struct fleet_report *report;
    struct vm *vm;
    struct buf moves; /* [{instance, epoch, stops}, ...] without its end */
    struct buf said;  /* [{instance, version, verdict, step, message}, ...], the same */
    char last[37];    /* the page's last instance */
    int rows, failed;
    struct err *err;
};

static void take_move(struct fleet *f, const char *instance, const char *epoch,
                      const struct json *verdict)
{
    char *stops = json_encode(verdict, "stops");
    buf_printf(&f->moves, "%s{\"instance\":\"%s\",\"epoch\":%s,\"stops\":%s}",
               f->moves.len > 1 ? "," : "", instance, epoch, stops != NULL ? stops : "null");
    free(stops);
}

static void say(struct fleet *f, const char *instance, const char *version, const char *verdict,
                const struct json *said)
{
    const char *step = said != NULL ? json_text(said, "step") : NULL;
    const char *message = said != NULL ? json_text(said, "message") : f->err->message;
    if (f->order->quiet) {
        buf_printf(&f->said, "%s{\"instance\":\"%s\",\"version\":%s", f->said.len > 1 ? "," : "",
                   instance, version);
        buf_json_member(&f->said, "verdict", verdict);
        buf_json_member(&f->said, "step", step);
        buf_json_member(&f->said, "message", message);
        buf_addc(&f->said, '}');
        return;
    }
    printf("%s  version %s  %s%s%s: %s\n", instance, version, verdict, step != NULL ? " at " : "",
           step != NULL ? step : "", message != NULL ? message : "");
}

static void check_row(struct fleet *f, const struct db_reply *reply, int row)
{
    const char *instance = db_value(reply, 0, row, 0), *version = db_value(reply, 0, row, 2);
    const struct slice arg = {db_value(reply, 0, row, 3), db_length(reply, 0, row, 3)};
    struct buf out;
    buf_init(&out, TEXT_MAX);
    bool ok = vm_call(f->vm, "check", &arg, 1, &out, f->err);
    struct json *said = ok ? json_parse(out.data, out.len, f->err) : NULL;
    const char *verdict = said != NULL ? json_text(said, "verdict") : "diverges";
    if (said != NULL && strcmp(verdict, "safe") == 0) {
        f->report->safe++;
        take_move(f, instance, db_value(reply, 0, row, 1), said);
    } else if (said != NULL && strcmp(verdict, "busy") == 0) {
        f->report->busy++;
    } else if (said != NULL && strcmp(verdict, "decide") == 0) {
        f->report->decide++;
        if (f->order->decided)
            take_move(f, instance, db_value(reply, 0, row, 1), said);
        else
            say(f, instance, version, "needs a decision", said);
    } else {
        f->report->diverges++;
        say(f, instance, version, "diverges", said);
    }
    json_free(said);
    buf_fini(&out);
}

static void take_page(void *ctx, const struct db_reply *reply)
{
    struct fleet *f = ctx;
    f->rows = db_rows(reply, 0);
    for (int row = 0; row < f->rows; row++)
        check_row(f, reply, row);
    if (f->rows > 0)
        snprintf(f->last, sizeof(f->last), "%s", db_value(reply, 0, f->rows - 1, 0));
}

static void take_moved(void *ctx, const struct db_reply *reply)
{
    struct fleet *f = ctx;
    f->report->moved += db_rows(reply, 0);
}

static bool move(struct fleet *f, const char *target, struct err *err)
{
    buf_addc(&f->moves, ']');
    bool any = f->moves.len > 2;
    if (f->moves.overflow)
        return err_set(err, ERR_LIMIT, "a page of instances is too large to be moved");
    if (!any || !f->order->move)
        return true;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select migrate_instances($1::int, $2::json)", 2, target, f->moves.data);
    return session_run(f->session, unit, take_moved, f, err);
}

static void load_candidate(void *ctx, const struct db_reply *reply)
{
    struct fleet *f = ctx;
    const struct slice arg = {db_value(reply, 0, 0, 0), db_length(reply, 0, 0, 0)};
    if (arg.data == NULL)
        f->failed = !err_set(f->err, ERR_INPUT, "there is no such version");
    else
        f->failed = !vm_call(f->vm, "load", &arg, 1, NULL, f->err);
}

static struct vm *open_vm(struct front *front, struct session *session, struct err *err)
{
    const struct vm_options options = {
        .main = "fleet", .lua_dir = front->lua_dir, .memory = MEMORY, .burst_ms = BURST_MS};
    return vm_new(session_loop(session), &options, err);
}

static bool check_all(struct fleet *f, struct err *err)
{
    char *target = xprintf("%d", f->order->target);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select json_build_object('name', d.name, 'files', d.files, 'actions',"
                 " d.declaration->'actions', 'events', d.declaration->'events', 'company',"
                 " d.declaration->'company', 'stop_when', d.declaration->'stop_when')"
                 " from workflow_definitions d where d.id = $1::int",
                 1, target);
    bool ok = session_run(f->session, unit, load_candidate, f, err) && !f->failed;
    do {
        f->rows = 0;
        buf_clear(&f->moves);
        buf_addc(&f->moves, '[');
        if (ok) {
            unit = db_unit_new();
            db_unit_addv(unit, page_sql, 4, f->order->workflow, target, f->last,
                         f->order->instance);
            ok = session_run(f->session, unit, take_page, f, err) && move(f, target, err);
        }
    } while (ok && f->rows > 0);
    free(target);
    return ok;
}

bool fleet_check(struct front *front, struct session *session, const struct fleet_order *order,
                 struct fleet_report *report, struct err *err)
{
    struct err why;
    struct fleet f = {.session = session, .order = order, .report = report, .err = &why};
    *report = (struct fleet_report){0};
    snprintf(f.last, sizeof(f.last), "00000000-0000-0000-0000-000000000000");
    f.vm = open_vm(front, session, err);
    if (f.vm == NULL)
        return false;
    buf_init(&f.moves, TEXT_MAX);
    buf_init(&f.said, TEXT_MAX);
    buf_addc(&f.said, '[');
    bool ok = check_all(&f, err);
    if (!ok && f.failed)
        *err = why;
    buf_fini(&f.moves);
    vm_free(f.vm);
    int checked = report->safe + report->diverges + report->decide + report->busy;
    if (ok && order->instance != NULL && checked == 0)
        ok = err_set(err, ERR_MISSING,
                     "no live instance of %s on another version is '%s', or several begin so",
                     order->workflow, order->instance);
    buf_addc(&f.said, ']');
    if (ok && f.said.overflow)
        ok = err_set(err, ERR_LIMIT, "there is too much to say for --json");
    if (ok && order->quiet)
        report->said = buf_take(&f.said);
    buf_fini(&f.said);
    if (!ok || order->quiet)
        return ok;
    printf("%d checked: %d safe, %d diverge, %d need a decision, %d are being worked on\n", checked,
           report->safe, report->diverges, report->decide, report->busy);
    if (order->move)
        printf("%d moved\n", report->moved);
    return true;
}

struct stops {
    struct vm *vm;
    char *json;
    struct err *err;
};

static void take_stops(void *ctx, const struct db_reply *reply)
{
    struct stops *s = ctx;
    const struct slice arg = slice_of(db_value(reply, 0, 0, 0));
    struct buf out;
    buf_init(&out, TEXT_MAX);
    s->json = vm_call(s->vm, "stops", &arg, 1, &out, s->err) ? buf_take(&out) : NULL;
    buf_fini(&out);
}

char *fleet_stops(struct front *front, struct session *session, const char *instance,
                  struct err *err)
{
    struct err why = {0};
    struct stops stops = {.vm = open_vm(front, session, err), .err = &why};
    if (stops.vm == NULL)
        return NULL;
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select stops_wanted($1::uuid)", 1, instance);
    if (session_run(session, unit, take_stops, &stops, err) && stops.json == NULL)
        *err = why;
    vm_free(stops.vm);
    return stops.json;
}

struct diff {
    struct vm *vm;
    char *text;
    struct err *err;
};

static void take_diff(void *ctx, const struct db_reply *reply)
{
    struct diff *d = ctx;
    const struct slice arg = slice_of(db_value(reply, 0, 0, 0));
    struct buf out;
    buf_init(&out, TEXT_MAX);
    if (vm_call(d->vm, "diff", &arg, 1, &out, d->err))
        d->text = out.len > 0 ? buf_take(&out) : xstrdup("");
    buf_fini(&out);
}

char *fleet_diff(struct front *front, struct session *session, int from, int to, struct err *err)
{
    struct err why = {0};
    struct diff diff = {.vm = open_vm(front, session, err), .err = &why};
    if (diff.vm == NULL)
        return NULL;
    char *a = xprintf("%d", from), *b = xprintf("%d", to);
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit,
                 "select json_build_object('old', a.files, 'new', b.files, 'from', 'version ' ||"
                 " a.version, 'to', 'version ' || b.version) from workflow_definitions a,"
                 " workflow_definitions b where a.id = $1::int and b.id = $2::int",
                 2, a, b);
    if (session_run(session, unit, take_diff, &diff, err) && diff.text == NULL)
        *err = why;
    vm_free(diff.vm);
    free(a);
    free(b);
    return diff.text;
}
