"""Running instances: real worker processes, a real database, crashes in the middle."""
import json
import os
import signal
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from database import ROOT, DatabaseTest, until  # noqa: E402
from pg_proxy import Proxy  # noqa: E402

DRIVER = os.environ.get("EXECUTE_DRIVER", "")
LUA_DIR = os.environ.get("LUA_DIR", os.path.join(ROOT, "lua"))

SUPPORT = """
create table effects (id bigint generated always as identity, instance uuid, step text, name text,
  text text, due text, at timestamptz not null default clock_timestamp());
-- Settles one event as detection does: under the gate; instances that a worker holds are told by
-- their inbox alone.
create function happen(type text, keys text[], payload json, at timestamptz default business_now())
returns uuid language plpgsql as $$
declare
  id uuid := gen_random_uuid();
  n bigint;
begin
  perform lock_gate();
  update gate set settled = gate.settled + 1 returning gate.settled into n;
  payload := (payload::jsonb || jsonb_build_object('id', id, 'name', type))::json;
  insert into events (id, type, entity, entity_id, at, noticed_at, settled, payload)
  values (id, type, 'estimate', id::text, at, business_now(), n, payload);
  insert into event_keys select k, type, n, id from unnest(keys) k;
  insert into workflow_inbox (instance_id, event_id, kind, settled)
  select distinct s.instance_id, id, s.kind, n from workflow_subscriptions s
  where s.key = any(keys) and s.type = happen.type and s.since < n on conflict do nothing;
  update workflow_queue q set due = clock_timestamp()
  where q.worker is null and q.instance_id in (
    select s.instance_id from workflow_subscriptions s
    where s.key = any(keys) and s.type = happen.type and s.since < n);
  return id;
end $$;
-- Starts n instances of a workflow for events of their own.
create function begin_instances(workflow text, n int, stops json default null) returns setof uuid
language plpgsql as $$
declare
  d int := (select max(w.id) from workflow_definitions w where w.name = workflow);
  e uuid;
  i uuid;
  s bigint;
begin
  for k in 1..n loop
    i := gen_random_uuid();
    e := happen('estimate_created', array['estimate:' || k], json_build_object('of', 'estimate',
      'estimate', json_build_object('id', k, 'status', 'Open', 'total', 1200),
      'customer', json_build_object('id', k, 'first_name', 'Ann', 'zone', 'America/New_York')));
    s := (select settled from events where id = e);
    insert into workflow_instances (id, workflow_definition_id, workflow, event_id, created_at)
    values (i, d, workflow, e, business_now());
    insert into workflow_queue (instance_id, workflow_definition_id, event_id, due, since, watched)
    values (i, d, e, clock_timestamp(), s, stops is not null);
    insert into workflow_subscriptions (instance_id, kind, type, key, since, judged)
    select i, 'stop', t.key, 'estimate:' || k, s, (t.value::text)::boolean
    from json_each(stops) t;
    return next i;
  end loop;
end $$;
"""


class Worker:
    def __init__(self, url, log_path, lease_ms):
        with open(log_path, "a") as log:
            self.process = subprocess.Popen([DRIVER, url, LUA_DIR, str(lease_ms)],
                                            stdout=subprocess.PIPE, stderr=log, text=True)
        self.id = self.process.stdout.readline().strip()

    def kill(self):
        """Once more does no harm."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.said = self.process.stdout.read()
            self.process.stdout.close()
        return self.process.returncode


class Case(DatabaseTest):
    scale, more = 1, SUPPORT
    explain = "select state, stuck, reason, error, due, worker from instances limit 5"

    def setUp(self):
        super().setUp()
        self.sql("insert into clock values (true, now(), '2026-06-01 12:00+00', %s)" % self.scale)

    def worker(self, lease_ms=60000, url=None):
        w = Worker(url or self.database.url, self.log_path, lease_ms)
        self.addCleanup(w.kill)
        return w

    def define(self, source, name="x", more=None, declaration=None):
        files = {"workflows/%s.lua" % name: source}
        declared = {"events": {"estimate_approved": {"of": "estimate"}, "estimate_repriced": {"of": "estimate"}}}
        declared.update(declaration or {})
        version = self.sql("select count(*) + 1 from workflow_definitions where name = '%s'" % name)
        self.sql("insert into workflow_definitions (name, version, sha256, files, declaration, active)"
                 " values ('%s', %s, '%s', $f$%s$f$, $f$%s$f$, false)"
                 % (name, version, uuid.uuid4().hex, json.dumps(files), json.dumps(declared)))

    def body(self, text, more="", name="x"):
        self.define("return workflow { on = 'estimate_created', %s run = function(e)\n%s\nend }"
                    % (more, text), name)

    def begin(self, n=1, stops=None, name="x", told="; notify work"):
        given = "null" if stops is None else "'%s'" % json.dumps(stops)
        return self.sql("select * from begin_instances('%s', %d, %s)%s" % (name, n, given, told)).split("\n")

    def happen(self, kind, keys, payload="{}", at="business_now()"):
        return self.sql("select happen('%s', array['%s'], '%s', %s); notify work" % (kind, "','".join(keys), payload, at))

    def states(self, **wanted):
        text = "\n".join("%s|%d" % p for p in sorted(wanted.items()))
        self.wait("select state, count(*) from instances group by 1 order by 1", text)


class PlainTest(Case):
    def test_runs_each_step_once_and_ends(self):
        self.body("local s = sms.send { to = e.customer, text = 'a' }\n"
                  "note('it was ' .. s.status)\nreturn s.status")
        self.begin(20)
        w = self.worker()
        self.states(done=20)
        self.assertEqual("20", self.sql("select count(*) from effects"))
        self.assertEqual("40", self.sql("select count(*) from workflow_step_executions"))
        self.assertEqual("20|it was sent", self.sql(
            "select count(*), min(text) from workflow_notes"))
        self.assertEqual("20|sent", self.sql(
            "select count(*), min(outcome) from workflow_instances where finished_at is not null"))
        self.assertEqual("0", self.sql("select count(*) from workflow_queue"))
        self.assertEqual(0, w.end())
        self.assertEqual("0", self.sql("select count(*) from workflow_workers"))

    def test_two_workers_share_a_thousand_instances_each_step_once(self):
        self.body("for i = 1, 3 do sms.send { to = e.customer, text = 'n ' .. i } end")
        self.begin(1000)
        self.worker(), self.worker()
        self.states(done=1000)
        self.assertEqual("3000|3000", self.sql(
            "select count(*), count(distinct (instance, step)) from effects"))
        self.assertEqual("3000|1|3", self.sql(
            "select count(*), min(seq), max(seq) from workflow_step_executions"))

    def test_a_worker_with_nothing_due_does_not_ask_all_the_time(self):
        self.assertEqual("never", self.sql("select coalesce(next_due()::text, 'never')"))
        self.body("sleep '1h'")
        self.begin(1)
        w = self.worker()
        self.states(sleeping=1)
        self.assertEqual("t", self.sql("select next_due() between 1000 and 3600000"))
        self.assertEqual(0, w.end())

    def test_what_nobody_tells_of_is_found(self):
        self.body("return 'x'")
        self.begin(1)
        self.worker()
        self.states(done=1)
        time.sleep(0.5)
        self.begin(1, told="")
        self.states(done=2)

    def test_a_lone_instance_takes_no_unit_more_than_its_steps(self):
        # The claim, three intents, three steps, the end; what looks for more goes with the first step.
        self.body("for i = 1, 3 do sms.send { to = e.customer, text = 'a' } end")
        self.sql("do $$ begin execute 'alter database ' || current_database() || ' set track_functions = pl'; end $$")
        counted = ("select coalesce(sum(calls) filter (where funcname = 'fence'), 0), "
                   "coalesce(sum(calls) filter (where funcname = 'claim'), 0) from pg_stat_user_functions")
        w = self.worker()
        seen = []
        for n in range(1, 21):  # on a busy machine it is in time only now and then
            before = self.counts(counted)
            self.begin(1)
            self.states(done=n)
            time.sleep(1.2)     # a backend tells what it did once a second
            seen.append([a - b for a, b in zip(self.counts(counted), before)])
            if seen[-1] == [8, 2]:
                break
        self.assertIn([8, 2], seen)
        self.assertEqual(0, w.end())

    def counts(self, sql):
        return [int(n) for n in self.sql(sql).split("|")]

    def test_file_locals_are_not_shared(self):
        self.define("local n = 0\nreturn workflow { on = 'x', run = function(e)\n"
                    "n = n + 1\nsms.send { to = e.customer, text = 'a' }\nreturn tostring(n) end }")
        self.begin(30)
        self.worker()
        self.states(done=30)
        self.assertEqual("1", self.sql("select distinct outcome from workflow_instances"))

    def test_branches_run_side_by_side_and_wait_together(self):
        self.body("local r = all { function() sleep '1s' return 'f' end,\n"
                  "  function() return sms.send({ to = e.customer, text = 'slow 200' }).status end }\n"
                  "return r[1] .. r[2]")
        self.begin(3)
        self.worker()
        self.states(done=3)
        self.assertEqual("fsent", self.sql("select distinct outcome from workflow_instances"))


class FailureTest(Case):
    def test_a_failed_step_is_stuck_and_retried(self):
        self.body("sms.send { to = e.customer, text = 'a' }\nsms.send { to = e.customer, text = 'fail' }")
        self.begin()
        self.worker()
        self.states(stuck=1)
        self.assertEqual("action_failed|2|t", self.sql(
            "select stuck->>'code', stuck->>'ordinal', stuck->>'since' is not null from instances"))
        self.assertEqual("t", self.sql("select retry_instance(id) from instances"))
        self.wait("select count(*) from effects where text = 'fail'", "2")
        self.states(stuck=1)
        self.assertEqual("1", self.sql("select count(*) from effects where text = 'a'"))

    def test_a_held_send_is_stuck_until_it_is_settled(self):
        self.body("sms.send { to = e.customer, text = 'hold' }")
        self.begin()
        self.worker()
        self.states(stuck=1)
        self.assertEqual("send_in_doubt", self.sql("select stuck->>'code' from instances"))
        self.sql("select resume_instance(id) from instances")
        self.wait("select count(*) from effects", "2")

    def test_a_send_settled_while_its_instance_is_given_up_goes_on(self):
        self.body("sms.send { to = e.customer, text = 'hold 500' }")
        self.begin()
        self.worker()
        self.wait("select count(*) from effects", "1")
        self.sql("select resume_instance(id) from instances")
        self.wait("select count(*) from effects", "2")

    def test_a_postponed_step_waits_and_goes_on(self):
        self.body("sms.send { to = e.customer, text = 'later 700' }")
        self.begin()
        self.worker()
        self.states(waiting=1)
        self.states(done=1)
        self.assertEqual("2", self.sql("select count(*) from effects"))

    def test_a_bug_is_stuck_with_its_line_and_goes_on_with_another_version(self):
        self.body("sms.send { to = e.customer, text = 'a' }\nlocal x = e.gone.name")
        self.begin()
        self.worker()
        self.states(stuck=1)
        self.assertIn("workflows/x.lua:3", self.sql("select stuck->>'message' from instances"))
        self.body("sms.send { to = e.customer, text = 'a' }\nreturn 'mended'")
        self.sql("update workflow_queue set workflow_definition_id = 2")
        self.sql("select resume_instance(id) from instances")
        self.states(done=1)
        self.assertEqual("1", self.sql("select count(*) from effects"))

    def test_a_divergence_is_stuck_with_both_names(self):
        self.body("sms.send { to = e.customer, text = 'a' }\nsleep '1s'")
        self.begin()
        self.worker()
        self.states(sleeping=1)
        self.body("email.send { to = e.customer, text = 'a' }\nsleep '1s'")
        self.sql("update workflow_queue set workflow_definition_id = 2")
        self.states(stuck=1)
        self.assertEqual("diverged|sms.send#1|email.send#1", self.sql(
            "select stuck->>'code', stuck->'recorded'->>'name', stuck->'asked'->>'name' from instances"))

    def test_an_endless_loop_is_stuck_and_holds_nobody_up(self):
        self.body("while true do end", name="loop")
        self.body("sms.send { to = e.customer, text = 'a' }")
        self.begin(1, name="loop")
        self.begin(5)
        self.worker()
        self.states(done=5, stuck=1)
        self.assertEqual("budget", self.sql("select stuck->>'code' from instances where stuck is not null"))

    def test_what_the_database_refuses_harms_its_instance_alone(self):
        self.body("if e.estimate.id == 7 then return 'bad \\0 value' end\n"
                  "sms.send { to = e.customer, text = 'a' }\nreturn 'good'")
        self.sql("create function no_seven() returns trigger language plpgsql as $$ begin"
                 " if new.input->'to'->>'id' = '9' then raise exception 'not this one'; end if;"
                 " return new; end $$;"
                 "create trigger no_seven before insert on workflow_step_executions"
                 " for each row execute function no_seven()")
        self.begin(40)
        self.worker()
        self.states(done=38, stuck=2)
        self.assertEqual("record_failed,script_error", self.sql(
            "select string_agg(stuck->>'code', ',' order by stuck->>'code') from instances"))


class StopTest(Case):
    def test_a_stop_ends_a_sleeping_instance(self):
        self.body("sms.send { to = e.customer, text = 'a' }\nsleep '1h'\nsms.send { to = e.customer, text = 'b' }")
        self.begin(2, {"estimate_approved": False})
        self.worker()
        self.states(sleeping=2)
        self.happen("estimate_approved", ["estimate:2"])
        self.states(sleeping=1, stopped=1)
        self.assertEqual("estimate_approved", self.sql(
            "select reason from workflow_instances where finished_at is not null"))
        self.assertEqual("1", self.sql("select count(*) from workflow_subscriptions where kind = 'stop'"))

    def test_a_stop_between_steps_lets_nothing_more_out(self):
        self.body("sms.send { to = e.customer, text = 'slow 600' }\nsms.send { to = e.customer, text = 'b' }")
        self.begin(1, {"estimate_approved": False})
        self.worker()
        self.wait("select count(*) from effects", "1")
        self.happen("estimate_approved", ["estimate:1"])
        self.states(stopped=1)
        self.assertEqual("1", self.sql("select count(*) from effects"))
        self.assertEqual("1", self.sql("select count(*) from workflow_step_executions"))

    def test_no_effect_after_a_stop_however_they_race(self):
        self.body("for i = 1, 2000 do sms.send { to = e.customer, text = 'n' .. i } end")
        self.begin(20, {"estimate_approved": False})
        self.worker()
        self.sql(";".join("select happen('estimate_approved', array['estimate:%d'], '{}')" % k
                          for k in range(1, 21)))
        self.states(stopped=20)
        # An effect's statement may have begun before the stop was there, not after.
        self.assertEqual("0", self.sql(
            "select count(*) from effects f"
            " join workflow_instances i on i.id = f.instance join events t on t.id = i.event_id"
            " join event_keys k on k.key = 'estimate:' || (t.payload->'estimate'->>'id')"
            "   and k.type = 'estimate_approved'"
            " join events s on s.id = k.event_id"
            " where f.at > real_of(s.noticed_at) + interval '100 ms'"))

    def test_a_stop_between_steps_is_seen_before_what_has_no_effect_too(self):
        self.body("sms.send { to = e.customer, text = 'slow 600' }\nnote 'x'\nsleep '1h'")
        self.begin(1, {"estimate_approved": False})
        self.worker()
        self.wait("select count(*) from effects", "1")
        self.happen("estimate_approved", ["estimate:1"])
        self.states(stopped=1)
        self.assertEqual("0", self.sql("select count(*) from workflow_notes"))

    def test_what_a_person_asks_between_steps_is_seen_with_the_step(self):
        self.body("sms.send { to = e.customer, text = 'slow 600' }\nnote 'x'\nsleep '1h'")
        self.begin(1)
        self.worker()
        self.wait("select count(*) from effects", "1")
        self.sql("select cancel_instance(instance) from effects")
        self.states(cancelled=1)
        self.assertEqual("0", self.sql("select count(*) from workflow_notes"))

    def test_a_stop_is_judged_by_its_when(self):
        self.body("sms.send { to = e.customer, text = 'slow 300' }\nsms.send { to = e.customer, text = 'b' }\nsleep '1h'",
                  "stop_when = { estimate_repriced = { when = function(it) return it.estimate.total < 1000 end } },")
        self.begin(1, {"estimate_repriced": True})
        self.worker()
        self.wait("select count(*) from effects", "1")
        self.happen("estimate_repriced", ["estimate:1"], '{"estimate":{"id":1,"total":1100}}')
        self.states(sleeping=1)
        self.assertEqual("2|not ours", self.sql(
            "select (select count(*) from effects), verdict from workflow_inbox where kind = 'stop'"))
        self.happen("estimate_repriced", ["estimate:1"], '{"estimate":{"id":1,"total":900}}')
        self.states(stopped=1)

    def test_a_stop_whose_when_raises_lets_nothing_out_and_asks_a_person(self):
        self.body("sms.send { to = e.customer, text = 'slow 400' }\nsms.send { to = e.customer, text = 'b' }",
                  "stop_when = { estimate_repriced = { when = function(it) return it.gone.total < 1 end } },")
        self.begin(1, {"estimate_repriced": True})
        self.worker()
        self.wait("select count(*) from effects", "1")
        self.happen("estimate_repriced", ["estimate:1"])
        self.states(stuck=1)
        self.assertEqual("stop_error|t", self.sql(
            "select stuck->>'code', stuck->>'message' like '%workflows/x.lua:1%' from instances"))
        epoch = self.sql("select epoch from instances")
        time.sleep(0.5)
        self.assertEqual(epoch, self.sql("select epoch from instances"))
        self.assertEqual("1", self.sql("select count(*) from effects"))

    def test_on_stop_runs_in_steps_and_is_not_stopped(self):
        self.body("sleep '1h'",
                  "on_stop = function(e, by) sms.send { to = e.customer, text = by.name }\nsleep '1s'\n"
                  "sms.send { to = e.customer, text = 'later 300' } end,")
        self.begin(1, {"estimate_approved": False})
        self.worker()
        self.states(sleeping=1)
        self.happen("estimate_approved", ["estimate:1"])
        self.states(stopping=1)
        self.happen("estimate_approved", ["estimate:1"])
        self.states(stopped=1)
        self.assertEqual("estimate_approved,later 300,later 300", self.sql(
            "select string_agg(text, ',' order by id) from effects"))

    def test_a_stuck_instance_is_stopped_too(self):
        self.body("sms.send { to = e.customer, text = 'hold' }")
        self.begin(1, {"estimate_approved": False})
        self.worker()
        self.states(stuck=1)
        self.happen("estimate_approved", ["estimate:1"])
        self.states(stopped=1)

    def test_a_person_cancels_pauses_and_resumes(self):
        self.body("sms.send { to = e.customer, text = 'slow 400' }\nsms.send { to = e.customer, text = 'b' }\nsleep '1h'")
        self.begin(2)
        self.worker()
        self.wait("select count(*) from effects", "2")
        self.sql("select cancel_instance(instance) from effects where id = 1;"
                 "select pause_instance(instance) from effects where id = 2")
        self.states(cancelled=1, paused=1)
        self.assertEqual("2", self.sql("select count(*) from effects"))
        self.sql("select resume_instance(instance) from effects where id = 2")
        self.states(cancelled=1, sleeping=1)
        self.sql("select cancel_instance(instance) from effects where id = 2")
        self.states(cancelled=2)


class WaitTest(Case):
    def test_a_wait_takes_the_oldest_event_once(self):
        self.body("local a = wait_for('estimate_approved')\nlocal b = wait_for('estimate_approved', { timeout = '2s' })\n"
                  "return a.data.n .. ' ' .. tostring(b and b.data.n)")
        self.begin(1)
        self.happen("estimate_approved", ["estimate:1"], '{"data":{"n":1}}')
        self.happen("estimate_approved", ["estimate:2"], '{"data":{"n":9}}')
        self.worker()
        self.states(waiting=1)
        self.happen("estimate_approved", ["estimate:1"], '{"data":{"n":2}}')
        self.states(done=1)
        self.assertEqual("1 2", self.sql("select outcome from workflow_instances"))
        self.assertEqual("0|0", self.sql("select (select count(*) from workflow_waits),"
                                         " (select count(*) from workflow_subscriptions)"))

    def test_a_wait_is_judged_and_runs_out(self):
        self.body("local a = wait_for('estimate_approved', { timeout = '3s', when = function(it) return it.data.n > 1 end })\n"
                  "return tostring(a and a.data.n)")
        self.begin(2)
        self.worker()
        self.states(waiting=2)
        self.happen("estimate_approved", ["estimate:1", "estimate:2"], '{"data":{"n":1}}')
        self.wait("select count(*) from workflow_queue where due <= clock_timestamp()", "0")
        self.happen("estimate_approved", ["estimate:2"], '{"data":{"n":2}}')
        self.states(done=2)
        self.assertEqual("2,nil", self.sql("select string_agg(outcome, ',' order by outcome) from workflow_instances"))

    def test_a_timeout_yields_to_an_event_that_came_in_time(self):
        self.body("local a = wait_for('estimate_approved', { timeout = '1s' })\nreturn tostring(a and a.name)")
        self.begin(2)
        w = self.worker()
        self.states(waiting=2)
        w.kill()
        self.wait("select min(deadline) < business_now() from workflow_waits", "t")
        self.happen("estimate_approved", ["estimate:1"],
                    at="(select min(deadline) - interval '1 ms' from workflow_waits)")
        self.happen("estimate_approved", ["estimate:2"])
        self.worker()
        self.states(done=2)
        self.assertEqual("estimate_approved,nil", self.sql(
            "select string_agg(outcome, ',' order by outcome) from workflow_instances"))

    def test_branches_whose_timeout_waits_for_detection_look_now_and_then(self):
        self.body("local a = all { function() return wait_for('estimate_approved', { timeout = '1s' }) ~= nil end,"
                  " function() return wait_for('estimate_repriced', { timeout = '2s' }) ~= nil end }\n"
                  "return tostring(a[1]) .. tostring(a[2])")
        self.begin(1)
        self.sql("insert into arrivals (type, entity, entity_id, at, payload)"
                 " values ('estimate_approved', 'estimate', '1', business_now(), '{}')")
        self.worker()
        self.wait("select min(deadline) < business_now() - interval '2 s' from workflow_waits", "t")
        self.assertLess(int(self.sql("select epoch from workflow_queue")), 8)
        self.happen("estimate_approved", ["estimate:1"], at="(select at from arrivals)")
        self.sql("delete from arrivals")
        self.states(done=1)
        self.assertEqual("truefalse", self.sql("select outcome from workflow_instances"))

    def test_a_timeout_waits_for_detection(self):
        self.body("local a = wait_for('estimate_approved', { timeout = '1s' })\nreturn tostring(a and a.name)")
        self.begin(1)
        self.sql("insert into arrivals (type, entity, entity_id, at, payload)"
                 " values ('estimate_approved', 'estimate', '1', business_now(), '{}')")
        self.worker()
        self.wait("select max(deadline) < business_now() - interval '1 s' from workflow_waits", "t")
        self.states(waiting=1)
        self.happen("estimate_approved", ["estimate:1"], at="(select at from arrivals)")
        self.sql("delete from arrivals")
        self.states(done=1)
        self.assertEqual("estimate_approved", self.sql("select outcome from workflow_instances"))

    def test_a_wait_since_a_time_sees_what_came_before_the_start(self):
        self.body("local a = wait_for('estimate_approved', { since = moment(e.time or now(), { before = '1m' }), timeout = '1s' })\n"
                  "return tostring(a and a.data.n)")
        self.happen("estimate_approved", ["estimate:1"], '{"data":{"n":1}}', "business_now() - interval '1 h'")
        self.happen("estimate_approved", ["estimate:1"], '{"data":{"n":2}}', "business_now() - interval '20 s'")
        self.begin(1)
        self.worker()
        self.states(done=1)
        self.assertEqual("2", self.sql("select outcome from workflow_instances"))

    def test_a_signal_reaches_one_instance(self):
        self.body("local a = wait_for('signal_go', { timeout = '2s' })\nreturn tostring(a and a.data.n)")
        ids = self.begin(2)
        self.worker()
        self.states(waiting=2)
        self.happen("signal_go", ["instance:" + ids[0]], '{"data":{"n":7}}')
        self.states(done=2)
        self.assertEqual("7,nil", self.sql(
            "select string_agg(outcome, ',' order by outcome) from workflow_instances"))

    def test_an_event_between_two_waits_is_there_for_the_second(self):
        self.body("wait_for('estimate_approved')\nsms.send { to = e.customer, text = 'slow 500' }\n"
                  "return wait_for('estimate_approved').data.n .. ''")
        self.begin(1)
        self.worker()
        self.states(waiting=1)
        self.happen("estimate_approved", ["estimate:1"], '{"data":{"n":1}}')
        self.wait("select count(*) from effects", "1")
        self.happen("estimate_approved", ["estimate:1"], '{"data":{"n":2}}')
        self.states(done=1)
        self.assertEqual("2", self.sql("select outcome from workflow_instances"))

    def test_a_wait_in_a_branch_is_woken_while_the_other_acts(self):
        self.body("local r = all { function() return wait_for('estimate_approved').name end,\n"
                  "  function() return sms.send({ to = e.customer, text = 'slow 700' }).status end }\n"
                  "return r[1] .. ' ' .. r[2]")
        self.begin(2)
        self.worker()
        self.wait("select count(*) from workflow_waits", "2")
        self.happen("estimate_approved", ["estimate:1"])
        self.states(done=1, waiting=1)
        self.happen("estimate_approved", ["estimate:2"])
        self.states(done=2)

    def test_events_and_waits_never_miss_each_other(self):
        self.body("local a = wait_for('estimate_approved')\nreturn a.name")
        self.begin(60)
        self.worker(), self.worker()
        for k in range(1, 61):
            self.happen("estimate_approved", ["estimate:%d" % k])
        self.states(done=60)
        self.assertEqual("0", self.sql("select count(*) from workflow_waits"))

    def test_an_end_leaves_no_wait_behind(self):
        self.body("all { function() wait_for('estimate_approved') end, function()\n"
                  "sms.send { to = e.customer, text = 'slow 300' } stop 'enough' end }")
        self.begin(3)
        self.worker()
        self.states(stopped=3)
        self.assertEqual("0|0|enough", self.sql(
            "select (select count(*) from workflow_waits), (select count(*) from workflow_subscriptions),"
            " (select distinct reason from workflow_instances)"))


class LossTest(Case):
    def test_a_killed_worker_is_taken_over_and_no_step_is_recorded_twice(self):
        self.body("for i = 1, 5 do sms.send { to = e.customer, text = 'slow 50' } end\nreturn 'all'")
        self.begin(100)
        first = self.worker()
        self.wait("select count(*) >= 150 from workflow_step_executions", "t")
        first.kill()
        self.worker()
        self.states(done=100)
        self.assertEqual("500|500", self.sql(
            "select count(*), count(distinct (workflow_instance_id, ordinal)) from workflow_step_executions"))

    def test_a_dead_predecessor_of_this_machine_is_replaced_at_once(self):
        self.body("sms.send { to = e.customer, text = 'slow 300' }")
        self.begin(5)
        first = self.worker()
        self.wait("select count(*) from effects", "5")
        first.kill()
        self.worker()
        self.states(done=5)
        self.assertEqual("1", self.sql("select count(*) from workflow_workers"))

    def test_a_live_worker_is_never_replaced(self):
        self.body("sms.send { to = e.customer, text = 'slow 4500' }")
        self.begin(5)
        self.worker(2000)
        self.wait("select count(*) from effects", "5")
        self.worker(2000)
        self.states(done=5)
        self.assertEqual("5|2", self.sql("select count(*), (select count(*) from workflow_workers) from effects"))

    def test_a_stalled_worker_writes_nothing_more(self):
        self.body("sms.send { to = e.customer, text = 'slow 500' }\nsms.send { to = e.customer, text = 'slow 500' }")
        self.begin(10)
        stalled = self.worker(1500)
        self.wait("select count(*) from effects", "10")
        stalled.process.send_signal(signal.SIGSTOP)
        other = self.worker(1500)
        self.wait("select count(*) from workflow_queue where worker = '%s'" % stalled.id, "0")
        stalled.process.send_signal(signal.SIGCONT)
        self.assertEqual(3, stalled.process.wait(10))
        stalled.process.stdout.close()
        self.states(done=10)
        self.assertEqual("20|20", self.sql(
            "select count(*), count(distinct (workflow_instance_id, ordinal)) from workflow_step_executions"))
        self.assertEqual(0, other.end())

    def test_a_lease_that_ran_out_by_the_databases_clock_alone_takes_nothing(self):
        self.body("sms.send { to = e.customer, text = 'slow 500' }")
        self.begin(1)
        stalled = self.worker(2400)
        self.wait("select count(*) from effects", "1")
        stalled.process.send_signal(signal.SIGSTOP)
        self.sql("update workflow_workers set until = now() - interval '1 hour'")  # its clock jumped
        jumped = time.monotonic()
        self.worker(2400)
        self.wait("select count(*) from workflow_workers where id = '%s'" % stalled.id, "0")
        self.assertGreater(time.monotonic() - jumped, 2.3)
        self.states(done=1)
        stalled.process.send_signal(signal.SIGCONT)
        self.assertEqual(3, stalled.process.wait(10))
        stalled.process.stdout.close()

    def test_the_fence_holds(self):
        self.sql("select worker_enter('00000000-0000-0000-0000-000000000001', 'm', 1, 0, 'workflow', 60000);"
                 "select worker_enter('00000000-0000-0000-0000-000000000002', 'm', 1, 0, 'workflow', -1)")
        self.sql("select fence('00000000-0000-0000-0000-000000000001')")
        for gone in ("2", "3"):  # ran out, never was
            with self.assertRaisesRegex(RuntimeError, "the lease of worker"):
                self.sql("select fence('00000000-0000-0000-0000-00000000000%s')" % gone)
        self.assertEqual("", self.sql("select takeover('00000000-0000-0000-0000-000000000001', 0)"))
        self.assertEqual("", self.sql("select takeover('00000000-0000-0000-0000-000000000002', 7)"))
        self.assertEqual("0", self.sql("select takeover('00000000-0000-0000-0000-000000000002', 0)"))

    def test_a_worker_that_died_before_the_clock_was_set_back_is_taken_over(self):
        self.body("return 'end'")
        self.begin(1)
        self.sql("select worker_enter('00000000-0000-0000-0000-000000000001', 'm', 1, 0, 'workflow', 30000);"
                 "update workflow_workers set until = until + interval '1 hour';"
                 "update workflow_queue set worker = '00000000-0000-0000-0000-000000000001'")
        self.worker(lease_ms=1000)
        self.states(done=1)

    def test_a_takeover_waits_for_the_unit_that_is_under_way(self):
        self.sql("select worker_enter('00000000-0000-0000-0000-000000000001', 'm', 1, 0, 'workflow', 300)")
        self.wait("select until < clock_timestamp() from workflow_workers", "f")

        def takeover():
            self.wait("select until < clock_timestamp() from workflow_workers", "t")
            return self.sql("select takeover('00000000-0000-0000-0000-000000000001', 0)")
        fence = "select fence('00000000-0000-0000-0000-000000000001')"
        self.assertEqual("0", self.overlap(fence, takeover)[1])

    def proxy(self):
        """One, and the database's address through it."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        host = dict(field.split("=", 1) for field in self.database.url.split())["host"]
        proxy = Proxy(folder, os.path.join(host, ".s.PGSQL.5432"))
        self.addCleanup(proxy.close)
        return proxy, self.database.url.replace(host, folder)

    def test_a_claim_that_is_committed_long_after_its_connection_was_cut_is_not_held_for_ever(self):
        proxy, url = self.proxy()
        self.body("return 'end'")
        # The first claim is slow; PostgreSQL doesn't notice that nobody waits for it any more.
        self.sql("create sequence claims; create function slow() returns trigger language plpgsql as $$ begin"
                 " if new.worker is not null and nextval('claims') = 1 then perform pg_sleep(2); end if;"
                 " return new; end $$;"
                 "create trigger slow before update on workflow_queue for each row execute function slow()")
        self.begin(1)
        self.worker(url=url)
        self.wait("select count(*) from pg_stat_activity where wait_event = 'PgSleep'", "1")
        proxy.drop()
        self.wait("select worker is not null from workflow_queue", "t")
        self.states(done=1)

    def test_units_without_an_answer_are_sent_again_and_found(self):
        proxy, url = self.proxy()
        self.body("for i = 1, 8 do sms.send { to = e.customer, text = 'n' .. i }\nsleep '1s' end\nreturn 'end'")
        self.begin(30)
        self.worker(url=url)

        def cut_enough():
            proxy.cut(1)
            time.sleep(0.2)
            return proxy.was_cut > 10
        until(cut_enough, True, what="ten units were cut off from their answers")
        proxy.cut(0)
        self.states(done=30)
        self.assertEqual("480|480|16", self.sql(
            "select count(*), count(distinct (workflow_instance_id, ordinal)), max(ordinal)"
            " from workflow_step_executions"))

    def test_cut_connections_lose_and_repeat_nothing(self):
        self.body("for i = 1, 8 do sms.send { to = e.customer, text = 'n' .. i } end")
        self.begin(300)
        self.worker()
        cut = 0
        while cut < 20 and self.sql("select count(*) from workflow_queue") != "0":
            cut += int(self.sql(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where"
                " application_name = 'execute_driver' and datname = current_database()"))
            time.sleep(0.1)
        self.assertGreater(cut, 5)
        self.states(done=300)
        self.assertEqual("2400|2400|8", self.sql(
            "select count(*), count(distinct (workflow_instance_id, ordinal)), max(ordinal)"
            " from workflow_step_executions"))
        self.assertEqual("2400", self.sql("select count(distinct (instance, step)) from effects"))


class UnitsTest(Case):
    """Two units of the journal under way: the first waits for a lock of ours, the second behind it."""
    JOURNAL = ("select pid from pg_stat_activity where application_name = 'execute_driver'"
               " and datname = current_database() and wait_event_type = 'Lock'")

    def hold(self):
        """No step can be written until what it returns is called."""
        connection = self.database.connect()
        connection.sql("begin; lock table workflow_step_executions in share mode")
        return lambda: connection.sql("commit")

    def logged(self, text):
        with open(self.log_path) as log:
            return log.read().count(text)

    def is_held(self, effects):
        self.wait("select count(*) from effects", str(effects))
        self.wait("select count(*) from (%s) x" % self.JOURNAL, "1")
        time.sleep(0.3)  # the second unit is sent, which nothing shows

    def test_a_step_that_waited_to_be_written_tells_when_it_began(self):
        self.body("all { function() note('a') end, function() sms.send { to = e.customer, text = 'b' } end }")
        self.begin(1)
        go = self.hold()
        self.worker()
        self.is_held(1)
        time.sleep(0.5)
        released = self.sql("select clock_timestamp()")
        go()
        self.states(done=1)
        self.assertEqual("t", self.sql("select started_at < '%s'::timestamptz - interval '0.5 s' and finished_at > '%s' "
                                       "from workflow_step_executions where name like 'sms.send%%'" % (released, released)))

    def test_a_connection_lost_with_two_units_under_way_writes_each_step_once(self):
        self.body("for i = 1, 3 do sms.send { to = e.customer, text = 'n' .. i } end")
        self.begin(230)
        go = self.hold()
        self.worker()
        self.is_held(230)
        self.sql("select pg_terminate_backend(pid) from (%s) x" % self.JOURNAL)
        go()
        self.states(done=230)
        self.assertEqual("690|690|3", self.sql(
            "select count(*), count(distinct (workflow_instance_id, ordinal)), max(seq)"
            " from workflow_step_executions"))
        self.assertEqual("690", self.sql("select count(*) from effects"))
        self.assertEqual(2, self.logged("a unit is sent again"))

    def test_a_unit_that_is_refused_harms_none_behind_it(self):
        self.body("sms.send { to = e.customer, text = 'a' }\nreturn 'good'")
        self.sql("create function not_these() returns trigger language plpgsql as $$ begin"
                 " if (new.input->'to'->>'id')::int % 100 = 0 then raise exception 'not this one'; end if;"
                 " return new; end $$;"
                 "create trigger not_these before insert on workflow_step_executions"
                 " for each row execute function not_these()")
        self.begin(230)
        go = self.hold()
        self.worker()
        self.is_held(230)
        go()
        self.states(done=228, stuck=2)
        self.assertEqual("228", self.sql("select count(*) from workflow_step_executions"))
        self.assertEqual("230", self.sql("select count(*) from effects"))

    def test_a_unit_behind_one_that_fails_writes_nothing_that_comes_later(self):
        branches = ",\n".join("function() sms.send { to = e.customer, text = '%s' } end" % text
                              for text in ["now"] + ["slow 500"] * 11)
        self.body("all { %s }" % branches)
        self.sql("create table gaps (instance uuid);"
                 "create function note_gaps() returns trigger language plpgsql as $$ begin"
                 " insert into gaps select workflow_instance_id from workflow_step_executions"
                 " group by 1 having max(seq) <> count(*); return null; end $$;"
                 "create trigger note_gaps after insert on workflow_step_executions"
                 " for each statement execute function note_gaps()")
        self.begin(30)
        go = self.hold()
        self.worker()
        self.is_held(360)
        time.sleep(0.6)  # all of their steps want to be written, all but the first few in vain
        self.sql("select pg_cancel_backend(pid) from (%s) x" % self.JOURNAL)
        until(lambda: self.logged("a unit is sent again"), 1, what="the first unit failed")
        go()
        self.states(done=30)
        self.assertEqual("0", self.sql("select count(*) from gaps"))
        self.assertEqual("360", self.sql("select count(*) from workflow_step_executions"))
        self.assertEqual("360", self.sql("select count(*) from effects"))

    def test_a_step_that_was_written_by_nobody_knows_whom_is_found(self):
        self.body("sms.send { to = e.customer, text = 'slow 500' }\nreturn 'end'")
        instance = self.begin(20)[0]
        self.worker()
        self.wait("select count(*) from effects", "20")
        # As a unit leaves it that was committed by a server that we had lost.
        self.sql("insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state, name,"
                 " args_hash, input, output, at, started_at, finished_at) select '%s', 1, 1, '', 1, 'done', 'other',"
                 " 'x', null, 'null', now(), now(), now()" % instance)
        self.states(done=19, stuck=1)
        self.assertEqual("20|20", self.sql(
            "select count(*), count(distinct workflow_instance_id) from workflow_step_executions"))
        self.assertEqual("diverged", self.sql(
            "select stuck->>'code' from instances where id = '%s'" % instance))


class ScaledTest(Case):
    """Months in seconds: the business clock runs a million times faster."""
    scale = 1000000

    def test_a_sequence_of_days(self):
        self.body("for i, age in ipairs { '2h', '2d', '5d', '10d' } do sleep_until(e.time or now(), { after = age })\n"
                  "sms.send { to = e.customer, text = age } end")
        self.begin(50)
        self.worker()
        self.states(done=50)
        self.assertEqual("200", self.sql("select count(*) from effects"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
