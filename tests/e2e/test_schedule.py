"""Schedules: fires by the clock, each once, whatever dies, changes or sleeps."""
import datetime
import json
import os
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402
from database import POOLER, ROOT, DatabaseTest  # noqa: E402

PROGRAM = os.environ.get("MOONWRIGHT_PROGRAM", "")
DRIVER = os.environ.get("DETECT_DRIVER", "")
COMPANY = 'return company { name = "Bright Air", zone = "America/New_York" }'
FIRES = "select coalesce(string_agg(utc(at), ' ' order by at), '') from events where type = 'schedule'" \
        " and entity_id = '%s'"
SKIPS = "select coalesce(string_agg(utc(planned) || ' ' || reason, ', ' order by planned), '') from" \
        " workflow_skips where workflow = '%s' and planned is not null"
REACHED = "select utc(reached) from workflow_schedules where workflow = '%s' and ended_at is null"

POLL = "200" if POOLER else "60000"     # through a pooler nobody is told of anything


def workflow(cron, more="", run=""):
    return 'return workflow {\n  schedule = { cron = "%s"%s },\n  run = function(e) %s end }\n' % (cron, more, run)


def utc(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Case(DatabaseTest):
    two_databases = False
    explain = "select coalesce(rule, workflow) || ': ' || message from detect_errors limit 3"

    def setUp(self):
        self.kinds = ["engine"] if self.two_databases else ["engine", "servicetitan"]
        super().setUp()
        self.st = self.new_database(["servicetitan"]) if self.two_databases else self.database
        self.drivers = []
        self.addCleanup(lambda: [self.kill(d) for d in self.drivers])
        self.workflows = os.path.join(self.folder, "workflows")
        os.makedirs(self.workflows)
        self.write("events", "return events {}")
        self.write("company", COMPANY)
        self.sql("insert into clock values (true, now(), now(), 1); insert into settings (name, value)"
                 " values ('live', 'on')")

    def write(self, name, text):
        path = os.path.join(self.workflows, name + ".lua")
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)

    def clock(self, now, scale=1):
        self.sql("update clock set real_origin = clock_timestamp(), business_origin = '%s', scale = %d"
                 % (now, scale))

    def begin(self, **env):
        """A worker that looks by itself only when it knows why."""
        with open(self.log_path, "a") as log:
            driver = subprocess.Popen(
                [DRIVER, self.database.url, self.st.url, os.path.join(ROOT, "lua"), self.workflows],
                stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "EVENT_POLL_INTERVAL_MS": POLL, **env})
        self.drivers.append(driver)
        self.in_force(driver)
        return driver

    def in_force(self, driver):
        while True:
            line = driver.stdout.readline()
            self.assertTrue(line, "the driver ended")
            self.assertFalse(line.startswith("refused"), line)
            if line == "in force\n":
                return

    def kill(self, driver):
        if driver in self.drivers:
            self.drivers.remove(driver)
            driver.kill()
            driver.wait()
            driver.stdout.close()

    def fires(self, name, wanted):
        self.wait(FIRES % name, wanted)

    def once_at_most(self):
        self.assertEqual("", self.sql("select event_id, count(*) from workflow_instances group by 1"
                                      " having count(*) > 1"))

    def once(self):
        """Each fire is one event with one instance."""
        self.assertEqual("", self.sql("select e.id, count(i.id) from events e left join workflow_instances i"
                                      " on i.event_id = e.id where e.type = 'schedule' group by 1"
                                      " having count(i.id) <> 1"))


class Fires(Case):
    def test_a_fire_is_made_at_its_time_and_by_no_polling(self):
        self.write("report", workflow("0 8 * * *"))
        self.clock("2026-06-01T11:59:57Z")
        self.begin()
        self.fires("report", "2026-06-01T12:00:00Z")
        payload = json.loads(self.sql("select payload from events"))
        self.assertEqual(("schedule", "2026-06-01T12:00:00Z", "schedule",
                          {"id": "report", "cron": "0 8 * * *", "zone": "America/New_York"}),
                         tuple(payload[k] for k in ("name", "time", "of", "schedule")))
        self.assertLess(float(self.sql("select extract(epoch from made - planned) from workflow_schedules")), 5)
        self.assertEqual("report|report live schedule:report|schedule|report", self.sql(
            "select workflow, business_key, entity, entity_id from workflow_instances"))
        if POOLER:
            return
        last_round = "select until from detector"
        time.sleep(1.5)
        before = self.sql(last_round)
        time.sleep(3)
        self.assertEqual(before, self.sql(last_round))

    def test_a_long_sleep_ends_in_time(self):
        self.write("report", workflow("0 8 1 * *"))
        self.clock("2026-06-01T12:00:01Z", 864000)  # a month is three seconds
        self.begin()
        self.fires("report", lambda got: got.startswith("2026-07-01T12:00:00Z 2026-08-01T12:00:00Z"))

    def test_each_fire_once_with_two_workers_that_die(self):
        self.write("often", workflow("*/30 * * * *", ', catch_up = "all"', "sleep '1m'").replace(
            "run =", "key = function(e) return e.time end,\n  run ="))
        self.clock("2026-06-01T12:00:00Z", 3600)  # two fires a second
        workers = [self.begin(), self.begin()]
        since = self.sql("select extract(epoch from since)::bigint from workflow_schedules")
        for n in range(12):
            time.sleep(0.4 + 0.13 * (n % 4))
            self.kill(workers[n % 2])
            workers[n % 2] = self.begin()
        self.wait("select count(*) > 10 from events", "t")
        last = self.sql("select extract(epoch from business_now())::bigint")
        self.wait("select reached > to_timestamp(%s) from workflow_schedules" % last, "t")
        reached = int(self.sql("select extract(epoch from reached)::bigint from workflow_schedules"))
        first = int(since) // 1800 * 1800 + 1800
        got = self.sql("select string_agg(utc(at), ' ' order by at) from events where at <= to_timestamp(%d)"
                       % reached).split(" ")
        self.assertEqual([utc(t) for t in range(first, reached + 1, 1800)], got)
        self.assertEqual("", self.sql(SKIPS % "often"))
        self.once()

    def test_when_and_key_are_asked(self):
        self.write("never", workflow("*/30 * * * *").replace("run =", "when = function(e) return false end, run ="))
        self.write("bad", workflow("*/30 * * * *").replace("run =", "when = function(e) return e.job.id end, run ="))
        self.write("free", workflow("*/30 * * * *").replace("run =", "key = function(e) return nil end, run ="))
        self.write("busy", workflow("*/30 * * * *"))
        self.clock("2026-06-01T12:29:57Z", 10)
        driver = self.begin()
        for name in ("never", "bad", "free", "busy"):
            self.fires(name, lambda got: "12:30" in got)
        self.clock("2026-06-01T12:59:57Z", 10)
        self.sql("select pg_notify('arrivals', '')")
        for name in ("never", "bad", "free", "busy"):
            self.fires(name, lambda got: "13:00" in got)
        count = "select string_agg(workflow || ' ' || n, ', ' order by workflow) from (select workflow," \
                " count(*) n from workflow_instances group by 1) x"
        self.wait(count, "busy 1, free 2")
        self.assertEqual("busy|key taken", self.sql("select workflow, reason from workflow_skips"))
        self.wait("select count(*) from detect_errors where workflow = 'bad' and resolved_at is null"
                  " and message like 'bad.lua:3: %'", "2")
        self.write("bad", workflow("*/30 * * * *").replace("run =", "when = function(e) return true end, run ="))
        self.in_force(driver)
        self.wait(count, lambda got: got.startswith("bad 1, busy 1, free"))
        self.wait("select count(*) from detect_errors where resolved_at is null", "0")


class Apart(Case):
    """With the ServiceTitan tables in a database of their own."""
    two_databases = True

    def test_fires_are_made(self):
        self.write("report", workflow("* * * * *", ', catch_up = "all"'))
        self.clock("2026-06-01T12:00:30Z", 60)
        self.begin()
        self.fires("report", lambda got: got.startswith(" ".join(
            "2026-06-01T12:%02d:00Z" % m for m in range(1, 4))))
        self.once_at_most()


class Deaths(Case):
    """A worker dies at each point of the unit that makes a fire; the next one finds what is to be done."""

    def test_a_fire_is_made_once_wherever_its_worker_dies(self):
        self.write("report", workflow("0 * * * *"))
        self.clock("2026-06-01T12:10:00Z")
        self.kill(self.begin())
        self.wait("select count(*) from workflow_schedules", "1")
        points = ["unit:settle_schedules:1", "statement:lock_gate:1", "statement:settle_schedules:1",
                  "statement:settle(:1", "sync:settle_schedules:1", "sent:settle_schedules:1",
                  "answered:settle_schedules:1"]
        for hour, point in enumerate(points, 13):
            planned = "2026-06-01T%d:00:00Z" % hour
            mark = os.path.join(self.folder, "died-%d" % hour)
            self.clock("2026-06-01T%d:59:59Z" % (hour - 1))
            driver = self.begin(MOONWRIGHT_CRASH_AT=point, MOONWRIGHT_CRASH_ONCE=mark)
            self.assertEqual(-9, driver.wait(20), point)
            self.assertTrue(os.path.exists(mark), point)
            self.kill(driver)
            driver = self.begin()
            self.wait(REACHED % "report", planned)
            self.assertEqual("1", self.sql("select count(*) from events where at = '%s'" % planned), point)
            self.kill(driver)
        self.assertEqual("", self.sql(SKIPS % "report"))
        self.once_at_most()
        self.assertEqual("1|6", self.sql("select (select count(*) from workflow_instances),"
                                         " (select count(*) from workflow_skips where reason = 'key taken')"))


class Settling(Case):
    """The unit alone."""

    def decide(self, seen, reached, ended=False, made=(), skips=()):
        return "select settle_schedules('%s')" % json.dumps([{
            "id": 1, "workflow": "report", "seen": seen, "reached": reached, "ended": ended, "made": list(made),
            "skips": [{"planned": p, "reason": "missed"} for p in skips]}])

    def setUp(self):
        super().setUp()
        self.clock("2026-06-01T12:00:00Z")
        self.sql("insert into workflow_definitions (name, version, sha256, files, declaration, active) values"
                 " ('report', 1, 'x', '{}', '{\"schedule\": {\"cron\": \"0 * * * *\", \"zone\": \"UTC\"}}', true)")
        self.since = self.sql("select fact_time(reached) from workflow_schedules")

    def test_what_was_decided_by_another_is_refused(self):
        at = "2026-06-01T13:00:00Z"
        first, second = (self.decide(self.since, at, made=[at]) for _ in range(2))
        self.sql(first)
        with self.assertRaisesRegex(RuntimeError, "decided by somebody else"):
            self.sql(second)
        self.assertEqual(at, self.sql("select utc(planned) from workflow_schedules"))

    def test_what_is_decided_at_the_same_time_waits_and_is_refused(self):
        at = "2026-06-01T13:00:00Z"

        def later():
            with self.assertRaisesRegex(RuntimeError, "decided by somebody else"):
                self.sql(self.decide(self.since, at, skips=[at]))

        self.overlap(self.decide(self.since, at, made=[at]), later)
        self.assertEqual("", self.sql(SKIPS % "report"))

    def test_what_ended_meanwhile_makes_nothing(self):
        at = "2026-06-01T13:00:00Z"
        self.sql("update workflow_definitions set active = false")
        with self.assertRaisesRegex(RuntimeError, "decided by somebody else"):
            self.sql(self.decide(self.since, at, made=[at]))
        self.sql(self.decide(self.since, at, ended=True, skips=[at]))
        self.assertEqual(at + " missed", self.sql(SKIPS % "report"))
        self.assertEqual(at, self.sql("select detail->>'planned' from workflow_skips"))
        self.assertEqual("0", self.sql("select count(*) from workflow_schedules"))

    def test_one_transaction_of_another_version_goes_on_and_two_begin_anew(self):
        for text in ("update workflow_definitions set active = false; update workflow_definitions set active = true",):
            self.sql("begin; %s; commit" % text)
        self.assertEqual("1|t", self.sql("select id, ended_at is null from workflow_schedules"))
        self.sql("update workflow_definitions set active = false")
        self.sql("update workflow_definitions set active = true")
        self.assertEqual("1|f\n2|t", self.sql("select id, ended_at is null from workflow_schedules order by id"))


class Outage(Case):
    def down_over(self, fires_at, up, files):
        """The workers die before the first of the fires and come back after the last."""
        for name, text in files.items():
            self.write(name, text)
        self.clock("2026-06-01T12:01:00Z")
        driver = self.begin()
        self.wait("select count(*) from workflow_schedules", str(len(files)))
        self.kill(driver)
        self.clock(up)
        return self.begin()

    def test_what_was_missed_is_caught_up_as_declared(self):
        hourly = "0 * * * *"
        self.down_over(3, "2026-06-01T15:30:00Z", {
            "latest": workflow(hourly), "all": workflow(hourly, ', catch_up = "all"'),
            "none": workflow(hourly, ', catch_up = "none"')})
        thirteen, fourteen, fifteen = ("2026-06-01T%d:00:00Z" % h for h in (13, 14, 15))
        for name in ("latest", "all", "none"):
            self.wait(REACHED % name, fifteen)
        self.assertEqual(fifteen, self.sql(FIRES % "latest"))
        self.assertEqual("%s missed, %s missed" % (thirteen, fourteen), self.sql(SKIPS % "latest"))
        self.assertEqual(" ".join((thirteen, fourteen, fifteen)), self.sql(FIRES % "all"))
        self.assertEqual("", self.sql(SKIPS % "all"))
        self.assertEqual("", self.sql(FIRES % "none"))
        self.assertEqual("%s missed, %s missed, %s missed" % (thirteen, fourteen, fifteen), self.sql(SKIPS % "none"))
        # One sequence at a time: of those caught up, the first goes on and the others find its key taken.
        self.assertEqual("all 1, latest 1", self.sql(
            "select string_agg(workflow || ' ' || n, ', ' order by workflow) from (select workflow,"
            " count(*) n from workflow_instances group by 1) x"))

    def test_a_little_late_is_not_missed(self):
        self.down_over(1, "2026-06-01T13:00:20Z", {"none": workflow("0 * * * *", ', catch_up = "none"')})
        self.fires("none", "2026-06-01T13:00:00Z")

    def test_a_long_outage_is_bounded(self):
        self.down_over(3, "2026-09-01T12:00:30Z", {
            "all": workflow("* * * * *", ', catch_up = "all"'), "latest": workflow("* * * * *")})
        for name in ("latest", "all"):
            self.wait(REACHED % name, lambda got: got >= "2026-09-01T12:00:00Z")
        self.assertEqual("100", self.sql("select count(*) from events where entity_id = 'all'"))
        self.assertEqual("1|t", self.sql("select count(*), min((detail->>'count')::int) > 20000 from"
                                         " workflow_skips where workflow = 'all' and planned is not null"))
        self.assertEqual("2026-09-01T12:00:00Z", self.sql(FIRES % "latest"))
        self.assertEqual("100|2026-06-01T12:02:00Z", self.sql(
            "select count(*), utc(min(planned)) from workflow_skips where workflow = 'latest'"))


class Changes(Case):
    def test_another_cron_begins_when_it_is_put_in_force(self):
        self.write("report", workflow("0 * * * *"))
        self.clock("2026-06-01T12:50:00Z")
        driver = self.begin()
        self.wait("select count(*) from workflow_schedules", "1")
        self.kill(driver)
        self.clock("2026-06-01T15:29:56Z")
        self.write("report", workflow("*/10 * * * *"))
        self.begin()
        self.wait(SKIPS % "report", "2026-06-01T13:00:00Z schedule ended, 2026-06-01T14:00:00Z schedule ended,"
                                    " 2026-06-01T15:00:00Z schedule ended")
        self.fires("report", "2026-06-01T15:30:00Z")
        self.assertEqual("1", self.sql("select count(*) from workflow_schedules"))

    def test_another_body_loses_no_fire(self):
        self.write("report", workflow("0 * * * *"))
        self.clock("2026-06-01T12:50:00Z")
        driver = self.begin()
        self.wait("select count(*) from workflow_schedules", "1")
        self.kill(driver)
        self.clock("2026-06-01T13:10:00Z")
        self.write("report", workflow("0 * * * *", ', catch_up = "all"', "note 'new'"))
        self.begin()
        self.fires("report", "2026-06-01T13:00:00Z")
        self.assertEqual("2", self.sql("select d.version from workflow_instances i join workflow_definitions d"
                                       " on d.id = i.workflow_definition_id"))
        self.assertEqual("", self.sql(SKIPS % "report"))

    def test_a_file_that_is_gone_fires_no_more_and_begins_anew(self):
        self.write("report", workflow("0 * * * *"))
        self.clock("2026-06-01T12:50:00Z")
        driver = self.begin()
        self.wait("select count(*) from workflow_schedules", "1")
        os.unlink(os.path.join(self.workflows, "report.lua"))
        self.in_force(driver)
        self.wait("select count(*) from workflow_schedules", "0")
        self.clock("2026-06-01T13:10:00Z")
        self.write("report", workflow("0 * * * *"))
        self.in_force(driver)
        self.wait("select utc(since) >= '2026-06-01T13:10:00Z' from workflow_schedules", "t")
        self.clock("2026-06-01T13:59:58Z")
        self.sql("select pg_notify('arrivals', '')")
        self.fires("report", "2026-06-01T14:00:00Z")

    def test_a_pause_makes_no_fires_and_what_is_due_afterwards_is_caught_up(self):
        self.write("report", workflow("0 * * * *"))
        self.clock("2026-06-01T12:50:00Z")
        self.begin()
        self.wait("select count(*) from workflow_schedules", "1")
        self.sql("select pause_workflow('report')")
        self.clock("2026-06-01T14:10:00Z")
        self.sql("select pg_notify('arrivals', '')")
        time.sleep(1)
        self.assertEqual("", self.sql(FIRES % "report"))
        self.sql("select resume_workflow('report'); select pg_notify('arrivals', '')")
        self.fires("report", "2026-06-01T14:00:00Z")
        self.assertEqual("2026-06-01T13:00:00Z missed", self.sql(SKIPS % "report"))

    def test_another_zone_of_the_company_is_another_schedule(self):
        self.write("report", workflow("0 8 * * *"))
        self.clock("2026-06-01T11:00:00Z")
        driver = self.begin()
        self.write("company", COMPANY.replace("New_York", "Chicago"))
        self.wait("select spec->>'zone' from workflow_schedules where ended_at is null", "America/Chicago")
        self.clock("2026-06-01T12:59:58Z")
        self.in_force(driver)
        self.sql("select pg_notify('arrivals', '')")
        self.fires("report", "2026-06-01T13:00:00Z")


class Nights(Case):
    """Days in seconds, over the nights in which the clocks change."""

    def over(self, begin, end, files):
        for name, (cron, more) in files.items():
            self.write(name, workflow(cron, ', catch_up = "all"' + more))
        self.clock(begin)
        self.begin()
        self.wait("select count(*) from workflow_schedules", str(len(files)))
        self.sql("update workflow_schedules set reached = since")
        self.clock(begin, 28800)  # three seconds a day
        self.sql("select pg_notify('arrivals', '')")
        self.wait("select business_now() > '%s'" % end, "t")
        for name in files:
            self.wait("select count(*) > 0 from events where entity_id = '%s' and at > '%s'" % (name, end), "t")

    def until(self, name, end):
        return self.sql((FIRES % name) + " and at < '%s'" % end).replace("2026-", "").replace(":00Z", "")

    def test_in_spring(self):
        end = "2026-03-10T00:00Z"
        self.over("2026-03-07T04:30:00Z", end, {
            "later": ("30 2 * * *", ""), "skipped": ("30 2 * * *", ', gap = "skip"'),
            "before": ("30 1 * * *", ', gap = "skip"'),
            "phoenix": ("30 2 * * *", ', gap = "skip", zone = "America/Phoenix"')})
        self.assertEqual("03-07T07:30 03-08T07:30 03-09T06:30", self.until("later", end))
        self.assertEqual("03-07T07:30 03-09T06:30", self.until("skipped", end))
        self.assertEqual("2026-03-08T07:30:00Z skipped by the clocks", self.sql(SKIPS % "skipped"))
        self.assertEqual("03-07T06:30 03-08T06:30 03-09T05:30", self.until("before", end))
        self.assertEqual("03-07T09:30 03-08T09:30 03-09T09:30", self.until("phoenix", end))

    def test_in_autumn(self):
        end = "2026-11-03T00:00Z"
        self.over("2026-10-31T04:30:00Z", end, {
            "first": ("30 1 * * *", ""), "last": ("30 1 * * *", ', fold = "last"'),
            "both": ("30 1 * * *", ', fold = "both"'),
            "after": ("30 2 * * *", ', fold = "both"'),
            "phoenix": ("30 1 * * *", ', fold = "both", zone = "America/Phoenix"')})
        self.assertEqual("10-31T05:30 11-01T05:30 11-02T06:30", self.until("first", end))
        self.assertEqual("10-31T05:30 11-01T06:30 11-02T06:30", self.until("last", end))
        self.assertEqual("10-31T05:30 11-01T05:30 11-01T06:30 11-02T06:30", self.until("both", end))
        self.assertEqual("10-31T06:30 11-01T07:30 11-02T07:30", self.until("after", end))
        self.assertEqual("10-31T08:30 11-01T08:30 11-02T08:30", self.until("phoenix", end))


class Commands(Case):
    def command(self, *words, code=0):
        done = subprocess.run([PROGRAM, "schedule", *words], text=True, capture_output=True, timeout=60,
                              env=dict(os.environ, MOONWRIGHT_HOME=ROOT, DATABASE_URL=self.database.url))
        self.assertEqual(code, done.returncode, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def test_what_is_in_force_and_what_comes(self):
        self.assertEqual("no workflow with a schedule is in force\n", self.command("list"))
        self.write("report", workflow("30 7 * * 1-5"))
        self.write("nightly", workflow("30 2 * * *", ', gap = "skip", catch_up = "none"'))
        self.write("other", "return workflow { run = function(e) end }")
        self.clock("2026-03-06T12:29:58Z")  # a Friday
        self.begin()
        self.fires("report", "2026-03-06T12:30:00Z")
        nightly, report = json.loads(self.command("list", "--json"))
        self.assertEqual(
            {"workflow": "nightly", "cron": "30 2 * * *", "zone": "America/New_York", "gap": "skip", "fold": "first",
             "catch_up": "none", "last": None, "late_ms": None, "skipped": 0, "due": False,
             "next_local": "2026-03-07T02:30:00-05:00", "next": "2026-03-07T07:30:00Z"}, nightly)
        self.assertEqual(("2026-03-06T12:30:00Z", "2026-03-09T11:30:00Z"), (report["last"], report["next"]))
        self.assertTrue(0 <= report["late_ms"] < 5000, report)
        self.assertRegex(self.command("list"), r"\nreport +30 7 \* \* 1-5 +2026-03-06T12:30:00Z +\d\.\d s +0 +"
                                               r"Mon 2026-03-09 07:30 -04:00 +2026-03-09T11:30:00Z\n")
        preview = json.loads(self.command("preview", "nightly", "-n", "2", "--json"))
        self.assertEqual(["2026-03-07T07:30:00Z", None, "2026-03-09T06:30:00Z"], [f["utc"] for f in preview["fires"]])
        self.assertEqual("none", preview["catch_up"])
        self.assertIn("the clocks skip 02:30 on that day: no fire", self.command("preview", "nightly"))
        self.assertIn("no workflow 'other' with a schedule is in force", self.command("preview", "other", code=3))
        self.assertIn("a workflow, or --cron", self.command("preview", code=2))

    def test_a_fire_that_is_overdue_is_shown(self):
        self.write("report", workflow("0 * * * *"))
        self.clock("2026-06-01T12:30:00Z")
        self.kill(self.begin())
        self.clock("2026-06-01T13:30:00Z")
        self.assertIn("2026-06-01T13:00:00Z (due)\n", self.command("list"))


class Whole(DaemonTest):
    """The daemon: a fire runs the body, with its planned time, and again the next time."""
    clock = "600"
    roles = "workflow,web,monitor"
    settings = {"HEALTH_CHECK_INTERVAL_MS": "300"}
    files = {"report.lua": """return workflow {
      schedule = { cron = "*/10 * * * *", zone = "America/Phoenix" },
      if_running = "queue",
      when = function(e) return e.schedule.cron ~= "" and date(e.time).minute % 10 == 0 end,
      run = function(e)
        sleep "1m"
        return e.name .. " " .. e.time .. " " .. tostring(now() >= e.time)
      end }"""}

    def test_the_body_runs_for_each_fire(self):
        done = "select outcome from workflow_instances where state = 'done' order by created_at"
        self.wait(done, lambda got: got.count("schedule") > 2, 60)
        outcomes = self.sql(done).split("\n")
        times = [o.split(" ")[1] for o in outcomes]
        self.assertEqual(["schedule %s true" % t for t in times], outcomes)
        self.assertTrue(all(t.endswith("0:00Z") for t in times))
        self.assertEqual(sorted(set(times)), times)

    def test_missed_fires_are_told(self):
        alert = "select count(*) from system_alerts where kind = 'schedule' and subject = 'gone' and" \
                " message like '1 fires were missed, the last one planned for 2026-06-01T10:00:00Z%' and resolved_at"
        self.sql("insert into workflow_skips (workflow, planned, reason, at) values"
                 " ('gone', '2026-06-01 10:00Z', 'missed', business_now()), ('gone', '2026-06-01 11:00Z',"
                 " 'schedule ended', business_now())")
        self.wait(alert + " is null", "1")
        self.sql("update workflow_skips set at = at - interval '2 days' where workflow = 'gone'")
        self.wait(alert + " is not null", "1")


if __name__ == "__main__":
    unittest.main()
