"""What people tell instances: in each state, one and many, while workers are at them."""
import http.server
import json
import os
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import terminal  # noqa: E402
from daemon import EVENTS, PROGRAM, DaemonTest  # noqa: E402
from database import until  # noqa: E402

ON = """return workflow { on = "go", key = "customer", %s
  when = function(e) return e.data.kind == "%s" end, run = function(e)\n%s\nend }"""
TASK = 'staff.task { to = "csr", title = "%s" }'


class Gate(http.server.BaseHTTPRequestHandler):
    """A vendor that answers when it is let."""
    open = threading.Event()
    came = []

    def do_PUT(self):
        self.came.append(self.path)
        self.open.wait(60)
        self.send_response(int(self.headers.get("X-Status", "200")))
        body = b"{}"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class OperationsTest(DaemonTest):
    vendor = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    settings = {"MOONWRIGHT_HTTP_HOSTS": "127.0.0.1:%d" % vendor.server_port, "WORKER_LEASE_MS": "6000"}
    files = {
        "sleeper.lua": ON % ("", "sleep", 'sleep "365d"'),
        "ending.lua": ON % ("on_stop = function(e, by) %s end," % TASK % "undone", "ending", 'sleep "365d"'),
        "waiter.lua": ON % ("", "wait", 'local it = wait_for("other", { timeout = "30d" }) return it.name'),
        "broken.lua": ON % ("", "broken", 'staff.tell { to = "csr", text = "{nothing}" }'),
        "steps.lua": ON % ("", "steps", "\n".join(
            [TASK % "one", 'note "between"', TASK % "two", 'sleep "2h"', TASK % "three",
             'local it = wait_for "other"', 'return "done by " .. it.name'])),
        "slow.lua": ON % ("", "slow", "%s\nvendor.ask { path = e.customer.id .. '' }\n%s\nreturn 'slow'" % (
            TASK % "before", TASK % "after")),
        "naps.lua": ON % ("", "naps", 'sleep "3s"\n%s' % TASK % "awake"),
        "goes_on.lua": ON % ("", "goes_on", "%s\nsleep '2s'\n%s\nsleep '365d'" % (TASK % "one", TASK % "two")),
        "failing.lua": ON % ("", "failing", "vendor.fail { path = e.customer.id .. '' } return 'healed'"),
        "texts.lua": ON % ('shadow = true, class = "transactional",', "texts", """
          sms.send { to = "manager", text = "one" }
          sms.send { to = "manager", text = "two" }
          sleep "365d\""""),
        "fails.lua": ON % ('stop_when = { "other" },', "fails", "\n".join(
            [TASK % "first", TASK % "second", 'if e.data.kind == "lives" then sleep "365d" end', 'fail "no money"'])),
        "byhand.lua": "return workflow { run = function(e) %s sleep '365d' end }" % TASK % "by hand",
        "actions/vendor.lua": """return actions {
          ask = { effect = "idempotent", args = { path = "string" }, run = function(a)
            http.put { url = "http://127.0.0.1:%d/" .. a.path, json = {} } return {} end },
          fail = { effect = "idempotent", args = { path = "string" }, run = function(a)
            error("not today, " .. a.path) end } }""" % vendor.server_port,
    }

    @classmethod
    def setUpClass(cls):
        threading.Thread(target=cls.vendor.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.vendor.shutdown)
        cls.addClassCleanup(Gate.open.set)
        super().setUpClass()
        cls.command("live", "on")

    @classmethod
    def start(cls):  # "actions" and "vendor" are no workflows
        files, cls.files = cls.files, {k: v for k, v in cls.files.items() if not k.startswith("actions/")}
        super().start()
        cls.files = files

    def setUp(self):
        Gate.open.set()

    def begun(self, workflow, customer, state, kind=None):
        self.go(customer, data={"kind": kind or workflow})
        self.ended(workflow, customer, state)
        return self.instance(workflow, customer)

    def state(self, one):
        return self.sql("select state from instances where id = '%s'" % one)

    def tell(self, verb, *ids, code=0):
        done = json.loads(self.out("instances", verb, *ids, "--json", code=code))
        return done[0] if len(done) == 1 else done

    def out(self, *words, code=0):
        done = subprocess.run([PROGRAM, *words], env=self.environment, cwd=self.folder, text=True,
                              capture_output=True, timeout=90)
        self.assertEqual(code, done.returncode, done.stdout + done.stderr)
        return done.stdout

    def titles(self, customer):
        return self.sql("select string_agg(title || case when cancelled_at is null then '' else ' -' end, ', ' "
                        "order by created_at, id) from staff_tasks where customer_id = %d" % customer)

    # Each verb in each state -----------------------------------------------------------------------

    def test_sleeping_pause_resume_cancel(self):
        one = self.begun("sleeper", 1, "sleeping", "sleep")
        self.assertEqual("left alone: it is sleeping, neither paused nor stuck",
                         self.tell("resume", one, code=4)["says"])
        self.assertEqual("left alone: it is sleeping, not stuck", self.tell("retry", one, code=4)["says"])
        self.assertEqual({"instance": one, "workflow": "sleeper", "was": "sleeping", "done": True,
                          "says": "is paused"}, self.tell("pause", one[:30]))
        self.assertEqual("paused", self.state(one))
        self.assertEqual("left alone: it is paused already", self.tell("pause", one, code=4)["says"])
        self.assertEqual("left alone: it is paused, not stuck", self.tell("retry", one, code=4)["says"])
        self.assertTrue(self.tell("resume", one)["done"])
        self.ended("sleeper", 1, "sleeping")
        self.tell("pause", one)
        self.assertEqual("is being cancelled", self.tell("cancel", one)["says"])
        self.ended("sleeper", 1, "cancelled cancelled")
        self.assertEqual("left alone: it has ended as cancelled", self.tell("cancel", one, code=4)["says"])
        for verb in ("pause", "resume", "retry"):
            self.assertFalse(self.tell(verb, one, code=4)["done"])

    def test_a_cancel_runs_on_stop(self):
        one = self.begun("ending", 2, "sleeping")
        self.tell("cancel", one)
        self.ended("ending", 2, "cancelled cancelled")
        self.assertEqual("undone", self.titles(2))

    def test_clocks_go_on_while_paused_and_what_is_due_happens_once(self):
        one = self.begun("naps", 3, "sleeping")
        self.tell("pause", one)
        self.wait("select business_now() > deadline from workflow_waits where instance_id = '%s'" % one, "t")
        self.assertEqual("paused", self.state(one))
        self.tell("resume", one)
        self.ended("naps", 3, "done")
        self.assertEqual("awake", self.titles(3))

    def test_an_event_for_a_paused_one_is_kept(self):
        one = self.begun("waiter", 4, "waiting", "wait")
        self.tell("pause", one)
        self.go(4, "other")
        self.wait("select count(*) from events where type = 'other' and customer_id = 4", "1")
        self.assertEqual("paused", self.state(one))
        self.tell("resume", one)
        self.ended("waiter", 4, "done other")

    def test_queued_behind_another_pause_and_cancel(self):
        self.write("queued.lua", ON % ('if_running = "queue",', "queued", 'sleep "365d"'))
        self.in_force("queued")
        first = self.begun("queued", 5, "sleeping")
        for n in ("2", "3"):
            self.go(5, data={"kind": "queued", "n": n})
            self.wait("select count(*) from workflow_queue q join workflow_instances i on i.id = q.instance_id "
                      "where i.workflow = 'queued'", n)
        second, third = self.sql("select instance_id from workflow_queue where queued_key is not null "
                                 "order by since").split()
        self.assertEqual("is paused", self.tell("pause", second)["says"])
        self.tell("cancel", third)
        self.wait("select state from workflow_instances where id = '%s'" % third, "cancelled")
        self.tell("cancel", first)
        self.wait("select state from workflow_instances where id = '%s'" % first, "cancelled")
        self.wait("select business_key is not null and worker is null and due is null from workflow_queue "
                  "where instance_id = '%s'" % second, "t")
        self.assertEqual("paused", self.state(second))
        self.tell("resume", second)
        self.wait("select state from instances where id = '%s'" % second, "sleeping")
        self.tell("cancel", second)

    def test_stuck_is_not_paused_and_is_retried(self):
        one = self.begun("failing", 6, "stuck")
        self.assertEqual("left alone: it is stuck, and does nothing anyhow",
                         self.tell("pause", one, code=4)["says"])
        self.tell("retry", one)
        self.ended("failing", 6, "stuck")
        self.write("actions/vendor.lua", self.files["actions/vendor.lua"].replace(
            'error("not today, " .. a.path)', "return {}"))
        try:
            self.wait("select count(*) from workflow_definitions where active and name = 'actions' and "
                      "files::text not like '%not today%'", "1")
            self.tell("retry", one)
            self.ended("failing", 6, "done healed")
        finally:
            self.write("actions/vendor.lua", self.files["actions/vendor.lua"])
        self.tell("retry", one, code=4)

    # While a worker is at it -------------------------------------------------------------------------

    def on_the_wire(self, customer):
        Gate.open.clear()
        self.go(customer, data={"kind": "slow"})
        until(lambda: "/%d" % customer in Gate.came, True, 30)
        one = self.instance("slow", customer)
        self.assertEqual("t", self.sql("select worker is not null from workflow_queue where instance_id = '%s'" % one))
        return one

    def test_pause_while_an_action_is_on_the_wire(self):
        one = self.on_the_wire(10)
        self.assertEqual("asked: a worker is at it, it is held before its next step", self.tell("pause", one)["says"])
        self.assertEqual("left alone: it is paused already", self.tell("pause", one, code=4)["says"])
        Gate.open.set()
        self.ended("slow", 10, "paused")
        self.assertEqual("before", self.titles(10))
        self.assertEqual("2", self.sql("select count(*) from workflow_step_executions where "
                                       "workflow_instance_id = '%s'" % one))
        self.tell("resume", one)
        self.ended("slow", 10, "done slow")
        self.assertEqual("before, after", self.titles(10))
        self.assertEqual(1, Gate.came.count("/10"))

    def test_a_pause_is_taken_back_before_it_happens(self):
        one = self.on_the_wire(11)
        self.tell("pause", one)
        self.assertEqual("goes on: it is not to be held any more", self.tell("resume", one)["says"])
        Gate.open.set()
        self.ended("slow", 11, "done slow")
        self.assertEqual("before, after", self.titles(11))

    def test_cancel_while_an_action_is_on_the_wire(self):
        one = self.on_the_wire(12)
        self.assertEqual("asked: a worker is at it, it ends before its next step", self.tell("cancel", one)["says"])
        Gate.open.set()
        self.ended("slow", 12, "cancelled cancelled")
        self.assertEqual("before", self.titles(12))
        self.assertEqual("done", self.sql("select state from outbound_log where instance_id = '%s'" % one))

    # Restarting ----------------------------------------------------------------------------------------

    def test_restart_from_a_step_keeps_what_came_before(self):
        one = self.begun("steps", 20, "sleeping")
        self.assertEqual("one, two", self.titles(20))
        plan = self.tell("restart", one, "--from", "staff.task#2", "--yes")
        self.assertEqual((2, 1), (plan["kept"], plan["run"]))
        self.ended("steps", 20, "sleeping")
        self.wait("select run from workflow_queue where instance_id = '%s' and worker is null" % one, "2")
        self.assertEqual("one, two -, two", self.titles(20))
        self.assertEqual("1|3\n2|3", self.sql(
            "select run, count(*) from workflow_step_executions where workflow_instance_id = '%s' "
            "group by 1 order by 1" % one))
        # Once more, from a step behind: what was kept twice is still there, and its task is open.
        self.tell("restart", one, "--from", "staff.task#2", "--yes")
        self.wait("select run from workflow_queue where instance_id = '%s' and worker is null" % one, "3")
        self.wait("select count(*) from staff_tasks where customer_id = 20", "4")
        self.assertEqual("one, two -, two -, two", self.titles(20))

    def test_restart_from_a_wait_gives_its_event_back(self):
        one = self.begun("waiter", 21, "waiting", "wait")
        self.assertIn("refused", json.loads(self.sql("select restart_plan('%s', 'wait_for#9')" % one)))
        plan = self.tell("restart", one, "--yes")
        self.assertEqual((0, "the beginning"), (plan["kept"], plan["step"]))
        self.wait("select state, run from instances where id = '%s'" % one, "waiting|2")
        self.go(21, "other")
        self.ended("waiter", 21, "done other")
        self.assertEqual("2", self.sql("select run from workflow_step_executions where "
                                       "workflow_instance_id = '%s' and name like 'wait%%'" % one))

    def test_restart_asks_and_takes_no_for_an_answer(self):
        one = self.begun("steps", 22, "sleeping")
        words = [PROGRAM, "instances", "restart", one, "--from", "2"]
        code, said = terminal.answer(words, self.environment, self.folder, "no")
        self.assertEqual(4, code, said)
        self.assertIn("nothing was done", said)
        self.assertEqual("1", self.sql("select run from instances where id = '%s'" % one))
        code, said = terminal.answer(words, self.environment, self.folder, "1")
        self.assertEqual(0, code, said)
        self.wait("select state, run from instances where id = '%s'" % one, "sleeping|2")
        self.assertIn("--yes", self.command("instances", "restart", one, code=4))

    def test_restart_while_a_worker_is_at_it(self):
        one = self.on_the_wire(23)
        timer = threading.Timer(1, Gate.open.set)
        timer.start()
        self.tell("restart", one, "--from", "1", "--yes")
        timer.join()
        self.ended("slow", 23, "done slow")
        self.assertEqual(2, Gate.came.count("/23"))
        self.assertEqual("before -, before, after", self.titles(23))

    def test_what_can_not_be_restarted_says_so(self):
        one = self.begun("sleeper", 24, "sleeping", "sleep")
        self.assertIn("it has no step 'x#1' in its record",
                      self.command("instances", "restart", one, "--from", "x#1", "--yes", code=4))
        self.tell("cancel", one)
        self.ended("sleeper", 24, "cancelled cancelled")
        other = self.begun("sleeper", 24, "sleeping", "sleep")
        self.assertIn("another has its key: " + other, self.command("instances", "restart", one, "--yes", code=4))
        self.tell("cancel", other)
        self.ended("sleeper", 24, "cancelled cancelled")
        self.sql("update workflow_instances set pruned_at = now() where id = '%s'" % one)
        self.assertIn("what it carried was removed", self.command("instances", "restart", one, "--yes", code=4))

    def test_what_has_ended_begins_again_with_its_key_and_stops(self):
        one = self.begun("fails", 28, "failed no money")
        self.assertEqual(["restart"], json.loads(self.out("instances", "show", one, "--json"))["can"])
        self.assertEqual("0", self.sql("select count(*) from workflow_subscriptions where instance_id = '%s'" % one))
        plan = self.tell("restart", one, "--from", "staff.task#2", "--yes")
        self.assertEqual((1, True), (plan["kept"], plan["ended"]))
        self.ended("fails", 28, "failed no money")
        self.assertEqual("first, second, second", self.titles(28).replace(" -", ""))
        # With an event meanwhile it goes another way, and lives.
        self.sql("update events set payload = jsonb_set(payload::jsonb, '{data,kind}', '\"lives\"') where customer_id = 28")
        self.tell("restart", one, "--yes")
        self.ended("fails", 28, "sleeping")
        self.assertEqual("t|t", self.sql("select business_key is not null, finished_at is null from instances where id = '%s'" % one))
        self.assertIn("key taken", self.sql_skip(28))
        self.go(28, "other")
        self.ended("fails", 28, "stopped other")

    def sql_skip(self, customer):
        self.go(customer, data={"kind": "fails"})
        self.wait("select count(*) > 0 from workflow_skips where workflow = 'fails'", "t")
        return self.sql("select reason from workflow_skips where workflow = 'fails'")

    def test_a_restart_after_it_has_gone_on_changes_nothing(self):
        one = self.begun("goes_on", 25, "sleeping")
        plan = self.sql("select restart_plan('%s', '1')" % one)
        self.wait("select count(*) from staff_tasks where customer_id = 25", "2")
        self.ended("goes_on", 25, "sleeping")
        self.assertEqual("", self.sql("select restart_instance('%s')" % plan.replace("'", "''")))
        self.assertEqual("1", self.sql("select run from instances where id = '%s'" % one))

    def test_what_was_sent_before_the_step_is_not_sent_again(self):
        one = self.begun("texts", 26, "sleeping")
        self.assertEqual("one|sent|\ntwo|sent|", self.sql("select body, state, rule from messaging_log "
                         "where instance_id = '%s' order by step" % one))
        plan = self.tell("restart", one, "--from", "sms.send#2", "--yes")
        self.assertEqual([("sms", "+12125550199", "sent")],
                         [(s["what"], s["to"], s["state"]) for s in plan["sent"]])
        self.wait("select run, state from instances where id = '%s'" % one, "2|sleeping")
        self.assertEqual("one 1, two 1, two 2", self.sql(
            "select string_agg(body || ' ' || run, ', ' order by run, body) from messaging_log where "
            "instance_id = '%s' and state = 'sent'" % one))
        # The two of the second run were made in two runs; both would go out again.
        plan = json.loads(self.sql("select restart_plan('%s', null)" % one))
        self.assertEqual(2, len(plan["sent"]))
        self.assertIn("So many sends go out once more. Type 2 to go on", terminal.answer(
            [PROGRAM, "instances", "restart", one], self.environment, self.folder, "no")[1])

    def test_a_send_in_doubt_is_settled_first(self):
        one = self.begun("texts", 27, "sleeping")
        self.sql("update messaging_log set state = 'in_doubt' where instance_id = '%s' and body = 'two'" % one)
        self.assertIn("nobody knows yet whether sms", self.command("instances", "restart", one, "--yes", code=4))
        self.command("sends", "settle", self.sql("select id from messaging_log where instance_id = '%s' and "
                                                 "body = 'two'" % one), "drop")
        self.tell("restart", one, "--from", "sms.send#2", "--yes")
        self.wait("select count(*) from messaging_log where instance_id = '%s' and run = 2 and body = 'two'" % one, "1")

    # By hand -------------------------------------------------------------------------------------------

    def test_start_by_hand(self):
        said = json.loads(self.out("start", "byhand", '{"customer": {"id": 30, "name": "Bo"}}', "--json"))
        self.wait("select state from instances where id = '%s'" % said["instance"], "sleeping")
        self.assertEqual("by hand", self.titles(30))
        again = self.command("start", "byhand", '{"customer": {"id": 30}}', code=4)
        self.assertIn("not started: key taken", again)
        self.assertIn("there is no workflow 'nothing'", self.command("start", "nothing", "{}", code=3))
        self.assertIn("say for whom", self.command("start", "byhand", code=2))
        self.assertIn("there is no customer 77", self.command("start", "byhand", "--customer", "77", code=3))
        self.sql("insert into st_customers (id, name, modified_on) values (31, 'Cy Customer', now())")
        said = json.loads(self.out("start", "byhand", "--customer", "31", "--json"))
        self.wait("select customer_id, entity_id from instances where id = '%s'" % said["instance"], "31|31")

    def test_emit_by_hand(self):
        one = self.begun("waiter", 32, "waiting", "wait")
        self.sql("insert into st_customers (id, name, modified_on) values (32, 'Di', now())")
        self.assertEqual("other is told\n", self.command("events", "emit", "other", '{"size": 2}', "--customer", "32"))
        self.ended("waiter", 32, "done other")
        self.assertEqual("2", self.sql("select payload->'data'->>'size' from events where type = 'other' "
                                       "and customer_id = 32"))
        for data, wrong in (('{"size": "x"}', "data: size must be a number"), ('{"sze": 3}', 'unknown field "sze" in data'),
                            ("[3]", "is not a JSON object"), ('{"size":', "is not a JSON object")):
            self.assertIn(wrong, self.command("events", "emit", "other", data, "--customer", "32", code=2))
        self.assertEqual("1", self.sql("select count(*) from events where type = 'other' and customer_id = 32"))
        # An event that is added to events.lua can be told, whichever workflows know of it.
        self.write("events.lua", EVENTS.replace("{\n", '{\n  visit_asked = { of = "customer", manual = true, '
                                                'data = { on = "date" } },\n', 1))
        self.wait("select count(*) from workflow_definitions where name = 'events' and active "
                  "and declaration->'events'->'visit_asked' is not null", "1")
        self.assertIn("on is missing", self.command("events", "emit", "visit_asked", "--customer", "32", code=2))
        self.assertIn("must be a date", self.command("events", "emit", "visit_asked", '{"on": "soon"}', "--customer", "32", code=2))
        self.command("events", "emit", "visit_asked", '{"on": "2026-06-08"}', "--customer", "32")
        self.assertIn("there is no event 'nothing'", self.command("events", "emit", "nothing", code=3))
        self.assertIn("say which", self.command("events", "emit", "other", code=4))
        self.assertEqual("done", self.state(one))

    # What is said -------------------------------------------------------------------------------------

    def test_show(self):
        one = self.begun("steps", 40, "sleeping")
        shown = json.loads(self.out("instances", "show", one[:30], "--json"))
        self.assertEqual(
            ["instance", "workflow", "version", "state", "mode", "about", "customer_id", "customer", "key", "event",
             "parent", "children", "started", "finished", "run", "pruned", "held_by", "next", "next_local", "zone",
             "queued_behind", "outcome", "reason", "error", "stuck", "waits", "stops", "can", "timeline"], list(shown))
        self.assertEqual((one, "steps", "sleeping", "Ann Lee", "America/New_York"), tuple(
            shown[k] for k in ("instance", "workflow", "state", "customer", "zone")))
        [wait] = shown["waits"]
        self.assertEqual(("sleep", "the clock"), (wait["kind"], wait["woken_by"]))
        self.assertIn("America/New_York", wait["until_local"])
        steps = [t["data"] for t in shown["timeline"] if t["data"]["kind"] == "step"]
        self.assertEqual([1, 2, 3], [s["seq"] for s in steps])
        self.assertEqual(("one", 1, "one"), (steps[0]["input"]["title"], steps[0]["attempt"], steps[0]["output"]["title"]))
        self.assertEqual(["between"], [t["data"]["text"] for t in shown["timeline"] if t["what"] == "note" and
                                       t["data"]["kind"] == "note"])
        self.assertEqual(["pause", "restart", "cancel"], shown["can"])
        text = self.out("instances", "show", one)
        for part in ("Ann Lee", "can be told", "pause, restart, cancel", "staff.task#1", "woken by the clock"):
            self.assertIn(part, text)
        waiter = self.begun("waiter", 40, "waiting", "wait")
        [wait] = json.loads(self.out("instances", "show", waiter, "--json"))["waits"]
        self.assertEqual((["other"], "other about customer:40; the clock"), (wait["events"], wait["woken_by"]))


if __name__ == "__main__":
    unittest.main()
