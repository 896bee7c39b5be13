"""A death of a worker is blamed on the instance whose Lua was running, or on what detection asked, and
on no other; the third time that is set aside. The processes really die, and really hang, in the middle
of Lua."""
import json
import os
import re
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "support"))
import daemon  # noqa: E402
from database import until  # noqa: E402

BODY = """return workflow { on = "go", class = "transactional",
  run = function(e)
    note "one"
    wait_for("other", { timeout = "30d" })
    note "two"
  end }"""
EVENTS = """return events {
  go = { of = "customer", manual = true }, go_stopped = { of = "customer", manual = true },
  go_asked = { of = "customer", manual = true },
  off = { of = "customer", manual = true },
  other = { of = "customer", manual = true, data = { size = "number?" } },
}"""
STOPPED = BODY.replace("run = ", 'on_stop = function() note "bye" end, stop_when = { "off" }, run = ')


class TwoWorkersTest(daemon.DaemonTest):
    """Both die of it in turn, or at once; they count the same deaths."""
    files = {"steady.lua": BODY}
    arguments = ("--workers", "2")

    def test_workers_together_count_to_three(self):
        instances = []
        for customer in range(1, 7):
            self.go(customer)
            self.wait("select state from instances where customer_id = %d" % customer, "waiting")
            instances.append(self.instance("steady", customer))
        self.end(self.process)
        type(self).environment = dict(self.environment, MOONWRIGHT_CRASH_AT="lua:%s:1" % instances[0])
        self.start()
        for customer in range(1, 7):
            self.go(customer, "other")
        self.wait("select state || ' ' || (stuck->>'code') from instances where id = '%s'" % instances[0],
                  "stuck quarantined", 60)
        for customer in range(2, 7):
            self.ended("steady", customer, "done")
        self.assertEqual("3|1", self.sql("select count(*), count(distinct instance_id) from workflow_deaths"))
        until(lambda: self.sql("select string_agg(name, ' ' order by name) from workflow_workers "
                               "where role = 'workflow' and until > now()"), "workflow workflow-2", 30, "both live")


class CrashingTest(daemon.DaemonTest):
    settings = {"WORKER_LEASE_MS": "4000"}

    @classmethod
    def setUpClass(cls):
        daemon.EVENTS = EVENTS
        super().setUpClass()

    def restart(self, **more):
        self.end(self.process)
        type(self).saved = type(self).saved if hasattr(self, "saved") else dict(self.environment)
        type(self).environment = dict(self.saved, **more)
        with open(os.path.join(self.folder, "log"), "w"):
            pass
        self.start()
        until(lambda: "all workers are up" in self.log(), True, 30, "up")

    def log(self):
        with open(os.path.join(self.folder, "log"), errors="replace") as log:
            return log.read()


class QuarantineTest(CrashingTest):
    files = {"steady.lua": BODY, "stopped.lua": STOPPED.replace('on = "go"', 'on = "go_stopped"'),
             "asked.lua": STOPPED.replace('on = "go"', 'on = "go_asked"').replace(
                 '{ "off" }', '{ off = { when = function(it) return true end } }')}

    def asleep(self, customer, workflow="steady", event="go"):
        self.go(customer, event)
        self.wait("select state from instances where workflow = '%s' and customer_id = %d"
                  % (workflow, customer), "waiting")
        return self.instance(workflow, customer)

    def deaths(self, instance):
        return self.sql("select deaths from workflow_queue where instance_id = '%s'" % instance)

    def test_1_the_third_crash_sets_aside_the_one_and_no_other(self):
        poison, innocent = self.asleep(1), self.asleep(2)
        self.restart(MOONWRIGHT_CRASH_AT="lua:%s:1" % poison)
        self.go(1, "other")
        self.go(2, "other")
        self.ended("steady", 2, "done")
        self.wait("select state from instances where id = '%s'" % poison, "stuck")
        reason = json.loads(self.sql("select stuck from instances where id = '%s'" % poison))
        self.assertEqual("quarantined", reason["code"])
        self.assertEqual(["retry", "cancel"], reason["can"])
        self.assertRegex(reason["message"], r"^3 workers died while its Lua was running, the last one: signal 9")
        self.assertIn("since", reason)
        self.assertEqual("3", self.deaths(poison))
        self.assertEqual("3|1", self.sql("select count(*), count(distinct instance_id) from workflow_deaths"))
        self.assertEqual(3, len(re.findall(r"life before ended while this instance's Lua", self.log())))
        self.assertNotIn(innocent, self.sql("select instance_id from workflow_deaths"))
        # It stays so: nothing runs it any more, and the worker lives.
        pid = self.sql("select pid from workflow_workers where role = 'workflow'")
        self.asleep(3)
        self.assertEqual(pid, self.sql("select pid from workflow_workers where role = 'workflow'"))
        # The crash is mended, and a person says so.
        self.restart()
        self.assertIn("quarantined", self.command("instances", "show", poison))
        self.command("instances", "retry", poison)
        self.ended("steady", 1, "done")
        self.assertEqual("one two", self.sql("select string_agg(text, ' ' order by ordinal) from workflow_notes "
                                             "where instance_id = '%s'" % poison))

    def test_2_a_call_that_never_returns_counts_too(self):
        poison = self.asleep(11)
        self.restart(MOONWRIGHT_CRASH_AT="lua:%s:1" % poison, MOONWRIGHT_CRASH_HOW="stop")
        self.go(11, "other")
        self.wait("select state from instances where id = '%s'" % poison, "stuck", 90)
        self.assertIn("it hung and was killed", self.sql("select stuck->>'message' from instances where id = '%s'" % poison))
        self.assertGreaterEqual(len(re.findall("worker hangs and is killed", self.log())), 3)

    def test_3_a_stop_does_not_wake_it_into_a_circle(self):
        poison = self.asleep(21, "stopped", "go_stopped")
        self.restart(MOONWRIGHT_CRASH_AT="lua:%s:1" % poison)
        self.go(21, "off")
        self.wait("select state from instances where id = '%s'" % poison, "stuck")
        self.assertEqual("3", self.deaths(poison))
        # What it was stopping for is kept: a person's retry goes on with that.
        before = self.sql("select count(*) from workflow_deaths")
        self.asleep(22)
        self.assertEqual(before, self.sql("select count(*) from workflow_deaths"))

    def test_3_the_when_of_a_stop_is_its_instances(self):
        poison = self.asleep(26, "asked", "go_asked")
        self.restart(MOONWRIGHT_CRASH_AT="judge:%s:1" % poison)
        self.go(26, "off")
        self.wait("select stuck->>'code' from instances where id = '%s'" % poison, "quarantined")
        self.assertEqual("3", self.deaths(poison))
        # Another such event waits for a person, too: it doesn't kill once more.
        self.go(26, "off")
        self.wait("select count(*) from workflow_inbox where instance_id = '%s' and verdict is null" % poison, "2")
        self.asleep(27)
        self.assertEqual("3 stuck", self.deaths(poison) + " " + self.sql(
            "select state from workflow_queue where instance_id = '%s'" % poison))
        self.restart()
        self.command("instances", "retry", poison)
        self.ended("asked", 26, "stopped off")

    def test_4_a_death_elsewhere_is_nobodys_fault(self):
        self.restart()
        waiting = self.asleep(31)  # this life has run its Lua, and runs none now
        before = self.sql("select count(*) from workflow_deaths")
        pid = int(self.sql("select pid from workflow_workers where role = 'workflow'"))
        os.kill(pid, 9)
        until(lambda: self.sql("select count(*) from workflow_workers where role = 'workflow' and pid <> %d" % pid),
              "1", 30, "the next life")
        self.asleep(32)
        self.assertEqual(before, self.sql("select count(*) from workflow_deaths"))
        self.assertEqual("0", self.deaths(waiting))

    def test_5_a_death_is_counted_once_however_often_it_is_told(self):
        waiting = self.asleep(41)
        for _ in range(4):
            self.sql("select bury('00000000-0000-0000-0000-00000000dead', '%s', 'signal 11')" % waiting)
        self.assertEqual("1", self.deaths(waiting))
        self.sql("delete from workflow_deaths where worker = '00000000-0000-0000-0000-00000000dead'")


class JudgeTest(CrashingTest):
    """What kills the worker that detects is asked no more; all else that the batch has goes on."""
    BAD = """return workflow { on = "go", class = "transactional", when = function(e) return e.customer.id > 0 end,
      run = function() note "judged" end }"""
    files = {"steady.lua": BODY, "bad.lua": BAD}

    def raised(self, customer, where="bad"):
        return json.loads(self.sql(
            "select coalesce(json_agg(message), '[]') from raised_list where \"where\" = '%s' and about = 'customer %d'"
            % (where, customer)))

    def dies(self, text, *customers, how="kill"):
        """These events come, and asking kills the worker; returns when all is settled."""
        self.restart(MOONWRIGHT_CRASH_AT="judge:%s:1" % text, MOONWRIGHT_CRASH_HOW=how)
        self.sql("; ".join("insert into arrivals (type, entity, entity_id, at, payload) values ('go', 'customer', "
                           "'%d', business_now(), '{\"customer\": {\"id\": %d, \"name\": \"Ann\"}}')" % (c, c)
                           for c in customers) + "; select pg_notify('arrivals', '')")
        self.wait("select count(*) from arrivals", "0", 120)

    def test_1_the_third_death_lets_the_others_go_on(self):
        self.dies("when bad go customer:1", 1, 2)
        for customer in (1, 2):
            self.wait("select state from instances where workflow = 'steady' and customer_id = %d" % customer, "waiting")
        self.ended("bad", 2, "done")
        message = self.raised(1)[0]
        self.assertRegex(message, r"^bad: 'when' killed the worker that asked it 3 times, the last one: signal 9 ")
        self.assertIn("moonwright events retry", message)
        self.assertIn(message[:40], self.command("events", "raised"))
        self.assertEqual("batch 1, when bad go customer:1 3", self.sql(
            "select string_agg(d, ', ' order by d) from (select concat_ws(' ', part, nullif(name, ''), "
            "nullif(about, ''), count(*)) as d from judge_deaths group by part, name, about) x"))
        self.assertEqual(4, len(re.findall("the life before ended while it judged", self.log())))
        # Its own file's change, and nothing else's, asks again: here with the crash still there.
        self.write("steady.lua", BODY.replace('note "two"', 'note "three"'))
        self.wait("select version from workflow_definitions where active and name = 'steady'", "2")
        self.wait("select again from detect_errors where entity_id = '1'", "f")
        self.assertEqual([message], self.raised(1))
        self.assertEqual("4", self.sql("select count(*) from judge_deaths"))
        # Mended: the event that was put aside starts what it should have started.
        self.restart()
        self.write("bad.lua", self.BAD + " -- mended")
        self.ended("bad", 1, "done")
        self.assertEqual([], self.raised(1))
        self.assertEqual("1|1", self.sql("select count(*) filter (where customer_id = 1), "
                                         "count(*) filter (where customer_id = 2) from instances where workflow = 'bad'"))

    def test_2_a_person_says_it_may_try_again(self):
        self.dies("when bad go customer:11", 11)
        self.assertEqual(1, len(self.raised(11)))
        self.restart()
        self.command("events", "retry", self.sql("select id from detect_errors where entity_id = '11'"))
        self.ended("bad", 11, "done")
        self.assertEqual([], self.raised(11))

    def test_3_one_that_always_kills_is_not_asked_at_all(self):
        self.dies("when bad", *range(21, 31))
        for customer in range(21, 31):
            self.wait("select state from instances where workflow = 'steady' and customer_id = %d" % customer, "waiting")
            self.assertEqual(1, len(self.raised(customer)))
        self.assertLess(int(self.sql("select count(*) from judge_deaths")), 9)
        self.restart()
        self.command("events", "retry")
        for customer in range(21, 31):
            self.ended("bad", customer, "done")

    def test_4_one_that_hangs(self):
        self.dies("when bad go customer:41", 41, how="stop")
        self.assertIn("it hung and was killed", self.raised(41)[0])

    def test_5_a_death_elsewhere_is_not_its_fault(self):
        self.restart()
        self.go(51)
        self.ended("bad", 51, "done")
        before = self.sql("select count(*) from judge_deaths")
        pid = int(self.sql("select pid from workflow_workers where role = 'workflow'"))
        os.kill(pid, 9)
        until(lambda: self.sql("select count(*) from workflow_workers where role = 'workflow' and pid <> %d" % pid),
              "1", 30, "the next life")
        self.go(52)
        self.ended("bad", 52, "done")
        self.assertEqual(before, self.sql("select count(*) from judge_deaths"))


if __name__ == "__main__":
    unittest.main()
