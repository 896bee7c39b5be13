"""Drives the daemon through workloads and reads its cost from /proc; see tools/bench.

The workload is an ordinary workflow file, loaded by the daemon's own path: three calls of an action
with one argument and a result of about a hundred bytes. The events and the pending instances are
there before the clock starts: they become visible when the transaction that wrote them commits.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
sys.dont_write_bytecode = True
from benchmark_conditions import conditions  # noqa: E402
import benchmark_conditions  # noqa: E402
import benchmark_latency  # noqa: E402
import benchmark_replay  # noqa: E402
import benchmark_sync  # noqa: E402
from database import Connection  # noqa: E402
from daemon import free_port  # noqa: E402
from process_cost import cpu, family, peak_mb  # noqa: E402

FILES = {
    "events.lua": 'return events {\n  estimate_created = { of = "estimate", created = true },\n}\n',
    "company.lua": 'return company { name = "Bench", zone = "America/New_York" }\n',
    "actions/bench.lua": """return actions {
  work = { effect = "read", args = { n = "number" },
    run = function(a)
      return { n = a.n, text = "a result of about a hundred bytes, as an ordinary action returns it, no more" }
    end },
}
""",
    "three_steps.lua": """return workflow {
  on = "estimate_created",
  run = function()
    local sum = 0
    for i = 1, 3 do
      sum = sum + bench.work { n = i }.n
    end
  end }
""",
}

# Ids as detection makes them: milliseconds and version in front, then chance. A thousand a second.
IDS = """
create or replace function bench_id(kind text, seed int, i int) returns uuid language sql immutable
return (lpad(to_hex(1767225600000 + seed * 10000000000 + i), 12, '0') || '7'
        || substr(md5(kind || seed || '-' || i), 1, 3) || '8'
        || substr(md5(kind || seed || '-' || i), 4, 15))::uuid
"""

# Instances asleep for a year, and steps of instances that have ended.
SLEEPERS = ["""
insert into workflow_instances (id, workflow_definition_id, workflow, customer_id, entity, entity_id,
  business_key, created_at)
select bench_id('s', 0, i), {definition}, 'three_steps', i, 'estimate', 's' || i,
       'three_steps live estimate:s' || i, now() from generate_series(1, {sleepers}) i
""", """
insert into workflow_queue (instance_id, workflow_definition_id, business_key, due, state, epoch)
select bench_id('s', 0, i), {definition}, 'three_steps live estimate:s' || i,
       now() + interval '1 year', 'sleeping', 1 from generate_series(1, {sleepers}) i
""", """
insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state, name,
  args_hash, input, output, at, started_at, finished_at)
select o.id, 1, s, '', s, 'done', 'bench.work#' || s, 'd1e2f3a4b5c60718', '{{"n":1}}',
  '{{"n":1,"text":"a result of about a hundred bytes, as an ordinary action returns it, no more"}}',
  now(), now(), now()
from (select bench_id('o', 0, i) as id from generate_series(1, {steps} / 3) i offset 0) o,
  generate_series(1, 3) s
""", "vacuum (analyze)"]

# One event of about 600 bytes and one pending instance each, with all that detection writes of them.
BACKLOG = """
insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
select bench_id('e', {seed}, i), 'estimate_created', 'estimate', {seed} || '-' || i, now(), now(),
       {base} + i, i,
       json_build_object('id', bench_id('e', {seed}, i), 'name', 'estimate_created',
         'of', 'estimate', 'time', '2026-06-01T12:00:00Z',
         'estimate', json_build_object('id', i, 'status', 'Open', 'subtotal', 1200.5, 'tax', 96.04,
           'total', 1296.54, 'name', 'Replace condenser', 'created_on', '2026-06-01T11:58:00Z'),
         'customer', json_build_object('id', i, 'name', 'Ann Lee', 'first_name', 'Ann',
           'phone', '+15550100200', 'email', 'ann.lee@example.com', 'city', 'Columbus', 'state', 'OH',
           'zip', '43004', 'zone', 'America/New_York', 'balance', 0, 'active', true),
         'location', json_build_object('id', i, 'address', '12 Main St', 'city', 'Columbus'))
from generate_series(1, {n}) i;
insert into event_keys (key, type, settled, event_id)
select 'estimate:' || {seed} || '-' || i, 'estimate_created', {base} + i, bench_id('e', {seed}, i)
from generate_series(1, {n}) i;
insert into workflow_instances (id, workflow_definition_id, workflow, event_id, customer_id, entity,
  entity_id, business_key, created_at)
select bench_id('i', {seed}, i), {definition}, 'three_steps', bench_id('e', {seed}, i), i, 'estimate',
       {seed} || '-' || i, 'three_steps live estimate:' || {seed} || '-' || i, now()
from generate_series(1, {n}) i;
insert into workflow_queue (instance_id, workflow_definition_id, event_id, since, business_key, due)
select bench_id('i', {seed}, i), {definition}, bench_id('e', {seed}, i), {base} + i,
       'three_steps live estimate:' || {seed} || '-' || i, clock_timestamp()
from generate_series(1, {n}) i;
"""

# What PostgreSQL does for the same rows when a bare client hands it whole batches: claim, three
# step rows each, the end. Every batch is a transaction of its own.
CEILING = """
create or replace procedure bench_ceiling(n int) language plpgsql as $$
declare
  ids uuid[];
  done int := 0;
begin
  while done < n loop
    with u as (update workflow_queue q set worker = md5('w')::uuid, epoch = q.epoch + 1
      where q.instance_id = any(array(select w.instance_id from workflow_queue w
        where w.priority = 2 and w.due <= now() and w.worker is null
        order by w.due limit 500 for update skip locked)) returning q.instance_id)
    select array_agg(instance_id) into ids from u;
    exit when ids is null;
    commit;
    for step in 1..3 loop
      insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
        name, args_hash, input, output, at, started_at, finished_at)
      select i, 1, step, '', step, 'done', 'bench.work#' || step, 'd1e2f3a4b5c60718', '{{"n":1}}',
        '{{"n":1,"text":"a result of about a hundred bytes, as an ordinary action returns it, no more"}}',
        now(), now(), now() from unnest(ids) i;
      commit;
    end loop;
    delete from workflow_queue q where q.instance_id = any(ids);
    update workflow_instances i set state = 'done', finished_at = now() where i.id = any(ids);
    commit;
    done := done + cardinality(ids);
  end loop;
end $$;
"""


class Bench:
    def __init__(self, program, workers, files=FILES, settings="", roles=("--role", "workflow")):
        self.folder = tempfile.mkdtemp(prefix="moonwright-bench.")
        os.chmod(self.folder, 0o755)
        for name, text in files.items():
            path = os.path.join(self.folder, "workflows", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        with open(os.path.join(self.folder, ".env"), "w") as file:
            file.write("MOONWRIGHT_HOME=%s\nMOONWRIGHT_WORKFLOWS=%s/workflows\n"
                       "MOONWRIGHT_DATA=%s/var\nMOONWRIGHT_HTTP=127.0.0.1:%d\n%s"
                       % (ROOT, self.folder, self.folder, free_port(), settings))
        self.program, self.seed, self.base = program, 0, 0
        with open(os.path.join(self.folder, "log"), "w") as log:
            self.process = subprocess.Popen([program, "run", "--workers", str(workers)] + list(roles),
                                            cwd=self.folder, stdout=log, stderr=log)
        self.database = self.connect()
        while not self.database.sql("select 1 from workflow_definitions where active "
                                    "and name = 'three_steps'"):
            self.alive()
            time.sleep(0.1)
        self.definition = self.database.sql("select id from workflow_definitions where active "
                                            "and name = 'three_steps'")
        self.database.sql(IDS)
        time.sleep(0.5)

    def alive(self):
        if self.process.poll() is not None:
            with open(os.path.join(self.folder, "log")) as log:
                raise SystemExit("bench: moonwright ended: " + log.read()[-500:])

    def connect(self):
        self.url = "host=%s/var/socket port=5432 user=moonwright dbname=moonwright" % self.folder
        for _ in range(300):
            self.alive()
            try:
                found = Connection(self.url)
                if found.sql("select to_regclass('workflow_definitions')"):
                    return found
                found.close()
            except RuntimeError:
                pass
            time.sleep(0.1)
        raise SystemExit("bench: the private PostgreSQL didn't come up in 30 s")

    def postmaster(self):
        with open(os.path.join(self.folder, "var", "postgres", "postmaster.pid")) as file:
            return int(file.readline())

    def engine_pids(self):
        return [p for p in family(self.process.pid) if p != self.postmaster()
                and p not in family(self.postmaster())]

    def measure(self, *ours):
        """CPU of the engine, and of PostgreSQL but for the connections that only watch."""
        watching = [int(c.sql("select pg_backend_pid()")) for c in (self.database,) + ours]
        return cpu(self.engine_pids()), cpu(family(self.postmaster())) - cpu(watching)

    def backlog(self, n):
        """Leaves a transaction open that has written them; commit() starts the clock."""
        self.seed += 1
        self.database.sql("begin")
        self.database.sql(BACKLOG.format(n=n, seed=self.seed, base=self.base,
                                         definition=self.definition))
        self.base += n

    def drain(self, n):
        self.backlog(n)
        watch = self.connect()
        engine, postgres = self.measure(watch)
        begun = time.monotonic()
        self.database.sql("commit; notify work")
        left, last = n, None    # the last of those that aren't known to have ended, and its id
        while left:
            self.alive()
            if last and watch.sql("select 1 from workflow_queue where instance_id = '%s'" % last):
                time.sleep(0.005)   # watching takes next to nothing of the machine that is measured
                continue
            found = watch.sql(
                "select k, bench_id('i', %d, k) from generate_series(%d, 1, -1) k cross join lateral (select from "
                "workflow_queue q where q.instance_id = bench_id('i', %d, k) offset 0) x limit 1"
                % (self.seed, left, self.seed))
            left, last = found.split("|") if found else (0, None)
            left = int(left)
        seconds = time.monotonic() - begun
        engine_after, postgres_after = self.measure(watch)
        bad = watch.sql(
            "select count(*) from (select bench_id('i', %d, k) as id from generate_series(1, %d) k offset 0) b "
            "where not exists (select from workflow_instances i where i.id = b.id and i.state = 'done') or 3 <> "
            "(select count(*) from workflow_step_executions s where s.workflow_instance_id = b.id)"
            % (self.seed, n))
        watch.close()
        if bad != "0":
            raise SystemExit("bench: %s instances are not done with three steps" % bad)
        return {"per_s": n / seconds, "engine": (engine_after - engine) * 1000 / n,
                "postgres": (postgres_after - postgres) * 1000 / n}

    def ceiling(self, n):
        """The same rows by batched SQL, with the daemon asleep."""
        for pid in self.engine_pids()[1:]:
            os.kill(pid, signal.SIGSTOP)
        try:
            self.database.sql(CEILING.replace("{{", "{").replace("}}", "}"))
            self.backlog(n)
            self.database.sql("commit")
            before, begun = cpu(family(self.postmaster())), time.monotonic()
            self.database.sql("call bench_ceiling(%d)" % n)
            seconds = time.monotonic() - begun
            used = cpu(family(self.postmaster())) - before
        finally:
            for pid in self.engine_pids()[1:]:
                os.kill(pid, signal.SIGCONT)
        return {"per_s": n / seconds, "postgres": used * 1000 / n}

    def close(self):
        self.database.close()
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def engine(bench, options):
    bench.drain(1000)       # prepares statements, as a daemon that has run for a while
    runs = [bench.drain(options.n) for _ in range(options.runs)]
    top = [bench.ceiling(options.n) for _ in range(options.runs)]
    for r in runs:
        print("drain    %8.0f workflows/s  %.4f CPU s per 1,000 (engine %.4f, PostgreSQL %.4f)"
              % (r["per_s"], r["engine"] + r["postgres"], r["engine"], r["postgres"]))
    for r in top:
        print("ceiling  %8.0f workflows/s  %.4f CPU s per 1,000" % (r["per_s"], r["postgres"]))
    return {"workflows_per_s": round(median([r["per_s"] for r in runs])),
            "cpu_s_per_1k": round(median([r["engine"] + r["postgres"] for r in runs]), 4),
            "ceiling_workflows_per_s": round(median([r["per_s"] for r in top])),
            "ceiling_cpu_s_per_1k": round(median([r["postgres"] for r in top]), 4),
            "peak_rss_mb": round(peak_mb(bench.engine_pids()), 1)}


def sleepers(bench, options):
    """The cost of a workflow by the size of the backlog, beside sleeping instances and old steps."""
    idle = peak_mb(bench.engine_pids())
    for sql in SLEEPERS:
        bench.database.sql(sql.format(sleepers=options.sleepers, steps=options.old_steps,
                                      definition=bench.definition))
    superuser = Connection(bench.url.replace("user=moonwright", "user=postgres"))
    superuser.sql("checkpoint")     # what was written above isn't the drains' to write out
    superuser.close()
    bench.drain(1000)
    cost = {}
    for n in (2000, 10000, options.n * 20):
        run = bench.drain(n)
        cost[n] = run["engine"] + run["postgres"]
        print("backlog %7d  %8.0f workflows/s  %.4f CPU s per 1,000" % (n, run["per_s"], cost[n]))
    flat = max(cost.values()) / min(cost.values()) - 1
    print("changes by %.0f %%; a worker's peak %.1f MB" % (flat * 100, peak_mb(bench.engine_pids())))
    return {"cpu_s_per_1k": {str(n): round(c, 4) for n, c in cost.items()}, "spread": round(flat, 3),
            "idle_rss_mb": round(idle, 1), "peak_rss_mb": round(peak_mb(bench.engine_pids()), 1)}


def sync(options):
    feeds = {feed: benchmark_sync.pages_of(feed, options.rows) for feed in options.feeds.split(",")}
    server = benchmark_sync.PageServer(feeds)
    try:
        bench = Bench(options.program, options.workers, FILES, benchmark_sync.settings_of(server))
        try:
            return benchmark_sync.sync(bench, options, feeds, server)
        finally:
            bench.close()
    finally:
        server.close()


def main():
    p = argparse.ArgumentParser(prog="tools/bench")
    p.add_argument("what", choices=["engine", "latency", "sleepers", "replay", "conditions",
                                    "sync"])
    p.add_argument("--json", action="store_true", help="the last line is one JSON object")
    p.add_argument("-n", type=int, default=10000, help="workflows in the backlog")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--samples", type=int, default=200)
    p.add_argument("--idle", type=float, default=60, help="seconds of idleness that are measured")
    p.add_argument("--sleepers", type=int, default=1000000, help="instances asleep beside")
    p.add_argument("--old-steps", type=int, default=10000000, help="step rows of the past beside")
    p.add_argument("--rows", type=int, default=100000, help="rows of each feed that is copied")
    p.add_argument("--feeds", default="customers", help="what is copied side by side: " +
                   ",".join(benchmark_sync.FEEDS))
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--program", required=True, help=argparse.SUPPRESS)
    options = p.parse_args()
    files = dict(FILES, **{"conditions": benchmark_conditions.FILES,
                           "replay": benchmark_replay.FILES}.get(options.what, {}))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended"))
    if options.what == "sync":
        found = sync(options)
    else:
        roles = () if options.what == "latency" else ("--role", "workflow")
        bench = Bench(options.program, options.workers, files, roles=roles)
        try:
            found = {"engine": engine, "latency": benchmark_latency.latency, "sleepers": sleepers,
                     "replay": benchmark_replay.replay, "conditions": conditions}[options.what](bench, options)
        finally:
            bench.close()
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
