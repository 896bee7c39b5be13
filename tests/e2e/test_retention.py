"""What time takes away: payloads after 30 days, rows after 400, nothing that somebody can still read."""
import json
import os
import signal
import subprocess
import sys
import time
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import PROGRAM  # noqa: E402
from database import POOLER, ROOT, DatabaseTest, literal, until  # noqa: E402

LEFT = "select count(*) from workflow_step_executions where workflow_instance_id = '%s'"


class RetentionTest(DatabaseTest):
    explain = "select what, at, settled from retention_cursors"

    def setUp(self):
        super().setUp()
        self.prepare()
        self.settled = 0

    def prepare(self):
        self.sql("insert into clock (real_origin, business_origin, scale) values (now(), '2026-06-01 14:00+00', 1)")

    def make(self, ended, customer=1, started=None, parent=None, send="sent", steps=2, entity="customer"):
        """Ended (or, None, alive) so many days ago, with everything that an instance leaves."""
        one, e, m = (str(uuid.uuid4()) for _ in range(3))
        self.settled += 1
        started = started if started is not None else (ended or 0) + 1
        self.sql("""
          insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload) values
            ('{e}', 'estimate_created', '{entity}', '{one}', business_now() - interval '{started} days',
             business_now() - interval '{started} days', {settled}, {customer}, '{{"customer": {{"id": {customer}}}}}');
          insert into event_keys values ('{entity}:{one}', 'estimate_created', {settled}, '{e}'),
            ('customer:{customer}', 'estimate_created', {settled}, '{e}');
          insert into workflow_instances (id, workflow_definition_id, workflow, state, event_id, customer_id, entity,
              entity_id, created_at, finished_at, parent_id, value)
            values ('{one}', 1, 'w', 'done', '{e}', {customer}, '{entity}', '{one}',
                    business_now() - interval '{started} days', {finished}, {parent}, '"v"');
          insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state, name, args_hash,
              output, at, started_at, finished_at)
            select '{one}', 1, n, '', n, 'done', 's', 'h', '{{}}', now(), now(), now() from generate_series(1, {steps}) n;
          insert into workflow_notes values ('{one}', 1, '', 1, 'note', now());
          insert into messaging_log (id, instance_id, run, step, call, attempt, channel, class, address, subject, body,
              state, decided_at) values ('{m}', '{one}', 1, '/1', 'sms', 1, 'sms', 'marketing', '+12125550100', 's', 'b',
              '{send}', business_now() - interval '{started} days');
          insert into message_slots values ('sms', '+12125550100', date '2026-01-01' + {settled}, false, 1, '{m}');
          insert into outbound_log (id, instance_id, run, step, call, attempt, provider, effect, method, url, request,
              response, state, at) values (gen_random_uuid(), '{one}', 1, '/2', 'c', 1, 'ghl', 'once', 'POST', '/x',
              '{{}}', '{{}}', 'done', now());
          insert into staff_tasks (id, instance_id, role, title, note, created_at, done_at)
            values (gen_random_uuid(), '{one}', 'csr', 't', 'n', now(), now())""".format(
            one=one, e=e, m=m, customer=customer, settled=self.settled, started=started, steps=steps, send=send,
            entity=entity, parent=literal(parent),
            finished="null" if ended is None else "business_now() - interval '%d days'" % ended))
        if ended is None:
            self.sql("insert into workflow_queue (instance_id, workflow_definition_id, event_id, state, since, due) "
                     "values ('%s', 1, '%s', 'sleeping', %d, now() + interval '1 day')" % (one, e, self.settled))
        return one

    def retain(self, payload=30, ledger=400, n=100):
        total = [0, 0]
        for what in ("instances", "events", "records"):
            while True:
                said = json.loads(self.sql("select retain('%s', %d, %d, %d)" % (what, payload, ledger, n)))
                total[0] += said["payloads"]
                total[1] += said["rows"]
                if not said["more"]:
                    break
        return tuple(total)

    def kept(self, one):
        """whole, stripped, gone or mixed"""
        said = self.sql("""
          select i.pruned_at is not null, i.value is not null,
                 (select count(*) from workflow_step_executions s where s.workflow_instance_id = i.id) > 0,
                 (select count(*) from workflow_notes s where s.instance_id = i.id) > 0,
                 (select body is not null from messaging_log m where m.instance_id = i.id),
                 (select request is not null from outbound_log m where m.instance_id = i.id),
                 (select note is not null from staff_tasks m where m.instance_id = i.id)
          from workflow_instances i where i.id = '%s'""" % one)
        if said == "":
            rest = self.sql("select (select count(*) from messaging_log where instance_id = '%s') + (select count(*) from "
                            "outbound_log where instance_id = '%s') + (%s)" % (one, one, LEFT % one))
            return "gone" if rest == "0" else "mixed"
        return {"f|t|t|t|t|t|t": "whole", "t|f|f|f|f|f|f": "stripped"}.get(said, "mixed " + said)

    def event(self, one):
        return self.sql("select case when payload::text = '{}' then 'stripped' else 'whole' end || ' ' || "
                        "(select count(*) from event_keys k where k.event_id = e.id) from events e where entity_id = '%s'" % one)

    def test_by_the_days_since_the_end(self):
        young, old, ancient = self.make(29, 1), self.make(31, 2), self.make(401, 3)
        long_run = self.make(10, 4, started=500)
        self.assertEqual((1 + 1, 1 + 1), self.retain())
        self.assertEqual(["whole", "stripped", "gone", "whole"], [self.kept(i) for i in (young, old, ancient, long_run)])
        self.assertEqual(["whole 2", "stripped 2", "", "whole 2"], [self.event(i) for i in (young, old, ancient, long_run)])
        self.assertEqual("+12125550100|sent", self.sql("select address, state from messaging_log where instance_id = '%s'" % old))
        self.assertEqual((0, 0), self.retain())

    def test_nothing_of_a_live_instance_or_what_it_can_read(self):
        parent = self.make(None, 1, started=500)
        child = self.make(450, 1, started=460, parent=parent)
        other = self.make(60, 2)
        # An event of the same customer, without an instance, settled since the live one began.
        for customer, name in ((1, "same"), (2, "another")):
            self.settled += 1
            self.sql("insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload) "
                     "values (gen_random_uuid(), 'reply', 'customer', '%s', now(), business_now() - interval '450 days', "
                     "%d, %d, '{\"a\": 1}')" % (name, self.settled, customer))
        # A wait for somebody else's answer.
        self.settled += 1
        self.sql("insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload) values "
                 "(gen_random_uuid(), 'reply', 'customer', '9', now(), business_now() - interval '450 days', %d, 9, "
                 "'{\"a\": 1}'); insert into workflow_subscriptions (instance_id, kind, type, key, since) values "
                 "('%s', 'wait', 'reply', 'customer:9', 1)" % (self.settled, parent))
        self.retain()
        self.assertEqual(["whole", "whole", "stripped"], [self.kept(i) for i in (parent, child, other)])
        self.assertEqual(["whole 2", "whole 2", "whole 0", "", "whole 0"],
                         [self.event(i) for i in (parent, child, "same", "another", "9")])
        self.sql("delete from workflow_queue; delete from workflow_subscriptions; update workflow_instances "
                 "set finished_at = business_now() where finished_at is null")
        self.retain()
        self.assertEqual(["whole", "gone"], [self.kept(i) for i in (parent, child)])
        self.assertEqual(["whole 2", "", "", ""], [self.event(i) for i in (parent, child, "same", "9")])

    def test_a_send_that_nobody_decided_keeps_its_instance(self):
        held = self.make(500, send="held")
        self.retain()
        self.assertEqual("whole", self.kept(held))
        self.sql("select settle_send(id, 'drop') from messaging_log")
        self.retain()
        self.assertEqual("gone", self.kept(held))

    def test_what_was_to_be_sent_once_stays_said_and_a_fact_is_no_new_one(self):
        one = self.make(100)
        self.sql("insert into message_once select 'customer:1', 'welcome', false, id from messaging_log")
        self.retain()
        self.assertEqual("1", self.sql("select count(*) from message_once"))
        self.assertEqual("0", self.sql("select count(*) from message_slots"))
        self.assertEqual("", self.sql(
            "insert into events (id, type, entity, entity_id, at, noticed_at, settled, payload) select gen_random_uuid(), "
            "e.type, e.entity, e.entity_id, e.at, now(), 1000, '{}' from events e where entity_id = '%s' "
            "on conflict do nothing returning id" % one))

    def settle(self, **more):
        """Settles one fact about an invoice, overdue for so long; how many events that made."""
        e = dict({"id": str(uuid.uuid4()), "type": "invoice_overdue", "entity": "invoice", "entity_id": "3",
                  "at": "2025-03-01T00:00:00Z", "noticed": "2025-03-01T12:00:00Z", "keys": [], "payload": {}}, **more)
        batch = {k: [] for k in ("starts", "errors", "arrivals", "deleted", "merged", "daily", "resolved", "failed_again")}
        return json.loads(self.sql("begin; select lock_gate(); select settle(%s::json); commit"
                                   % literal({**batch, "events": [e]})))["events"]

    def overdue(self, *rows):
        return json.loads(self.sql("select daily_new('invoice_overdue', 'invoice', %s::json, '2024-01-01Z', 10)"
                                   % literal([list(r) for r in rows])))["rows"]

    def test_a_fact_that_was_forgotten_is_no_new_one(self):
        self.assertEqual(1, self.settle())
        self.assertEqual(0, self.settle())
        self.assertEqual((0, 1), self.retain())
        self.assertEqual("0", self.sql("select count(*) from events"))
        self.assertEqual(0, self.settle())
        self.assertEqual(["4"], [r["id"] for r in self.overdue(("3", "2025-02-28"), ("4", "2026-05-01"))])
        self.assertEqual(1, self.settle(at="2026-05-02T00:00:00Z", entity_id="4"))
        self.assertEqual(1, self.settle(at="2023-05-02T00:00:00Z", silent=True))  # somebody asked for history

    def test_switched_off(self):
        one, two = self.make(500), self.make(500, 2)
        self.assertEqual((0, 0), self.retain(0, 0))
        self.assertEqual((2 * 2, 0), self.retain(30, 0))
        self.assertEqual(["stripped", "stripped"], [self.kept(one), self.kept(two)])
        self.assertEqual((0, 2 * 2), self.retain(0, 400))
        self.assertEqual("gone", self.kept(one))

    def test_small_batches_walk_through_all(self):
        many = [self.make(31 if n % 3 else 5, n) for n in range(50)]
        self.retain(n=7)
        self.assertEqual(["stripped" if n % 3 else "whole" for n in range(50)], [self.kept(i) for i in many])

    def test_records(self):
        self.sql("""insert into workflow_skips (workflow, event_id, reason, at) values
              ('w', gen_random_uuid(), 'old', business_now() - interval '401 days'),
              ('w', gen_random_uuid(), 'new', business_now() - interval '399 days');
            insert into detect_errors (rule, message, resolved_at) values ('r', 'old', now() - interval '31 days'),
              ('r', 'new', now() - interval '29 days'), ('r', 'open', null);
            insert into system_alerts (kind, subject, message, resolved_at) values
              ('k', 'old', 'm', now() - interval '31 days'), ('k', 'open', 'm', null);
            insert into inbound_messages (id, channel, address, body, at) values
              ('a', 'sms', '+1', 'text', business_now() - interval '31 days'),
              ('b', 'sms', '+1', 'text', business_now() - interval '401 days');
            insert into workflow_rate_starts (workflow, mode, key, at, instance_id, begun, until) values
              ('w', 'live', 'old', now(), gen_random_uuid(), true, business_now() - interval '3 days'),
              ('w', 'live', 'new', now(), gen_random_uuid(), true, business_now() - interval '1 day')""")
        self.retain()
        self.assertEqual("new", self.sql("select string_agg(reason, ' ') from workflow_skips"))
        self.assertEqual("new", self.sql("select string_agg(key, ' ') from workflow_rate_starts"))
        self.assertEqual("new open", self.sql("select string_agg(message, ' ' order by message) from detect_errors"))
        self.assertEqual("open", self.sql("select string_agg(subject, ' ') from system_alerts"))
        self.assertEqual("a|", self.sql("select id, body from inbound_messages"))


class KilledTest(RetentionTest):
    """The monitor does it, is killed at any moment, and leaves nothing half."""
    kinds = ()

    def prepare(self):
        subprocess.run([PROGRAM, "migrate"], env=self.environment(), cwd=self.folder, check=True, capture_output=True)
        self.sql("update clock set business_origin = '2026-06-01 14:00+00'")

    def environment(self, **more):
        return dict(os.environ, MOONWRIGHT_HOME=ROOT, DATABASE_URL=self.database.url,
                    MOONWRIGHT_DATA=os.path.join(self.folder, "data"), RETENTION_INTERVAL_MS="100", **more)

    def start(self, **more):
        with open(self.log_path, "a") as log:
            process = subprocess.Popen([PROGRAM, "run", "--role", "monitor"], env=self.environment(**more),
                                       cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def test_a_killed_monitor_leaves_nothing_half(self):
        live = [self.make(None, n) for n in range(3)]
        self.make(31, 50, steps=5)
        copy = ("insert into workflow_instances (id, workflow_definition_id, workflow, state, created_at, finished_at, value) "
                "select ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, 'w', 'done', business_now() - "
                "interval '500 days' + n * interval '1 s', business_now() - (31 + n %% 400) * interval '1 day', '1' "
                "from generate_series(1, %d) n") % 1600
        self.sql(copy + "; insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state, name, "
                 "args_hash, at, started_at, finished_at) select i.id, 1, n, '', n, 'done', 's', 'h', now(), now(), now() "
                 "from workflow_instances i, generate_series(1, 5) n where i.value::text = '1'; insert into messaging_log "
                 "(id, instance_id, run, step, call, attempt, channel, class, body, state, decided_at) select "
                 "gen_random_uuid(), id, 1, '/1', 'c', 1, 'sms', 'marketing', 'b', 'sent', now() from workflow_instances "
                 "where value::text = '1'; analyze")
        half = ("select count(*) from workflow_instances i where i.id::text like '00000000-%' and (i.pruned_at is null) <> "
                "(5 = (select count(*) from workflow_step_executions s where s.workflow_instance_id = i.id)) or "
                "i.pruned_at is not null and exists (select from messaging_log m where m.instance_id = i.id and body is not null)")
        orphans = ("select (select count(*) from workflow_step_executions s where not exists (select from workflow_instances i "
                   "where i.id = s.workflow_instance_id)) + (select count(*) from messaging_log m where not exists "
                   "(select from workflow_instances i where i.id = m.instance_id))")
        left = "select count(*) from workflow_instances where pruned_at is null and id::text like '00000000-%'"
        kills, before = 0, 1600
        while before > 0 and kills < 9:
            process = self.start()
            until(lambda: int(self.sql(left)) < before, True, 60)
            time.sleep(0.013 * (kills % 5))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            # Its last unit has ended: a pooler's connections stay.
            until(lambda: self.sql("select count(*) from pg_stat_activity where application_name like 'moonwright%' and "
                                   "datname = current_database()" + (" and state <> 'idle'" if POOLER else "")),
                  "0", 30)
            self.assertEqual(("0", "0"), (self.sql(half), self.sql(orphans)))
            kills, before = kills + 1, int(self.sql(left))
        self.assertGreater(kills, 3)
        self.assertEqual(["whole"] * 3, [self.kept(i) for i in live])

    def test_it_is_on_without_being_asked_and_can_be_off(self):
        old, ancient = self.make(31), self.make(401, 2)
        process = self.start(RETENTION_PAYLOAD_DAYS="0", RETENTION_LEDGER_DAYS="0")
        time.sleep(2)
        self.assertEqual(["whole", "whole"], [self.kept(old), self.kept(ancient)])
        self.end(process)
        self.start()
        until(lambda: (self.kept(old), self.kept(ancient)), ("stripped", "gone"), 60)


for inherited in [name for name in vars(RetentionTest) if name.startswith("test_")]:
    setattr(KilledTest, inherited, None)  # once is enough

if __name__ == "__main__":
    unittest.main()
