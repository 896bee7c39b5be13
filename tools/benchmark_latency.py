"""How soon an idle engine begins to act, and what its idleness costs."""
import json
import time
import uuid

from benchmark_conditions import CUSTOMER, ESTIMATES, recorded

# All that detection writes of one event, as a unit whose statements are prepared. Ids and snapshot
# are made by whoever sends it, as by detection.
EVENT = """
create or replace function bench_event(event uuid, instance uuid, n text, number bigint, payload json)
returns void language plpgsql as $$
begin
  insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
  values (event, 'estimate_created', 'estimate', n, now(), now(), number, 1, payload);
  insert into event_keys (key, type, settled, event_id)
  values ('estimate:' || n, 'estimate_created', number, event);
  insert into workflow_instances (id, workflow_definition_id, workflow, event_id, customer_id, entity,
    entity_id, business_key, created_at)
  values (instance, {definition}, 'three_steps', event, 1, 'estimate', n,
          'three_steps live estimate:' || n, now());
  insert into workflow_queue (instance_id, workflow_definition_id, event_id, since, business_key, due)
  values (instance, {definition}, event, number, 'three_steps live estimate:' || n, clock_timestamp());
  notify work;
end $$
"""
STARTED = 90    # seconds until a start is over
REST = 0.03     # seconds in which nobody disturbs what is measured


def new_id():
    """A uuid v7, as the engine's own."""
    text = "%012x7%s" % (int(time.time() * 1000), uuid.uuid4().hex[13:])
    return str(uuid.UUID(text))


def began(bench, sql):
    """When the first step began, by the clock of all of us; asked for seldom, since asking costs."""
    for _ in range(2000):
        time.sleep(REST)
        found = bench.database.sql(
            "select extract(epoch from started_at) from workflow_step_executions "
            "where workflow_instance_id = (%s) and seq = 1" % sql)
        if found:
            return float(found)
    raise SystemExit("bench: no step within a minute")


def events(bench, samples):
    """From sending the unit of an event to the start of the first recorded step, in ms."""
    bench.database.sql(EVENT.format(definition=bench.definition))
    took = []
    for _ in range(samples):
        bench.seed += 1
        bench.base += 1
        event, instance, n = new_id(), new_id(), "%d-1" % bench.seed
        payload = json.dumps(dict(recorded(1), id=event, name="estimate_created", of="estimate",
                                  time="2026-06-01T12:00:00Z"))
        unit = "select bench_event('%s', '%s', '%s', %d, '%s')" % (event, instance, n, bench.base, payload)
        sent = time.time()
        bench.database.sql(unit)
        took.append((began(bench, "'%s'" % instance) - sent) * 1000)
    return sorted(took)


def changes(bench, samples):
    """From the commit of a row in st_estimates to the start of the first recorded step, in ms."""
    bench.database.sql(CUSTOMER)
    took = []
    for number in range(1, samples + 1):
        bench.database.sql("begin")
        bench.database.sql(ESTIMATES.format(first=number, last=number))
        sent = float(bench.database.sql("select extract(epoch from clock_timestamp())"))
        bench.database.sql("commit")
        took.append((began(bench, "select id from workflow_instances where entity = 'estimate' "
                                  "and entity_id = '%d'" % number) - sent) * 1000)
    return sorted(took)


def of(took):
    return {"p50": round(took[len(took) // 2], 2), "p99": round(took[int(len(took) * 0.99)], 2)}


def latency(bench, options):
    """From an event, or a changed row, to the first action, and the cost of a whole deployment, all
    roles of it, when nothing happens."""
    begun = time.monotonic()
    bench.drain(100)
    found = {"event_to_action_ms": of(events(bench, options.samples)),
             "change_to_action_ms": of(changes(bench, options.samples // 2))}
    # What the samples left to do for PostgreSQL, and what follows a start: the first looks of monitor
    # and retention, and autovacuum's first visit of each database.
    bench.database.sql("vacuum (analyze)")
    time.sleep(max(5, STARTED - (time.monotonic() - begun)))
    before, begun = sum(bench.measure()), time.monotonic()
    time.sleep(options.idle)
    idle = (sum(bench.measure()) - before) * 1000 / (time.monotonic() - begun)
    found["idle_cpu_ms_per_s"] = round(idle, 2)
    print("event to action  p50 %(p50).2f ms, p99 %(p99).2f ms" % found["event_to_action_ms"])
    print("change to action p50 %(p50).2f ms, p99 %(p99).2f ms" % found["change_to_action_ms"])
    print("idle %.2f ms of CPU a second" % idle)
    return found
