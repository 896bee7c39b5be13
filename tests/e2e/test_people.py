"""What people of ours are asked: approvals by link and by command, to-dos, messages."""
import os
import re
import sys
import threading
import unittest
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402

ON = """return workflow { on = "go", key = "customer", stop_when = { "other" },
  when = function(e) return e.data.kind == "%s" end, run = function(e)\n%s\nend }"""
SHOWN = """return tostring(a.approved) .. "|" .. tostring(a.by) .. "|" .. tostring(a.text) .. "|"
            .. tostring(a.note) .. "|" .. tostring(a.timed_out)"""


class PeopleTest(DaemonTest):
    files = {
        "asker.lua": ON % ("ask", """local a = approve { by = "manager", title = "Offer for {customer.name}",
          text = "Dear {customer.first_name or there}, {offer} <b>", with = { offer = "10 % off" },
          yes = "Send & go", timeout = "2d" }\n""" + SHOWN),
        "hasty.lua": ON % ("hasty", 'local a = approve { by = "csr", title = "Quick", timeout = "2s" }\n' + SHOWN),
        "doer.lua": ON % ("do", """local todo = staff.task { to = "csr", title = "Call {customer.name}",
          note = "about {what}", with = { what = "the roof" }, due = "1d" }
          local it = wait_for("task_done", { same = todo })
          return todo.title .. "|" .. it.data.by .. "|" .. it.task.note .. "|" .. todo.due"""),
        "undoer.lua": ON % ("undo", """local todo = staff.task { to = "csr", title = "Never mind" }
          staff.cancel_task { task = todo }"""),
        "teller.lua": ON % ("tell", """local a = staff.tell { to = "manager", text = "{customer.name} is here" }
          local b = staff.tell { to = "owner", text = "so is {customer.first_name or there}" }
          return a.status .. " " .. a.channel .. " " .. b.status .. " " .. b.channel"""),
        "nobody.lua": ON % ("nobody", 'staff.task { to = "pilot", title = "x" }'),
    }

    def task(self, customer):
        self.wait("select count(*) from staff_tasks where customer_id = %d" % customer, "1")
        return self.sql("select id from staff_tasks where customer_id = %d" % customer)

    def link(self, customer):
        self.wait("select count(*) from messaging_log where body like '%/approve/" + self.task(customer) + "%'", "1")
        body = self.sql("select body from messaging_log where body like '%/approve/" + self.task(customer) + "%'")
        return re.search(r"http://\S+/approve/\S+", body).group(0), body

    def http(self, url, fields=None):
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        try:
            with urllib.request.urlopen(url, data, 20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def test_a_link_answers_once(self):
        self.go(1, data={"kind": "ask"})
        link, body = self.link(1)
        self.assertIn("Offer for Ann Lee\nDear Ann, 10 % off <b>\n", body)
        status, page = self.http(link)
        self.assertEqual(200, status)
        self.assertIn("Send &amp; go", page)
        self.assertIn("Dear Ann, 10 % off &lt;b&gt;", page)
        self.ended("asker", 1, "waiting")
        self.assertEqual(400, self.http(link, {"by": "Max"})[0])
        self.assertEqual(200, self.http(link, {"answer": "yes", "by": "Max", "text": "Edited", "note": "ok"})[0])
        status, page = self.http(link, {"answer": "no", "by": "Eve"})
        self.assertEqual((409, True), (status, "answered already by Max" in page))
        self.assertEqual(409, self.http(link)[0])
        self.ended("asker", 1, "done true|Max|Edited|ok|false")

    def test_only_a_signed_link_is_one(self):
        self.go(2, data={"kind": "ask"})
        link, _ = self.link(2)
        for wrong in (link[:-1] + ("0" if link[-1] != "0" else "1"), link[:-1], link + "0",
                      link[:-33] + "0." + link[-32:], link.rsplit("/", 1)[0] + "/"):
            self.assertEqual(404, self.http(wrong)[0], wrong)
            self.assertEqual(404, self.http(wrong, {"answer": "yes"})[0], wrong)
        self.ended("asker", 2, "waiting")

    def test_of_many_answers_one_counts(self):
        self.go(3, data={"kind": "ask"})
        link, _ = self.link(3)
        codes = []
        threads = [threading.Thread(target=lambda n=n: codes.append(
            (self.http(link, {"answer": "yes", "by": "p%d" % n})[0], n))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = [n for code, n in codes if code == 200]
        self.assertEqual((1, 7), (len(winner), sum(code == 409 for code, _ in codes)), codes)
        self.ended("asker", 3, "done true|p%d|Dear Ann, 10 %% off <b>|nil|false" % winner[0])

    def test_the_inbox_answers(self):
        self.go(4, data={"kind": "ask"})
        task = self.task(4)
        self.ended("asker", 4, "waiting")
        self.assertIn("Offer for Ann Lee", self.command("inbox", "list"))
        self.assertIn("is answered with yes or no", self.command("inbox", "answer", task, "done", code=4))
        self.command("inbox", "answer", task[:20], "no", "--by", "Sue", "--note", "too much")
        self.ended("asker", 4, "done false|Sue|Dear Ann, 10 % off <b>|too much|false")
        self.assertIn("answered already by Sue", self.command("inbox", "answer", task, "yes", code=4))
        self.assertIn("there is no task 'ffff'", self.command("inbox", "answer", "ffff", "yes", code=3))
        self.command("inbox", "answer", task, "perhaps", code=2)
        self.assertEqual("0", self.sql("select count(*) from inbox where customer_id = 4"))

    def test_an_approval_that_nobody_answers_times_out(self):
        self.go(5, data={"kind": "hasty"})
        self.ended("hasty", 5, "done false|nil|nil|nil|true")
        self.assertIn("not asked any more", self.command("inbox", "answer", self.task(5), "yes", code=4))
        self.assertEqual("email|csr@brightair.example|Quick", self.sql(
            "select channel, address, subject from messaging_log where body like 'Quick%'"))

    def test_a_stopped_instance_asks_nobody_any_more(self):
        self.go(6, data={"kind": "ask"})
        link, _ = self.link(6)
        self.ended("asker", 6, "waiting")
        self.go(6, "other")
        self.ended("asker", 6, "stopped other")
        status, page = self.http(link, {"answer": "yes"})
        self.assertEqual((409, True), (status, "not asked any more" in page))

    def test_a_to_do_is_done(self):
        self.go(7, data={"kind": "do"})
        task = self.task(7)
        self.ended("doer", 7, "waiting")
        self.command("inbox", "answer", task, "done", "--by", "Joe")
        due = self.sql("select utc(due_at) from staff_tasks where id = '%s'" % task)
        self.ended("doer", 7, "done Call Ann Lee|Joe|about the roof|" + due)
        self.assertEqual("task_done|7", self.sql(
            "select type, customer_id from events where entity_id = '%s'" % task))

    def test_a_to_do_is_cancelled(self):
        self.go(8, data={"kind": "undo"})
        self.ended("undoer", 8, "done")
        self.assertEqual("t", self.sql("select cancelled_at is not null from staff_tasks where customer_id = 8"))

    def test_people_are_told_by_their_own_channel(self):
        self.go(9, data={"kind": "tell"})
        self.ended("teller", 9, "done sent sms sent email")
        self.assertEqual("Bright Air", self.sql("select subject from messaging_log where body = 'so is Ann'"))

    def test_a_role_that_isnt_there_is_shown(self):
        self.go(10, data={"kind": "nobody"})
        self.wait("select stuck->>'message' from instances where workflow = 'nobody'",
                  'staff.task: company.people has no "pilot"')


if __name__ == "__main__":
    unittest.main()
