"""Copying from ServiceTitan: over real HTTP into a real database, by the sync stage itself."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from database import POOLER, ROOT, Connection, DatabaseTest, until  # noqa: E402
from fake_servicetitan import FakeServiceTitan  # noqa: E402

DRIVER = os.environ.get("SYNC_DRIVER", "")
T0, T1, T2 = "2026-05-01T10:00:00Z", "2026-05-02T10:00:00.1234567Z", "2026-05-03T10:00:00Z"


def customer(n, modified=T0, **more):
    return dict({"id": n, "active": True, "name": "Ann Lee", "type": "Residential",
                 "address": {"street": "1 Main St", "unit": None, "city": "Austin", "state": "TX",
                             "zip": "78701", "country": "USA"},
                 "balance": 12.5, "tagTypeIds": [], "doNotMail": False, "doNotService": False,
                 "createdOn": T0, "modifiedOn": modified, "mergedToId": None}, **more)


def contact(n, customer_id, kind="MobilePhone", value="(512) 555-0100", **more):
    return dict({"id": n, "customerId": customer_id, "active": True, "type": kind, "value": value,
                 "phoneSettings": {"phoneNumber": value, "doNotText": False},
                 "preferences": {"marketingUpdatesEnabled": True, "jobRemindersEnabled": True},
                 "createdOn": T0, "modifiedOn": T0}, **more)


def estimate(n, status="Open", modified=T0, **more):
    return dict({"id": n, "jobId": None, "customerId": None, "locationId": None,
                 "businessUnitId": None, "name": "Quote", "status": {"value": 0, "name": status},
                 "reviewStatus": "None", "createdOn": T0, "modifiedOn": modified, "active": True,
                 "soldOn": modified if status == "Sold" else None, "soldBy": None,
                 "subtotal": 1000.1, "tax": 82.52, "isChangeOrder": False,
                 "items": [{"id": 1, "sku": {"id": 5, "name": "AC", "displayName": "Unit"},
                            "qty": 1.0, "unitRate": 1000.1, "total": 1000.1,
                            "description": "x"}]}, **more)


def invoice(n, **more):
    return dict({"id": n, "referenceNumber": "A%d" % n, "subTotal": "90071992547409.93",
                 "salesTax": "0.07", "total": "90071992547410.00", "balance": "",
                 "dueDate": "2026-06-01T00:00:00Z", "createdOn": T0, "modifiedOn": None,
                 "active": True, "customer": {"id": 1, "name": "x"}, "job": None,
                 "items": [{"id": 1, "skuId": 4, "skuName": "AC", "quantity": "2",
                            "price": "10.50", "total": "21.00"}]}, **more)


class QuietServer:
    """A PostgreSQL of our own, where nobody else writes."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="moonwright-pg-", dir="/tmp")
        os.chmod(self.folder, 0o755)
        self.url = self.script("start").strip()

    def script(self, what):
        return subprocess.run([os.path.join(ROOT, "tests", "support", "postgres"), what,
                               os.path.join(self.folder, "s")],
                              check=True, stdout=subprocess.PIPE, text=True).stdout

    def load(self, connection):
        folder = os.path.join(ROOT, "schema")
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name)) as file:
                text = file.read()
            if text.startswith("-- database: servicetitan"):
                connection.sql(text)

    def close(self):
        self.script("stop")
        shutil.rmtree(self.folder, ignore_errors=True)


class SyncTest(DatabaseTest):
    kinds = ["servicetitan"]
    explain = "select state, pages, rows_read, error from st_sync_log order by id desc limit 3"

    def setUp(self):
        super().setUp()
        self.st = FakeServiceTitan()
        self.addCleanup(self.st.close)
        self.env = dict(
            os.environ, DATABASE_URL=self.database.url, SYNC_PAGE_SIZE="500",
            SERVICE_TITAN_API_URL=self.st.url, SERVICE_TITAN_AUTH_URL=self.st.url,
            SERVICE_TITAN_CLIENT_ID="id", SERVICE_TITAN_CLIENT_SECRET="secret",
            SERVICE_TITAN_TENANT_ID="7", SERVICE_TITAN_APP_KEY="key", SYNC_REQUESTS_PER_SECOND="600")

    # -- helpers

    def sync(self, *arguments, fails=False, **env):
        done = subprocess.run([DRIVER, "once", *arguments], env=dict(self.env, **env),
                              capture_output=True, text=True, timeout=120)
        self.output = done.stdout + done.stderr
        self.assertEqual(bool(done.returncode), fails, self.output)
        return self.output

    def changes(self):
        return self.sql("select entity || ' ' || entity_id || ' ' || coalesce(old->>'status','-')"
                        " || '>' || coalesce(new->>'status','-') from changes order by seq"
                        ).splitlines()

    def read_changes(self, history=True):
        rows = self.sql("select row_to_json(r) from read_changes(500, %s) r"
                        % str(history).lower())
        return [json.loads(line) for line in rows.splitlines()]

    def log(self, entity):
        return json.loads(self.sql("select row_to_json(l) from st_sync_log l where entity = '%s'"
                                   " order by id desc limit 1" % entity))

    def cursor(self, entity):
        return self.sql("select cursor from sync_cursors where entity = '%s'" % entity)

    # -- what is copied

    def test_everything_arrives_exactly(self):
        self.st.add("tag_types", {"id": 3, "name": "Dispute", "active": True, "createdOn": T0,
                                  "modifiedOn": T0})
        self.st.add("business_units", {"id": 1, "name": "HVAC", "active": True, "createdOn": T0,
                                       "modifiedOn": T0, "trade": {"id": 1, "name": "HVAC"}})
        self.st.add("technicians", {"id": 4, "name": "Joe", "active": True, "createdOn": T0,
                                    "modifiedOn": T0, "phoneNumber": "512-555-0111",
                                    "email": "Joe@X.com", "businessUnitId": None})
        self.st.add("job_types", {"id": 2, "name": "Install", "class": "Install", "active": True,
                                  "createdOn": T0, "modifiedOn": T0, "businessUnitIds": [1]})
        self.st.add("campaigns", {"id": 6, "name": "Web", "active": False, "createdOn": T0,
                                  "modifiedOn": T0, "category": None})
        self.st.add("customers", customer(1, tagTypeIds=[3]))
        self.st.add("contacts", contact(10, 1), contact(11, 1, "Email", " Ann@Example.COM"))
        self.st.add("locations", {"id": 5, "customerId": 1, "name": "Home", "active": True,
                                  "address": {"street": "1 Main St", "city": "Austin",
                                              "state": "TX", "zip": "78701"}, "zoneId": None,
                                  "tagTypeIds": None, "createdOn": T0, "modifiedOn": T0})
        self.st.add("jobs", {"id": 9007199254740993, "jobNumber": "J1", "customerId": 1,
                             "locationId": 5, "businessUnitId": 1, "jobTypeId": 2, "campaignId": 6,
                             "jobStatus": "In Progress", "total": None, "noCharge": False,
                             "estimateIds": [7], "summary": None, "createdOn": T0,
                             "modifiedOn": T1, "active": True, "invoiceId": None})
        self.st.add("appointments", {"id": 8, "jobId": 9007199254740993, "customerId": 1,
                                     "start": T0, "end": T1, "status": "Scheduled", "active": True,
                                     "isConfirmed": False, "unused": False, "createdOn": T0,
                                     "modifiedOn": T0})
        self.st.add("assignments", {"id": 20, "jobId": 9007199254740993, "technicianId": 4,
                                    "technicianName": "Joe", "appointmentId": 8, "active": True,
                                    "status": "Scheduled", "assignedOn": T0, "createdOn": T0,
                                    "modifiedOn": T0})
        self.st.add("estimates", estimate(7, "Sold", customerId=1, locationId=5,
                                          businessUnitId=1, jobId=9007199254740993))
        self.st.add("invoices", invoice(30))
        self.sync()
        self.assertEqual("13", self.sql("select count(*) from st_sync_log where state = 'done'"))
        self.assertEqual("InProgress|9007199254740993|2026-05-02 10:00:00.123457+00",
                         self.sql("select status, id, modified_on from st_jobs"))
        self.assertEqual("90071992547409.93|90071992547410.00||2026-06-01|2026-05-01 10:00:00+00",
                         self.sql("select subtotal, total, balance, due_date, modified_on"
                                  " from st_invoices"))
        change = {c["entity"]: c for c in self.read_changes()}["estimate"]
        self.assertEqual([], change["missing"])
        self.assertIsNone(change["old"])
        new = change["new"]
        self.assertEqual(("Sold", 1000.1, 1082.62, "2026-05-01T10:00:00Z"),
                         (new["status"], new["subtotal"], new["total"], new["sold_on"]))
        self.assertEqual({"id": 1, "name": "Unit", "sku": "AC", "sku_id": 5, "qty": 1.0,
                          "unit_rate": 1000.1, "total": 1000.1, "description": "x"},
                         new["items"][0])
        snapshot = change["snapshot"]
        self.assertEqual({"customer", "location", "business_unit", "job", "job_type", "estimate"},
                         set(snapshot))
        who = snapshot["customer"]
        self.assertEqual(("Ann", "Lee", "+15125550100", "ann@example.com", "America/Chicago",
                          {"Dispute": True}, 12.5),
                         tuple(who[k] for k in ("first_name", "last_name", "phone", "email", "zone",
                                                "tags", "balance")))
        self.assertEqual([{"id": 4, "name": "Joe", "phone": "+15125550111", "email": "joe@x.com"}],
                         snapshot["job"]["technicians"])
        self.assertNotIn("completed_on", snapshot["job"])
        self.assertEqual(set(), {k for k, v in new.items() if v is None})

    def test_views_and_records_have_the_same_fields(self):
        for view, entity in (("customers", "customer"), ("locations", "location"), ("jobs", "job"),
                             ("estimates", "estimate"), ("invoices", "invoice"),
                             ("appointments", "appointment"), ("technicians", "technician")):
            columns = set(self.sql(
                "select attname from pg_attribute where attrelid = '%s'::regclass and attnum > 0"
                % view).split())
            more = {"customer": ", null", "job": ", null", "appointment": ", null"}.get(entity, "")
            record = set(self.sql("select json_object_keys(%s_json(null::st_%s%s))"
                                  % (entity, view, more)).split())
            self.assertEqual(columns, record, view)

    def test_unchanged_rows_write_nothing(self):
        self.st.add("customers", *[customer(n) for n in range(1, 1001)])
        self.sync("customers")
        self.sync("--full", "customers")
        self.sql("truncate changes")
        rows = "select md5(string_agg(ctid || ' ' || xmin || ' ' || xmax, ' ' order by id)) from st_customers"
        before = self.sql(rows)
        self.sync("--full", "customers")
        self.assertEqual([], self.changes())
        self.assertEqual((1000, 0, 1000), tuple(self.log("customers")[k] for k in
                                                ("rows_read", "written", "unchanged")))
        self.assertEqual(before, self.sql(rows))

    def test_a_growing_table_is_never_scanned(self):
        # By a plan that was made when the table was small, say: this is about each page's look-up.
        self.st.page = 100
        self.st.add("customers", *[customer(n) for n in range(1, 2001)])
        self.sync("customers")
        self.sync("--full", "customers")
        self.wait("select idx_scan >= 4000 from pg_stat_user_tables where relname = 'st_customers'", "t")
        self.assertEqual("0", self.sql(
            "select seq_scan from pg_stat_user_tables where relname = 'st_customers'"))

    def test_an_unchanged_sync_writes_no_wal_for_rows(self):
        server = QuietServer()
        self.addCleanup(server.close)
        database = Connection(server.url)
        self.addCleanup(database.close)
        server.load(database)
        self.st.add("customers", *[customer(n) for n in range(1, 5001)])
        self.sync("customers", DATABASE_URL=server.url)
        database.sql("vacuum")
        self.sync("--full", "customers", DATABASE_URL=server.url)
        at = database.sql("select pg_current_wal_insert_lsn()")
        self.sync("--full", "customers", DATABASE_URL=server.url)
        written = int(database.sql("select pg_current_wal_insert_lsn() - '%s'" % at))
        self.assertEqual("5000|0", database.sql(
            "select rows_read, written from st_sync_log order by id desc limit 1"))
        self.assertLess(written, 2 * 5000)

    def test_bookkeeping_is_no_change(self):
        self.st.add("estimates", estimate(1))
        self.sync("estimates")
        self.sql("truncate changes")
        self.st.add("estimates", estimate(1, modified=T1))
        self.sync("estimates")
        self.assertEqual([], self.changes())
        self.assertEqual("2026-05-02 10:00:00.123457+00",
                         self.sql("select modified_on from st_estimates"))

    def test_our_own_column_is_kept(self):
        unit = {"id": 1, "name": "HVAC", "active": True, "createdOn": T0, "modifiedOn": T0}
        self.st.add("business_units", unit)
        self.sync("business_units")
        self.sql("update st_business_units set ghl_pipeline_id = 'p1'")
        self.st.add("business_units", dict(unit, name="Air", modifiedOn=T1))
        self.sync("business_units")
        self.assertEqual("Air|p1", self.sql("select name, ghl_pipeline_id from st_business_units"))

    # -- versions of rows

    def test_an_older_version_never_replaces_a_newer_one(self):
        self.st.add("estimates", estimate(1, "Sold", T2))
        self.sync("estimates")
        self.st.add("estimates", estimate(1, "Open", T1))
        self.sync("estimates")
        self.assertEqual(["estimate 1 ->Sold"], self.changes())

    def test_of_an_id_that_comes_twice_in_a_page_the_newest_counts(self):
        self.st.add("estimates", estimate(1, "Sold", T2), estimate(1, "Open", T1))
        self.sync("estimates")
        self.assertEqual(["estimate 1 ->Sold"], self.changes())
        self.assertEqual("0", self.sql("select count(*) from st_rejects"))

    def sync_behind(self, update):
        """The sync reads the row, then waits for a writer who commits this update."""
        self.overlap(update, lambda: self.sync("estimates"))

    def test_concurrent_writers_make_one_edge(self):
        self.sql("insert into st_estimates (id, status, modified_on) values (1, 'Open', '%s')" % T0)
        self.sql("truncate changes")
        self.st.add("estimates", estimate(1, "Sold", T2))
        self.sync_behind("update st_estimates set status = 'Sold', sold_on = '%s',"
                                  " modified_on = '%s' where id = 1" % (T2, T2))
        edges = [c for c in self.changes() if c == "estimate 1 Open>Sold"]
        self.assertEqual(1, len(edges), self.changes())

    def test_an_older_version_that_waited_for_a_newer_one_does_not_replace_it(self):
        self.sql("insert into st_estimates (id, status, modified_on) values (1, 'Open', '%s')" % T0)
        self.sql("truncate changes")
        self.st.add("estimates", estimate(1, "Dismissed", T1))
        self.sync_behind("update st_estimates set status = 'Sold', sold_on = '%s',"
                                  " modified_on = '%s' where id = 1" % (T2, T2))
        self.assertEqual(["estimate 1 Open>Sold"], self.changes())
        self.assertEqual("Sold", self.sql("select status from st_estimates"))

    def test_deactivated_and_merged_rows_are_followed(self):
        self.st.add("customers", customer(1), customer(2), customer(3))
        self.st.add("contacts", contact(10, 2), contact(11, 3, value="512 555 0199"))
        self.st.add("estimates", estimate(5, customerId=1))
        self.sync("customers", "contacts", "estimates")
        self.st.add("customers", customer(1, T1, active=False, mergedToId=2))
        self.sync("customers")
        self.assertEqual("f|2", self.sql("select active, merged_to_id from st_customers where id=1"))
        self.assertEqual("2", self.sql("select customer_resolved(1)"))
        self.st.add("customers", customer(2, T2, active=False, mergedToId=3))
        self.sync("customers")
        self.assertEqual("3|3", self.sql("select customer_resolved(1), customer_resolved(2)"))
        who = json.loads(self.sql("select recipient(1)"))
        self.assertEqual((3, "+15125550199"), (who["customer_id"], who["phone"]))
        snapshot = json.loads(self.sql("select snapshot_of('estimate', '5')"))
        self.assertEqual(3, snapshot["customer"]["id"])

    def test_a_changed_contact_is_a_change_of_its_customer(self):
        self.st.add("customers", customer(1))
        self.sync("customers")
        self.sql("truncate changes")
        self.st.add("contacts", contact(10, 1))
        self.sync("contacts")
        change, = self.read_changes()
        self.assertEqual(("customer", "1"), (change["entity"], change["entity_id"]))
        self.assertEqual("+15125550100", change["new"]["phone"])
        self.assertEqual({}, change["new"]["tags"])

    def test_a_deleted_row_is_a_change(self):
        self.sql("insert into st_estimates (id, status, modified_on) values (1, 'Open', '%s')" % T0)
        self.sql("delete from st_estimates")
        self.assertEqual(["estimate 1 ->Open", "estimate 1 Open>-"], self.changes())

    def test_history_is_silent_and_what_comes_later_is_not(self):
        self.st.now = time.mktime(time.strptime("2026-05-02 12:00", "%Y-%m-%d %H:%M"))
        self.st.add("estimates", estimate(1), estimate(2, modified=T2))
        self.sync("estimates")
        self.assertEqual("2026-05-02 12:00:00+00", self.sql(
            "select live_since from sync_cursors where entity = 'estimates'"))
        self.assertEqual(["1", "2"], [c["entity_id"] for c in self.read_changes(True)])
        self.assertEqual(["2"], [c["entity_id"] for c in self.read_changes(False)])
        self.st.now += 86400
        self.sync("--full", "estimates")
        self.assertEqual("2026-05-02 12:00:00+00", self.sql(
            "select live_since from sync_cursors where entity = 'estimates'"))
        # Somebody else's edit of an old row names no time of the vendor: it is live.
        self.sql("truncate changes")
        self.sql("update st_estimates set status = 'Dismissed' where id = 1")
        self.assertEqual(["1"], [c["entity_id"] for c in self.read_changes(False)])

    def test_history_is_written_down_only_when_it_is_wanted(self):
        self.st.now = time.mktime(time.strptime("2026-05-02 12:00", "%Y-%m-%d %H:%M"))
        self.read_changes(False)   # says so
        self.st.add("customers", customer(1), customer(2, modified=T2))
        self.st.add("contacts", contact(10, 1), contact(11, 2, modifiedOn=T2))
        self.st.add("estimates", estimate(1), estimate(2, modified=T2))
        self.sync("customers")
        self.sync("contacts", "estimates")
        kept = "select entity || ' ' || entity_id from changes where seq > %s order by seq"
        self.assertEqual(["customer 2", "customer 2", "estimate 2"],
                         sorted(self.sql(kept % 0).splitlines()))   # the feeds run side by side
        last = self.sql("select max(seq) from changes")
        self.st.add("customers", customer(1, "2026-05-01T11:00:00Z", name="Ann Other"))
        self.st.add("estimates", estimate(1, "Sold", "2026-05-01T11:00:00Z"),
                    estimate(2, "Sold", "2026-05-04T10:00:00Z"))
        self.sync("customers", "estimates")
        self.sql("update st_estimates set status = 'Dismissed' where id = 1")   # not the vendor
        self.assertEqual(["estimate 2", "estimate 1"], self.sql(kept % last).splitlines())
        self.read_changes(True)
        last = self.sql("select max(seq) from changes")
        self.st.add("estimates", estimate(3))
        self.sync("estimates")
        self.assertEqual(["estimate 3"], self.sql(kept % last).splitlines())

    # -- bad data

    def test_bad_rows_are_set_aside_alone(self):
        rows = [customer(n) for n in range(1, 501)]
        rows[250]["name"] = "nul \u0000 byte"
        rows[99]["createdOn"] = "2026-02-31T00:00:00Z"
        rows[400]["modifiedOn"] = None
        rows[400]["createdOn"] = None
        rows[30] = {"raw": json.dumps(dict(rows[30], name="NAME")).replace("NAME", "\\ud800")}
        self.st.add("customers", *rows)
        self.sync("customers")
        self.assertEqual("497", self.sql("select count(*) from st_customers"))
        self.assertEqual("nul \ufffd byte", self.sql("select name from st_customers where id = 251"))
        rejects = self.sql("select entity_id, error <> '', raw <> '' from st_rejects"
                           " order by entity_id::int").splitlines()
        self.assertEqual(["31|t|t", "100|t|t", "401|t|t"], rejects)
        self.assertEqual("t500", self.cursor("customers"))
        log = self.log("customers")
        self.assertEqual(("done", 500, 497, 3, 0, 1), tuple(
            log[k] for k in ("state", "rows_read", "written", "rejected", "unchanged", "pages")))
        self.sync("--full", "customers")
        self.assertEqual("3", self.sql("select count(*) from st_rejects"))
        self.st.add("customers", customer(100, T2))   # the vendor repaired it
        self.sync("customers")
        self.assertEqual("100", self.sql("select entity_id from st_rejects"
                                         " where resolved_at is not null"))

    def test_a_row_without_an_id_is_set_aside(self):
        row = customer(1)
        del row["id"]
        self.st.add("customers", row, customer(2))
        self.sync("customers")
        self.assertEqual("1", self.sql("select count(*) from st_customers"))
        self.assertEqual("1", self.sql("select count(*) from st_rejects where entity_id = ''"))

    # -- cursors

    def test_an_interrupted_sync_goes_on_at_its_cursor(self):
        self.st.page = 10
        self.st.add("customers", *[customer(n) for n in range(1, 101)])
        self.st.faults.append(lambda path, query: (404, {}, "{}")
                              if query.get("from") == "t50" else None)
        self.sync("customers", fails=True)
        self.assertEqual("t50|50", self.sql("select cursor, (select count(*) from st_customers)"
                                            " from sync_cursors"))
        self.assertEqual("failed", self.log("customers")["state"])
        self.st.faults.clear()
        self.st.requests.clear()
        self.sync("customers")
        asked = [q["from"] for _, _, q in self.st.asked("export/customers")]
        self.assertEqual(["t50", "t60", "t70", "t80", "t90"], asked)
        self.assertEqual("100", self.sql("select count(*) from st_customers"))

    def test_a_killed_sync_loses_and_repeats_nothing(self):
        self.st.page = 5
        self.st.add("customers", *[customer(n) for n in range(1, 401)])
        for rows in (1, 60, 120, 200, 300):
            process = subprocess.Popen([DRIVER, "once", "customers"], env=self.env,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.wait("select count(*) >= %d from st_customers" % rows, "t")
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.sync("customers")
        self.assertEqual("400|400", self.sql("select count(*), count(distinct entity_id) from changes"))
        self.assertEqual("400", self.sql("select count(*) from st_customers"))

    def test_pages_land_in_order_while_the_next_is_fetched(self):
        self.st.page = 50
        self.st.add("customers", *[customer(n) for n in range(1, 501)])
        self.sync("customers")
        pages = [line.split() for line in self.output.splitlines() if line.startswith("customers r")]
        self.assertEqual([str(n) for n in range(1, 11)], [p[2] for p in pages])
        self.assertEqual([str(50 * n) for n in range(1, 11)], [p[3] for p in pages])

    def test_it_works_without_prepared_statements(self):
        self.st.page = 10
        self.st.add("customers", *[customer(n) for n in range(1, 31)])
        self.st.add("invoices", invoice(1))
        self.st.add("estimates", estimate(1, createdOn="2026-02-31T00:00:00Z"), estimate(2))
        self.sync(UNPREPARED="1")
        self.assertEqual("30|1|1|1", self.sql(
            "select (select count(*) from st_customers), (select count(*) from st_invoices),"
            " (select count(*) from st_estimates), (select count(*) from st_rejects)"))

    def test_only_one_run_moves_a_cursor(self):
        self.st.page = 5
        self.st.add("customers", *[customer(n) for n in range(1, 301)])
        runs = [subprocess.Popen([DRIVER, "once", "customers"], env=self.env, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                for _ in range(3)]
        for run in runs:
            self.assertEqual(0, run.wait(60), run.stdout.read())
            run.stdout.close()
        self.sync("customers")
        self.assertEqual("t300", self.cursor("customers"))
        self.assertEqual("300|300", self.sql("select count(*), count(distinct entity_id) from changes"))

    def test_a_run_that_was_overtaken_leaves_the_cursor_alone(self):
        self.st.page = 5
        self.st.add("customers", *[customer(n) for n in range(1, 31)])

        def overtake(path, query):
            if query.get("from") == "t10":
                self.sql("update sync_cursors set cursor = 't25' where cursor <> 't25'")
        self.st.faults.append(overtake)
        self.sync("customers")
        self.assertEqual("t25", self.cursor("customers"))
        self.assertEqual("yielded", self.log("customers")["state"])
        self.assertEqual("", self.sql("select completed_at from sync_cursors"))
        self.st.faults.clear()
        self.sync("--full", "customers")
        self.assertEqual("t30|30", self.sql("select cursor, (select count(*) from st_customers)"
                                            " from sync_cursors"))

    def test_a_sorted_list_meets_rows_that_move_while_it_is_read(self):
        times = ["2026-05-01T10:%02d:00Z" % n for n in range(60)]
        rows = [{"id": n + 1, "name": "C%d" % n, "active": True, "createdOn": T0,
                 "modifiedOn": times[n]} for n in range(30)]
        self.st.page = 10
        self.st.add("campaigns", *rows)
        moved = []

        def move(path, query):
            if path.endswith("/campaigns") and len(self.st.asked("/campaigns")) == 2 and not moved:
                moved.append(1)   # between page one and two: the first rows go to the end
                self.st.add("campaigns", *[dict(rows[n], modifiedOn=times[40 + n], name="moved")
                                           for n in range(5)])
        self.st.faults.append(move)
        self.sync("campaigns")
        self.assertEqual("30|5", self.sql("select count(*), count(*) filter (where name = 'moved')"
                                          " from st_campaigns"))
        self.assertTrue(self.cursor("campaigns").startswith("2026-05-01T10:44"))
        self.st.requests.clear()
        self.sync("campaigns")
        self.assertEqual("2026-05-01T10:39:00Z",
                         self.st.asked("/campaigns")[0][2]["modifiedOnOrAfter"])

    # -- the vendor's moods

    def test_an_expired_token_is_renewed_once(self):
        self.st.page = 10
        self.st.add("customers", *[customer(n) for n in range(1, 51)])

        def expire(path, query):
            if query.get("from") == "t20" and self.st.tokens == 1:
                self.st.valid = set()
        self.st.faults.append(expire)
        self.sync("customers")
        self.assertEqual(2, self.st.tokens)
        self.assertEqual("50", self.sql("select count(*) from st_customers"))

    def test_one_token_serves_all_feeds(self):
        self.sync()
        self.assertEqual(1, self.st.tokens)

    def test_a_wrong_secret_is_one_clear_line(self):
        self.sync(fails=True, SERVICE_TITAN_CLIENT_SECRET="wrong-secret")
        lines = [line for line in self.output.splitlines() if "refused" in line]
        self.assertEqual(1, len(lines), self.output)
        self.assertIn("ServiceTitan refused SERVICE_TITAN_CLIENT_ID/SECRET (invalid_client)",
                      lines[0])
        self.assertNotIn("wrong-secret", self.output)
        self.sync(fails=True, SERVICE_TITAN_APP_KEY="")
        self.assertIn("SERVICE_TITAN_APP_KEY is not set", self.output)
        self.sync("--full", "custmers", fails=True)
        self.assertIn('nothing called "custmers"', self.output)

    def test_a_wrong_app_key_says_so(self):
        self.sync("customers", fails=True, SERVICE_TITAN_APP_KEY="other")
        self.assertIn("403: app key is not valid; are SERVICE_TITAN_APP_KEY and "
                      "SERVICE_TITAN_TENANT_ID right", self.output)

    def test_retry_after_is_kept(self):
        limited = []

        def limit(path, query):
            if not limited:
                limited.append(time.monotonic())
                return (429, {"Retry-After": "2"}, '{"statusCode":429}')
        self.st.faults.append(limit)
        self.st.add("customers", customer(1))
        self.st.add("locations")
        self.sync("customers", "locations")
        later = [at for at, _, _ in self.st.requests if at > limited[0] + 1]
        self.assertTrue(later)
        self.assertGreaterEqual(min(later) - limited[0], 1.9)
        self.assertEqual("1", self.sql("select count(*) from st_customers"))

    def test_errors_and_pages_that_are_not_json_are_asked_again(self):
        answers = [(500, {}, "{}"), (200, {"Content-Type": "text/html"}, "<html>busy</html>"),
                   (503, {}, "<html>503</html>")]
        self.st.faults.append(lambda path, query: answers.pop() if answers else None)
        self.st.add("customers", customer(1))
        self.sync("customers")
        self.assertEqual("1", self.sql("select count(*) from st_customers"))

    def test_the_rate_limit_is_kept(self):
        self.st.page = 1
        self.st.add("customers", *[customer(n) for n in range(1, 61)])
        self.st.add("locations")
        began = time.monotonic()
        self.sync("customers", "contacts", "jobs", SYNC_REQUESTS_PER_SECOND="30")
        times = sorted(at for at, _, _ in self.st.requests)
        self.assertGreater(len(times), 60)
        for n, at in enumerate(times):
            self.assertLessEqual(n + 1, 30 * (1 + at - began))

    # -- parents

    def test_children_before_parents_wait_and_are_complete_then(self):
        self.sync()   # live from here on
        self.st.add("estimates", estimate(5, customerId=1, locationId=6, modified="2099-01-01T00:00:00Z"))
        self.sync("estimates")
        change, = self.read_changes()
        self.assertEqual((["customer", "location"], True), (change["missing"], change["waiting"]))
        self.sql("select postpone_changes(array_agg(seq)) from changes")
        self.assertEqual([], self.read_changes())
        # A later change of the same row waits behind it.
        self.sql("update st_estimates set status = 'Sold' where id = 5")
        self.assertEqual([], self.read_changes())
        self.st.add("customers", customer(1))
        self.st.add("contacts", contact(10, 1))
        role = subprocess.Popen([DRIVER, "role"], stderr=subprocess.PIPE, text=True, env=dict(
            self.env, SYNC_INCREMENTAL_CRON="", SYNC_FULL_CRON="0 0 1 1 *"))
        try:
            def all_is_known():
                # The contacts of a customer that is fetched are asked for in the next round.
                self.sql("select postpone_changes(array_agg(seq)) from read_changes(500)"
                         " where waiting having count(*) > 0")
                changes = self.read_changes()
                return sum(c["entity"] == "estimate" for c in changes) == 2 and not any(
                    c["waiting"] for c in changes)
            until(all_is_known, True, what="what was missing is known")
        finally:
            role.terminate()
            role.wait()
            role.stderr.close()
        by_entity = {}
        for change in self.read_changes():
            by_entity.setdefault(change["entity"], []).append(change)
        first, second = by_entity["estimate"]
        self.assertEqual((["location"], False), (first["missing"], first["waiting"]))
        self.assertEqual("+15125550100", first["snapshot"]["customer"]["phone"])
        self.assertEqual(("Open", "Sold"), (second["old"]["status"], second["new"]["status"]))
        asked = self.st.asked("/crm/v2/tenant/7/customers")
        self.assertTrue(any(q.get("ids") == "1" for _, _, q in asked))

    def role(self, **env):
        return subprocess.Popen([DRIVER, "role"], stderr=subprocess.PIPE, text=True,
                                env=dict(self.env, SYNC_FULL_CRON="", **env))

    def test_the_role_runs_by_its_schedule(self):
        role = self.role(SYNC_INCREMENTAL_CRON="* * * * * *")
        try:
            for n in range(1, 4):
                self.st.add("customers", customer(n))
                self.wait("select count(*) from st_customers", str(n))
        finally:
            role.terminate()
            output = role.communicate(timeout=20)[1]
        self.assertEqual(0, role.returncode, output)

    def test_the_role_goes_on_when_its_clock_is_set_back(self):
        fake = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
        if not os.path.exists(fake) or "ASAN_OPTIONS" in os.environ:
            self.skipTest("faketime is not installed, or a sanitizer is in its place")
        clock = os.path.join(self.folder, "clock")

        def set_clock(offset):
            with open(clock + ".new", "w") as f:
                f.write(offset)
            os.rename(clock + ".new", clock)
        set_clock("+5h")
        role = self.role(SYNC_INCREMENTAL_CRON="*/2 * * * * *", LD_PRELOAD=fake, FAKETIME_TIMESTAMP_FILE=clock,
                         FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1", NO_FAKE_STAT="1")
        runs = "select count(*) from st_sync_log where entity = 'customers'"
        try:
            until(lambda: int(self.sql(runs)) > 1, True, what="it runs")
            set_clock("+0")
            before = int(self.sql(runs))
            until(lambda: int(self.sql(runs)) > before + 2, True, 30, "it goes on")
        finally:
            role.terminate()
            output = role.communicate(timeout=20)[1]
        self.assertEqual(0, role.returncode, output)

    def test_the_role_ends_at_once_in_the_middle_of_a_run(self):
        self.st.page = 1
        self.st.add("customers", *[customer(n) for n in range(1, 2000)])
        role = self.role(SYNC_INCREMENTAL_CRON="0 0 1 1 *", SYNC_REQUESTS_PER_SECOND="50")
        try:
            self.wait("select count(*) > 3 from st_customers", "t")
        finally:
            role.terminate()
            output = role.communicate(timeout=20)[1]
        self.assertEqual(0, role.returncode, output)

    def test_the_role_fetches_what_is_asked_for_when_told(self):
        role = self.role(SYNC_INCREMENTAL_CRON="0 0 1 1 *")
        try:
            self.wait("select count(*) from sync_cursors where completed_at is not null", "13")
            self.st.add("customers", customer(1), customer(2), customer(3))
            self.st.add("contacts", contact(10, 1), contact(11, 1), contact(12, 4))
            took = []
            for n in (1, 2, 3):
                self.sql("insert into st_estimates (id, customer_id, modified_on)"
                         " values (%d, %d, '2099-01-01')" % (n, n))
                took.append(-time.monotonic())
                self.sql("select postpone_changes(array_agg(seq)) from changes where entity_id = '%d'"
                         % n)
                self.wait("select count(*) from st_customers", str(n))
                took[-1] += time.monotonic()
            if not POOLER:                  # sooner than it would look by itself
                self.assertLess(min(took), 4)
            self.sql("insert into parent_requests (entity, id) values ('contacts', 1)")
            self.sql("select pg_notify('sync', '')")
            self.wait("select string_agg(id::text, ',' order by id) from st_contacts", "10,11")
        finally:
            role.terminate()
            role.communicate(timeout=20)

    def test_addresses_names_and_zones(self):
        for text, expected in (
                ("phone_e164('(512) 555-0100')", "+15125550100"),
                ("phone_e164('1-512-555-0100 ext. 12')", "+15125550100"),
                ("phone_e164('+44 20 7946 0000')", "+442079460000"),
                ("phone_e164('555-0100')", ""), ("phone_e164('2 512 555 0100')", ""),
                ("phone_e164('n/a')", ""), ("phone_e164(null)", ""),
                ("email_normal(' Ann@Example.COM ')", "ann@example.com"),
                ("email_normal('ann at example')", ""), ("email_normal('a@b.c, d@e.f')", ""),
                ("person_name('Ann Lee', 'Residential')", "{Ann,Lee}"),
                ("person_name('Lee, Ann', 'Residential')", "{Ann,Lee}"),
                ("person_name('Ann B. Lee', 'Residential')", "{Ann,Lee}"),
                ("person_name('Mary-Jo O''Neil', 'Residential')", "{Mary-Jo,O'Neil}"),
                ("person_name('Ann & Bob Lee', 'Residential')", ""),
                ("person_name('Dr Ann Lee', 'Residential')", ""),
                ("person_name('The Lees', 'Residential')", ""),
                ("person_name('Lee Heating LLC', 'Residential')", ""),
                ("person_name('Ann Lee', 'Commercial')", ""),
                ("person_name('Cher', 'Residential')", ""),
                ("person_name('Lee Trust', 'Residential')", ""),
                ("person_name('  ann   lee ', 'Residential')", "{ann,lee}"),
                ("person_name('A Lee', 'Residential')", ""),
                ("person_name(null, 'Residential')", ""),
                ("customer_zone('TX', '78701')", "America/Chicago"),
                ("customer_zone('tx ', '79901-1234')", "America/Denver"),
                ("customer_zone('TX', null)", ""), ("customer_zone('FL', '32501')", "America/Chicago"),
                ("customer_zone('AZ', '85001')", "America/Phoenix"),
                ("customer_zone('Bavaria', '80331')", ""), ("customer_zone(null, null)", ""),
                ("job_status('In Progress')", "InProgress"), ("job_status('cancelled')", "Canceled")):
            self.assertEqual(expected, self.sql("select " + text), text)

    def test_consuming_is_all_or_nothing(self):
        self.sql("insert into st_estimates (id, modified_on) values (1, now()), (2, now())")
        seqs = self.sql("select array_agg(seq) from changes")
        self.sql("delete from changes where entity_id = '1'")
        with self.assertRaisesRegex(RuntimeError, "settled by somebody else"):
            self.sql("select consume_changes('%s')" % seqs)
        self.assertEqual("1", self.sql("select count(*) from changes"))
        self.assertEqual("1", self.sql("select drop_changes('%s')" % seqs))

    def test_progress_is_visible_to_others(self):
        self.st.page = 10
        self.st.add("customers", *[customer(n) for n in range(1, 31)])
        seen = []

        def look(path, query):
            if query.get("from") == "t20":
                self.wait("select max(rows_read) >= 10 from st_sync_log", "t")
                seen.append(self.log("customers"))
        self.st.faults.append(look)
        self.sync("customers")
        self.assertEqual("running", seen[0]["state"])
        self.assertGreaterEqual(seen[0]["rows_read"], 10)
        log = self.log("customers")
        self.assertEqual(("done", 3, 30, 30), (log["state"], log["pages"], log["rows_read"],
                                               log["written"]))
        self.assertTrue(re.match(r"\d", str(log["seconds"])))


if __name__ == "__main__":
    unittest.main(verbosity=2)
