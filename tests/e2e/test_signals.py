"""emit and signals: events of the company's own, and events for one instance."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402

ON = """return workflow { on = "go", key = "customer", when = function(e) return e.data.kind == "%s" end,
  %s run = function(e)\n%s\nend }"""


class SignalsTest(DaemonTest):
    files = {
        "emitter.lua": ON % ("emit", "", """
          emit("other", { customer = e.customer, data = { size = 3 } })
          emit("other", { customer = e.customer })
          local it = wait_for("other", { when = function(it) return not it.data end })
          return it.name .. " " .. it.customer.name"""),
        "listener.lua": """return workflow { on = "other", key = function() end,
          run = function(e) return "size " .. tostring(e.data and e.data.size) end }""",
        "wrong.lua": ON % ("wrong", "", """
          local _, a = pcall(emit, "nothing", { customer = e.customer })
          local _, b = pcall(emit, "other", { data = {} })
          local _, c = pcall(emit, "other", { customer = e.customer, data = { size = "big" } })
          return a .. "|" .. b .. "|" .. c"""),
        "waiter.lua": ON % ("wait", "", """
          local it = wait_for("signal_wake")
          return it.name .. " " .. it.data.word"""),
        "lead.lua": ON % ("lead", 'stop_when = { "customer_replied" },', 'sleep "365d"'),
        "stopper.lua": ON % ("stop", 'stop_when = { "signal_halt" },', 'sleep "365d"'),
    }

    def test_an_emitted_event_starts_and_wakes(self):
        self.go(1, data={"kind": "emit"})
        self.ended("emitter", 1, "done other Ann Lee")
        self.wait("select string_agg(outcome, ' ' order by outcome) from workflow_instances "
                  "where workflow = 'listener' and customer_id = 1 and state = 'done'", "size 3 size nil")

    def test_a_lead_that_answers_is_left_alone_however_its_number_was_typed(self):
        self.sql("insert into arrivals (type, entity, entity_id, at, payload) values ('go', 'customer', 'lead',"
                 " business_now(), '{\"customer\": {\"phone\": \"(212) 555-0177\"}, \"data\": {\"kind\": \"lead\"}}');"
                 "select pg_notify('arrivals', '')")
        self.wait("select state from instances where workflow = 'lead'", "sleeping")
        self.sql("select outbound_arrival('customer_replied', '{\"phone\": \"+12125550177\"}',"
                 " '{\"reply\": {\"text\": \"no thanks\"}}', 'x')")
        self.wait("select state, reason from instances where workflow = 'lead'", "stopped|customer_replied")

    def test_an_emit_says_what_is_wrong(self):
        self.go(2, data={"kind": "wrong"})
        self.ended("wrong", 2, 'done wrong.lua:4: emit: "nothing" is no event with manual = true in events.lua'
                   '|wrong.lua:5: emit other: say which customer: emit("other", { customer = e.customer })'
                   "|wrong.lua:6: emit other: data: size must be a number".replace("wrong.lua", "workflows/wrong.lua"))

    def test_a_step_that_emits_again_makes_no_second_event(self):
        self.sql("""insert into workflow_instances (id, workflow_definition_id, workflow, created_at)
                    values ('00000000-0000-0000-0000-0000000000aa', 1, 'x', now())""")
        say = ("select emit_event('00000000-0000-0000-0000-0000000000aa', 'place/1', 'other', 'customer', "
               "'3', '{\"customer\": {\"id\": 3}}')->>'id'")
        first = self.sql(say)
        self.assertEqual(first, self.sql(say))
        self.wait("select count(*) from events where entity_id = '3'", "1")
        self.assertEqual(first, self.sql(say))
        self.wait("select count(*) from arrivals", "0")
        self.assertEqual("1", self.sql("select count(*) from events where entity_id = '3'"))

    def test_a_signal_reaches_one_instance(self):
        for customer in (4, 5):
            self.go(customer, data={"kind": "wait"})
            self.ended("waiter", customer, "waiting")
        said = self.command("signal", self.instance("waiter", 4), "wake", '{"word": "up"}')
        self.assertIn("signal_wake is on its way", said)
        self.ended("waiter", 4, "done signal_wake up")
        self.ended("waiter", 5, "waiting")

    def test_a_signal_stops(self):
        self.go(6, data={"kind": "stop"})
        self.ended("stopper", 6, "sleeping")
        self.command("signal", self.instance("stopper", 6), "halt")
        self.ended("stopper", 6, "stopped signal_halt")

    def test_a_signal_to_nobody_is_refused(self):
        self.assertIn("there is no live instance 'ffffffff'",
                      self.command("signal", "ffffffff", "wake", code=3))
        self.assertIn('"Wake up" is no name of a signal', self.command("signal", "f", "Wake up", code=4))


if __name__ == "__main__":
    unittest.main()
