"""What `--json` prints can be read by a program: one value, with the keys that a person's answer has."""
import json
import os
import re
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import PROGRAM, DaemonTest  # noqa: E402
from database import ROOT, Database  # noqa: E402
from fake_servicetitan import FakeServiceTitan  # noqa: E402

BODY = """return workflow { on = "go", key = "customer",
  run = function(e)
    step("%s", function() return 1 end)
    sleep "30d"
  end }"""


class JsonTest(DaemonTest):
    files = {"follow.lua": BODY % "one"}

    def json(self, *words, code=0, **more):
        done = subprocess.run([PROGRAM, *words, "--json"], env=dict(self.environment, **more), cwd=self.folder,
                              text=True, capture_output=True, timeout=120)
        self.assertEqual(code, done.returncode, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def test_every_verb_with_an_answer_has_it(self):
        lack = []
        for line in self.command("completion", "bash").splitlines():
            verb = re.match(r"    '(\w+ \w*)'\)$", line)
            name = verb.group(1) if verb else name if lack or "options=" in line else ""
            if line.startswith("      options='") and "--json" not in line:
                lack.append(name)
        # One that doesn't end, whose log has a setting of its own, and what bash reads.
        self.assertEqual(["run ", "completion bash", "completion values"], lack)

    def test_versions(self):
        self.go(1)
        self.wait("select state from instances where customer_id = 1 and worker is null", "sleeping")
        self.write("follow.lua", BODY % "two")
        self.wait("select version from workflow_definitions where active and name = 'follow'", "2")
        said = self.json("workflows", "diff", "follow")
        self.assertEqual(("follow", 1, 2), (said["workflow"], said["from"], said["to"]))
        self.assertIn('-    step("one"', said["diff"])
        said = self.json("workflows", "migrate", "follow", code=4)
        one = said["checked"].pop("instances")
        self.assertEqual({"workflow": "follow", "version": 2, "dry_run": False, "checked": {
            "safe": 0, "diverges": 1, "decide": 0, "busy": 0, "moved": 0}}, said)
        self.assertEqual([(self.instance("follow", 1), 1, "diverges", "/1")],
                         [(i["instance"], i["version"], i["verdict"], i["step"]) for i in one])
        self.assertIn("asks for two", one[0]["message"])
        self.assertTrue(self.json("workflows", "migrate", "follow", "--dry-run", code=4)["dry_run"])
        self.assertEqual({"workflow": "follow", "version": 1, "changed": True, "checked": {
            "safe": 0, "diverges": 0, "decide": 0, "busy": 0, "moved": 0, "instances": []}},
            self.json("workflows", "activate", "follow", "1", "--check"))
        refused = self.json("workflows", "activate", "follow", "2", "--check", code=4)
        self.assertEqual((False, 1), (refused["changed"], refused["checked"]["diverges"]))
        self.assertEqual({"workflow": "follow", "version": 1, "changed": False, "checked": None},
                         self.json("workflows", "activate", "follow", "1"))

    def test_config_shows_no_secret(self):
        said = self.json("config", GHL_API_KEY="s3cr3t", MOONWRIGHT_LIVE="0", MOONWRIGHT_WORKFLOWS='a "b" \\',
                         MOONWRIGHT_READONLY_URL="postgres://a:s3cr3t@h/d")
        self.assertNotIn("s3cr3t", json.dumps(said))
        self.assertEqual({"value": "***", "source": "environment"}, said["settings"]["GHL_API_KEY"])
        self.assertEqual("postgres://a:***@h/d", said["settings"]["MOONWRIGHT_READONLY_URL"]["value"])
        self.assertEqual({"value": 'a "b" \\', "source": "environment"}, said["settings"]["MOONWRIGHT_WORKFLOWS"])
        self.assertIsNone(said["settings"]["SENDGRID_API_KEY"])
        self.assertIn("SENDGRID_API_KEY", said["missing"]["email"])
        self.assertTrue(said["sends_never"])

    def test_migrate_and_sync(self):
        self.assertEqual({"applied": []}, self.json("migrate"))
        empty = Database((), "")
        self.addCleanup(empty.drop)
        url = empty.url
        files = sorted(f for f in os.listdir(os.path.join(ROOT, "schema")) if f.endswith(".sql"))
        self.assertEqual({"applied": files}, self.json("migrate", DATABASE_URL=url))
        st = FakeServiceTitan()
        self.addCleanup(st.close)
        st.add("job_types", *({"id": n, "name": "Install", "class": "Install", "active": True, "businessUnitIds": [],
                               "createdOn": "2026-05-01T10:00:00Z", "modifiedOn": "2026-05-01T10:00:00Z"}
                              for n in (1, 2)))
        self.assertEqual({"entities": [{"entity": "job_types", "rows": 2, "written": 2, "refused": 0, "state": "done"}]},
                         self.json("sync", "job_types", DATABASE_URL=url, SERVICE_TITAN_API_URL=st.url,
                                   SERVICE_TITAN_AUTH_URL=st.url, SERVICE_TITAN_CLIENT_ID="id",
                                   SERVICE_TITAN_CLIENT_SECRET="secret", SERVICE_TITAN_TENANT_ID="7",
                                   SERVICE_TITAN_APP_KEY="key"))
        self.assertEqual({"entities": []}, self.json("sync", "job_types", DATABASE_URL=url, code=1))

    def test_watch_is_an_object_a_line(self):
        watch = subprocess.Popen([PROGRAM, "watch", "--json"], env=self.environment, cwd=self.folder, text=True,
                                 stdout=subprocess.PIPE)
        self.addCleanup(watch.stdout.close)
        self.addCleanup(watch.wait)
        self.addCleanup(watch.kill)
        self.go(2)
        seen = {}
        while "starts" not in seen:
            said = json.loads(watch.stdout.readline())
            self.assertEqual(["at", "kind", "text"], list(said))
            seen[said["kind"]] = said
        self.assertRegex(seen["starts"]["text"], "^follow for customer ")
        self.assertRegex(seen["event"]["at"], r"^2026-06-\d\dT")


if __name__ == "__main__":
    unittest.main()
