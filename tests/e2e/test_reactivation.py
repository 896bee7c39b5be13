"""The campaign as it ships: its audience, its approval, its rate, its stops, in the whole program."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402
from database import ROOT  # noqa: E402


def shipped(name):
    with open(os.path.join(ROOT, "workflows", name)) as file:
        return file.read()


class ReactivationTest(DaemonTest):
    reads_views = True
    clock = "28800"  # eight hours a second
    files = {
        "reactivation.lua": shipped("reactivation.lua"),
        "reactivation_touch.lua": shipped("reactivation_touch.lua"),
        "templates/reactivation.txt": shipped("templates/reactivation.txt"),
        "busy.lua": 'return workflow { on = "go", run = function(e) sleep "3650d" end }',
    }

    @classmethod
    def start(cls):
        cls.write("company.lua", shipped("company.lua"))
        cls.write("events.lua", """return events { go = { of = "customer", manual = true },
          job_created = { of = "job", created = true } }""")
        files, cls.files = cls.files, [name for name in cls.files if "/" not in name]
        super().start()
        cls.files = files

    def test_a_campaign_from_its_approval_to_its_end(self):
        self.sql("insert into st_customers (id, name, type, active, do_not_service, modified_on) select n,"
                 " 'Customer ' || n, 'Residential', true, n = 100, now() from generate_series(1, 100) n;"
                 " insert into st_jobs (id, number, customer_id, status, completed_on, active, created_on, modified_on)"
                 " select n, n::text, n, 'Completed', now() - case n when 99 then interval '10 days' else"
                 " interval '400 days' end, true, now() - interval '400 days', now() from generate_series(1, 100) n")
        self.go(98)  # is in the middle of something else
        self.wait("select state from instances where workflow = 'busy'", "sleeping")
        self.command("start", "reactivation", "{}")
        self.wait("select title from inbox", "Reactivate 97 customers?")
        self.command("inbox", "answer", self.sql("select id from inbox"), "yes", "--by", "Max")
        self.wait("select count(*) from instances where workflow = 'reactivation_touch'", "97")
        # The last in line answers before or after its text: either way that ends it.
        last = self.sql("select i.customer_id from instances i join workflow_rate_starts r on r.instance_id = i.id"
                        " order by r.at desc limit 1")
        self.sql("insert into arrivals (type, entity, entity_id, at, payload) values ('customer_replied', 'customer',"
                 " '%s', business_now(), json_build_object('customer', json_build_object('id', %s),"
                 " 'reply', json_build_object('text', 'hi'))); select pg_notify('arrivals', '')" % (last, last))
        self.wait("select state, reason, count(*) from workflow_instances where workflow = 'reactivation_touch'"
                  " group by 1, 2 order by 1", "done||96\nstopped|customer_replied|1", 90)
        self.wait("select state from instances where workflow = 'reactivation'", "done")
        self.assertEqual("t|t", self.sql(
            "select count(*) >= 96, bool_and(later - at >= interval '1 h' or later is null) from (select at,"
            " lead(at, 30) over (order by at) as later from workflow_rate_starts where begun) x"))
        self.assertEqual("2", self.sql("select count(*) from variants where name = 'opening'"))


if __name__ == "__main__":
    unittest.main()
