"""Runs of one instance: continue_as, and the limits of a history."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402

ON = """return workflow { on = "go", key = "customer", stop_when = { "other" },
  when = function(e) return e.data.kind == "%s" or e.data.round end, run = function(e)\n%s\nend }"""


class RunsTest(DaemonTest):
    files = {
        "rounds.lua": ON % ("rounds", """
          local round = e.data.round or 1
          staff.task { to = "csr", title = "round {n}", with = { n = round } }
          if round == 4 then return "four of " .. e.customer.name end
          e.data = { round = round + 1 }
          continue_as(e)"""),
        "sleeper.lua": ON % ("sleep", """
          if e.data.round then sleep "365d" end
          continue_as { customer = e.customer, data = { round = 2 } }"""),
        "pause.lua": ON % ("pause", """
          sleep "3s"
          local round = e.data.round or 1
          note("round {n}", { n = round })
          if round == 3 then return "rested" end
          continue_as { customer = e.customer, data = { round = round + 1 } }"""),
        "undoing.lua": ON % ("undoing", "compensate(function() end) continue_as(e)"),
        "large.lua": ON % ("large", """
          for i = 1, 20 do step("part", function() return ("x"):rep(1000000) end) end"""),
        "long.lua": ON % ("long", """
          local branches = {}
          for b = 1, 100 do
            branches[b] = function() for i = 1, b < 100 and 100 or e.data.last do note "x" end end
          end
          all(branches)
          if e.data.rest then sleep "1s" end
          return "written" """),
        "heavy.lua": ON % ("heavy", """
          for i = 1, 15 do step("part", function() return ("x"):rep(1000000) end) end
          sleep "1s"
          return "read" """),
    }

    def test_an_instance_goes_on_with_an_empty_history(self):
        self.go(1, data={"kind": "rounds"})
        self.ended("rounds", 1, "done four of Ann Lee")
        self.assertEqual("1", self.sql("select count(*) from workflow_instances where customer_id = 1 "
                                       "and workflow = 'rounds'"))
        self.assertEqual("1|1\n2|1\n3|1\n4|1", self.sql(
            "select run, count(*) from workflow_step_executions x join workflow_instances i "
            "on i.id = x.workflow_instance_id where i.customer_id = 1 and i.workflow = 'rounds' "
            "group by 1 order by 1"))
        self.assertEqual("4", self.sql("select count(distinct title) from staff_tasks where customer_id = 1"))

    def test_each_run_has_a_time_of_its_own(self):
        self.go(9, data={"kind": "pause"})
        self.ended("pause", 9, "done rested", 60)
        self.assertEqual("t", self.sql(  # times are whole seconds to a body
            "select max(n.at - i.created_at) > interval '5 s' from workflow_notes n "
            "join workflow_instances i on i.id = n.instance_id where i.customer_id = 9"))

    def test_key_and_stops_stay(self):
        self.go(2, data={"kind": "sleep"})
        self.wait("select state, run from instances where workflow = 'sleeper' and customer_id = 2", "sleeping|2")
        self.go(2, data={"kind": "sleep"})
        self.wait("select count(*) from workflow_skips where workflow = 'sleeper' and reason = 'key taken'", "1")
        self.go(2, "other")
        self.ended("sleeper", 2, "stopped other")

    def test_what_is_to_be_undone_is_not_forgotten(self):
        self.go(3, data={"kind": "undoing"})
        self.wait("select stuck->>'message' like '%continue_as would forget what compensate has kept%' "
                  "from instances where workflow = 'undoing'", "t")

    def test_a_history_of_16_mb_is_stuck_and_says_so(self):
        self.go(4, data={"kind": "large"})
        self.wait("select stuck->>'code' || ': ' || (stuck->>'message') from instances where workflow = "
                  "'large'", "history: its history is larger than 16 MB", 60)
        self.assertEqual("17", self.sql(
            "select count(*) from workflow_step_executions x join workflow_instances i "
            "on i.id = x.workflow_instance_id where i.workflow = 'large'"))

    def test_a_history_has_10000_steps_and_no_more(self):
        self.go(5, data={"kind": "long", "last": 100})
        self.go(6, data={"kind": "long", "last": 101})
        self.ended("long", 5, "done written", 120)
        self.wait("select stuck->>'code' || ': ' || (stuck->>'message') from instances where workflow = "
                  "'long' and customer_id = 6", "history: it has more than 10,000 steps", 120)
        self.assertEqual("10000", self.sql(
            "select count(*) from workflow_step_executions x join workflow_instances i "
            "on i.id = x.workflow_instance_id where i.workflow = 'long' and i.customer_id = 6"))

    def test_the_longest_history_is_read_anew_within_the_budget(self):
        self.go(7, data={"kind": "long", "last": 99, "rest": True})
        self.go(8, data={"kind": "heavy"})
        self.ended("heavy", 8, "done read", 120)
        self.ended("long", 7, "done written", 120)


if __name__ == "__main__":
    unittest.main()
