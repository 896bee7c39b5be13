"""The whole program on a database and a folder of workflows of its own, shared by the tests of a class."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

from database import ROOT, Database, literal, until

PROGRAM = os.environ.get("MOONWRIGHT_PROGRAM", "")
# More workers than one, where a suite is run once more that way.
WORKERS = ["--workers", os.environ["MOONWRIGHT_TEST_WORKERS"]] \
    if "MOONWRIGHT_TEST_WORKERS" in os.environ else []
COMPANY = """return company { name = "Bright Air", zone = "America/New_York", phone = "+18005550100",
  hours = { mon_fri = "08:00-18:00" },
  people = { csr = "csr@brightair.example", manager = "+12125550199", owner = "owner@brightair.example" } }"""
EVENTS = """return events {
  go = { of = "customer", manual = true },
  other = { of = "customer", manual = true, data = { size = "number?" } },
}"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
# Actions of a company that call a vendor of its own, %(url)s.
LENDER = """return actions {
  apply = { effect = "once", in_doubt = "drop", args = {}, run = function(a, key)
    return http.post { url = "%(url)s/apply", json = { reference = key } }.json
  end },
  rate = { effect = "read", args = {}, run = function()
    return http.get { url = "%(url)s/rate" }.json
  end },
}"""


class DaemonTest(unittest.TestCase):
    files = {}         # of workflows/: name -> source
    clock = "1"        # business seconds per real one
    roles = "workflow,web"
    arguments = ()       # more of `run`'s
    settings = {}
    reads_views = False  # a login that may read views, for db.* and audience

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="moonwright-test-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.database = Database((), "")
        cls.addClassCleanup(cls.database.drop)
        os.chmod(cls.folder, 0o755)
        cls.port = free_port()
        cls.environment = dict(
            {k: v for k, v in os.environ.items() if not k.startswith(("MOONWRIGHT_LIVE", "SERVICE"))},
            MOONWRIGHT_HOME=ROOT, DATABASE_URL=cls.database.url,
            MOONWRIGHT_WORKFLOWS=os.path.join(cls.folder, "workflows"),
            MOONWRIGHT_DATA=os.path.join(cls.folder, "data"), EVENT_POLL_INTERVAL_MS="200",
            EXECUTE_POLL_INTERVAL_MS="200", DRAIN_MS="2000",
            MOONWRIGHT_HTTP="127.0.0.1:%d" % cls.port,
            PUBLIC_URL="http://127.0.0.1:%d" % cls.port,
            MOONWRIGHT_CLOCK="2026-06-01T14:00:00Z@2026-06-01T14:00:00Z*1", **cls.settings)
        if cls.reads_views:
            cls.sql("do $$ begin create role test_reader login; exception when duplicate_object or "
                    "unique_violation then null; end $$")
            cls.environment["MOONWRIGHT_READONLY_URL"] = cls.database.url.replace("user=test", "user=test_reader")
        cls.write("company.lua", COMPANY)
        cls.write("events.lua", EVENTS)
        for name, source in cls.files.items():
            cls.write(name, source)
        cls.command("migrate")
        cls.sql("update clock set real_origin = now(), business_origin = '2026-06-01 14:00+00', scale = "
                + cls.clock)
        cls.start()

    @classmethod
    def start(cls):
        with open(os.path.join(cls.folder, "log"), "a") as log:
            cls.process = subprocess.Popen([PROGRAM, "run", "--role", cls.roles, *(cls.arguments or WORKERS)], env=cls.environment,
                                           cwd=cls.folder, stdout=log, stderr=log)
        cls.addClassCleanup(cls.end, cls.process)
        until(lambda: cls.sql("select count(*) from workflow_definitions where active and name not in "
                              "('events', 'company', 'actions')"), lambda n: int(n) >= len(cls.files), 30, "loaded")

    @classmethod
    def in_force(cls, name):
        until(lambda: cls.sql("select count(*) from workflow_definitions where active and name = '%s'" % name), "1", 30,
              name + " in force")

    @classmethod
    def end(cls, process):
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @classmethod
    def write(cls, name, source):
        path = os.path.join(cls.folder, "workflows", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(source)

    @classmethod
    def sql(cls, text):
        return cls.database.sql(text)

    @classmethod
    def command(cls, *words, code=0):
        done = subprocess.run([PROGRAM, *words], env=cls.environment, cwd=cls.folder, text=True,
                              capture_output=True, timeout=60)
        if done.returncode != code:
            raise AssertionError("%s: %d %s%s" % (words, done.returncode, done.stdout, done.stderr))
        return done.stdout if code == 0 else done.stderr

    def tearDown(self):
        result = self._outcome.result
        if any(test is self for test, _ in result.failures + result.errors):
            with open(os.path.join(self.folder, "log"), errors="replace") as log:
                sys.stderr.write(log.read()[-5000:])

    def wait(self, question, wanted, seconds=30):
        try:
            until(lambda: self.sql(question), wanted, seconds, question)
        except AssertionError as error:
            raise AssertionError("%s\n%s\n%s" % (
                error, self.sql("select workflow, state, stuck, reason, outcome, error from instances "
                                "order by created_at desc limit 6"),
                self.sql("select rule, workflow, message from detect_errors limit 5"))) from None

    def go(self, customer, name="go", **more):
        """Starts what listens to the event; customers keep the tests of a class apart."""
        payload = dict({"customer": {"id": customer, "first_name": "Ann", "name": "Ann Lee",
                                     "phone": "+1212555%04d" % customer,
                                     "zone": "America/New_York"}}, **more)
        self.sql("insert into arrivals (type, entity, entity_id, at, payload) values "
                 "(%s, 'customer', '%d', business_now(), %s); select pg_notify('arrivals', '')"
                 % (literal(name), customer, literal(json.dumps(payload))))

    def ended(self, workflow, customer, wanted, seconds=30):
        self.wait("select state || coalesce(' ' || coalesce(outcome, reason), '') from instances where "
                  "workflow = '%s' and customer_id = %d order by created_at desc limit 1"
                  % (workflow, customer), wanted, seconds)

    def instance(self, workflow, customer):
        return self.sql("select id from instances where workflow = '%s' and customer_id = %d "
                        "order by created_at desc limit 1" % (workflow, customer))
