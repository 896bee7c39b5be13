"""Versions of live instances: show, diff, activate, and moving them after a check; /healthz."""
import json
import os
import signal
import subprocess
import sys
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import PROGRAM, DaemonTest  # noqa: E402
from database import until  # noqa: E402

ON = """return workflow { on = "go", key = function(e) return "%s" .. e.customer.id end,
  when = function(e) return e.data.kind == "%s" end,%s
  run = function(e)
%s
  end }
"""


def source(kind, body, more=""):
    return ON % (kind, kind, more, "\n".join("    " + line.strip() for line in body.strip().split("\n")))


class FleetTest(DaemonTest):
    files = {
        "follow.lua": source("follow", 'step("one", function() return 1 end)\nsleep "30d"\nreturn "first"'),
        "broken.lua": source("broken", 'local t\nsleep "1s"\nreturn t.x'),
        "shorter.lua": source("shorter", 'sleep "30d"\nreturn "old"'),
        "stops.lua": source("stops", 'sleep "30d"\nreturn "old"'),
        "start.lua": source("start", 'sleep "30d"'),
        "held.lua": source("held", 'sleep "30d"\nreturn "old"'),
        "back.lua": source("back", 'return "first"'),
    }

    def version(self, name, wanted):
        self.wait("select version from workflow_definitions where name = '%s' and active" % name, str(wanted))

    def sleeps(self, name, customer):
        self.go(customer, data={"kind": name})
        self.wait("select count(*) from instances where workflow = '%s' and customer_id = %d and state = 'sleeping'"
                  " and worker is null" % (name, customer), "1")
        return self.instance(name, customer)

    def definition(self, instance):
        return self.sql("select d.version from workflow_queue q join workflow_instances i on i.id = q.instance_id"
                        " join workflow_definitions d on d.id = q.workflow_definition_id"
                        " and d.id = i.workflow_definition_id where i.id = '%s'" % instance)

    def test_instances_that_go_on_the_same_are_moved_and_others_are_told_of(self):
        one = self.sleeps("follow", 1)
        self.write("follow.lua", source("follow", 'step("one", function() return 1 end)\nsleep "30d"\n'
                                        'return "second"'))
        self.version("follow", 2)
        self.assertEqual("1", self.definition(one))
        said = self.command("workflows", "diff", "follow")
        self.assertIn('-    return "first"\n+    return "second"\n', said)
        self.assertIn("--- workflows/follow.lua (version 1)", said)
        self.assertIn("1 checked: 1 safe, 0 diverge", self.command("workflows", "migrate", "follow", "--dry-run"))
        self.assertEqual("1", self.definition(one))
        self.assertIn("1 moved", self.command("workflows", "migrate", "follow"))
        self.assertEqual("2", self.definition(one))
        # Another step where one is recorded: it stays, with the step and the line.
        self.write("follow.lua", source("follow", 'step("two", function() return 1 end)\nsleep "30d"'))
        self.version("follow", 3)
        self.fails(["migrate", "follow"], one + "  version 2  diverges at /1: follow.lua:4: asks for two#1 where"
                   " one#1 was recorded", "1 diverge")
        self.assertEqual("2", self.definition(one))
        self.assertIn("no live instance of follow on another version is 'nobody'",
                      self.command("workflows", "migrate", "follow", "--instance", "nobody", code=3))
        # It wakes as what it is, though that file is gone, and is still listed.
        os.unlink(os.path.join(self.folder, "workflows", "follow.lua"))
        self.wait("select count(*) from workflow_definitions where name = 'follow' and active", "0")
        self.assertIn("not in force: follow, whose file is gone; 1 of it go on", self.command("workflows", "list"))
        [listed] = [w for w in json.loads(self.command("workflows", "list", "--json")) if w["workflow"] == "follow"]
        self.assertEqual((2, None, 1), (listed["version"], listed["since"], listed["alive"]))
        with open(os.path.join(self.folder, "log")) as log:
            self.assertIn('message="no longer in force, its file is gone; what lives goes on" workflow=follow', log.read())
        self.sql("update workflow_queue set due = now() where instance_id = '%s';"
                 "update workflow_waits set deadline = business_now() where instance_id = '%s'" % (one, one))
        self.sql("update clock set business_origin = business_origin + interval '31 days'")
        self.ended("follow", 1, "done second")

    def fails(self, words, *wanted):
        """A fleet check that found something: its lines are on standard output."""
        done = subprocess.run([PROGRAM, "workflows", *words], env=self.environment, cwd=self.folder, text=True,
                              capture_output=True, timeout=60)
        self.assertEqual(4, done.returncode, done.stdout + done.stderr)
        for text in wanted:
            self.assertIn(text, done.stdout + done.stderr)

    def test_a_wait_that_changes_needs_a_decision(self):
        one = self.sleeps("shorter", 2)
        self.write("shorter.lua", source("shorter", 'return "at once"'))
        self.version("shorter", 2)
        self.fails(["migrate", "shorter"], "needs a decision at /1: it sleeps until 20", "the new version would end at"
                   " once (done)", "0 moved")
        self.assertEqual("1", self.definition(one))
        self.assertIn("1 moved", self.command("workflows", "migrate", "shorter", "--decided", "--instance", one))
        self.assertEqual("2", self.definition(one))

    def test_what_a_repaired_file_unsticks(self):
        self.go(3, data={"kind": "broken"})
        self.wait("select stuck->>'code' from instances where workflow = 'broken'", "script_error")
        one = self.instance("broken", 3)
        self.write("broken.lua", source("broken", 'local t = { x = "good" }\nsleep "1s"\nreturn t.x'))
        self.version("broken", 2)
        self.assertIn("1 moved", self.command("workflows", "migrate", "broken"))
        self.sql("select resume_instance('%s')" % one)
        self.ended("broken", 3, "done good")

    def test_moved_instances_stop_for_what_the_new_version_names(self):
        one = self.sleeps("stops", 4)
        self.write("stops.lua", source("stops", 'sleep "30d"\nreturn "old"', '\n  stop_when = { "other" },'))
        self.version("stops", 2)
        self.assertIn("1 moved", self.command("workflows", "migrate", "stops"))
        self.assertEqual("other|customer:4", self.sql("select type, key from workflow_subscriptions where kind = 'stop'"
                                                      " and instance_id = '%s'" % one))
        self.go(4, "other")
        self.ended("stops", 4, "stopped other")

    def test_a_held_instance_stays(self):
        one = self.sleeps("held", 5)
        self.write("held.lua", source("held", 'sleep "30d"\nreturn "new"'))
        self.version("held", 2)
        target = self.sql("select id from workflow_definitions where name = 'held' and active")
        move = "select count(*) from migrate_instances(%s, '[{\"instance\": \"%s\", \"epoch\": %s}]')"
        epoch = int(self.sql("select epoch from workflow_queue where instance_id = '%s'" % one))
        self.assertEqual("0", self.sql(move % (target, one, epoch - 1)))
        other = self.sql("select id from workflow_definitions where name = 'back' and active")
        self.assertEqual("0", self.sql(move % (other, one, epoch)))
        self.sql("update workflow_queue set worker = gen_random_uuid() where instance_id = '%s'" % one)
        self.assertEqual("0", self.sql(move % (target, one, epoch)))
        self.fails(["migrate", "held"], "1 are being worked on", "0 moved")
        self.sql("update workflow_queue set worker = null where instance_id = '%s'" % one)
        self.assertEqual("1", self.sql(move % (target, one, epoch)))

    def test_an_older_version_is_put_back_until_the_file_is_saved(self):
        self.write("back.lua", source("back", 'return "second"'))
        self.version("back", 2)
        self.assertIn("version 1 of back is in force", self.command("workflows", "activate", "back", "1", "--check"))
        self.assertIn("in force already", self.command("workflows", "activate", "back", "1"))
        self.assertIn("there is no version 9", self.command("workflows", "activate", "back", "9", code=3))
        shown = self.command("workflows", "show", "back")
        self.assertRegex(shown, r"version +1, in force")
        self.assertIn('return "first"', shown)
        # The daemon takes it over by itself.
        seen = iter(range(100, 200))
        until(lambda: self.once(next(seen)), "first", 20)
        self.write("back.lua", source("back", 'return "third"'))
        self.version("back", 3)

    def once(self, customer):
        self.go(customer, data={"kind": "back"})
        question = "select outcome from workflow_instances where customer_id = %d and workflow = 'back'" % customer
        self.wait(question, lambda got: got != "")
        return self.sql(question)

    def test_sighup_looks_where_nothing_is_watched(self):
        elsewhere = os.path.join(self.folder, "elsewhere")
        os.makedirs(elsewhere)
        os.symlink(elsewhere, os.path.join(self.folder, "workflows", "lib"))
        for number, text in ((1, "one"), (2, "two")):
            with open(os.path.join(elsewhere, "words.lua"), "w") as f:
                f.write("return '%s'" % text)
            if number == 1:
                self.write("hup.lua", 'local w = require "lib.words"\n' + source("hup", "return w"))
            else:
                self.process.send_signal(signal.SIGHUP)
            self.version("hup", number)

    def test_a_start_with_broken_files_goes_on_with_what_was_in_force(self):
        self.write("ghl/contact.lua", "return mapping {")
        self.write("start.lua", "?")
        type(self).end(self.process)
        type(self).start()
        self.wait("select count(*) from workflow_refusals where file in ('workflows/start.lua',"
                  " 'workflows/ghl/contact.lua')", "2")
        self.sleeps("start", 7)
        os.unlink(os.path.join(self.folder, "workflows", "ghl", "contact.lua"))
        self.write("start.lua", self.files["start.lua"])
        self.wait("select count(*) from workflow_refusals", "0")

    def test_a_refusal_is_seen_by_everybody(self):
        self.write("refused.lua", "return workflow {\n  on = 'nothing', run = function(e) end }")
        until(lambda: "refused.lua:2: unknown event" in self.command("workflows", "list"), True, 20)
        with urllib.request.urlopen("http://127.0.0.1:%d/healthz" % self.port) as answer:
            health = json.load(answer)
        self.assertTrue(health["ok"])
        self.assertEqual(["workflows/refused.lua", 2], [health["refused"][0]["file"], health["refused"][0]["line"]])
        os.unlink(os.path.join(self.folder, "workflows", "refused.lua"))
        until(lambda: "refused" in self.command("workflows", "list"), False, 20)


if __name__ == "__main__":
    unittest.main()
