"""compensate: what was done is undone, the last first, once, whatever ends the instance."""
import os
import signal
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402

BODY = """return workflow { on = "go", key = "customer", stop_when = { "other" },
  when = function(e) return e.data.kind == "%s" end,
  on_stop = function(e, by) staff.task { to = "csr", title = "on_stop " .. by.name } end,
  run = function(e)
    for _, todo in ipairs { "permit", "crew", "van" } do
      local task = staff.task { to = "csr", title = "{todo}", with = { todo = todo } }
      compensate(function()
        staff.cancel_task { task = task }
        staff.task { to = "csr", title = "undid {todo}", with = { todo = todo } }
      end)
    end
    %s end }"""


class UndoTest(DaemonTest):
    settings = {"WORKER_LEASE_MS": "6000"}
    files = {
        "saga.lua": BODY % ("saga", 'sleep "365d"'),
        "failing.lua": BODY % ("fail", 'fail "no money"'),
        "stopping.lua": BODY % ("stop", 'stop "no need"'),
        "fine.lua": BODY % ("fine", 'return "installed"'),
        "hard.lua": BODY.replace("staff.cancel_task { task = task }",
                                 "staff.tell { to = 'csr', text = 'x' } "
                                 "if todo == 'crew' then local x = e.nothing.here end")
                    % ("hard", 'sleep "365d"'),
    }

    def titles(self, customer):
        return self.sql("select string_agg(title || case when cancelled_at is null then '' else ' -' end, ', ' "
                        "order by created_at, id) from staff_tasks where customer_id = %d" % customer)

    def undone(self, customer, more=""):
        made = self.sql("select string_agg(x.output->>'title', ', ' order by x.seq) "
                        "from workflow_step_executions x join workflow_instances i "
                        "on i.id = x.workflow_instance_id where i.customer_id = %d "
                        "and x.name like 'staff.task#%%'" % customer)
        self.assertEqual("permit, crew, van, undid van, undid crew, undid permit" + more, made)
        self.assertEqual("3|0", self.sql(
            "select count(*) filter (where cancelled_at is not null), count(*) filter (where cancelled_at "
            "is null and title in ('permit', 'crew', 'van')) from staff_tasks where customer_id = %d" % customer))

    def test_a_stop_undoes_in_reverse_then_on_stop_runs(self):
        self.go(1, data={"kind": "saga"})
        self.ended("saga", 1, "sleeping")
        self.go(1, "other")
        self.ended("saga", 1, "stopped other")
        self.undone(1, ", on_stop other")

    def test_a_cancel_undoes(self):
        self.go(2, data={"kind": "saga"})
        self.ended("saga", 2, "sleeping")
        self.sql("select cancel_instance('%s')" % self.instance("saga", 2))
        self.ended("saga", 2, "cancelled cancelled")
        self.undone(2, ", on_stop cancelled")

    def test_a_failure_undoes(self):
        self.go(3, data={"kind": "fail"})
        self.ended("failing", 3, "failed no money")
        self.undone(3)

    def test_a_stop_of_its_own_undoes(self):
        self.go(4, data={"kind": "stop"})
        self.ended("stopping", 4, "stopped no need")
        self.undone(4, ", on_stop stop")

    def test_what_went_well_stays(self):
        self.go(5, data={"kind": "fine"})
        self.ended("fine", 5, "done installed")
        self.assertEqual("permit, crew, van", self.titles(5))

    def test_undoing_goes_on_where_the_process_died(self):
        customers = range(10, 30)
        for customer in customers:
            self.go(customer, data={"kind": "saga"})
        for customer in customers:
            self.ended("saga", customer, "sleeping")
        for customer in customers:
            self.go(customer, "other")
        self.wait("select count(*) > 3 from workflow_step_executions where branch = 'undo'", "t")
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()
        for customer in customers:
            self.ended("saga", customer, "stopped other", 60)
            self.undone(customer, ", on_stop other")

    def test_an_undoing_that_fails_asks_a_person(self):
        self.go(40, data={"kind": "hard"})
        self.ended("hard", 40, "sleeping")
        self.go(40, "other")
        self.wait("select stuck->>'code', stuck->'stopping'->>'name' from instances "
                  "where workflow = 'hard' and customer_id = 40 and state = 'stuck'", "script_error|other")


if __name__ == "__main__":
    unittest.main()
