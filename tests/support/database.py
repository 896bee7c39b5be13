"""A PostgreSQL database for each test, and the cheapest way to ask it.

Loading the schema costs half a second, copying a database a tenth of that: so each set of schema
files is loaded once, into a template, by the first test that needs it, and every test gets a copy
of its own. Questions go through libpq, because a psql for each would cost more than the tests.
"""
import ctypes
import ctypes.util
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import unittest
import uuid

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVER = os.environ.get("MOONWRIGHT_TEST_DATABASE_URL", "")
POOLER = os.environ.get("MOONWRIGHT_TEST_POOLER_URL", "")  # how what is tested gets there, if set
ALL = ("servicetitan", "engine")
# Of a run these tests alone, and only until one fails: "-f NAME..." (see fault/mutants/run).
for word in os.environ.get("MOONWRIGHT_ONLY", "").split():
    sys.argv += [word] if word == "-f" else ["-k", word]
# Seconds: more than the slowest machine needs, as nothing waits longer than it must.
patience = int(os.environ.get("MOONWRIGHT_PATIENCE", 60))

pq = ctypes.CDLL(ctypes.util.find_library("pq") or "libpq.so.5")
for name, result, *arguments in (
        ("PQconnectdb", "p", "s"), ("PQfinish", None, "p"), ("PQstatus", "i", "p"),
        ("PQerrorMessage", "s", "p"), ("PQsendQuery", "i", "p", "s"), ("PQgetResult", "p", "p"),
        ("PQresultErrorMessage", "s", "p"), ("PQntuples", "i", "p"), ("PQnfields", "i", "p"),
        ("PQgetvalue", "s", "p", "i", "i"), ("PQclear", None, "p"),
        ("PQtransactionStatus", "i", "p"), ("PQsetNoticeProcessor", "p", "p", "p", "p"),
        ("PQnotifies", ctypes.POINTER(ctypes.c_char_p), "p"), ("PQfreemem", None, "p")):
    types = {"p": ctypes.c_void_p, "s": ctypes.c_char_p, "i": ctypes.c_int, None: None}
    function = getattr(pq, name)
    function.restype, function.argtypes = types.get(result, result), [types[a] for a in arguments]
IGNORE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)(lambda _, text: None)


class Connection:
    def __init__(self, url):
        self.handle = pq.PQconnectdb(url.encode())
        if pq.PQstatus(self.handle):
            message = pq.PQerrorMessage(self.handle).decode()
            self.close()
            raise RuntimeError(message)
        pq.PQsetNoticeProcessor(self.handle, IGNORE, None)

    def sql(self, text):
        """Runs statements, in one transaction unless they say otherwise; all their rows as text:
        a row a line, fields between bars."""
        if not pq.PQsendQuery(self.handle, text.encode()):
            raise RuntimeError(pq.PQerrorMessage(self.handle).decode())
        rows, error = [], ""
        while result := pq.PQgetResult(self.handle):
            error = error or pq.PQresultErrorMessage(result).decode()
            columns = range(pq.PQnfields(result))
            rows += ["|".join(pq.PQgetvalue(result, row, column).decode() for column in columns)
                     for row in range(pq.PQntuples(result))]
            pq.PQclear(result)
        if error:
            raise RuntimeError(error + text[:800])
        return "\n".join(rows).strip()

    def heard(self):
        """The channels on which something was notified since this was asked last."""
        self.sql("select 1")
        found = set()
        while notification := pq.PQnotifies(self.handle):
            found.add(notification[0].decode())
            pq.PQfreemem(notification)
        return found

    def is_idle(self):
        return pq.PQtransactionStatus(self.handle) == 0

    def close(self):
        pq.PQfinish(self.handle)
        self.handle = None


class Database:
    """A copy of the template with the tables of these kinds of database and with more SQL."""

    def __init__(self, kinds=ALL, more=""):
        self.name = "test_" + uuid.uuid4().hex[:12]
        self.url = url_of(self.name, POOLER or SERVER)
        self.own, self.opened = threading.local(), []
        server = Connection(SERVER)
        try:
            server.sql("create database %s template %s strategy file_copy"
                       % (self.name, template(server, kinds, more)))
        finally:
            server.close()

    def connect(self):
        """A connection that ends with the database, for what has to stay open."""
        self.opened.append(Connection(url_of(self.name)))
        return self.opened[-1]

    def sql(self, text):
        """Runs statements; what they leave open is rolled back. Each thread has a connection."""
        if not hasattr(self.own, "connection"):
            self.own.connection = self.connect()
        try:
            return self.own.connection.sql(text)
        finally:
            if not self.own.connection.is_idle():
                self.own.connection.sql("rollback")

    def drop(self):
        for connection in self.opened:
            connection.close()
        server = Connection(SERVER)
        server.sql("drop database %s with (force)" % self.name)
        server.close()


def url_of(name, server=None):
    return " ".join("dbname=" + name if field.startswith("dbname=") else field
                    for field in (server or SERVER).split())


def template(server, kinds, more):
    """The name of a template that is sure to be there."""
    texts = [more]
    folder = os.path.join(ROOT, "schema")
    for name in sorted(os.listdir(folder), reverse=True):
        with open(os.path.join(folder, name)) as file:
            texts.insert(0, file.read())
    texts = [text for text in texts if text is more or
             text.split("\n")[0].split(": ")[1].strip() in (*kinds, "both")]
    name = "template_" + hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    there = "select count(*) from pg_database where datname = '%s'" % name
    if server.sql(there) == "0":
        server.sql("select pg_advisory_lock(1)")  # of all tests that need it, one makes it
        if server.sql(there) == "0":
            making = name.replace("template", "making")
            server.sql("drop database if exists " + making)
            server.sql("create database " + making)
            connection = Connection(url_of(making))
            for text in texts:
                connection.sql(text)
            connection.close()
            server.sql("alter database %s rename to %s" % (making, name))
        server.sql("select pg_advisory_unlock(1)")
    return name


def until(ask, wanted, seconds=None, what=""):
    """Asks until the answer is `wanted` (a value, or a predicate); returns it."""
    global patience
    end = time.monotonic() + (seconds or patience)
    while True:
        got = ask()
        if wanted(got) if callable(wanted) else got == wanted:
            return got
        if time.monotonic() > end:
            patience = 10  # for the rest of a run that has failed
            raise AssertionError("%s: %r, not %r" % (
                what or ask, got, "" if callable(wanted) else wanted))
        time.sleep(0.01)


def literal(value):
    """As SQL: text as it is, anything else in JSON."""
    if value is None:
        return "null"
    text = value if isinstance(value, str) else json.dumps(value)
    return "'" + text.replace("'", "''") + "'"


class DatabaseTest(unittest.TestCase):
    """A test with a database, a folder and a log that is shown when the test fails."""

    kinds, more = ALL, ""
    explain = ""  # what to ask when a condition never comes true

    @classmethod
    def setUpClass(cls):
        if not SERVER:
            raise RuntimeError("MOONWRIGHT_TEST_DATABASE_URL is not set: run this with tools/test")

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="moonwright-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.log_path = os.path.join(self.folder, "log")
        self.addCleanup(self.show_log)
        self.database = self.new_database(self.kinds, self.more)

    def new_database(self, kinds=ALL, more=""):
        database = Database(kinds, more)
        self.addCleanup(database.drop)
        return database

    def show_log(self):
        result = self._outcome.result
        if os.path.exists(self.log_path) and any(
                test is self for test, _ in result.failures + result.errors):
            with open(self.log_path, errors="replace") as log:
                sys.stderr.write(log.read()[-6000:])

    def sql(self, text):
        return self.database.sql(text)

    def overlap(self, first, then, hold=0):
        """Two things at once: `then`, SQL or a function, begins while the unit `first` is open, and
        comes to its end or to a lock before that commits, `hold` seconds later. Returns what
        each gave."""
        unit, said = self.database.connect(), []
        begun = unit.sql("begin; " + first)
        thread = threading.Thread(
            target=lambda: said.append(then() if callable(then) else self.sql(then)))
        thread.start()
        until(lambda: not thread.is_alive() or self.waiting() > 0, True, what="both are under way")
        time.sleep(hold)
        unit.sql("commit")
        thread.join()
        return begun, *said

    def waiting(self):
        """How many wait for a lock."""
        return int(self.sql("select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
                            " and datname = current_database()"))

    def wait(self, question, wanted, seconds=None):
        try:
            until(lambda: self.sql(question), wanted, seconds, question)
        except AssertionError as error:
            raise AssertionError("%s\n%s" % (error, self.sql(self.explain))) from None
