"""http in a step of own code, in the whole program: what is tried again, recorded once, and cut off."""
import json
import os
import signal
import sys
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "support"))
from daemon import WORKERS, DaemonTest  # noqa: E402
from database import until  # noqa: E402
from outbound import Vendor  # noqa: E402

# %(url)s is the vendor; each workflow is started by an event of its own.
BODIES = {
    "rate": """return "rate " .. step("rate", { retries = 3 }, function()
        return http.get { url = "%(url)s/rate", query = { of = e.customer.id } }.json.rate end)""",
    "trying": """local ok, err = pcall(step, "rate", { retries = 2 }, function()
        return http.get { url = "%(url)s/rate" }.json end)
      return table.concat({ err.action, err.code, err.status, err.attempts }, " ")""",
    "slow": """local ok, err = pcall(step, "rate", { retries = 1, timeout = "1s" }, function()
        return http.get { url = "%(url)s/rate" }.json end)
      return err.code .. " " .. err.attempts""",
    "stuck": """step("rate", { retries = 0 }, function() return http.get { url = "%(url)s/rate" }.json end)""",
    "long": """return step("both", function()
        local made = http.post { url = "%(url)s/reserve", json = { n = 1 } }.json
        return made.id .. http.get { url = "%(url)s/rate" }.json.rate end)""",
    "stopped": """step("rate", function() return http.get { url = "%(url)s/rate" }.json.rate end)
      step("next", function() return http.get { url = "%(url)s/next" }.status end)""",
    "unsent": """step("both", function()
        local rate = http.get { url = "%(url)s/rate" }.json.rate
        http.post { url = "%(url)s/reserve" }
        return rate end)""",
    "halted": """all {
        function() step("first", function() return http.get { url = "%(url)s/first" }.json.rate end) end,
        function() step("second", function() return http.get { url = "%(url)s/second" }.json.rate end)
          step("next", function() return http.get { url = "%(url)s/next" }.status end) end }""",
    "side": """local got = all {
        a = function() return step("a", function() return http.get { url = "%(url)s/a" }.json.rate end) end,
        b = function() return step("b", function() return http.get { url = "%(url)s/b" }.json.rate end) end }
      return got.a + got.b .. """ + '""',
    "outside": """return http.get { url = "%(url)s/rate" }.status""",
    "elsewhere": """local function why(url)
        local ok, err = pcall(step, "x", { retries = 0 }, function() return http.get { url = url } end)
        return err.code .. ": " .. err.message
      end
      return why("http://10.0.0.1/x") .. "; " .. why("http://localhost:%(port)s/x")""",
    "large": """local ok, err = pcall(step, "large", function()
        local body = http.get { url = "%(url)s/large" }.body
        return body .. body end)
      return err.code .. ": " .. err.message""",
    "crowd": """return "" .. step("rate", function() return http.get { url = "%(url)s/crowd" }.json.rate end)""",
}
WORKFLOW = """return workflow { on = "go", key = "customer", stop_when = { "other" },
  when = function(e) return e.data.kind == "%s" end,
  run = function(e)
    %s
  end }"""
RATE = 200, {}, {"rate": 5, "id": "r"}


class OwnStepTest(DaemonTest):
    settings = {"WORKER_LEASE_MS": "6000"}

    @classmethod
    def setUpClass(cls):
        cls.vendor = Vendor(lambda _: RATE)
        cls.addClassCleanup(cls.vendor.close)
        port = cls.vendor.url.rpartition(":")[2]
        cls.settings = dict(cls.settings, MOONWRIGHT_LOG_LEVEL="debug",
                            MOONWRIGHT_HTTP_HOSTS="127.0.0.1:%s localhost:%s" % (port, port))
        cls.files = {name + ".lua": WORKFLOW % (name, body % {"url": cls.vendor.url, "port": port})
                     for name, body in BODIES.items()}
        super().setUpClass()
        cls.command("live", "on")

    customer = 0

    def setUp(self):
        type(self).customer += 1
        self.vendor.plan, self.vendor.requests = [], []
        self.sql("insert into provider_limits (provider, capacity, refill, tokens) values ('http', 1000, 1000, 1000) "
                 "on conflict (provider) do update set capacity = 1000, refill = 1000, tokens = 1000, failures = 0, "
                 "paused_until = null")

    def begin(self, kind):
        self.go(self.customer, data={"kind": kind})

    def comes_to(self, kind, wanted):
        self.begin(kind)
        self.ended(kind, self.customer, wanted)

    def steps(self):
        return self.sql(
            "select string_agg(x.name || ' ' || x.state || ' ' || (x.output->>'value'), ', ' order by x.seq) "
            "from workflow_step_executions x join workflow_instances i on i.id = x.workflow_instance_id "
            "where i.customer_id = %d" % self.customer)

    def blocked(self, answer=RATE):
        """The next request is answered when the event is set: (asked, go)."""
        asked, go = threading.Event(), threading.Event()

        def wait(_):
            asked.set()
            go.wait(40)
            return answer
        self.addCleanup(go.set)
        self.vendor.plan.append(wait)
        return asked, go

    def stop(self):
        self.go(self.customer, "other")
        self.wait("select count(*) from events where type = 'other' and customer_id = %d" % self.customer, "1")

    def worker(self):
        """The process that is at it."""
        return int(self.sql("select w.pid from workflow_workers w join workflow_queue q on q.worker = w.id "
                            "join workflow_instances i on i.id = q.instance_id where i.customer_id = %d" % self.customer))

    def test_an_answer_is_recorded_as_one_step(self):
        self.vendor.plan = [(503, {}, ""), (429, {"Retry-After": "1"}, "")]
        begun = time.time()
        self.comes_to("rate", "done rate 5")
        self.assertGreaterEqual(time.time() - begun, 1)
        self.assertEqual(3, self.vendor.count("GET", "/rate?of=%d" % self.customer))
        self.assertEqual("rate#1 done 5", self.steps())
        instance = self.instance("rate", self.customer)
        for request in self.vendor.requests:
            self.assertEqual(instance.replace("-", ""), request["headers"]["traceparent"].split("-")[1])

    def test_what_goes_on_failing_is_raised_with_its_attempts(self):
        self.vendor.plan = [(500, {}, "")] * 3
        self.comes_to("trying", "done rate unavailable 500 3")
        self.assertEqual(3, self.vendor.count("GET"))

    def test_a_refusal_is_not_tried_again(self):
        self.vendor.plan = [(404, {}, "")]
        self.comes_to("trying", "done rate refused 404 1")
        self.assertEqual(1, self.vendor.count("GET"))

    def test_a_try_ends_after_the_authors_time(self):
        self.vendor.plan = ["hang", "hang"]
        begun = time.time()
        self.comes_to("slow", "done unavailable 2")
        self.assertLess(time.time() - begun, 25)  # the vendor takes a minute
        self.assertEqual(2, self.vendor.count("GET"))

    def test_uncaught_it_is_stuck_there_and_retried_by_a_person(self):
        self.vendor.plan = [(500, {}, "")]
        self.comes_to("stuck", "stuck")
        instance = self.instance("stuck", self.customer)
        self.assertEqual("action_failed|rate#1|unavailable", self.sql(
            "select stuck->>'code', stuck->>'name', stuck->'error'->>'code' from instances where id = '%s'" % instance))
        self.command("instances", "retry", instance)
        self.ended("stuck", self.customer, "done")

    def test_a_death_in_the_middle_runs_it_again_and_records_it_once(self):
        self.vendor.plan = [RATE]
        asked, _ = self.blocked()
        self.begin("long")
        self.assertTrue(asked.wait(30))
        os.kill(self.worker(), signal.SIGKILL)
        self.ended("long", self.customer, "done r5", 60)
        self.assertEqual(2, self.vendor.count("GET"), "it ran again")
        self.assertEqual(1, self.vendor.count("POST"), "the ledger knew that it was done")
        self.assertEqual("both#1 done r5", self.steps())

    def test_a_worker_without_its_lease_records_nothing(self):
        asked, go = self.blocked((200, {}, {"rate": "late"}))
        self.begin("rate")
        self.assertTrue(asked.wait(30))
        self.sql("select takeover(id, null) from workflow_workers where role = 'workflow'")
        go.set()
        self.ended("rate", self.customer, "done rate 5", 60)
        self.assertEqual("rate#1 done 5", self.steps())
        self.assertEqual(2, self.vendor.count("GET"))

    def test_a_stop_meanwhile_is_honoured_behind_it(self):
        asked, go = self.blocked()
        self.begin("stopped")
        self.assertTrue(asked.wait(30))
        self.stop()
        go.set()
        self.ended("stopped", self.customer, "stopped other")
        self.assertEqual("rate#1 done 5", self.steps())
        self.assertEqual(0, self.vendor.count("GET", "/next"))

    def test_a_stop_meanwhile_comes_before_a_post(self):
        asked, go = self.blocked()
        self.begin("unsent")
        self.assertTrue(asked.wait(30))
        self.stop()
        go.set()
        self.ended("unsent", self.customer, "stopped other")
        self.assertEqual(0, self.vendor.count("POST"))
        self.assertEqual("", self.steps())

    def test_what_has_begun_is_recorded_before_the_stop(self):
        asked, go = self.blocked()
        other_asked, other_go = self.blocked()
        self.begin("halted")
        self.assertTrue(asked.wait(30) and other_asked.wait(30))
        self.stop()
        order = [r["path"] for r in self.vendor.requests]
        first, second = (go, other_go) if order[0] == "/first" else (other_go, go)
        second.set()  # with its record the stop is known
        self.wait("select count(*) from workflow_step_executions x join workflow_instances i "
                  "on i.id = x.workflow_instance_id where i.customer_id = %d" % self.customer, "1")
        time.sleep(0.5)
        first.set()
        self.ended("halted", self.customer, "stopped other")
        self.assertEqual("second#1 done 5, first#1 done 5", self.steps())
        self.assertEqual(0, self.vendor.count("GET", "/next"))

    def test_branches_are_on_the_wire_at_once(self):
        both = threading.Barrier(2, timeout=30)

        def meet(_):
            both.wait()
            return RATE
        self.vendor.plan = [meet, meet]
        self.comes_to("side", "done 10")

    def test_an_end_of_the_program_waits_for_it(self):
        asked, go = self.blocked()
        self.begin("rate")
        self.assertTrue(asked.wait(30))
        self.process.terminate()
        time.sleep(0.5)
        self.assertIsNone(self.process.poll())
        go.set()
        self.assertEqual(0, self.process.wait(20))
        self.assertEqual("rate#1 done 5", self.steps())
        self.start()
        self.ended("rate", self.customer, "done rate 5", 60)
        self.assertEqual(1, self.vendor.count("GET"))

    def test_outside_of_a_step_it_is_refused_with_the_line(self):
        self.comes_to("outside", "stuck")
        self.assertIn("workflows/outside.lua:4: http.get is for actions and for step", self.sql(
            "select stuck->>'message' from instances where id = '%s'" % self.instance("outside", self.customer)))
        self.assertEqual([], self.vendor.requests)

    def test_hosts_are_those_of_actions(self):
        self.begin("elsewhere")
        self.wait("select state from instances where workflow = 'elsewhere'", "done")
        outcome = self.sql("select outcome from instances where workflow = 'elsewhere'")
        self.assertIn("refused: 10.0.0.1 is not one of MOONWRIGHT_HTTP_HOSTS; refused: ", outcome)
        self.assertIn("an address that is not public", outcome)

    def test_a_result_above_1_mb_is_refused(self):
        self.vendor.default = lambda _: (200, {}, "x" * 600000)
        self.addCleanup(setattr, self.vendor, "default", lambda _: RATE)
        self.comes_to("large", "done refused: its result is larger than 1 MB: keep less")

    def test_in_shadow_nothing_is_posted(self):
        self.command("live", "off")
        self.addCleanup(self.command, "live", "on")
        self.vendor.plan = [(200, {}, {"rate": 5})]
        self.begin("unsent")
        self.ended("unsent", self.customer, "done")
        self.assertEqual((1, 0), (self.vendor.count("GET"), self.vendor.count("POST")))
        self.assertEqual("t|done", self.sql(
            "select o.shadow, o.state from outbound_log o join workflow_instances i on i.id = o.instance_id "
            "where i.customer_id = %d" % self.customer))

    def test_the_ledger_has_its_posts(self):
        self.vendor.plan = [(503, {}, ""), (200, {}, {"id": "r"})]
        self.comes_to("long", "done r5")
        self.assertEqual("post#1 1 not_sent|post#1 2 done", self.sql(
            "select string_agg(call || ' ' || attempt || ' ' || o.state, '|' order by attempt) from outbound_log o "
            "join workflow_instances i on i.id = o.instance_id where i.customer_id = %d" % self.customer))
        self.assertEqual({"n": 1}, json.loads(
            [r for r in self.vendor.requests if r["method"] == "POST"][0]["body"]))

    @unittest.skipIf(WORKERS, "they wait in one worker")
    def test_where_many_wait_for_their_turn_it_comes_back_later(self):
        self.sql("update provider_limits set paused_until = now() + interval '25 s' where provider = 'http'")
        type(self).customer += 230
        for customer in range(self.customer - 229, self.customer + 1):
            self.go(customer, data={"kind": "crowd"})
        self.wait("select count(*) from instances where workflow = 'crowd' and state = 'waiting' "
                  "and stuck->>'step' = 'rate#1' and stuck->>'message' like 'many wait%'", "30", 60)
        self.wait("select count(*) from instances where workflow = 'crowd' and outcome = '5'", "230", 120)
        self.assertEqual(230, self.vendor.count("GET", "/crowd"))


if __name__ == "__main__":
    unittest.main()
