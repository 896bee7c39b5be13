"""Finding instances by what people know of them, and telling many at once."""
import json
import os
import subprocess
import threading
import sys
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import terminal  # noqa: E402
from daemon import PROGRAM, DaemonTest  # noqa: E402
from database import ROOT, DatabaseTest, literal, until  # noqa: E402

KEYS = ["instance", "workflow", "state", "mode", "about", "customer", "started", "finished", "next", "why"]


class FindTest(DatabaseTest):
    """Rows as the engine leaves them; ServiceTitan's copy in the same database or in one of its own."""
    one_database = True

    def setUp(self):
        super().setUp()
        self.st = self.database if self.one_database else self.new_database(("servicetitan",))
        if not self.one_database:
            self.engine = self.new_database(("engine",))
            self.database = self.engine
        self.sql("insert into clock (real_origin, business_origin, scale) values (now(), '2026-06-01 14:00+00', 1) "
                 "on conflict do nothing; insert into workflow_definitions (name, version, sha256, files, "
                 "declaration) values ('followup', 1, 'x', '{}', '{}'), ('review', 1, 'x', '{}', '{}')")
        self.environment = dict(os.environ, MOONWRIGHT_HOME=ROOT, DATABASE_URL=self.database.url,
                                SERVICETITAN_DATABASE_URL="" if self.one_database else self.st.url,
                                MOONWRIGHT_DATA=os.path.join(self.folder, "data"))
        self.ids = {}
        self.st.sql("""insert into st_customers (id, name, street, city, state, zip, modified_on) values
            (1, 'Ann O''Brien_Lee', '12 Elm St', 'Austin', 'TX', '78701', now()),
            (2, 'Bob Marsh', '9 Oak Ave', 'Dallas', 'TX', '75001', now());
          insert into st_contacts (id, customer_id, type, value, phone, email, modified_on) values
            (1, 1, 'MobilePhone', '(512) 555-0101', '+15125550101', null, now()),
            (2, 2, 'Email', 'bob@marsh.example', null, 'bob@marsh.example', now());
          insert into st_locations (id, customer_id, name, street, city, state, zip, modified_on) values
            (5, 2, 'Cabin', '77 Lake Rd', 'Waco', 'TX', '76701', now());
          insert into st_jobs (id, number, customer_id, status, modified_on) values (9001, 'J-4711', 1, 'Scheduled', now());
          insert into st_estimates (id, name, job_id, customer_id, status, modified_on)
            values (31337, 'New furnace', 9001, 1, 'Open', now())""")

    def make(self, name, workflow="followup", state="sleeping", customer=None, event=None, keys=(), ended=False,
             reason=None, error=None, minutes=0, due="now() + interval '1 day'"):
        one, e = str(uuid.uuid4()), str(uuid.uuid4())
        self.ids[one] = name
        self.sql("""insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
              values ('{e}', 'x', 'customer', '{one}', now(), now(), 1, {customer}, {payload});
            insert into event_keys select k, 'x', 1, '{e}' from unnest({keys}::text[]) k;
            insert into workflow_instances (id, workflow_definition_id, workflow, state, event_id, customer_id,
              created_at, finished_at, error) values ('{one}', 1, '{workflow}', '{state}', '{e}', {customer},
              business_now() - interval '{minutes} minutes', {ended}, {error})""".format(
            e=e, one=one, customer=customer or "null", payload=literal(json.dumps(event or {})), workflow=workflow,
            keys=literal("{" + ",".join(keys) + "}"), state=state if ended else "pending", minutes=minutes,
            ended="business_now()" if ended else "null", error=literal(error)))
        if not ended:
            self.sql("insert into workflow_queue (instance_id, workflow_definition_id, event_id, state, due, reason) "
                     "values ('%s', 1, '%s', '%s', %s, %s)" % (
                         one, e, state, "null" if state in ("stuck", "paused") else due, literal(reason)))
        return one

    def run_(self, *words, code=0):
        done = subprocess.run([PROGRAM, *words], env=self.environment, cwd=self.folder, text=True,
                              capture_output=True, timeout=60)
        self.assertEqual(code, done.returncode, done.stdout + done.stderr)
        return done.stdout if code in (0, 4) else done.stderr

    def find(self, *words):
        rows = json.loads(self.run_("instances", "list", "--json", *words))
        for row in rows:
            self.assertEqual(KEYS, list(row))
        return " ".join(self.ids[row["instance"]] for row in rows)

    def all_kinds(self):
        self.make("estimate", customer=1, keys=["estimate:31337", "job:9001", "customer:1"], minutes=1,
                  event={"customer": {"id": 1, "name": "Ann O'Brien_Lee"}, "estimate": {"id": 31337}})
        self.make("other", customer=2, minutes=2, workflow="review", event={"customer": {"id": 2, "name": "Bob Marsh"}})
        self.make("lead", minutes=3, keys=["phone:+13055550199"], event={
            "customer": {"name": "Zoë Lead", "phone": "+13055550199", "address": "1 Palm Way"}})
        self.make("stuck", customer=2, state="stuck", minutes=4, event={"customer": {"id": 2, "name": "Bob Marsh"}},
                  reason={"code": "action_failed", "message": "GHL says 100% no"})
        self.make("failed", customer=1, state="failed", ended=True, error="no money_left", minutes=5)
        self.make("done", customer=1, state="done", ended=True, minutes=90)

    def test_by_everything(self):
        self.all_kinds()
        self.assertEqual("stuck estimate other lead failed done", self.find())
        self.assertEqual("estimate other lead stuck failed done", self.find("--newest"))
        for words, found in (
                (["--customer", "brien_l"], "estimate failed done"), (["--customer", "O'BRIEN"], "estimate failed done"),
                (["--customer", "2"], "stuck other"), (["--customer", "BOB@marsh"], "stuck other"),
                (["--customer", "zoë"], "lead"), (["--customer", "brien%"], ""), (["--customer", "Lee' or '1'='1"], ""),
                (["--phone", "(512) 555"], "estimate failed done"), (["--phone", "+1 305 555 0199"], "lead"),
                (["--phone", "555-0199"], "lead"), (["--address", "lake rd"], "stuck other"),
                (["--address", "78701"], "estimate failed done"), (["--address", "palm"], "lead"),
                (["--job", "4711"], "estimate"), (["--job", "9001"], "estimate"), (["--estimate", "31337"], "estimate"),
                (["--estimate", "furnace"], "estimate"), (["--error", "100% no"], "stuck"),
                (["--error", "money_"], "failed"), (["--error", "moneyXleft"], ""), (["--state", "stuck"], "stuck"),
                (["--state", "failed"], "failed"), (["--state", "live"], "stuck estimate other lead"),
                (["--state", "sleeping"], "estimate other lead"), (["--workflow", "review"], "other"),
                (["--customer", "bob", "--state", "sleeping"], "other"), (["--customer", "ann", "--error", "money"], "failed"),
                (["--since", "30m"], "stuck estimate other lead failed"), (["--since", "2020-01-01", "--state", "done"], "done"),
                (["brien"], "estimate failed done"), (["4711"], "estimate"), (["furnace"], "estimate"), (["revi"], "other"),
                (["says 100%"], "stuck"), (["305-555"], "lead"), (["palm way"], "lead"), (["nothing like it"], "")):
            with self.subTest(" ".join(words)):
                self.assertEqual(found, self.find(*words))
        one = next(k for k, v in self.ids.items() if v == "lead")
        self.assertEqual("lead", self.find(one[:8]))

    def test_pages(self):
        for n in range(7):
            self.make("s%d" % n, state="stuck", minutes=n, reason={"code": "x", "message": "y"})
            self.make("n%d" % n, minutes=n)
        whole = self.find().split()
        self.assertEqual(["s%d" % n for n in range(7)] + ["n%d" % n for n in range(7)], whole)
        for more in ([], ["--newest"]):
            pages, after = [], []
            while True:
                rows = json.loads(self.run_("instances", "list", "--json", "--limit", "3", *more, *after))
                if not rows:
                    break
                pages += [self.ids[row["instance"]] for row in rows]
                after = ["--after", rows[-1]["instance"]]
            self.assertEqual(14, len(pages))
            self.assertEqual(self.find(*more).split(), pages)
        said = self.run_("instances", "list", "--limit", "3")
        self.assertIn("--after ", said)
        self.assertIn("y", said)

    def test_exit_codes(self):
        one = self.make("one")
        for code, words in ((0, ["instances"]), (0, ["instances", "list"]), (2, ["instances", "walk"]), (2, ["nothing"]),
                            (2, ["instances", "list", "--state", "odd"]), (2, ["instances", "list", "--limit", "0"]),
                            (2, ["instances", "list", "--stat"]), (2, ["instances", "show"]), (2, ["instances", "list", "a", "b"]),
                            (2, ["instances", "cancel"]), (2, ["instances", "cancel", one, "--workflow", "followup"]),
                            (3, ["instances", "show", "ffff"]), (3, ["instances", "cancel", "ffff"]),
                            (3, ["instances", "cancel", "--workflow", "nobody", "--yes"]), (3, ["instances", "show", "%"]),
                            (4, ["instances", "resume", one]), (4, ["instances", "cancel", "--workflow", "followup"]),
                            (2, ["instances", "list", "--since", "soon"]), (3, ["sends", "settle", "ffff", "sent"]),
                            (2, ["sends", "settle", "ffff", "perhaps"]), (3, ["inbox", "answer", "ffff", "yes"]),
                            (3, ["workflows", "pause", "nobody"]), (3, ["workflows", "show", "nobody"]),
                            (0, ["instances", "show", one, "--json"]), (2, ["instances", "show", one, "--json=1"])):
            with self.subTest(" ".join(words)):
                self.run_(*words, code=code)
        self.environment["DATABASE_URL"] = "host=/nowhere dbname=x"
        self.assertIn("moonwright: ", self.run_("instances", "list", code=75))
        self.assertIn("75 the database is away", self.run_("help"))

    def test_many_are_told_after_a_count(self):
        for n in range(250):
            self.make("m%d" % n, customer=n + 10)
        stuck = self.make("s", state="stuck", reason={"code": "x", "message": "y"})
        words = ["instances", "pause", "--workflow", "followup"]
        code, said = terminal.answer([PROGRAM, *words], self.environment, self.folder, "250")
        self.assertEqual((4, True), (code, "This will pause 251 instances. Type 251 to go on" in said), said)
        self.assertEqual("0", self.sql("select count(*) from workflow_queue where state = 'paused'"))
        code, said = terminal.answer([PROGRAM, *words], self.environment, self.folder, "251")
        self.assertIn("250 done, 1 left alone", said)
        self.assertEqual(4, code)
        self.assertEqual("250", self.sql("select count(*) from workflow_queue where state = 'paused' and due is null"))
        self.assertIn("%s  followup" % stuck, said)
        rows = json.loads(self.run_("instances", "resume", "--state", "paused", "--yes", "--json"))
        self.assertEqual((250, {"goes on"}), (len(rows), {row["says"] for row in rows}))

    def test_one_that_moved_on_is_left_alone(self):
        one = self.make("one", state="stuck", reason={"code": "x", "message": "y"})
        self.sql("update workflow_queue set state = 'sleeping', due = now()")
        self.assertEqual("left alone: it is sleeping by now", json.loads(
            self.sql("select instance_act('%s', 'cancel', 'stuck')" % one))["says"])
        self.assertEqual("sleeping", self.sql("select state from workflow_queue"))

    def test_trouble_of_one_holds_up_none(self):
        ids = [self.make("a"), self.make("b"), self.make("c")]
        self.sql("create function no() returns trigger language plpgsql as $$ begin raise 'not this one'; end $$; "
                 "create trigger no before update on workflow_queue for each row when (old.instance_id = '%s') "
                 "execute function no()" % ids[1])
        rows = json.loads(self.run_("instances", "pause", *ids, "--yes", "--json", code=4))
        self.assertEqual([False, True, True], sorted(row["done"] for row in rows))
        self.assertEqual(["failed: not this one"], [row["says"] for row in rows if not row["done"]])
        self.assertEqual("2", self.sql("select count(*) from workflow_queue where state = 'paused'"))


class FindInTwoDatabases(FindTest):
    one_database = False

    test_pages = test_exit_codes = test_many_are_told_after_a_count = None
    test_one_that_moved_on_is_left_alone = test_trouble_of_one_holds_up_none = None

    def test_by_everything(self):
        super().test_by_everything()


class WholeWorkflowTest(DaemonTest):
    files = {name + ".lua": """return workflow { on = "go", key = "customer", when = function(e) return e.data.kind == "%s" end,
        stop_when = { "other" }, run = function(e) sleep "1s" staff.task { to = "csr", title = "one" }
        sleep "2s" staff.task { to = "csr", title = "two" } sleep "365d" end }""" % name for name in ("paused", "free")}
    files["half.lua"] = """return workflow { on = "go", key = "customer",
        when = function(e) return e.data.kind == "half" end, run = function(e) sleep "365d" end }"""

    @classmethod
    def start(cls):
        with open(os.path.join(cls.folder, "log"), "a") as log:
            cls.process = subprocess.Popen([PROGRAM, "run", "--role", "workflow", "--workers", "2"], env=cls.environment,
                                           cwd=cls.folder, stdout=log, stderr=log)
        cls.addClassCleanup(cls.end, cls.process)
        until(lambda: cls.sql("select count(*) from workflow_definitions where active and name in ('paused', 'free', 'half')"), "3", 30)

    def test_a_workflow_is_paused_and_goes_on(self):
        for customer in range(100, 140):
            self.go(customer, data={"kind": "paused"})
        self.go(200, data={"kind": "free"})
        self.wait("select count(*) >= 20 from staff_tasks where title = 'one'", "t")
        own = self.instance("paused", 100)
        self.command("instances", "pause", own)
        self.wait("select state from instances where id = '%s'" % own, "paused")
        self.assertIn("paused is paused: ", self.command("workflows", "pause", "paused"))
        self.assertIn("paused is paused already", self.command("workflows", "pause", "paused"))
        self.wait("select count(*) from workflow_queue q join workflow_instances i on i.id = q.instance_id "
                  "where i.workflow = 'paused' and (q.state <> 'paused' or q.worker is not null)", "0")
        tasks = ("select count(*) from staff_tasks t join workflow_instances i on i.id = t.instance_id "
                 "where i.workflow = 'paused' or i.workflow = 'free' and t.title = 'one'")
        held = self.sql(tasks)
        for customer in range(140, 150):
            self.go(customer, data={"kind": "paused"})
        self.wait("select count(*) from instances where workflow = 'paused'", "50")
        self.wait("select count(*) from staff_tasks t join workflow_instances i on i.id = t.instance_id "
                  "where i.workflow = 'free'", "2")
        self.assertEqual("50", self.sql("select count(*) from instances where workflow = 'paused' and state = 'paused'"))
        self.assertEqual(held, self.sql(tasks))
        # Shown where people look.
        [row] = [w for w in json.loads(self.command("workflows", "list", "--json")) if w["workflow"] == "paused"]
        self.assertRegex(row["paused"], "^since 2026-.*, 50 held$")
        self.assertIn("paused", json.loads(self.command("status", "--json"))["paused"])
        one = self.instance("paused", 140)
        [row] = json.loads(self.command("instances", "list", "--json", one))
        self.assertEqual("its workflow is paused", row["why"])
        self.assertEqual(["workflows resume", "cancel", "restart"],
                         json.loads(self.command("instances", "show", one, "--json"))["can"])
        # One can't go on alone, but it can be stopped and cancelled.
        rows = json.loads(self.refusal(one))
        self.assertIn("its workflow is paused", rows[0]["says"])
        self.command("instances", "cancel", one)
        self.ended("paused", 140, "cancelled cancelled")
        self.go(141, "other")
        self.ended("paused", 141, "stopped other")
        # What is due happens once; the one that a person paused stays.
        self.assertIn("paused goes on, with 47 instances", self.command("workflows", "resume", "paused"))
        self.wait("select count(*) from instances where workflow = 'paused' and state = 'sleeping' and "
                  "(select count(*) from staff_tasks t where t.instance_id = instances.id) = 2", "47")
        self.assertEqual("paused", self.sql("select state from instances where id = '%s'" % own))
        self.assertEqual("0", self.sql("select count(*) from (select 1 from staff_tasks group by instance_id, title "
                                       "having count(*) > 1) d"))
        self.command("instances", "resume", own)
        self.wait("select count(*) from staff_tasks where instance_id = '%s'" % own, "2")
        self.assertIn("it wasn't paused", self.command("workflows", "resume", "paused"))

    def refusal(self, one):
        done = subprocess.run([PROGRAM, "instances", "resume", one, "--json"], env=self.environment, cwd=self.folder,
                              text=True, capture_output=True, timeout=60)
        self.assertEqual(4, done.returncode)
        return done.stdout

    def test_a_pause_that_was_left_half_is_brought_to_its_end(self):
        for customer in range(500, 520):
            self.go(customer, data={"kind": "half"})
        self.wait("select count(*) from instances where workflow = 'half' and state = 'sleeping'", "20")
        self.sql("select pause_workflow('half'); select hold_paused(5)")
        self.assertEqual("5|15", self.sql("select * from paused_counts('half')"))
        with open(os.path.join(self.folder, "log"), "a") as log:
            monitor = subprocess.Popen([PROGRAM, "run", "--role", "monitor"], stdout=log, stderr=log, cwd=self.folder,
                                       env=dict(self.environment, HEALTH_CHECK_INTERVAL_MS="200"))
        self.addCleanup(self.end, monitor)
        self.wait("select * from paused_counts('half')", "20|0")
        self.sql("select resume_workflow('half'); select release_paused(5)")
        self.wait("select * from paused_counts('half')", "0|20")
        self.assertEqual("f", self.sql("select bool_or(with_workflow) from workflow_queue"))

    def test_who_waits_for_a_worker_that_waits_for_it_begins_again(self):
        for customer in range(600, 603):
            self.go(customer, data={"kind": "half"})
        self.wait("select count(*) from instances where workflow = 'half' and customer_id between 600 and 602"
                  " and state = 'sleeping'", "3")
        first, second, third = sorted(self.instance("half", customer) for customer in range(600, 603))
        lock = "select 1 from workflow_queue where instance_id = '%s' for update;"
        others = [threading.Thread(target=self.sql, args=(sql,))
                  for sql in (lock % third + "select pg_sleep(1.5);" + lock % first,
                              lock % second + "select pg_sleep(4)")]
        for other in others:
            other.start()
        self.wait("select count(*) from pg_stat_activity where query like '%for update%' and wait_event = 'PgSleep'", "2")
        self.command("instances", "pause", first, second, third, "--yes")
        for other in others:
            other.join()
        self.assertEqual("3", self.sql("select count(*) from instances where workflow = 'half' and state = 'paused'"
                                       " and customer_id between 600 and 602"))

    def test_many_at_once_while_two_workers_are_at_them(self):
        for customer in range(300, 400):
            self.go(customer, data={"kind": "free"})
        self.wait("select count(*) >= 100 from workflow_instances where workflow = 'free' and customer_id >= 300", "t")
        for _ in range(3):
            for verb in ("pause", "resume"):
                subprocess.run([PROGRAM, "instances", verb, "--workflow", "free", "--yes"], env=self.environment,
                               cwd=self.folder, capture_output=True, timeout=60)
        self.wait("select count(*) from instances where workflow = 'free' and customer_id >= 300 and state = 'sleeping' "
                  "and (select count(*) from staff_tasks t where t.instance_id = instances.id) = 2", "100", 60)
        subprocess.run([PROGRAM, "instances", "cancel", "--workflow", "free", "--yes"], env=self.environment,
                       cwd=self.folder, capture_output=True, timeout=60)
        self.wait("select count(*) from workflow_instances where workflow = 'free' and customer_id >= 300 and "
                  "state = 'cancelled'", "100")
        self.assertEqual("0", self.sql("select count(*) from (select 1 from staff_tasks group by instance_id, title "
                                       "having count(*) > 1) d"))
        self.assertEqual("0", self.sql("select count(*) from workflow_queue q join workflow_instances i "
                                       "on i.id = q.instance_id where i.workflow = 'free' and customer_id >= 300"))


if __name__ == "__main__":
    unittest.main()
