"""Versions: what a save puts in force, what is refused, several trees on one database."""
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from database import ROOT, DatabaseTest  # noqa: E402

DRIVER = os.environ.get("DETECT_DRIVER", "")
EVENTS = 'return events { estimate_created = { of = "estimate", created = true } }'
COMPANY = 'return company { name = "Bright Air", zone = "America/New_York" }'
IN_FORCE = "select coalesce(string_agg(name || ' ' || version, ', ' order by name), '') from" \
           " workflow_definitions where active and declaration->>'kind' = 'workflow'"
REFUSED = "select coalesce(string_agg(message, '; ' order by message), '') from workflow_refusals"


ROWS = """
insert into sync_cursors (entity, live_since, completed_at) select e, '2026-06-01Z', now()
from unnest(array['customers', 'jobs', 'estimates', 'invoices', 'appointments', 'locations']) e;
insert into st_customers (id, name, type, state, zip, created_on, modified_on)
values (9, 'Ann Lee', 'Residential', 'NY', '10001', '2026-01-01Z', '2026-01-01Z');
insert into st_contacts (id, customer_id, type, value, phone, email, modified_on)
values (1, 9, 'MobilePhone', '5552000009', '+15552000009', null, '2026-01-01Z');
insert into st_estimates (id, name, status, customer_id, subtotal, created_on, modified_on)
values (7, 'x', 'Open', 9, 2000, '2026-06-10T10:00Z', '2026-06-10T10:00Z');
"""


def workflow(run="", more=""):
    return 'return workflow {\n  on = "estimate_created",%s\n  run = function(e) %s end }\n' % (more, run)


class Tree:
    """A folder of workflows, and a daemon that looks after it."""

    def __init__(self, test, name):
        self.test, self.folder = test, os.path.join(test.folder, name)
        self.driver = None
        for folder in ("", "lib", "actions", "ghl"):
            os.makedirs(os.path.join(self.folder, folder), exist_ok=True)
        self.write("events.lua", EVENTS)
        self.write("company.lua", COMPANY)
        test.addCleanup(self.kill)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)

    def remove(self, name):
        os.unlink(os.path.join(self.folder, name))

    def begin(self):
        with open(self.test.log_path, "a") as log:
            self.driver = subprocess.Popen(
                [DRIVER, self.test.database.url, self.test.database.url, os.path.join(ROOT, "lua"),
                 self.folder], stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "EVENT_POLL_INTERVAL_MS": "100"})
        self.noticed()

    def noticed(self):
        """It has something new in force."""
        while self.driver.stdout.readline() != "in force\n":
            self.test.assertIsNone(self.driver.poll())

    def end(self):
        self.driver.terminate()
        self.test.assertEqual(0, self.driver.wait(20))
        self.driver.stdout.close()
        self.driver = None

    def kill(self):
        if self.driver:
            self.driver.kill()
            self.driver.wait()
            self.driver.stdout.close()


class Case(DatabaseTest):
    def setUp(self):
        super().setUp()
        self.sql("insert into clock values (true, now(), '2026-06-10 12:00+00', 1)")

    def refused(self, wanted):
        self.wait(REFUSED, wanted if callable(wanted) else lambda got: wanted in got)

    def alive(self, name, number=1):
        """Instances of the active version, as if they were waiting."""
        self.sql("insert into workflow_queue (instance_id, workflow_definition_id, state) select"
                 " gen_random_uuid(), id, 'sleeping' from workflow_definitions,"
                 " generate_series(1, %d) where name = '%s' and active" % (number, name))


class Refusals(Case):
    def test_a_refusal_is_shown_until_the_file_is_mended_and_the_old_version_goes_on(self):
        tree = Tree(self, "workflows")
        tree.write("a.lua", workflow())
        tree.begin()
        tree.write("a.lua", "return workflow {\n  on = \n")
        self.refused("a.lua:3: unexpected symbol near <eof>")
        self.assertEqual("workflows/a.lua|3", self.sql("select file, line from workflow_refusals"))
        self.assertEqual("a 1", self.sql(IN_FORCE))
        tree.write("a.lua", workflow("note 'mended'"))
        self.wait(IN_FORCE, "a 2")
        self.wait(REFUSED, "")

    def test_what_a_file_may_not_be(self):
        tree = Tree(self, "workflows")
        for name, text in {
                "endless": "local n = 0\nwhile true do n = n + 1 end",
                "huge": "local t, x = {}, ('x'):rep(1000)\nfor i = 1, 1e9 do t[i] = x:rep(900 + i % 100) end",
                "event": 'return workflow {\n  on = "estimate_creatd",\n  run = function(e) end }',
                "field": workflow(more="\n  stopwhen = {},"),
                "kind": workflow(more='\n  history = "yes",'),
                "half": workflow()[:40],
                "Thank-You": workflow(),
                "empty": ""}.items():
            tree.write(name + ".lua", text)
        tree.write(".#good.lua", workflow())  # an editor's
        tree.write("good.lua", workflow())
        with open(os.path.join(tree.folder, "large.lua"), "w") as f:
            f.write("-- " + "x" * (1 << 20))
        tree.begin()
        self.assertEqual("good 1", self.sql(IN_FORCE))
        got = dict(line.split("|", 1) for line in self.sql(
            "select file, line || ' ' || message from workflow_refusals").split("\n"))
        for name, wanted in {
                "endless": "2 endless.lua:2: while it was loaded it used more than 1000 ms of CPU",
                "huge": "while it was loaded it used more than the allowed 160 MB",
                "event": '2 event.lua:2: unknown event "estimate_creatd" in on; did you mean',
                "field": '3 field.lua:3: unknown field "stopwhen" in workflow; did you mean "stop_when"?',
                "kind": "3 kind.lua:3: history must be a boolean",
                "half": "half.lua:2: ",
                "empty": "1 empty.lua:1: must return workflow { … }",
                "Thank-You": "a workflow's file is named in lower_snake_case, such as thank_you.lua",
                "large": "0 large.lua: it is larger than 1 MB"}.items():
            self.assertIn(wanted, got["workflows/%s.lua" % name])

    def test_what_follows_from_refused_events_says_so(self):
        tree = Tree(self, "workflows")
        tree.write("events.lua", "return events {")
        tree.write("a.lua", workflow())
        tree.begin()
        self.refused('events.lua is refused, so: a.lua:2: unknown event "estimate_created" in on')

    def test_editors_of_other_systems(self):
        tree = Tree(self, "workflows")
        tree.write("events.lua", "\ufeff" + EVENTS)
        tree.write("company.lua", "\ufeff" + COMPANY)
        tree.write("a.lua", "\ufeff" + workflow("note 'marked'").replace("\n", "\r\n"))
        tree.begin()
        self.assertEqual("", self.sql(REFUSED))
        self.assertEqual("a 1", self.sql(IN_FORCE))

    def test_a_file_that_is_away_for_a_moment_was_not_deleted(self):
        tree = Tree(self, "workflows")
        tree.write("a.lua", workflow())
        tree.write("b.lua", workflow())
        tree.begin()
        tree.remove("a.lua")
        time.sleep(0.4)
        tree.write("a.lua", workflow())
        tree.remove("b.lua")
        self.wait(IN_FORCE, "a 1")
        self.assertEqual("1", self.sql("select count(*) from workflow_definitions where name = 'a'"))
        tree.write("b.lua", workflow())  # and back again, as it was
        self.wait(IN_FORCE, "a 1, b 1")


class Definitions(Case):
    def test_a_version_has_its_modules_its_calls_and_the_hash_of_what_it_trusts(self):
        tree = Tree(self, "workflows")
        tree.write("lib/words.lua", "return { hi = 'Hi' }")
        tree.write("actions/financing.lua", 'return actions { apply = { args = { amount = "money" },'
                   ' run = function(a, key) return a.amount end } }')
        tree.write("a.lua", 'local words = require "lib.words"\n' + workflow(
            "financing.apply { amount = 1, name = 'once' } sms.send { to = e.customer, text = words.hi }"))
        tree.begin()
        d = json.loads(self.sql("select row_to_json(d) from workflow_definitions d where name = 'a'"))
        self.assertEqual(["workflows/a.lua", "workflows/lib/words.lua"], sorted(d["files"]))
        self.assertEqual({"financing.apply": ["amount"], "sms.send": ["text", "to"]}, d["declaration"]["calls"])
        self.assertRegex(d["trusted"], "^[0-9a-f]{64}$")
        self.assertEqual(1, d["api"])
        # The program changes: new instances say so by a version of their own, when it starts.
        self.sql("update workflow_definitions set trusted = 'older', sha256 = 'older' where name = 'a'")
        tree.end()
        tree.begin()
        self.wait(IN_FORCE, "a 2")
        # So do the hours that clock times are counted in.
        tree.write("company.lua", COMPANY.replace("New_York", "Chicago"))
        self.wait(IN_FORCE, "a 3")

    def test_actions_keep_what_versions_in_use_call(self):
        tree = Tree(self, "workflows")
        apply = 'return actions { %s = { args = { amount = "money"%s }, run = function(a, key) end } }'
        tree.write("actions/financing.lua", apply % ("apply", ""))
        tree.write("a.lua", workflow("financing.apply { amount = 1 }"))
        tree.begin()
        self.alive("a", 2)
        tree.write("a.lua", workflow("note 'no more'"))
        self.wait(IN_FORCE, "a 2")
        tree.write("actions/financing.lua", apply % ("ask", ""))
        self.refused("actions/financing.lua:1: financing.apply is gone, and a (version 1, 2 instances alive)"
                     " calls it")
        tree.write("actions/financing.lua", apply % ("apply", ', term = "number"'))
        self.refused("financing.apply now needs 'term', which a (version 1, 2 instances alive) doesn't give it")
        tree.write("actions/financing.lua", (apply % ("apply", "")).replace("amount", "sum"))
        self.refused("financing.apply no longer takes 'amount'")
        tree.remove("actions/financing.lua")
        self.refused("the file is gone")
        # What runs meanwhile is the set that was good, after a restart and on other machines too.
        self.assertIn("apply", self.sql("select files->>'workflows/actions/financing.lua' from"
                                        " workflow_definitions where name = 'actions' and active"))
        tree.write("actions/financing.lua", apply % ("apply", ', term = "number?"'))
        self.wait(REFUSED, "")
        self.sql("delete from workflow_queue")
        tree.write("actions/financing.lua", apply % ("ask", ""))
        self.wait("select files->>'workflows/actions/financing.lua' like '%ask%' from workflow_definitions"
                  " where name = 'actions' and active", "t")

    def test_a_mapping_that_is_wrong_leaves_the_actions_as_they_were(self):
        tree = Tree(self, "workflows")
        tree.write("ghl/contact.lua", "return mapping {\n  of = \n}")
        tree.begin()
        self.refused("ghl/contact.lua:3: unexpected symbol near '}'")
        tree.write("ghl/contact.lua", 'return mapping { of = "customer", mapp = function(c) return {} end }')
        self.refused('ghl/contact.lua:1: unknown field "mapp" in mapping; did you mean "map"?')
        tree.write("ghl/contact.lua", 'return mapping { of = "customer", map = function(c) return {} end }')
        self.wait(REFUSED, "")
        self.wait("select count(*) from workflow_definitions where name = 'actions' and active", "1")

    def test_a_newer_programs_versions_are_told_of(self):
        tree = Tree(self, "workflows")
        tree.write("a.lua", workflow())
        tree.begin()
        self.alive("a")
        tree.end()
        self.sql("update workflow_definitions set api = 99 where name = 'a'")
        tree.begin()
        self.refused("a.lua: version 1 was made by a newer program (level 99; this one knows 1)")


class Trees(Case):
    def test_the_last_save_wins_whoever_starts_again(self):
        one, two = Tree(self, "one"), Tree(self, "two")
        one.write("a.lua", workflow("note 'one'"))
        one.begin()
        two.write("a.lua", workflow("note 'two'"))
        two.begin()  # seen for the first time: a save
        self.wait(IN_FORCE, "a 2")
        one.end()
        one.begin()  # nothing was saved there
        time.sleep(0.3)
        self.assertEqual("a 2", self.sql(IN_FORCE))
        one.write("b.lua", workflow())
        self.wait(IN_FORCE, "a 2, b 1")
        one.write("a.lua", workflow("note 'newest'"))
        self.wait(IN_FORCE, "a 3, b 1")
        time.sleep(0.5)  # the other one notices and has no word of its own to say
        self.assertEqual("a 3, b 1", self.sql(IN_FORCE))
        two.write("a.lua", workflow("note 'two'") + "\n")
        self.wait(IN_FORCE, "a 4, b 1")

    def test_what_a_tree_lacks_goes_with_the_tree_that_had_it(self):
        one, two = Tree(self, "one"), Tree(self, "two")
        one.write("a.lua", workflow())
        one.write("old.lua", workflow())
        one.begin()
        two.write("a.lua", workflow())
        two.begin()
        time.sleep(0.3)
        self.assertEqual("a 1, old 1", self.sql(IN_FORCE))
        one.end()
        two.write("b.lua", workflow())  # it looks again
        self.wait(IN_FORCE, "a 1, b 1")

    def test_what_another_tree_puts_in_force_starts_here_too(self):
        one, two = Tree(self, "one"), Tree(self, "two")
        one.begin()
        two.begin()
        two.write("a.lua", workflow())
        self.wait(IN_FORCE, "a 1")
        one.noticed()
        self.sql(ROWS)
        self.wait("select count(*) from workflow_instances where workflow = 'a'", "1")

    def test_refusals_are_each_trees_own(self):
        one, two = Tree(self, "one"), Tree(self, "two")
        one.write("a.lua", "?")
        two.write("b.lua", "?")
        one.begin()
        two.begin()
        self.assertEqual("2", self.sql("select count(*) from workflow_refusals"))
        two.write("b.lua", workflow())
        self.wait("select string_agg(file, ' ') from workflow_refusals", "workflows/a.lua")


if __name__ == "__main__":
    import unittest
    unittest.main()
