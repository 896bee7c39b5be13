"""Flow control with real workers, killed in the middle, and in the whole program."""
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import test_execute  # noqa: E402
from daemon import DaemonTest  # noqa: E402
from database import literal, until  # noqa: E402
from test_flow_settle import batch, debounce, family, rate, slots  # noqa: E402
from test_settle import EMPTY, event, start  # noqa: E402


class Case(test_execute.Case):
    def setUp(self):
        super().setUp()
        self.n = 0
        self.sql("insert into settings (name, value) values ('live', 'on')")

    def settle(self, count, flow, workflow="x", **more):
        """Events that start the workflow, settled together; the starts."""
        events, starts = [], []
        definition = int(self.sql("select max(id) from workflow_definitions where name = '%s'" % workflow))
        for _ in range(count):
            self.n += 1
            e = event("estimate_created", "estimate", self.n,
                      "2026-06-01T%02d:%02d:%02dZ" % (10 + self.n // 3600, self.n // 60 % 60, self.n % 60))
            e["payload"].update(of="estimate", time="2026-06-01T12:00:00Z", id=e["id"],
                                customer={"id": self.n, "first_name": "Ann", "zone": "America/New_York"})
            events.append(e)
            starts.append(dict(start(e, workflow, flow=flow, **{"key": None, **more}), definition=definition))
        self.sql("begin; select lock_gate(); select settle(%s::json); commit"
                 % literal({**EMPTY, "events": events, "starts": starts}))
        return [s["instance"] for s in starts]

    def effects(self):
        out = self.sql("select text from effects order by id")
        return out.split("\n") if out else []


OVERLAP = """select max(n) from (
  select (select count(distinct o.instance) from effects o
          join workflow_step_executions t on t.workflow_instance_id = o.instance and t.branch || '/' || t.ordinal = o.step
          where o.at <= e.at and t.finished_at > e.at) as n from effects e) x"""


class RunTest(Case):
    def test_two_workers_have_no_more_than_the_limit_at_work(self):
        self.body("sms.send { to = e.customer, text = 'slow 30' }\nsleep '1s'\n"
                  "sms.send { to = e.customer, text = 'slow 30' }")
        self.settle(40, slots(3))
        self.worker(), self.worker()
        self.states(done=40)
        self.assertEqual("80", self.sql("select count(*) from effects"))
        self.assertIn(self.sql(OVERLAP), ("2", "3"))
        self.assertEqual("0|0", self.sql("select (select count(*) from workflow_flow),"
                                         " (select count(*) from workflow_queue)"))

    def test_a_wait_gives_its_slot_to_another_unless_it_holds_it(self):
        self.body("sms.send { to = e.customer, text = 'a' }\nsleep '1d'")
        free = self.settle(5, slots(1))
        held = self.settle(3, slots(1, "k", hold=True))
        self.worker()
        self.states(sleeping=6, pending=2)
        self.assertEqual("1|t", self.sql(
            "select count(*), bool_and(instance_id in ('%s')) from workflow_flow where slot is not null"
            % "','".join(held)))
        self.assertEqual("2", self.sql("select count(*) from instances where stuck->>'code' = 'concurrency'"))
        self.sql("select cancel_instance(instance_id) from workflow_flow where slot is not null")
        self.states(cancelled=1, sleeping=6, pending=1)
        self.assertEqual(5, len(free))

    def test_what_is_stuck_keeps_its_key_and_not_its_slot(self):
        self.body("local x = e.gone.name", name="bad")
        self.body("sms.send { to = e.customer, text = 'a' }")
        self.settle(1, slots(1), "bad", key="k")
        self.worker()
        self.states(stuck=1)
        self.settle(1, slots(1), "bad", key="k")
        self.assertEqual("0|1|key taken", self.sql(
            "select (select count(*) from workflow_flow where slot is not null), count(*), min(reason)"
            " from workflow_skips where reason = 'key taken'"))

    def test_one_that_waits_for_a_slot_is_stopped_and_runs_its_on_stop(self):
        self.body("sms.send { to = e.customer, text = 'slow 2000' }",
                  "on_stop = function(e, by) sms.send { to = e.customer, text = by.name } end,")
        self.settle(1, slots(1))
        self.worker()
        self.wait("select count(*) from effects", "1")
        waits = self.settle(1, slots(1), stops=[("customer_replied", "customer:5", False)])[0]
        self.wait("select reason->>'code' from workflow_queue where instance_id = '%s'" % waits, "concurrency")
        self.happen("customer_replied", ["customer:5"])
        self.wait("select state || ' ' || reason from workflow_instances where id = '%s'" % waits,
                  "stopped customer_replied")
        self.assertEqual(["slow 2000", "customer_replied"], self.effects())
        self.states(done=1, stopped=1)

    def test_the_rate_is_kept_by_two_workers(self):
        self.body("sms.send { to = e.customer, text = 'a' }")
        self.settle(14, rate(3, 1))
        self.worker(), self.worker()
        self.states(done=14)
        self.assertEqual("14|t|t", self.sql(
            "select count(*), bool_and(later - at >= interval '1 s' or later is null), bool_and(began >= at) from ("
            " select r.at, lead(r.at, 3) over (order by r.at) as later, (select business_of(e.at) from effects e"
            "  where e.instance = r.instance_id) as began from workflow_rate_starts r where begun) x"))

    def test_what_the_worker_may_not_begin_isnt_asked_all_the_time(self):
        self.body("sms.send { to = e.customer, text = 'a' }")
        self.settle(4, {**rate(1, 3600), **slots(1)})
        w = self.worker()
        self.states(done=1, pending=3)
        time.sleep(1)
        self.assertEqual("0", self.sql("select max(epoch) from workflow_queue"))
        w.end()
        self.assertIn("claimed 1 ", w.said)

    def test_the_newest_event_runs_once_though_the_worker_is_killed(self):
        self.body("sms.send { to = e.customer, text = 'n ' .. e.estimate.id }\nsleep '1s'")
        for _ in range(3):
            w = self.worker(lease_ms=1000)
            self.settle(1, debounce(1), key="k", if_running="queue")
            time.sleep(0.3)
            w.kill()
        self.worker(lease_ms=1000)
        self.states(done=1)
        self.assertEqual(["n 3"], self.effects())

    def test_a_batch_is_seen_whole_by_its_body(self):
        self.body("local list = {}\nfor i, it in ipairs(e.batch) do list[i] = it.estimate.id end\n"
                  "sms.send { to = e.customer, text = e.estimate.id .. ': ' .. table.concat(list, ' ') }\n"
                  "wait_for('estimate_approved', { timeout = '1s' })\nreturn e.batch[2].customer.first_name")
        self.settle(1, batch(3600, 4), key="k", if_running="queue")
        self.worker()
        for count in (2, 2):
            self.settle(count, batch(3600, 4), key="k", if_running="queue")
        self.states(done=1, pending=1)
        self.assertEqual(["1: 1 2 3 4"], self.effects())
        self.assertEqual("Ann", self.sql("select outcome from workflow_instances where state = 'done'"))

    def test_a_replaced_one_of_a_family_runs_its_on_stop_before_the_other_begins(self):
        self.body("sms.send { to = e.customer, text = 'low' }\nsleep '1d'",
                  "on_stop = function(e, by) sms.send { to = e.customer, text = by.name } end,", name="low")
        self.body("sms.send { to = e.customer, text = 'high' }", name="high")
        self.settle(1, family(), "low")
        self.worker(), self.worker()
        self.states(sleeping=1)
        self.settle(1, family(), "high", priority=1)
        self.states(stopped=1, done=1)
        self.assertEqual(["low", "replaced", "high"], self.effects())
        self.assertEqual("0", self.sql("select count(*) from workflow_flow"))


class KillTest(Case):
    def test_no_slot_is_lost_or_doubled_by_kills(self):
        self.body("sms.send { to = e.customer, text = 'slow 20' }\nsleep '1s'\n"
                  "sms.send { to = e.customer, text = 'slow 20' }\n"
                  "if e.estimate.id % 10 == 0 then sleep '365d' end\n"
                  "if e.estimate.id % 10 == 1 then local x = e.gone.name end")
        self.settle(60, slots(4))
        over, ends = [], threading.Event()

        def watch():
            while not ends.is_set():
                n = int(self.sql("select count(*) from workflow_flow where slot is not null"))
                if n > 4:
                    over.append(n)
                time.sleep(0.005)
        watching = threading.Thread(target=watch)
        watching.start()
        workers = [self.worker(lease_ms=1000), self.worker(lease_ms=1000)]
        try:
            for k in range(12):
                time.sleep(0.25)
                workers[k % 2].kill()
                workers[k % 2] = self.worker(lease_ms=1000)
            self.states(done=48, sleeping=6, stuck=6)
            self.wait("select count(*) from workflow_waits where deadline > business_now() + interval '1 day'", "6")
        finally:
            ends.set()
            watching.join()
        self.assertEqual([], over)
        self.assertEqual("0|0", self.sql("select count(*) filter (where slot is not null),"
                                         " count(*) filter (where waits) from workflow_flow"))
        self.body("sms.send { to = e.customer, text = 'slow 60000' }")
        self.settle(6, slots(4))
        until(lambda: self.sql("select count(*) from effects where text = 'slow 60000'"), "4")
        self.assertEqual("4|2", self.sql("select count(*) filter (where slot is not null),"
                                         " count(*) filter (where waits) from workflow_flow"))

    def test_the_rate_is_kept_through_kills(self):
        self.body("sms.send { to = e.customer, text = 'a' }")
        self.settle(12, rate(2, 1))
        workers = [self.worker(lease_ms=1000), self.worker(lease_ms=1000)]
        for k in range(8):
            time.sleep(0.3)
            workers[k % 2].kill()
            workers[k % 2] = self.worker(lease_ms=1000)
        self.states(done=12)
        self.assertEqual("12|t", self.sql(
            "select count(*), bool_and(later - at >= interval '1 s' or later is null) from ("
            " select at, lead(at, 2) over (order by at) as later from workflow_rate_starts where begun) x"))


class ProgramTest(DaemonTest):
    reads_views = True
    files = {
        "changed.lua": """return workflow { on = "other", key = "customer", debounce = { quiet = "2s", max = "1m" },
          when = function(e) return e.data.size == 1 end,
          run = function(e) return "saw " .. e.data.text end }""",
        "digest.lua": """return workflow { on = "other", batch = { within = "1h", max = 3, key = "customer" },
          when = function(e) return e.data.size == 2 end,
          run = function(e)
            local texts = {}
            for i, it in ipairs(e.batch) do texts[i] = it.data.text end
            return e.data.text .. ": " .. table.concat(texts, " ") end }""",
        "recent.lua": """return workflow { on = "other", key = function(e) return e.id end,
          rate = { limit = 1, per = "90d", key = "customer", over = "skip" },
          when = function(e) return e.data.size == 3 end, run = function(e) return "asked" end }""",
        "sales.lua": """return workflow { on = "other", key = function(e) return e.id end, family = "sales",
          when = function(e) return e.data.size == 4 end,
          run = function(e) sleep "1s" start("nurture", e) end }""",
        "nurture.lua": """return workflow { family = "sales", run = function(e) sleep "365d" end }""",
        "campaign.lua": """return workflow { on = "go", key = "customer",
          run = function()
            local people = audience [[select id as customer_id from customers where city = 'Boston']]
            start_each("touch", people)
            repeat sleep "1s" local c = children() until c.live == 0
            local c = children()
            return c.done .. " of " .. c.total
          end }""",
        "touch.lua": """return workflow { family = "reactivation", rate = { limit = 3, per = "1s" },
          run = function(e) staff.task { to = "csr", title = "Call {customer.name}" } end }""",
        "boss.lua": """return workflow { on = "other", key = function(e) return e.id end,
          when = function(e) return e.data.size == 5 end,
          run = function(e)
            local a = all { function() return call("hand", e) end, function() return call("hand", e) end }
            return a[1] .. " " .. a[2] end }""",
        "hand.lua": """return workflow { key = function() end, concurrency = { limit = 1 },
          run = function(e) staff.task { to = "csr", title = "x" } return "done" end }""",
        "bad_key.lua": """return workflow { on = "other", when = function(e) return e.data.size == 6 end,
          rate = { limit = 1, per = "1d", key = function(e) return e.lead.id end }, run = function(e) end }""",
    }

    def say(self, customer, size, text="a"):
        self.go(customer, "other", data={"size": size, "text": text})

    def test_the_newest_of_a_burst(self):
        for text in "abc":
            self.say(1, 1, text)
            self.wait("select count(*) from events where type = 'other' and customer_id = 1 and"
                      " payload->'data'->>'text' = '%s'" % text, "1")
        self.ended("changed", 1, "done saw c")
        self.assertEqual("1", self.sql("select count(*) from workflow_instances where workflow = 'changed'"))
        self.assertEqual("2|1", self.sql(
            "select count(*) filter (where outcome = 'merged'), count(*) filter (where outcome = 'delayed')"
            " from workflow_skips where workflow = 'changed'"))

    def test_a_full_batch_and_the_next(self):
        for text in "abcd":
            self.say(2, 2, text)
        self.wait("select string_agg(state || coalesce(' ' || outcome, ''), ', ' order by state) from instances"
                  " where workflow = 'digest'", "done a: a b c, pending")
        self.wait("select count(*) from workflow_queue q join workflow_instances i on i.id = q.instance_id"
                  " where i.workflow = 'digest' and q.reason is not null", "1")
        shown = self.command("instances", "list", "--workflow", "digest", "--state", "pending")
        self.assertIn("waits for more of the same until 2026-06-01", shown)

    def test_over_the_rate_a_start_is_a_row_that_people_see(self):
        self.say(3, 3)
        self.ended("recent", 3, "done asked")
        self.say(3, 3)
        self.wait("select outcome || ' ' || reason from workflow_skips where workflow = 'recent'", "skipped rate")
        self.assertRegex(self.command("events", "list"), r"recent +other +skipped +rate")
        self.assertIn('"per":"90d"', self.command("workflows", "show", "recent"))

    def test_a_parent_hands_its_family_to_its_child(self):
        self.say(4, 4)
        self.ended("sales", 4, "done")
        self.wait("select state from instances where workflow = 'nurture'", "sleeping")
        self.say(4, 4)
        self.wait("select reason || ' ' || (detail->>'family') from workflow_skips where workflow = 'sales'",
                  "family sales customer:4")
        self.say(41, 4)
        self.ended("sales", 41, "done")

    def test_a_campaign_keeps_its_rate(self):
        self.sql("insert into st_customers (id, name, type, city, active, modified_on) select n, 'Customer ' || n,"
                 " 'Residential', 'Boston', true, now() from generate_series(1001, 1010) n")
        self.go(50)
        self.ended("campaign", 50, "done 10 of 10", 60)
        self.assertEqual("10|t", self.sql(
            "select count(*), bool_and(later - at >= interval '1 s' or later is null) from (select at,"
            " lead(at, 3) over (order by at) as later from workflow_rate_starts where workflow = 'touch') x"))

    def test_calls_obey_the_childs_limit(self):
        self.say(6, 5)
        self.ended("boss", 6, "done done done")

    def test_a_key_that_raises_is_an_error_of_its_event(self):
        self.say(7, 6)
        self.wait("select message from detect_errors where workflow = 'bad_key'",
                  lambda text: text.startswith("bad_key.lua:2: attempt to index a nil value"))


class TurnTest(DaemonTest):
    """What had to wait begins when its turn comes: its clock starts then."""
    files = {
        "rated.lua": """return workflow { on = "other", key = function(e) return e.id end,
          rate = { limit = 1, per = "30h" }, when = function(e) return e.data.size == 1 end,
          run = function(e) return sms.send { to = "manager", text = "{customer.name}" }.status end }""",
        "queued.lua": """return workflow { on = "other", if_running = "queue", key = "customer",
          when = function(e) return e.data.size == 2 end, run = function(e) sleep "4s" return "slept" end }""",
        "held.lua": """return workflow { on = "other", key = function(e) return e.id end,
          concurrency = { limit = 1, hold = true },
          when = function(e) return e.data.size == 3 end, run = function(e) sleep "4s" return "slept" end }""",
    }

    def test_a_first_send_is_not_late_for_having_waited(self):
        self.go(1, "other", data={"size": 1})
        self.ended("rated", 1, "done sent")
        self.go(2, "other", data={"size": 1})
        self.ended("rated", 2, "pending")
        self.wait("select q.reason->>'code' from workflow_queue q join workflow_instances i on i.id = q.instance_id "
                  "where i.customer_id = 2", "rate")
        self.sql("update clock set business_origin = business_origin + interval '31 hours';"
                 "update workflow_queue set due = clock_timestamp() where state = 'pending'")
        self.ended("rated", 2, "done sent")

    def test_a_first_sleep_begins_with_the_turn(self):
        for size, workflow in ((2, "queued"), (3, "held")):
            for _ in range(2):
                self.go(3, "other", data={"size": size})
            self.wait("select count(*) from instances where workflow = '%s' and state = 'done'" % workflow, "2")
            self.assertEqual("t", self.sql(  # times are whole seconds to a body
                "select max(finished_at) - min(finished_at) > interval '2.5 s' from workflow_instances "
                "where workflow = '%s'" % workflow))


if __name__ == "__main__":
    unittest.main()
