"""start and call: children, their values, their parents' stops; all of it in the real program."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402

PARENT = """return workflow { on = "go", key = "customer", stop_when = { "other" },
  when = function(e) return e.data.kind == "%s" end,
  run = function(e)\n%s\nend }"""


class ChildrenTest(DaemonTest):
    files = {
        "caller.lua": PARENT % ("call", """
          local r = call("adder", { customer = e.customer, data = { a = 2, b = 3 } })
          local again = call("adder", { customer = e.customer, data = { a = r.sum, b = 1 } })
          return "sum " .. again.sum .. " for " .. r.name"""),
        "adder.lua": """return workflow { key = function() end, run = function(e)
          sleep "1s"
          return { sum = e.data.a + e.data.b, name = e.customer.first_name .. " " .. e.name } end }""",
        "starter.lua": PARENT % ("start", """
          start("sleeper", e) start("sleeper", e, { detached = true })
          sleep "365d" """),
        "leaver.lua": PARENT % ("leave", 'return "left " .. #start("sleeper", e)'),
        "sleeper.lua": """return workflow { key = function() end, run = function(e) sleep "365d" end }""",
        "asker.lua": PARENT % ("failing", """
          local ok, err = pcall(call, "failing", e)
          return tostring(ok) .. " " .. err.code .. " " .. err.message"""),
        "failing.lua": """return workflow { run = function(e) fail "no luck" end }""",
        "blocked.lua": PARENT % ("taken", """
          start("single", e)
          local v, why = call("single", e)
          return tostring(v) .. " " .. why"""),
        "single.lua": """return workflow { run = function(e) sleep "365d" end }""",
        "bug_caller.lua": PARENT % ("bug", 'call("bug", e)'),
        "bug.lua": """return workflow { run = function(e) local x = e.nothing.at_all end }""",
        "lost.lua": PARENT % ("lost", 'start("nobody", e)'),
        "many.lua": PARENT % ("many", """
          local list = {}
          for i = 1, 20 do
            list[i] = function() return call("adder", { customer = e.customer, data = { a = i, b = 0 } }).sum end
          end
          local sum = 0
          for _, n in ipairs(all(list)) do sum = sum + n end
          return "sum " .. sum"""),
    }

    def test_a_call_returns_what_the_child_returned(self):
        self.go(1, data={"kind": "call"})
        self.ended("caller", 1, "done sum 6 for Ann start")
        self.assertEqual("2|2", self.sql(
            "select count(*), count(distinct parent_id) + 1 from workflow_instances "
            "where workflow = 'adder' and customer_id = 1 and state = 'done'"))
        self.assertEqual("customer|1", self.sql(
            "select distinct entity, entity_id from workflow_instances where workflow = 'adder' and customer_id = 1"))

    def test_calls_side_by_side(self):
        self.go(2, data={"kind": "many"})
        self.ended("many", 2, "done sum 210", 60)
        self.assertEqual("20", self.sql(
            "select count(*) from workflow_instances where workflow = 'adder' and customer_id = 2"))

    def test_a_stopped_parent_stops_its_children_but_for_the_detached(self):
        self.go(3, data={"kind": "start"})
        self.wait("select count(*) from instances where workflow = 'sleeper' and customer_id = 3 "
                  "and state = 'sleeping'", "2")
        self.go(3, "other")
        self.ended("starter", 3, "stopped other")
        self.wait("select state, reason, detached from workflow_instances where workflow = 'sleeper' "
                  "and customer_id = 3 order by detached", "stopped|parent stopped|f\npending||t")

    def test_children_outlive_a_parent_that_ends(self):
        self.go(4, data={"kind": "leave"})
        self.ended("leaver", 4, "done left 36")
        self.ended("sleeper", 4, "sleeping")

    def test_a_failed_child_raises(self):
        self.go(5, data={"kind": "failing"})
        self.ended("asker", 5, "done false refused failing failed: no luck")

    def test_a_child_that_isnt_started_says_why(self):
        self.go(6, data={"kind": "taken"})
        self.ended("blocked", 6, "done nil not started: key taken")

    def test_a_stuck_child_shows_on_its_parent(self):
        self.go(7, data={"kind": "bug"})
        self.wait("select stuck->>'code', stuck->>'message' like 'bug % is stuck: %' from instances "
                  "where workflow = 'bug_caller' and customer_id = 7 and state = 'waiting'",
                  "child_stuck|t")
        self.sql("select cancel_instance(id) from instances where workflow = 'bug' and customer_id = 7")
        self.ended("bug_caller", 7, "done")

    def test_a_workflow_that_isnt_there_is_waited_for(self):
        self.go(8, data={"kind": "lost"})
        self.wait("select stuck->>'code', stuck->>'message' from instances where workflow = 'lost'",
                  'workflow_missing|start: there is no workflow "nobody"')


if __name__ == "__main__":
    unittest.main()
