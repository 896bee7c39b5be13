"""Campaigns: variants, frozen audiences, a child for each customer, and how they do."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402

ON = """return workflow { on = "go", key = "customer", when = function(e) return e.data.kind == "%s" end,
  run = function(e)\n%s\nend }"""


class CampaignTest(DaemonTest):
    reads_views = True
    files = {
        "chooser.lua": ON % ("choose", """
          local a = variant("opening", { "a", "b" })
          local b = variant("offer", { plain = "none", coupon = "$25" })
          sleep "1s"
          assert(a == variant("opening", { "a", "b" }))
          return a .. " " .. b"""),
        "campaign.lua": ON % ("campaign", """
          local people = audience([[select id as customer_id from customers where city = :city]],
            { city = "Boston" })
          local before = children()
          local n = start_each("touch", people)
          repeat
            sleep "1s"
            local c = children()
          until c.live == 0
          local c = children()
          return people.count .. " " .. people.sample .. " " .. before.total .. " " .. n .. " " .. c.total
            .. " " .. c.done .. " " .. c.stopped .. " " .. c.stuck .. " " .. c.opted_out .. " " .. c.sent"""),
        "touch.lua": """return workflow { stop_when = { "customer_opted_out" }, run = function(e)
          if e.customer.id % 10 == 0 then error "boom" end
          if e.customer.id % 10 == 5 then sleep "365d" end
          staff.task { to = "csr", title = "Call {customer.name}" } end }""",
        "cutter.lua": ON % ("cut", """
          start_each("slow_touch", audience [[select id as customer_id from customers where city = 'Salem']])
          sleep "2s" stop "enough" """),
        "slow_touch.lua": 'return workflow { run = function(e) sleep "365d" end }',
        "bad.lua": ON % ("bad", """
          local _, a = pcall(audience, "select 1 as nothing")
          return a.code .. ": " .. a.message"""),
    }

    def customers(self, first, n, city):
        self.sql("insert into st_customers (id, name, type, city, active, modified_on) "
                 "select n, 'Customer ' || n, 'Residential', '%s', true, now() "
                 "from generate_series(%d, %d) n" % (city, first, first + n - 1))

    def test_a_customer_always_gets_the_same_variant(self):
        for customer in range(1, 41):
            self.go(customer, data={"kind": "choose"})
        self.wait("select count(*) from instances where workflow = 'chooser' and state = 'done'", "40")
        self.assertEqual("4", self.sql("select count(distinct outcome) from workflow_instances "
                                       "where workflow = 'chooser'"))
        self.assertEqual("opening|40", self.sql(
            "select name, sum(instances) from variants where name = 'opening' group by 1"))
        before = self.sql("select outcome from workflow_instances where workflow = 'chooser' and customer_id = 7")
        self.go(7, data={"kind": "choose"})
        self.wait("select count(*) from instances where workflow = 'chooser' and state = 'done'", "41")
        self.assertEqual(before, self.sql("select distinct outcome from workflow_instances "
                                          "where workflow = 'chooser' and customer_id = 7"))

    def test_a_child_for_each_customer_of_an_audience(self):
        self.customers(1001, 700, "Boston")
        self.go(50, data={"kind": "campaign"})
        self.wait("select count(*) from instances where workflow = 'touch' and state in "
                  "('done', 'sleeping', 'stuck')", "700")
        self.customers(2001, 5, "Boston")  # the list is frozen
        self.sql("insert into arrivals (type, entity, entity_id, at, payload) select 'customer_opted_out', "
                 "'customer', n::text, business_now(), json_build_object('customer', json_build_object('id', n)) "
                 "from generate_series(1005, 1700, 10) n; select pg_notify('arrivals', '')")
        self.ended("campaign", 50, "done 700 Customer 1001, Customer 1002, Customer 1003, Customer 1004, "
                   "Customer 1005 … 0 700 700 560 70 70 70 0", 60)
        self.assertEqual("560|560", self.sql("select count(*), count(distinct customer_id) from staff_tasks "
                                             "where customer_id between 1001 and 1999"))

    def test_a_stopped_campaign_stops_its_children(self):
        self.customers(3001, 20, "Salem")
        self.go(51, data={"kind": "cut"})
        self.ended("cutter", 51, "stopped enough")
        self.wait("select state, reason, count(*) from workflow_instances where workflow = 'slow_touch' "
                  "group by 1, 2", "stopped|parent stopped|20")

    def test_an_audience_needs_customer_id(self):
        self.go(52, data={"kind": "bad"})
        self.ended("bad", 52, "done refused: audience: the query must select a customer_id: "
                   "select id as customer_id from customers …")


if __name__ == "__main__":
    unittest.main()
