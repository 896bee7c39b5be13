"""The whole product against the simulated vendors, small: what the fault tests share.

A World is a database, the workflow and web roles of a real `moonwright run`, and three estimates on
their way through one workflow with texts, an e-mail, HighLevel, a wait, a sleep and a stop. play()
drives it to its end, as the company and a person at the office would; ledger() is what then stands
in the database, without what may differ between runs; books() is what the vendors accepted.
"""
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests", "support"), os.path.join(ROOT, "tools"),
                os.path.join(ROOT, "tools", "simulator")]

import database  # noqa: E402
from books import read  # noqa: E402
import scenario  # noqa: E402
from scenario import free_ports  # noqa: E402

PROGRAM = os.environ.get("MOONWRIGHT_PROGRAM", "")
LONG = bool(os.environ.get("MOONWRIGHT_LONG"))
SEED = os.environ.get("MOONWRIGHT_SEED", "5")    # of what is drawn by lot
BEGIN = "2026-06-01T15:00:00Z"      # 11 o'clock in New York, a Monday
WORKFLOW = """
return workflow {
  on = "estimate_created",
  class = "transactional",
  stop_when = { "estimate_rejected" },
  run = function(e)
    local n = tostring(e.estimate.id)
    sms.send { to = e.customer, text = "first about " .. n }
    ghl.sync_estimate_to_ghl { estimate = e.estimate, stage = "Estimate sent" }
    email.send { to = e.customer, subject = "Your quote", text = "second about " .. n }
    local sold = wait_for("estimate_approved", { timeout = "1h" })
    sleep "1s"
    note("it is sold")
    sms.send { to = e.customer, text = "third about " .. n }
    return sold and "sold" or "open"
  end }
"""


def with_us():
    """In a child: it ends when we do, however that is."""
    scenario.LIBC.prctl(1, signal.SIGTERM)      # PR_SET_PDEATHSIG


class Simulator:
    """The vendors, for any number of worlds: they are told apart by their customers."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="moonwright-vendors-")
        self.books_path = os.path.join(self.folder, "books.jsonl")
        self.port, nobody = free_ports(2)
        now = time.time()
        self.real = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        self.clock = "%s@%s*1" % (BEGIN, self.real)
        self.options = ["--port", str(self.port), "--seed", "3", "--clock", self.clock, "--books",
                        self.books_path, "--customers", "1", "--rate", "0", "--stops", "0",
                        "--replies", "0", "--ghl-limit", "100000", "--twilio-limit", "100000",
                        "--webhook-tries", "8", "--public-url", "http://127.0.0.1:%d" % nobody]
        self.log = open(os.path.join(self.folder, "log"), "ab")
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "tools", "simulator"), "serve"] + self.options,
            stdout=self.log, stderr=self.log, preexec_fn=with_us)
        said = subprocess.run(
            [sys.executable, os.path.join(ROOT, "tools", "simulator"), "env"] + self.options,
            check=True, stdout=subprocess.PIPE, text=True).stdout
        self.settings = dict(line.split("=", 1) for line in said.splitlines())
        for name in [n for n in self.settings if n.startswith("SERVICE_TITAN_")]:
            del self.settings[name]         # the worlds' rows are written by the tests
        database.until(self.answers, True, 20, "the simulator answers")

    def answers(self):
        try:
            return self.ask("state") is not None
        except OSError:
            return False

    def ask(self, path, body=None):
        request = urllib.request.Request(
            "http://127.0.0.1:%d/sim/%s" % (self.port, path),
            data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def books(self):
        return read(self.books_path)

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder)


def template(settings, two=False):
    """A database as `moonwright migrate` makes it, to be copied. two: NAME and NAME_st, which has
    ServiceTitan's tables."""
    name = "world_%d%s" % (os.getpid(), "_two" if two else "")
    server = database.Connection(database.SERVER)
    urls = {"DATABASE_URL": database.url_of(name)}
    if two:
        urls["SERVICETITAN_DATABASE_URL"] = database.url_of(name + "_st")
    for url in urls.values():
        server.sql("create database " + name_of(url))
    subprocess.run([PROGRAM, "migrate"], check=True, stdout=subprocess.DEVNULL,
                   env=dict(os.environ, MOONWRIGHT_HOME=ROOT, **urls, **settings))
    server.close()
    return name


def name_of(url):
    return [field for field in url.split() if field.startswith("dbname=")][0][7:]


def drop(name):
    server = database.Connection(database.SERVER)
    for one in (name, name + "_st"):
        server.sql("drop database if exists %s with (force)" % one)
    server.close()


def name_of_st(name, two):
    return name + "_st" if two else name


class World:
    roles = "workflow,web"
    numbers = itertools.count(1)

    def __init__(self, simulator, copy_of, count=3, crash="", more=None, url=None, program=None,
                 workflow=WORKFLOW, two=False):
        """count: estimates; crash: MOONWRIGHT_CRASH_AT; more: settings; url: how the product
        reaches the database, made from its name; program: what runs it; workflow: what the
        estimates go through; two: ServiceTitan's tables are in a database of their own."""
        number = next(World.numbers)
        self.first, self.count = number * 1000, count   # our estimates are first + 1, 2, ...
        self.simulator, self.workflow = simulator, workflow
        self.folder = tempfile.mkdtemp(prefix="moonwright-world-")
        os.chmod(self.folder, 0o755)
        self.name = "world_%d_%d" % (os.getpid(), number)
        self.name_st = self.name + "_st" if two else self.name
        server = database.Connection(database.SERVER)
        for copy, of in {self.name: copy_of, self.name_st: name_of_st(copy_of, two)}.items():
            server.sql("create database %s template %s strategy file_copy" % (copy, of))
        server.close()
        self.connections = {}
        for name in (self.name, self.name_st):
            self.connect(name)
        self.web = free_ports(1)[0]
        self.settled = []                   # what a person had to say: (id, verdict)
        self.mark = os.path.join(self.folder, "died")
        self.log_path = os.path.join(self.folder, "log")
        self.environment = dict(
            os.environ, **simulator.settings, DATABASE_URL=(url or database.url_of)(self.name),
            MOONWRIGHT_DATA=os.path.join(self.folder, "var"), MOONWRIGHT_HOME=ROOT,
            MOONWRIGHT_WORKFLOWS=self.workflows(), MOONWRIGHT_HTTP="127.0.0.1:%d" % self.web,
            EVENT_POLL_INTERVAL_MS="100", EXECUTE_POLL_INTERVAL_MS="100",
            INDOUBT_LOOK_MS="300", INDOUBT_LOOK_AGAIN_MS="900", INDOUBT_EMAIL_MS="600",
            INDOUBT_GHL_MS="700", WORKER_LEASE_MS="6000", MOONWRIGHT_LOG_LEVEL="debug")
        if two:
            self.environment["SERVICETITAN_DATABASE_URL"] = database.url_of(self.name_st)
        self.environment["PUBLIC_URL"] = "http://127.0.0.1:%d" % self.web
        if crash:
            self.environment.update(MOONWRIGHT_CRASH_AT=crash, MOONWRIGHT_CRASH_ONCE=self.mark)
        self.environment.update(more or {})
        self.processes, self.kept = [], None
        self.program = program or [PROGRAM]
        self.sql("update clock set real_origin = '%s', business_origin = '%s', scale = 1;"
                 "insert into settings (name, value) values ('live', 'on') "
                 "on conflict (name) do update set value = 'on'" % (simulator.real, BEGIN))

    def workflows(self):
        folder = os.path.join(self.folder, "workflows")
        os.mkdir(folder)
        for name in ("company.lua", "events.lua", "ghl", "templates"):
            source = os.path.join(ROOT, "workflows", name)
            copy = shutil.copytree if os.path.isdir(source) else shutil.copy
            copy(source, os.path.join(folder, name))
        with open(os.path.join(folder, "quote.lua"), "w") as file:
            file.write(self.workflow)
        return folder

    def sql(self, text, name=None):
        name = name or self.name
        connection = self.connections[name]
        try:
            return connection.sql(text)
        except RuntimeError:
            if connection.handle is None or not connection.is_idle():
                self.connect(name)
            raise

    def company(self, text):
        """The same where ServiceTitan's tables are; {now} is business time."""
        return self.sql(text.replace("{now}", self.now()), self.name_st)

    def now(self):
        return "'%s'::timestamptz" % self.sql("select business_now()")

    def insist(self, text):
        """That, again and again while the database is away: it must do no harm twice."""
        def try_it():
            try:
                self.company(text)
                return True
            except RuntimeError:
                return False
        database.until(try_it, True, 30, text[:80])

    def connect(self, name):
        if name in self.connections:
            self.connections[name].close()
        self.connections[name] = database.Connection(database.url_of(name))

    # the product

    def run(self, workers=1, more=None, keep=False):
        """keep: it is started again when it ends, as an init system would."""
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen(
                self.program + ["run", "--role", self.roles, "--workers", str(workers)],
                cwd=self.folder, env=dict(self.environment, **(more or {})), stdout=log, stderr=log,
                preexec_fn=with_us, start_new_session=True)
        self.processes.append(process)
        self.kept = process if keep else None
        return process

    def children(self, process):
        with open("/proc/%d/task/%d/children" % (process.pid, process.pid)) as file:
            return [int(pid) for pid in file.read().split()]

    def pid_of_worker(self):
        """The process that has the lease; None while nobody has."""
        said = self.sql("select pid from workflow_workers where role = 'workflow' limit 1")
        return int(said) if said else None

    def command(self, *arguments):
        done = subprocess.run([PROGRAM, *arguments], cwd=self.folder, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=dict(
                                  self.environment, DATABASE_URL=database.url_of(self.name),
                                  MOONWRIGHT_CRASH_AT=""))
        if done.returncode:
            raise AssertionError("%s: %s" % (arguments, done.stdout))
        return done.stdout

    def died(self):
        """Where MOONWRIGHT_CRASH_AT struck; empty when it did not."""
        try:
            with open(self.mark) as file:
                return file.read().strip()
        except FileNotFoundError:
            return ""

    # the company

    def begin(self):
        """Customers and their estimates; everything was synced just now."""
        ids = [self.first + n for n in self.numbers_of_ours()]
        self.company("insert into sync_cursors (entity, live_since, completed_at) select e, "
                 "{now} - interval '1 day', now() from unnest(array['customers', "
                 "'contacts', 'estimates', 'jobs', 'invoices', 'appointments']) e")
        for n in ids:
            self.company("begin;"
                     "insert into st_customers (id, name, type, state, zip, active, modified_on) "
                     "values (%d, 'Ann Lee', 'Residential', 'NY', '10001', true, {now});"
                     "insert into st_contacts (id, customer_id, type, value, phone, email, "
                     "do_not_text, marketing, active, modified_on) values "
                     "(%d, %d, 'MobilePhone', '%s', '%s', null, false, true, true, {now}),"
                     "(%d, %d, 'Email', '%s', null, '%s', false, true, true, {now});"
                     "commit"
                     % (n, n * 10, n, self.phone(n), self.phone(n), n * 10 + 1, n, self.email(n),
                        self.email(n)))
        self.company("insert into st_estimates (id, name, status, customer_id, subtotal, tax, "
                 "created_on, modified_on) select n, 'New heater', 'Open', n, 2000, 100, "
                 "{now}, {now} from unnest('{%s}'::bigint[]) n"
                 % ",".join(map(str, ids)))

    def numbers_of_ours(self):
        return range(1, self.count + 1)

    def decide(self):
        """Two of three are sold, the third is dismissed."""
        self.insist("update st_estimates set status = case when id % 1000 % 3 = 0 then 'Dismissed' "
                    "else 'Sold' end, sold_on = case when id % 1000 % 3 > 0 then {now} end, "
                    "modified_on = {now}")

    def phone(self, n):
        return "+1212%07d" % (5000000 + n)

    def email(self, n):
        return "ann%d@example.com" % n

    # from its begin to its end

    WAITING = "select count(*) from workflow_waits where kind = 'event'"
    ENDED = "select count(*) from workflow_instances where finished_at is not null"

    def until_all(self, question, seconds):
        """Until it is so of all instances; meanwhile a person settles what is held, by what
        the vendor's list shows."""
        def asked():
            try:
                if self.sql(question) == str(self.count):
                    return True
                if self.sql("select count(*) from instances where state = 'stuck'") != "0":
                    self.settle()
            except RuntimeError:
                pass                    # the database is away
            return False
        self.keep_until(asked, seconds)

    def keep_until(self, ask, seconds):
        """Until it is so; who starts the product after a death does."""
        end = time.monotonic() + seconds
        while not ask():
            if self.kept and self.kept.poll() is not None:
                self.run(keep=True)
            if time.monotonic() > end:
                raise AssertionError("not at its end: %s" % self.sql(
                    "select state, stuck, reason, error, due, worker from instances where "
                    "state not in ('done', 'stopped') limit 10"))
            time.sleep(0.03)

    def settle(self):
        for line in self.sql(
                "select id, 'held' from messaging_log where state = 'held' union all "
                "select id, 'held' from outbound_log where state = 'held'").splitlines():
            key = line.split("|")[0]
            verdict = "sent" if key in self.accepted_ids() else "not_sent"
            self.settled.append((key, verdict))
            self.command("sends", "settle", key, verdict)

    def accepted_ids(self):
        found = set()
        for line in self.simulator.books():
            if line["k"] == "message":
                found.add(line["intent"])
            elif line["k"] == "mail":
                found.add(line["mail"]["args"].get("moonwright_id"))
        return found

    def play(self, between=None, seconds=180):
        """From the first estimate to the last end. between: called while all of them wait."""
        self.begin()
        self.until_all(self.WAITING, seconds)
        if between:
            between()
        self.decide()
        self.until_all(self.ENDED, seconds)

    # what is left

    def ledger(self):
        """What stands in the database at the end, but for ids, times and counts of attempts."""
        rows = self.sql(
            "select 'instance', (select e.entity_id::bigint from events e where e.id = i.event_id) "
            "- %(first)d, state, outcome, reason, error from workflow_instances i union all "
            "select 'step', (select e.entity_id::bigint from events e join workflow_instances i "
            "on e.id = i.event_id where i.id = s.workflow_instance_id) - %(first)d, "
            "run || '.' || seq || ' ' || branch || '/' || ordinal, name, state, args_hash is null "
            "|| '' from workflow_step_executions s union all "
            "select 'message', customer_id - %(first)d, channel, state, replace(body, "
            "customer_id::text, 'N'), null from messaging_log where state not in ('refused', "
            "'not_sent') union all "
            "select 'event', entity_id::bigint - %(first)d, type, null, null, null from events "
            "where entity = 'estimate' union all "
            "select 'note', count(*), text, null, null, null from workflow_notes group by text "
            "union all select 'left', (select count(*) from workflow_queue) + (select count(*) "
            "from workflow_waits) + (select count(*) from workflow_subscriptions) + "
            "(select count(*) from arrivals) + (select count(*) "
            "from outbound_log where state in ('intent', 'in_doubt', 'held')) + (select count(*) "
            "from detect_errors), null, null, null, null" % {"first": self.first})
        changes = self.sql("select 'changes', count(*) from changes", self.name_st)
        return sorted(rows.splitlines() + [changes])

    def books(self):
        """What the vendors accepted of ours, each as often as it was."""
        ours = {self.phone(self.first + n): n for n in self.numbers_of_ours()}
        ours.update({self.email(self.first + n): n for n in self.numbers_of_ours()})
        found = []
        for line in self.simulator.books():
            if line["k"] == "message" and line["message"]["to"] in ours:
                n = ours[line["message"]["to"]]
                found.append("text %d %s" % (n, line["message"]["body"].split()[0]))
            elif line["k"] == "mail" and line["mail"]["to"][0] in ours:
                found.append("mail %d" % ours[line["mail"]["to"][0]])
            elif line["k"] == "contact" and line["op"] == "create" and \
                    line["contact"].get("phone") in ours:
                found.append("contact %d" % ours[line["contact"]["phone"]])
            elif line["k"] == "opportunity" and line["op"] == "create":
                fields = json.dumps(line["opportunity"].get("customFields", []))
                found += ["opportunity %d" % n for n in self.numbers_of_ours()
                          if '"%d"' % (self.first + n) in fields]
        return sorted(found)

    # the end

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def close(self):
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # what faketime started outlives it
            except ProcessLookupError:
                pass
            process.wait()
        for connection in self.connections.values():
            connection.close()
        drop(self.name)
        shutil.rmtree(self.folder, ignore_errors=True)
