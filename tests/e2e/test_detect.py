"""Detection with the files that ship: rows go in, events and instances come out."""
import os
import shutil
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from database import ROOT, Connection, DatabaseTest, literal, until  # noqa: E402

DRIVER = os.environ.get("DETECT_DRIVER", "")


FAMILY = """
insert into sync_cursors (entity, live_since, completed_at) select e, '2026-06-01Z', now()
from unnest(array['customers', 'jobs', 'estimates', 'invoices', 'appointments', 'locations']) e;
insert into st_business_units (id, name, modified_on) values (1, 'HVAC', '2026-01-01Z');
insert into st_job_types (id, name, class, modified_on) values (5, 'Install', 'Install', '2026-01-01Z');
insert into st_customers (id, name, type, state, zip, created_on, modified_on)
values (9, 'Ann Lee', 'Residential', 'NY', '10001', '2026-01-01Z', '2026-01-01Z');
insert into st_contacts (id, customer_id, type, value, phone, email, modified_on)
values (1, 9, 'MobilePhone', '5552000009', '+15552000009', null, '2026-01-01Z');
"""


class DetectTest(DatabaseTest):
    two_databases = False

    def setUp(self):
        self.kinds = ["engine"] if self.two_databases else ["engine", "servicetitan"]
        super().setUp()
        self.st = self.new_database(["servicetitan"]) if self.two_databases else self.database
        self.sql("insert into clock values (true, now(), '2026-06-10 12:00+00', 1);"
                 "insert into settings (name, value) values ('live', 'on')")
        self.rows(FAMILY)
        self.workflows = os.path.join(self.folder, "workflows")
        shutil.copytree(os.path.join(ROOT, "workflows"), self.workflows)
        self.driver = None
        self.addCleanup(self.kill)

    def rows(self, text):
        return self.st.sql(text)

    def begin(self, **env):
        env = {"EVENT_POLL_INTERVAL_MS": "200", "LOG_LEVEL": "debug", **env}
        with open(self.log_path, "a") as log:
            self.driver = subprocess.Popen(
                [DRIVER, self.database.url, self.st.url, os.path.join(ROOT, "lua"), self.workflows],
                stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **env})
        return self.said()

    def kill(self):
        if self.driver:
            self.driver.kill()
            self.driver.wait()
            self.driver.stdout.close()

    def said(self):
        lines = []
        while True:
            line = self.driver.stdout.readline()
            if not line:
                raise RuntimeError("the driver ended: %s" % self.driver.wait())
            if line == "in force\n":
                return lines
            lines.append(line.strip())

    def end(self):
        self.driver.terminate()
        self.assertEqual(0, self.driver.wait(20))
        self.driver.stdout.close()

    def write(self, name, text):
        path = os.path.join(self.workflows, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)

    def quiet(self):
        """All changes are settled."""
        until(lambda: self.rows("select count(*) from changes"), "0", what="changes are left")

    def estimate(self, number, status="Open", at="2026-06-10T10:00Z", more="null"):
        self.rows("insert into st_estimates (id, name, status, customer_id, subtotal, sold_on, created_on,"
                  " modified_on) values (%d, 'x', '%s', 9, 2000, %s, '%s', '%s')"
                  % (number, status, more, at, at))

    TYPES = "select string_agg(type, ' ' order by settled) from events"

    LEADS = """return events { lead = { of = "customer", webhook = "leads", secret = "LEADS_SECRET",
      read = function(body) return { customer = { phone = body.%s.phone, name = "Ann" } } end } }"""

    def test_a_lead_that_a_rule_raised_on_is_taken_when_that_is_mended(self):
        for name in os.listdir(self.workflows):
            if name.endswith(".lua") and name != "company.lua":
                os.remove(os.path.join(self.workflows, name))
        self.write("events.lua", self.LEADS % "nobody")
        self.write("greet.lua", "return workflow { on = 'lead', run = function(e) end }")
        self.begin()
        self.sql("insert into arrivals (type, entity, entity_id, at, payload) values ('webhook', 'webhook', 'leads',"
                 " business_now(), '{\"body\": {\"contact\": {\"phone\": \"+12125550109\"}}}')")
        self.wait("select count(*), count(resolved_at) from detect_errors", "1|0")
        self.assertEqual("0", self.sql("select count(*) from arrivals"))
        self.write("events.lua", self.LEADS % "contact")
        self.said()
        self.wait("select e.type, e.entity_id, i.workflow from events e join workflow_instances i on i.event_id = e.id",
                  "lead|+12125550109|greet")
        self.wait("select count(*) - count(resolved_at) from detect_errors", "0")
        self.end()

    def test_rows_become_events_and_instances(self):
        self.assertEqual([], self.begin())
        self.estimate(7)
        self.wait(self.TYPES, "estimate_created")
        self.wait("select string_agg(workflow, ' ' order by workflow) from workflow_instances",
                  "estimate_followup_original estimate_to_ghl")
        self.assertEqual("customer:9|estimate:7|phone:+15552000009", self.sql(
            "select string_agg(key, '|' order by key) from event_keys"))
        self.rows("update st_estimates set status = 'Sold', sold_on = '2026-06-10T11:00Z',"
                  " modified_on = '2026-06-10T11:00Z'")
        self.wait(self.TYPES, "estimate_created estimate_approved")
        self.assertEqual("t", self.sql("select stop_pending(id) from workflow_instances"
                                       " where workflow = 'estimate_followup_original'"))
        self.assertEqual("estimate_sold", self.sql("select workflow from workflow_instances i join events e"
                                                   " on e.id = i.event_id where e.type = 'estimate_approved'"))
        self.quiet()
        self.end()

    def test_fifty_workflows_on_one_event_are_one_transaction(self):
        for n in range(50):
            self.write("many_%d.lua" % n, 'return workflow { on = "estimate_created",'
                       ' when = function(e) return e.estimate.subtotal > %d end,'
                       ' run = function(e) end }' % n)
        self.begin()
        before = self.sql("select settled from gate")
        self.estimate(7)
        self.wait("select count(*) from workflow_instances where workflow like 'many%'", "50")
        self.quiet()
        # The event, the gate, the instances and their places in the queue bear one transaction's number.
        self.assertEqual("103|1", self.sql(
            "select count(*), count(distinct t) from (select xmin::text as t from events union all"
            " select xmin::text from gate union all select i.xmin::text from workflow_instances i"
            " where workflow like 'many%' union all select q.xmin::text from workflow_queue q join"
            " workflow_instances i on i.id = q.instance_id where i.workflow like 'many%' union all"
            " select xmin::text from event_keys where key = 'estimate:7') x"))
        self.assertEqual(int(before) + 1, int(self.sql("select settled from gate")))
        self.end()

    def test_what_comes_after_a_version_is_judged_by_it(self):
        # Another has put something in force, and we can't load it yet: its row is locked.
        self.begin()
        first, second = Connection(self.database.url), Connection(self.database.url)
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        first.sql("begin; update workflow_stamp set stamp = stamp + 1")
        waiting = threading.Thread(target=second.sql, args=("begin; select from workflow_stamp for update",))
        waiting.start()
        self.wait("select count(*) from pg_stat_activity where wait_event_type = 'Lock'", "1")
        first.sql("commit")
        waiting.join()
        self.estimate(7)
        time.sleep(1.5)
        self.assertEqual("0", self.sql("select count(*) from events"))
        second.sql("commit")
        self.wait(self.TYPES, "estimate_created")
        self.quiet()
        self.end()

    def test_rules_that_cannot_be_loaded_stop_nothing(self):
        self.begin()
        self.sql("create or replace function versions_lock() returns bigint language plpgsql as $$ begin "
                 "raise exception 'not here'; end $$; "
                 "update workflow_stamp set stamp = stamp + 1")
        self.estimate(7)
        self.wait(self.TYPES, "estimate_created")
        self.end()

    def test_an_insert_shows_its_facts_in_their_order_and_starts_nothing_that_is_over(self):
        self.begin()
        self.estimate(7, "Sold", more="'2026-06-10T11:00Z'")
        self.wait(self.TYPES, "estimate_created estimate_approved")
        self.quiet()
        self.assertEqual("estimate_sold estimate_to_ghl", self.sql(
            "select string_agg(workflow, ' ' order by workflow) from workflow_instances"))

    def test_history_is_silent(self):
        self.begin()
        self.estimate(7, at="2026-05-01T10:00Z")
        self.estimate(8, "Open", at="2026-05-01T10:00Z")
        self.rows("update st_estimates set status = 'Sold', sold_on = '2026-05-20T10:00Z',"
                  " modified_on = '2026-06-10T11:00Z' where id = 8")
        self.quiet()
        self.assertEqual("", self.sql(self.TYPES))
        self.rows("update st_estimates set status = 'Dismissed', modified_on = '2026-06-10T11:00Z' where id = 7")
        self.wait(self.TYPES, "estimate_rejected")

    def test_a_workflow_that_listens_to_history_is_all_that_history_starts(self):
        self.write("old.lua", 'return workflow { on = "estimate_created", history = true, run = function(e) end }')
        self.begin()
        self.estimate(7, at="2026-05-01T10:00Z")
        self.wait("select string_agg(workflow, ' ') from workflow_instances", "old")

    def test_history_is_written_down_from_the_moment_that_a_workflow_listens_to_it(self):
        wanted = "select wanted from history_wanted"
        self.begin()
        until(lambda: self.rows(wanted), "f")
        last = self.rows("select last_value from changes_seq_seq")
        self.estimate(7, at="2026-05-01T10:00Z")
        self.assertEqual(last, self.rows("select last_value from changes_seq_seq"))
        self.write("old.lua", 'return workflow { on = "estimate_created", history = true, run = function(e) end }')
        self.said()
        until(lambda: self.rows(wanted), "t")
        self.estimate(8, at="2026-05-01T10:00Z")
        self.wait("select string_agg(workflow || ' ' || entity_id, ' ') from workflow_instances", "old 8")
        self.end()

    def test_changes_wait_for_their_parents(self):
        self.begin(SYNC_PARENT_WAIT_MS="60000")
        self.rows("insert into st_jobs (id, status, customer_id, business_unit_id, job_type_id, created_on,"
                  " modified_on) values (3, 'Scheduled', 77, 1, 5, '2026-06-10T10:00Z', '2026-06-10T10:00Z')")
        until(lambda: self.rows("select entity, id from parent_requests"), "customer|77")
        self.assertEqual("", self.sql(self.TYPES))
        self.rows("insert into st_customers (id, name, modified_on) values (77, 'Bo', '2026-06-10T10:00Z');"
                  "insert into st_contacts (id, customer_id, type, value, modified_on) values"
                  " (2, 77, 'Email', 'x', '2026-06-10T10:00Z')")
        self.wait("select string_agg(type, ' ' order by type) from events", "install_job_created job_created")
        self.assertEqual("Bo|", self.sql("select distinct payload->'customer'->>'name', payload->>'missing'"
                                         " from events"))

    def test_parents_that_never_come_are_missing(self):
        self.begin(SYNC_PARENT_WAIT_MS="1")
        self.rows("insert into st_jobs (id, status, customer_id, business_unit_id, job_type_id, created_on,"
                  " modified_on) values (3, 'Scheduled', 77, 1, 5, '2026-06-10T10:00Z', '2026-06-10T10:00Z')")
        self.wait("select payload->>'missing' from events where type = 'job_created'", '["customer"]')

    def test_one_bad_script_holds_nobody_up_and_is_judged_again_when_it_is_repaired(self):
        bad = 'return workflow { on = "estimate_created", when = function(e)\n  return e.nothing.here end,\n' \
              '  run = function(e) end }'
        endless = 'return workflow { on = "estimate_created", when = function(e)\n  while true do end end,\n' \
                  '  run = function(e) end }'
        self.write("bad.lua", bad)
        self.write("endless.lua", endless)
        self.begin()
        self.estimate(7)
        self.wait("select string_agg(workflow, ' ' order by workflow) from workflow_instances",
                  "estimate_followup_original estimate_to_ghl")
        self.assertRegex(self.sql("select message from detect_errors where workflow = 'bad'"),
                         r"^bad\.lua:2: .*nil value")
        self.assertRegex(self.sql("select message from detect_errors where workflow = 'endless'"), "CPU")
        self.write("bad.lua", bad.replace("e.nothing.here", "e.estimate.total > 1"))
        self.said()
        self.wait("select string_agg(workflow, ' ' order by workflow) from workflow_instances",
                  "bad estimate_followup_original estimate_to_ghl")
        self.wait("select string_agg(workflow, ' ') from detect_errors where resolved_at is null", "endless")

    def test_a_rule_that_raises_is_judged_again_too(self):
        with open(os.path.join(self.workflows, "events.lua")) as f:
            good = f.read()
        self.write("events.lua", good.replace('becomes = { status = "Dismissed" }',
                                              'becomes = function(row) return row.a.b end'))
        self.begin()
        self.estimate(7)
        self.estimate(8, "Dismissed")
        self.wait(self.TYPES, "estimate_created estimate_created")
        self.wait("select count(*) from detect_errors where rule = 'estimate_rejected'", "2")
        self.write("events.lua", good)
        self.said()
        self.wait("select string_agg(entity_id, ' ') from events where type = 'estimate_rejected'", "8")
        self.wait("select count(*) from detect_errors where resolved_at is null", "0")

    def test_a_bad_file_is_refused_and_the_old_version_stays(self):
        self.begin()
        self.write("estimate_to_ghl.lua", 'return workflow {\n  on = "estimate_create",\n  run = function(e) end }')
        self.assertEqual(['refused: estimate_to_ghl.lua:2: unknown event "estimate_create" in on;'
                          ' did you mean "estimate_created"?'], self.said())
        self.estimate(7)
        self.wait("select d.version from workflow_instances i join workflow_definitions d"
                  " on d.id = i.workflow_definition_id where i.workflow = 'estimate_to_ghl'", "1")
        self.end()
        self.assertEqual(1, len(self.begin()))  # after a restart too
        self.estimate(8)
        self.wait("select count(*) from workflow_instances where workflow = 'estimate_to_ghl'", "2")
        os.unlink(os.path.join(self.workflows, "estimate_to_ghl.lua"))
        self.wait("select active from workflow_definitions where name = 'estimate_to_ghl'", "f")

    def test_a_new_version_is_for_new_instances(self):
        self.write("lib/words.lua", 'return { a = 1 }')
        self.write("mine.lua", 'local w = require "lib.words"\nreturn workflow { on = "estimate_created",'
                               ' run = function(e) return w.a end }')
        self.assertEqual([], self.begin())
        self.estimate(7)
        self.wait("select count(*) from workflow_instances where workflow = 'mine'", "1")
        self.write("lib/words.lua", 'return { a = 2 }')
        self.said()
        self.estimate(8)
        self.wait("select string_agg(d.version::text, ' ' order by i.created_at, i.id) from workflow_instances i"
                  " join workflow_definitions d on d.id = i.workflow_definition_id where i.workflow = 'mine'", "1 2")
        self.assertEqual("return { a = 2 }", self.sql(
            "select files->>'workflows/lib/words.lua' from workflow_definitions where name = 'mine' and active"))

    def test_overdue_invoices_are_found_once_a_day_and_told_once(self):
        self.rows("insert into st_invoices (id, customer_id, balance, total, due_date, created_on, modified_on)"
                  " select n, 9, 100, 100, d, '2026-05-01Z', '2026-05-01Z' from (values (1, date '2026-06-05'),"
                  " (2, date '2025-01-01'), (3, date '2026-07-01')) v(n, d)")
        self.begin()
        self.wait("select string_agg(entity_id || ' ' || utc(at), ',') from events where type = 'invoice_overdue'",
                  "1 2026-06-06T00:00:00Z")
        self.wait("select string_agg(workflow || ' ' || business_key, ',') from workflow_instances",
                  "invoice_overdue invoice_overdue live invoice:1")
        self.assertEqual("2026-06-10", self.sql("select day from daily_rules"))
        self.sql("update daily_rules set day = '2026-06-09'")
        self.wait("select day from daily_rules", "2026-06-10")
        self.assertEqual("1", self.sql("select count(*) from events"))

    def test_rows_of_a_daily_rule_that_are_no_events_hide_none(self):
        with open(os.path.join(self.workflows, "events.lua")) as f:
            self.write("events.lua", f.read().replace(
                'once = "due_date"', 'once = "due_date", when = function(e) return e.invoice.balance > 60 end'))
        self.rows("insert into st_invoices (id, customer_id, balance, total, due_date, created_on, modified_on)"
                  " select n, 9, case n when 700 then 70 else 50 end, 100, date '2026-06-05' + n / 700, '2026-05-01Z',"
                  " '2026-05-01Z' from generate_series(100, 700) n")
        self.begin()
        self.wait("select string_agg(entity_id, ',') from events where type = 'invoice_overdue'", "700")
        self.wait("select day from daily_rules", "2026-06-10")

    def test_arrivals_become_events(self):
        self.begin()
        self.sql("insert into arrivals (type, entity, entity_id, at, payload) values ('customer_replied',"
                 " 'customer', '9', '2026-06-10T10:00Z', '{\"customer\": {\"id\": 9, \"phone\": \"+1555\"},"
                 " \"reply\": {\"text\": \"hi\"}}'), ('nonsense', 'x', '1', now(), '{}');"
                 "select pg_notify('arrivals', '')")
        self.wait("select type || ' ' || (payload->'reply'->>'text') from events", "customer_replied hi")
        self.assertEqual("0", self.sql("select count(*) from arrivals"))
        self.assertRegex(self.sql("select message from detect_errors"), "nonsense")

    def test_a_kill_at_any_moment_repeats_and_loses_nothing(self):
        for round_ in range(6):
            self.begin()
            for n in range(8):
                self.estimate(round_ * 10 + n)
            time.sleep(0.02 * round_)
            self.kill()
        self.begin()
        self.quiet()
        self.wait("select count(*) || ' ' || count(distinct entity_id) from events", "48 48")
        self.wait("select count(*) || ' ' || count(distinct event_id) from workflow_instances"
                  " where workflow = 'estimate_to_ghl'", "48 48")

    def test_a_change_that_cannot_be_stored_is_set_aside(self):
        # A time that PostgreSQL doesn't take, in the middle of many.
        self.write("events.lua", 'return events { made = { of = "estimate", created = true, at = "name" } }')
        for name in os.listdir(self.workflows):
            if name.endswith(".lua") and name not in ("events.lua", "company.lua"):
                os.unlink(os.path.join(self.workflows, name))
        self.begin()
        self.rows("insert into st_estimates (id, name, customer_id, created_on, modified_on) select n,"
                  " case n when 30 then '2026-99-99T00:00:00Z' else '2026-06-10T10:00:00Z' end, 9,"
                  " '2026-06-10Z', '2026-06-10Z' from generate_series(1, 60) n")
        self.wait("select count(*) from events", "59")
        self.wait("select count(*) || min(entity_id) from detect_errors", "130")
        self.quiet()


    def test_changes_are_consumed_all_or_not_at_all(self):
        self.estimate(7)
        with self.assertRaisesRegex(RuntimeError, "somebody else"):
            self.rows("select consume_changes(array_append(array(select seq from changes), 999999))")
        self.assertEqual("t", self.rows("select count(*) > 0 from changes"))


class TwoDatabases(DetectTest):
    two_databases = True

    def test_a_crash_between_settling_and_dropping_repeats_nothing(self):
        self.rows("alter function drop_changes(bigint[]) rename to really_drop; create sequence tries;"
                  "create function drop_changes(seqs bigint[]) returns bigint language sql as"
                  " $$ select nextval('tries') / 0 $$")
        self.begin()
        self.estimate(7)
        self.wait(self.TYPES, "estimate_created")
        until(lambda: self.rows("select last_value > 2 from tries"), "t")
        self.rows("delete from st_estimates")   # the vendor tells no time of that
        self.wait(self.TYPES, "estimate_created estimate_deleted")
        tried = int(self.rows("select last_value from tries"))
        until(lambda: int(self.rows("select last_value from tries")) > tried + 2, True)
        self.rows("drop function drop_changes; alter function really_drop(bigint[]) rename to drop_changes")
        self.quiet()
        self.assertEqual("estimate_created estimate_deleted", self.sql(self.TYPES))
        self.assertEqual("t", self.sql("select at between now_ - interval '1 hour' and now_ + interval '1 s'"
                                       " from events, business_now() now_ where type = 'estimate_deleted'"))
        self.assertEqual("2", self.sql("select count(*) from workflow_instances"))

    def test_detection_says_how_far_it_has_come(self):
        behind = "select detection_behind(%s)"
        before = literal(self.sql("select business_now()"))
        self.assertEqual("t", self.sql(behind % before))
        self.begin()
        self.wait(behind % before, "f")
        self.rows("insert into st_estimates (id, name, status, customer_id, subtotal, created_on, modified_on)"
                  " values (8, 'x', 'Open', 99, 2000, '2026-06-10T10:00Z', '2026-06-10T10:00Z')")
        self.rows("select 1 from pg_sleep(0.2)")
        after = literal(self.sql("select business_now()"))
        until(lambda: self.rows("select count(retry_at) from changes"), "1")
        self.rows("select 1 from pg_sleep(1)")
        self.assertEqual("t", self.sql(behind % after), "it waits for its customer")
        self.rows("update parent_requests set answered_at = now(); update changes set retry_at = now()")
        self.quiet()
        self.wait(behind % after, "f")


if __name__ == "__main__":
    unittest.main()
