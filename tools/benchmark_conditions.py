"""Fifty workflows' `when` on one event type: the detect VM alone, and detection as a whole."""
import json
import os
import subprocess
import time

CONDITION = """return workflow {{
  on = "estimate_created",
  when = function(e)
    local t = e.estimate
    return t.status == "Open" and t.total >= 1000 and t.name ~= "none" and t.id < 0 - {n}
  end,
  run = function() end }}
"""
FILES = {"condition_%d.lua" % n: CONDITION.format(n=n) for n in range(1, 50)}
FILES["three_steps.lua"] = CONDITION.format(n=0)

CUSTOMER = """
insert into sync_cursors (entity, live_since, completed_at)
select e, now() - interval '1 day', now()
from unnest(array['customers', 'jobs', 'estimates', 'invoices', 'appointments', 'locations']) e
on conflict do nothing;
insert into st_customers (id, name, type, state, zip, created_on, modified_on)
values (9, 'Ann Lee', 'Residential', 'NY', '10001', '2026-01-01Z', '2026-01-01Z') on conflict do nothing;
insert into st_contacts (id, customer_id, type, value, phone, email, modified_on)
values (1, 9, 'MobilePhone', '5552000009', '+15552000009', null, '2026-01-01Z') on conflict do nothing;
"""
ESTIMATES = """
insert into st_estimates (id, name, status, customer_id, subtotal, tax, created_on, modified_on)
select i, 'Replace condenser', 'Open', 9, 2000, 160, now(), now()
from generate_series({first}, {last}) i
"""
EVENTS = 'return events { estimate_created = { of = "estimate", created = true } }'
BATCH = 500


def recorded(number):
    """An event of about 600 bytes, as it is kept."""
    return {
        "estimate": {"id": number, "status": "Open", "subtotal": 1200.5, "tax": 96.04,
                     "total": 1296.54, "name": "Replace condenser",
                     "created_on": "2026-06-01T11:58:00Z"},
        "customer": {"id": number, "name": "Ann Lee", "first_name": "Ann", "phone": "+15550100200",
                     "email": "ann.lee@example.com", "city": "Columbus", "state": "OH",
                     "zip": "43004", "zone": "America/New_York", "balance": 0, "active": True},
        "location": {"id": number, "address": "12 Main St", "city": "Columbus"}}


def batch():
    return {"now": "2026-06-01T12:00:00Z", "parent_wait_ms": 1, "arrivals": [
        {"id": n, "type": "estimate_created", "entity": "estimate", "entity_id": str(n),
         "at": "2026-06-01T11:58:00.000000Z", "payload": recorded(n)}
        for n in range(1, BATCH + 1)]}


def batch_of(bench, options, names):
    """CPU seconds and events of the engine's own batch function on recorded events, with these
    workflows in force: text in, text out, no database."""
    sources = {"workflows/events.lua": EVENTS}
    for name in names:
        sources["workflows/" + name] = FILES[name]
    for name, value in (("load", {"sources": sources, "active": {}}),
                        ("activate", {name[:-4]: n for n, name in enumerate(names)}),
                        ("batch", batch())):
        with open(os.path.join(bench.folder, name + ".json"), "w") as file:
            json.dump(value, file)
    times = max(1, options.n // 200)
    program = os.path.join(os.path.dirname(options.program), "bench_lua")
    told = subprocess.run([program, "batch", bench.folder, str(times)], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.splitlines()
    settled = json.loads(told[3])
    if len(settled["events"]) != BATCH or settled["errors"] or settled["starts"]:
        raise SystemExit("bench: the batch was not judged as it should be: %.300s" % told[3])
    return float(told[0]), times * BATCH


def alone(bench, options):
    """What fifty conditions add to an event, and what an event costs with them."""
    runs = [(batch_of(bench, options, list(FILES)), batch_of(bench, options, []))
            for _ in range(options.runs)]
    events = runs[0][0][1]
    with_them, without = (min(run[n][0] for run in runs) for n in (0, 1))
    rate = events * len(FILES) / (with_them - without)
    print("alone    %9.0f conditions a second of CPU; an event and its %d cost %.1f us, %.1f without"
          % (rate, len(FILES), with_them * 1e6 / events, without * 1e6 / events))
    return rate


def wait_for_changes(bench):
    while bench.database.sql("select 1 from changes limit 1"):
        bench.alive()
        time.sleep(0.02)


def whole(bench, options):
    """Changed rows to settled events, each asked for by all workflows: none is true."""
    bench.database.sql(CUSTOMER)
    bench.database.sql(ESTIMATES.format(first=1, last=100))
    wait_for_changes(bench)
    before, begun = bench.measure(), time.monotonic()
    events = options.n // 5
    bench.database.sql(ESTIMATES.format(first=101, last=100 + events))
    wait_for_changes(bench)
    seconds, after = time.monotonic() - begun, bench.measure()
    if bench.database.sql("select count(*), (select count(*) from workflow_instances) from events"
                          " where type = 'estimate_created'") != "%d|0" % (events + 100):
        raise SystemExit("bench: an event is missing, or a condition was true")
    worker, postgres = after[0] - before[0], after[1] - before[1]
    looked = events * len(FILES)
    print("in all   %9.0f conditions a second of the worker's CPU; %.0f events a second"
          % (looked / worker, events / seconds))
    print("         %.4f CPU s per 1,000 events (worker %.4f, PostgreSQL %.4f)"
          % (*((c * 1000 / events) for c in (worker + postgres, worker, postgres)),))
    return {"in_all_per_cpu_s": round(looked / worker), "events_per_s": round(events / seconds)}


def conditions(bench, options):
    rate = alone(bench, options)
    return {"conditions_per_cpu_s": round(rate), **whole(bench, options)}
