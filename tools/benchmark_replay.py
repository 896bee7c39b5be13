"""How long it takes to read an instance's whole history anew: 9,999 recorded steps before the next."""
import time

STEPS = 9999
FILES = {
    "three_steps.lua": """return workflow {
  on = "estimate_created",
  run = function()
    local sum = 0
    for i = 1, %d do
      sum = sum + bench.work { n = i }.n
    end
  end }
""" % (STEPS + 1),
}
# Of the one instance that the backlog has just made.
RECORD = """
insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state, name,
  args_hash, input, output, at, started_at, finished_at)
select q.instance_id, 1, s, '', s, 'done', 'bench.work#' || s,
  left(encode(sha256(convert_to(format('{"n":%%s}', s), 'UTF8')), 'hex'), 16), format('{"n":%%s}', s)::json,
  format('{"n":%%s,"text":"a result of about a hundred bytes, as an ordinary action returns it, no more"}',
         s)::json, now(), now(), now()
from workflow_queue q, generate_series(1, %d) s;
update workflow_queue set epoch = 1;
""" % STEPS


def replay(bench, options):
    """Instances whose next step is their 10,000th, one after the other."""
    took = []
    for _ in range(options.runs * 5):
        bench.backlog(1)
        bench.database.sql(RECORD)
        engine, postgres = bench.measure()
        bench.database.sql("commit; notify work")
        begun = time.monotonic()
        while bench.database.sql("select 1 from workflow_queue"):
            bench.alive()
            if time.monotonic() - begun > 30:
                raise SystemExit("bench: it isn't done in 30 s")
            time.sleep(0.02)
        after = bench.measure()
        took.append((after[0] - engine, after[1] - postgres))
    cost = [sum(t) * 1000 / len(took) for t in zip(*took)]
    print("%d recorded steps  engine %.0f ms of CPU, PostgreSQL %.0f" % (STEPS, *cost))
    return {"steps": STEPS, "engine_cpu_ms": round(cost[0]), "postgres_cpu_ms": round(cost[1])}
