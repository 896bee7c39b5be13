"""/healthz, /readyz, /metrics and `moonwright status` of real processes."""
import json
import os
import signal
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "support"))
import daemon  # noqa: E402
import prometheus  # noqa: E402
from database import SERVER, Connection, until  # noqa: E402
from outbound import Vendor  # noqa: E402

EVENTS = """return events {
  go = { of = "customer", manual = true }, fails = { of = "customer", manual = true },
  calls = { of = "customer", manual = true },
}"""
PLAIN = """return workflow { on = "go", class = "transactional",
  run = function(e) note "one" end }"""
FAILS = """return workflow { on = "fails", class = "transactional",
  run = function(e) error("no \\"luck\\"") end }"""
CALLS = """return workflow { on = "calls", class = "transactional",
  run = function(e) lender.rate {} lender.apply {} end }"""


class Web(daemon.DaemonTest):
    def get(self, path):
        """Status, content type and body."""
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d%s" % (self.port, path), timeout=20) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.headers["Content-Type"], answer.read().decode()

    def json(self, path):
        status, kind, body = self.get(path)
        self.assertEqual("application/json", kind)
        return status, json.loads(body)

    def pid(self, role):
        return int(self.sql("select pid from workflow_workers where role = '%s' and until > now() "
                            "order by started_at desc limit 1" % role))

    def metrics(self):
        status, kind, body = self.get("/metrics")
        self.assertEqual((200, "text/plain; version=0.0.4; charset=utf-8"), (status, kind))
        return prometheus.parse(body)


class ReadyTest(Web):
    files = {"plain.lua": PLAIN}
    roles = "sync,workflow,web,monitor"
    settings = {"WORKER_LEASE_MS": "4000"}

    @classmethod
    def setUpClass(cls):
        daemon.EVENTS = EVENTS
        super().setUpClass()

    def ready(self, wanted, **parts):
        """Until /readyz answers so; what it says besides."""
        def look():
            status, answer = self.json("/readyz")
            self.assertEqual(status == 200, answer["ready"])
            return status, {k: answer[k] for k in parts}
        until(look, (wanted, parts), 40, "/readyz")

    def test_1_it_is_ready_when_all_roles_beat(self):
        self.ready(200, database=True, migrated=True, caught_up=True,
                   roles={"sync": True, "workflow": True, "web": True, "monitor": True})
        self.assertEqual("monitor sync web workflow", self.sql(
            "select string_agg(role, ' ' order by role) from workflow_workers where until > now()"))

    def test_2_a_worker_that_hangs_is_missed_until_it_is_replaced(self):
        self.ready(200)
        os.kill(self.pid("monitor"), signal.SIGSTOP)
        self.ready(503, roles={"sync": True, "workflow": True, "web": True, "monitor": False})
        self.ready(200)

    def test_3_a_schema_file_that_is_not_applied_is_missed(self):
        row = self.sql("select number || ', ''' || name || ''', ''' || sha256 || '''' from schema_migrations "
                       "where number = 3")
        self.sql("delete from schema_migrations where number = 3")
        self.ready(503, migrated=False, database=True)
        self.sql("insert into schema_migrations values (%s)" % row)
        self.ready(200, migrated=True)

    def test_4_without_its_database_it_lives_and_is_not_ready(self):
        server = Connection(SERVER)
        self.addCleanup(server.close)
        name = self.database.name
        server.sql("alter database %s allow_connections false" % name)
        try:
            until(lambda: server.sql("select pg_terminate_backend(pid) from pg_stat_activity "
                                     "where datname = '%s' and application_name like 'moonwright%%'" % name), "", 20, "cut")
            self.ready(503, database=False)
            status, health = self.json("/healthz")
            self.assertEqual((200, True, False), (status, health["ok"], health["database"]))
            families = self.metrics()
            self.assertEqual(0, prometheus.total(families, "moonwright_database_up"))
            self.assertNotIn("moonwright_stage_lag_seconds", families)
        finally:
            server.sql("alter database %s allow_connections true" % name)
        self.ready(200, database=True)

    def test_5_a_stranger_is_not_asked(self):
        for path in ("/metric", "/readyz/", "/status/x"):
            self.assertEqual(404, self.get(path)[0])
        request = urllib.request.Request("http://127.0.0.1:%d/metrics" % self.port, data=b"x")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        self.assertEqual(405, refused.exception.code)
        refused.exception.close()


class CatchUpTest(Web):
    files = {"plain.lua": PLAIN}
    settings = {"MOONWRIGHT_ROLES": "workflow, web"}

    @classmethod
    def setUpClass(cls):
        daemon.EVENTS = EVENTS
        super().setUpClass()

    def test_what_was_there_at_the_start_must_be_done_once(self):
        until(lambda: self.json("/readyz")[0], 200, 30, "ready")
        self.end(self.process)
        self.go(1)
        type(self).roles = "web"
        with open(os.path.join(self.folder, "log"), "a") as log:
            web = subprocess.Popen([daemon.PROGRAM, "run", "--role", "web"], env=self.environment,
                                          cwd=self.folder, stdout=log, stderr=log)
        self.addCleanup(self.end, web)

        def look():
            try:
                status, answer = self.json("/readyz")
            except OSError:  # it doesn't listen yet
                return None
            return status, answer["caught_up"], answer["roles"]
        until(look, (503, False, {"workflow": False, "web": True}), 30, "not ready")

        def lag():
            found = self.metrics()  # without what waits, until both databases have answered
            return prometheus.total(found, name, stage="detect") if name in found else None
        name = "moonwright_stage_lag_seconds"
        until(lag, lambda seconds: seconds is not None and seconds > 0, 30, "lag")
        # Somewhere else the role comes up, with a folder of its own, and does what waited.
        environment = dict(self.environment, MOONWRIGHT_DATA=os.path.join(self.folder, "elsewhere"))
        with open(os.path.join(self.folder, "log"), "a") as log:
            workflow = subprocess.Popen([daemon.PROGRAM, "run", "--role", "workflow"], env=environment,
                                               cwd=self.folder, stdout=log, stderr=log)
        self.addCleanup(self.end, workflow)
        self.ended("plain", 1, "done")
        until(lambda: self.json("/readyz")[0], 200, 30, "ready")
        # Its figures are seen here: they come with its row.
        until(lambda: prometheus.total(self.metrics(), "moonwright_stage_settled_total", stage="execute",
                                       worker="workflow"), 1.0, 30, "figures of elsewhere")


class MetricsTest(Web):
    files = {"plain.lua": PLAIN, "fails.lua": FAILS}
    settings = {"WORKER_LEASE_MS": "4000"}
    roles = "workflow,web,monitor"

    @classmethod
    def setUpClass(cls):
        daemon.EVENTS = EVENTS
        cls.lender = Vendor(lambda _: (200, {}, {"rate": 5}))
        cls.addClassCleanup(cls.lender.close)
        cls.settings = dict(cls.settings, MOONWRIGHT_HTTP_HOSTS=cls.lender.url.rpartition("/")[2])
        super().setUpClass()
        cls.write("actions/lender.lua", daemon.LENDER % {"url": cls.lender.url})
        cls.write("calls.lua", CALLS)
        until(lambda: cls.sql("select count(*) from workflow_definitions where active and name = 'calls'"), "1", 30, "loaded")
        cls.command("live", "on")

    def soon(self, name, wanted, **labels):
        until(lambda: prometheus.total(self.metrics(), name, **labels), wanted, 30, name)

    def test_1_stages_count_what_they_did(self):
        before = self.metrics()
        for customer in (1, 2, 3):
            self.go(customer)
            self.ended("plain", customer, "done")
        self.go(4, "fails")
        self.ended("fails", 4, "stuck")
        execute = dict(stage="execute", worker="workflow")
        was = prometheus.total(before, "moonwright_stage_claimed_total", **execute)
        self.soon("moonwright_stage_claimed_total", was + 4, **execute)
        after = self.metrics()

        def more(name, **labels):
            return prometheus.total(after, name, **labels) - prometheus.total(before, name, **labels)
        self.assertEqual(3, more("moonwright_stage_settled_total", stage="execute"))
        self.assertEqual(1, more("moonwright_stage_failed_total", stage="execute"))
        self.assertEqual(4, more("moonwright_stage_settled_total", stage="detect"))
        self.assertEqual(4, more("moonwright_events_total"))
        self.assertEqual(4, more("moonwright_instances_started_total"))
        self.assertEqual(3, more("moonwright_steps_total"))
        self.assertEqual(1, prometheus.total(after, "moonwright_instances_stuck", code="script_error"))
        for stage in ("detect", "execute", "outbound"):
            self.assertEqual(0, prometheus.total(after, "moonwright_stage_waiting", stage=stage))
            self.assertEqual(0, prometheus.total(after, "moonwright_stage_lag_seconds", stage=stage))
            self.assertIsNone(prometheus.total(after, "moonwright_stage_oldest_timestamp_seconds", stage=stage))

    def test_2_workers_show_themselves(self):
        families = self.metrics()
        self.assertEqual({"workflow", "web", "monitor"},
                         {dict(labels)["worker"] for labels in families["moonwright_lease"]["samples"]})
        self.assertEqual({1.0}, set(families["moonwright_lease"]["samples"].values()))
        until(lambda: all(2e6 < v < 256e6 for v in self.metrics()["moonwright_worker_resident_bytes"]["samples"].values()),
              True, 20, "memory")
        self.assertEqual(4, prometheus.total(self.metrics(), "moonwright_pool_connections", worker="workflow"))
        self.assertGreaterEqual(prometheus.total(self.metrics(), "moonwright_pool_connections_ready", worker="workflow"), 1)
        self.assertIn("moonwright_loop_lag_seconds", families)
        self.assertEqual(2, prometheus.total(families, "moonwright_database_up"))

    def test_3_the_loop_that_stood_still_lagged(self):
        pid = self.pid("workflow")
        os.kill(pid, signal.SIGSTOP)

        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        until(lambda: prometheus.total(self.metrics(), "moonwright_loop_lag_seconds", worker="workflow") > 0.2,
              True, 15, "lag")

    def test_4_providers_count_calls_and_errors(self):
        before = self.metrics()
        self.lender.plan = [(503, {}, "")]
        self.go(41, "calls")
        self.ended("calls", 41, "done")
        self.assertIsNone(prometheus.total(before, "moonwright_provider_calls_total", provider="http"))
        self.soon("moonwright_provider_calls_total", 3.0, provider="http")
        self.assertEqual(1, prometheus.total(self.metrics(), "moonwright_provider_errors_total", provider="http"))
        self.assertEqual(0, prometheus.total(self.metrics(), "moonwright_provider_waits_total", provider="http"))
        self.soon("moonwright_stage_settled_total", 1.0, stage="outbound")
        self.assertEqual(1, prometheus.total(self.metrics(), "moonwright_stage_claimed_total", stage="outbound"))

    def test_5_refused_files_are_counted_and_told(self):
        self.write("bad.lua", "return workflow {\n  on = 'nothing', run = function(e) end }")
        self.soon("moonwright_refused_files", 1.0)
        status, health = self.json("/healthz")
        self.assertEqual((200, True, True), (status, health["ok"], health["database"]))
        refused = health["refused"][0]
        self.assertEqual(("workflows/bad.lua", 2), (refused["file"], refused["line"]))
        self.assertIn("unknown event", refused["message"])
        os.unlink(os.path.join(self.folder, "workflows", "bad.lua"))
        self.soon("moonwright_refused_files", 0.0)
        self.assertEqual([], self.json("/healthz")[1]["refused"])

    def test_5_a_schedule_that_fires_late_is_seen(self):
        self.write("minutely.lua", 'return workflow { schedule = { cron = "* * * * *" }, run = function(e) end }')
        self.in_force("minutely")
        drift = "moonwright_schedule_drift_seconds"
        self.assertIsNone(prometheus.total(self.metrics(), drift, workflow="minutely"))
        # The clock jumps, as if nobody had been there when the minute began.
        self.sql("update clock set business_origin = date_trunc('minute', business_now()) + interval '90 s', "
                 "real_origin = clock_timestamp(); select pg_notify('arrivals', '')")
        until(lambda: 29 < (prometheus.total(self.metrics(), drift, workflow="minutely") or 0) < 59, True, 20, "late")
        self.assertEqual(self.sql("select extract(epoch from real_of(planned))::bigint from workflow_schedules "
                                  "where workflow = 'minutely'"), "%.0f" % prometheus.total(
            self.metrics(), "moonwright_schedule_last_fire_timestamp_seconds", workflow="minutely"))
        os.unlink(os.path.join(self.folder, "workflows", "minutely.lua"))

    def test_6_what_waits_lags(self):
        os.kill(self.pid("workflow"), signal.SIGSTOP)
        self.go(61)
        until(lambda: (prometheus.total(self.metrics(), "moonwright_stage_waiting", stage="detect"),
                       prometheus.total(self.metrics(), "moonwright_stage_lag_seconds", stage="detect") > 0.5),
              (1.0, True), 20, "waits")
        self.ended("plain", 61, "done")  # its successor does it
        self.soon("moonwright_stage_waiting", 0.0, stage="detect")

    def test_7_one_struct_three_printers(self):
        self.go(71)
        self.ended("plain", 71, "done")
        def settled():
            return json.loads(self.command("status", "--json"))["figures"]["stages"]["execute"]["settled"]
        until(lambda: settled() >= 1 and settled() == prometheus.total(
            self.metrics(), "moonwright_stage_settled_total", stage="execute"), True, 20, "status")
        web = self.json("/status")[1]
        said = json.loads(self.command("status", "--json"))["figures"]
        self.assertEqual(set(web), set(said))
        self.assertEqual(web["stages"]["execute"]["settled"], said["stages"]["execute"]["settled"])
        self.assertEqual(web["stuck"], said["stuck"])
        self.assertEqual([w["name"] for w in web["workers"]], [w["name"] for w in said["workers"]])
        lines = self.command("status")
        self.assertRegex(lines, r"(?m)^execute +\d+ +%d +" % said["stages"]["execute"]["settled"])
        self.assertRegex(lines, r"(?m)^workflow +workflow +yes +\d+ MB")
        self.assertRegex(lines, r"(?m)^stuck: script_error 1$")


del Web
if __name__ == "__main__":
    unittest.main()
