"""What goes wrong around the product: a database that is full, out of memory, restarted or cut off,
a worker that stalls beyond its lease, a clock that is wrong by hours.

In each the end is the undisturbed run's and the vendors got each message once. What nobody can know
is held for a person, never sent again.
"""
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import world  # noqa: E402
from synced import SyncedWorld  # noqa: E402
from test_crash import difference  # noqa: E402
from world import LONG, ROOT, SEED, Simulator, World, database  # noqa: E402

SOCKET = ".s.PGSQL.5432"
COUNT = 60 if LONG else 9       # estimates


def host_of(url):
    return [field for field in url.split() if field.startswith("host=")][0][5:]


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.simulator = Simulator()
        cls.addClassCleanup(cls.simulator.close)
        cls.template = world.template(cls.simulator.settings)
        cls.addClassCleanup(world.drop, cls.template)

    def world(self, count=COUNT, **more):
        w = World(self.simulator, self.template, count, **more)
        self.addCleanup(w.close)
        self.addCleanup(self.show_log, w)
        return w

    def show_log(self, w):
        result = self._outcome.result
        if any(test is self for test, _ in result.failures + result.errors):
            sys.stderr.write(w.log()[-6000:])

    def undisturbed(self, count=COUNT):
        """What a run of so many leaves, worked out from three: all thirds are alike."""
        kept = self.__class__.__dict__.get("kept")
        if not kept:
            w = self.world(3)
            w.run()
            w.play()
            w.stop()
            kept = self.__class__.kept = w.ledger(), w.books()
        return kept

    def right(self, w):
        """The end of w is that of a run without faults."""
        ledger, books = self.undisturbed()
        self.assertEqual([], difference(self.many(ledger, w.count, "|", 1), w.ledger()))
        self.assertEqual([], difference(self.many(books, w.count, " ", 1), w.books()))

    def many(self, lines, count, mark, at):
        """Lines of three estimates as lines of count."""
        found = []
        for line in lines:
            words = line.split(mark)
            if words[0] == "note":
                words[at] = str(int(words[at]) * count // 3)
            if words[0] in ("note", "left", "changes"):
                found.append(mark.join(words))
                continue
            for n in range(int(words[at]), count + 1, 3):
                found.append(mark.join(words[:at] + [str(n)] + words[at + 1:]))
        return found


class DatabaseTest(Case):
    # What the world itself writes.
    OURS = "('trouble', 'workflow_workers', 'sync_cursors', 'changes')"

    def refusals(self, code):
        w = self.world()
        self.refuse_now_and_then(w, code, "and c.relname not like 'st\\_%' and c.relname not in "
                                 + self.OURS)
        self.right(w)

    # How long it is well in between: a unit of many instances must get through at last.
    CALM = (0.5, 2.5) if LONG else (0.1, 0.5)

    def refuse_now_and_then(self, w, code, tables, calm=CALM):
        """The database refuses every write to these tables, now and then for a while."""
        w.sql("create table trouble (code text);"
              "create function trouble() returns trigger language plpgsql as $$"
              " declare c text := (select code from trouble limit 1); begin"
              " if c is not null then raise exception using errcode = c, message = 'no room'; end if;"
              " return null; end $$;"
              "do $$ declare t text; begin for t in select c.relname from pg_class c"
              " join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'r'"
              " and n.nspname = current_schema " + tables +
              " loop execute format('create trigger trouble before insert or update or delete on %I"
              " for each statement execute function trouble()', t); end loop; end $$")
        w.run()
        over = threading.Event()
        rng = random.Random(code + SEED)

        def trouble():
            connection = database.Connection(database.url_of(w.name))
            while not over.wait(rng.uniform(*calm)):
                connection.sql("insert into trouble values ('%s')" % code)
                over.wait(rng.uniform(0.1, 0.8))
                connection.sql("delete from trouble")
            connection.close()
        thread = threading.Thread(target=trouble)
        thread.start()
        try:
            w.play()
        finally:
            over.set()
            thread.join()
        w.stop()
        self.assertIn("no room", w.log())

    def test_a_full_disk_loses_nothing(self):
        self.refusals("53100")

    def test_a_server_out_of_memory_loses_nothing(self):
        self.refusals("53200")


class SyncedDatabaseTest(DatabaseTest):
    """The same for the sync: no row of it, nor its cursor, is lost or comes twice."""

    def refusals(self, code):
        expected = self.__class__.__dict__.get("expected")
        if not expected:
            w = self.synced()
            w.run()
            w.play()
            w.stop()
            expected = self.__class__.expected = w.ledger(), w.books()
        w = self.synced()
        # A page that isn't taken waits longer each time.
        self.refuse_now_and_then(w, code, "and c.relname not in ('trouble', 'workflow_workers')",
                                 (0.8, 1.6))
        self.assertEqual([], difference(expected[0], w.ledger()))
        self.assertEqual([], difference(expected[1], w.books()))

    def synced(self):
        w = SyncedWorld(self.simulator, self.template, 3)
        self.addCleanup(w.close)
        self.addCleanup(self.show_log, w)
        return w


class Relay:
    """Stands before PostgreSQL and cuts connections after any number of bytes, in either direction:
    in the middle of a unit, of its answer, or of a commit nobody hears of."""

    def __init__(self, target, seed):
        self.folder = tempfile.mkdtemp(prefix="moonwright-relay-")
        self.target, self.rng = target, random.Random(seed)
        self.most = 6 if LONG else 5            # a batch of many must get through at last
        self.calm, self.cut = False, 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(self.folder, SOCKET))
        self.listener.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.target)
            except OSError:
                client.close()
                continue
            left = [int(10 ** self.rng.uniform(3, self.most))]      # bytes until it is cut
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self.move, args=pair + (left,), daemon=True).start()

    def move(self, source, sink, left):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.calm:
                    data = data[:max(left[0], 0)]
                    left[0] -= len(data)
                sink.sendall(data)
                if left[0] <= 0 and not self.calm:
                    self.cut += 1
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()
        shutil.rmtree(self.folder)


class ConnectionTest(Case):
    def test_connections_cut_anywhere_lose_nothing_and_repeat_nothing(self):
        relay = Relay(os.path.join(host_of(database.SERVER), SOCKET), SEED)
        self.addCleanup(relay.close)
        direct = "host=" + host_of(database.SERVER)
        w = self.world(url=lambda name: database.url_of(name).replace(
            direct, "host=" + relay.folder))
        w.run(keep=True)
        w.play()
        relay.calm = True
        w.stop()
        self.right(w)
        self.assertGreater(relay.cut, 5)


    def test_the_sync_through_them_loses_nothing_and_repeats_nothing(self):
        relay = Relay(os.path.join(host_of(database.SERVER), SOCKET), SEED)
        self.addCleanup(relay.close)
        direct = "host=" + host_of(database.SERVER)
        ends = []
        for url in (None, lambda name: database.url_of(name).replace(
                direct, "host=" + relay.folder)):
            w = SyncedWorld(self.simulator, self.template, 3, url=url)
            self.addCleanup(w.close)
            self.addCleanup(self.show_log, w)
            w.run(keep=True)
            w.play()
            relay.calm = True
            w.stop()
            relay.calm = False
            ends.append((w.ledger(), w.books()))
        self.assertEqual([], difference(ends[0][0], ends[1][0]))
        self.assertEqual([], difference(ends[0][1], ends[1][1]))
        self.assertGreater(relay.cut, 2)  # what little there is to say is said on few connections


class Server:
    """A PostgreSQL of our own that keeps its word through a crash, to be restarted."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="moonwright-pg-", dir="/tmp")
        os.chmod(self.folder, 0o755)
        self.data = os.path.join(self.folder, "s")
        self.url = self.script("start").strip()
        self.programs = subprocess.run("ls -d /usr/lib/postgresql/*/bin | tail -1", shell=True,
                                       stdout=subprocess.PIPE, text=True).stdout.strip()
        with open(os.path.join(self.data, "data", "postgresql.conf"), "a") as file:
            file.write("synchronous_commit = on\n")
        self.control("restart", "fast")

    def script(self, what):
        return subprocess.run([os.path.join(ROOT, "tests", "support", "postgres"), what, self.data],
                              check=True, stdout=subprocess.PIPE, text=True).stdout

    def control(self, what, mode):
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"] \
            if os.getuid() == 0 else []
        subprocess.run(user + [os.path.join(self.programs, "pg_ctl"), "-D",
                               os.path.join(self.data, "data"), "-l",
                               os.path.join(self.data, "log"), "-m", mode, "-w", what],
                       check=True, stdout=subprocess.DEVNULL, cwd="/")

    def close(self):
        self.script("stop")
        shutil.rmtree(self.folder, ignore_errors=True)


class RestartTest(Case):
    def test_postgres_restarted_under_load_loses_nothing_and_repeats_nothing(self):
        server = Server()
        self.addCleanup(server.close)
        self.addCleanup(setattr, database, "SERVER", database.SERVER)
        self.undisturbed()
        database.SERVER = server.url
        w = World(self.simulator, world.template(self.simulator.settings), COUNT)
        self.addCleanup(w.close)
        self.addCleanup(self.show_log, w)
        w.run(keep=True)
        over = threading.Event()
        times = []

        def restart():
            for mode in ("fast", "immediate") * (8 if LONG else 2):
                if over.wait(1):
                    return
                server.control("restart", mode)
                times.append(mode)
        thread = threading.Thread(target=restart)
        thread.start()
        try:
            w.play(between=lambda: over.wait(1.5))
        finally:
            over.set()
            thread.join()
        w.stop()
        self.right(w)
        self.assertGreater(len(times), 1)


class StallTest(Case):
    """A worker that stands still beyond its lease, supervisor and all, while another one takes over
    and finishes; then it goes on as if nothing had happened."""

    def stalled_at(self, point):
        w = self.world(3, crash=point, more={
            "WORKER_LEASE_MS": "4000", "MOONWRIGHT_CRASH_HOW": "stop"})
        first = w.run()
        # Nobody of its machine notices, as if all of it stood still.
        w.begin()
        database.until(w.died, lambda where: where != "", 30, "it stalls at " + point)
        stalled = [pid for pid in w.children(first) if self.is_stopped(pid)]
        self.assertEqual(1, len(stalled))
        first.send_signal(signal.SIGSTOP)
        held = w.sql("select worker from workflow_queue where worker is not null limit 1")
        w.run(more={"MOONWRIGHT_DATA": os.path.join(w.folder, "other"), "MOONWRIGHT_CRASH_AT": "",
                    "MOONWRIGHT_HTTP": "127.0.0.1:%d" % world.free_ports(1)[0]})
        w.until_all(w.WAITING, 40)
        os.kill(stalled[0], signal.SIGCONT)
        database.until(lambda: self.is_stopped(stalled[0]), False, 20, "it goes on")
        database.until(lambda: "the lease is lost" in w.log() or not os.path.exists(
            "/proc/%d" % stalled[0]), True, 20, "its late work is refused")
        first.send_signal(signal.SIGCONT)
        w.decide()
        w.until_all(w.ENDED, 40)
        self.assertNotEqual("", held)
        w.stop()
        self.right(w)
        return w

    def is_stopped(self, pid):
        try:
            with open("/proc/%d/stat" % pid) as file:
                return file.read().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False

    def test_a_late_send_is_refused(self):
        w = self.stalled_at("gate:/Messages.json:1")
        self.assertNotEqual("0", w.sql(
            "select count(*) from messaging_log where state = 'not_sent'"))

    def test_a_late_write_is_refused(self):
        self.stalled_at("unit:from record(:1")

    def test_wherever_it_stands_still_nobody_is_written_to_twice(self):
        for point in ("answered:message_intent(:1",     # meant, and nobody knows whether it left
                      "accepted:/Messages.json:1",      # left, and nobody wrote it down
                      "unit:message_outcome(:1", "unit:draw_tokens(:1") if LONG else ():
            with self.subTest(point):
                self.stalled_at(point)


class PoolerTest(Case):
    """Everything through PgBouncer in transaction mode, with three servers for all."""

    def pooled(self, count, workers):
        folder = tempfile.mkdtemp(prefix="moonwright-pooler-", dir="/tmp")
        os.chmod(folder, 0o755)
        self.addCleanup(shutil.rmtree, folder, True)
        script = os.path.join(ROOT, "tests", "support", "pgbouncer")
        pooler = os.path.join(folder, "p")
        direct = host_of(database.SERVER)
        subprocess.run([script, "start", pooler, direct], check=True)
        self.addCleanup(subprocess.run, [script, "stop", pooler], check=True)
        w = self.world(count, more={"DATABASE_PREPARE": "0"}, url=lambda name: database.url_of(
            name).replace("host=" + direct, "host=" + pooler))
        w.run(workers)
        w.play()
        w.stop()
        self.right(w)
        return w

    def test_a_pooler_of_transactions_changes_nothing(self):
        self.pooled(3, 1)

    def test_four_workers_through_it_share_the_work(self):
        w = self.pooled(COUNT * 3, 4)
        self.assertEqual([], [line for line in w.log().splitlines() if " level=error " in line])


class WorkersTest(Case):
    def test_four_workers_do_what_one_does(self):
        w = self.world(COUNT * 3)
        w.run(4)
        w.play()
        w.stop()
        self.right(w)
        self.assertEqual([], [line for line in w.log().splitlines() if " level=error " in line])
        # Rows are locked in one order, so nobody waits for one who waits for him.
        self.assertEqual("0", w.sql("select pg_stat_force_next_flush(); select deadlocks from "
                                    "pg_stat_database where datname = current_database()").strip())


class ClockTest(Case):
    def test_a_clock_that_is_wrong_by_hours_changes_nothing(self):
        if not shutil.which("faketime") or "ASAN_OPTIONS" in os.environ:
            self.skipTest("faketime is not installed, or a sanitizer is in its place")
        for hours in ("-7h", "+30h"):
            with self.subTest(hours):
                w = self.world(3, program=["faketime", "-f", hours, world.PROGRAM],
                               more={"NO_FAKE_STAT": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
                w.run()
                w.play()
                w.stop()
                self.right(w)

    def test_two_workers_whose_clocks_differ_by_hours_share_the_work(self):
        if not shutil.which("faketime") or "ASAN_OPTIONS" in os.environ:
            self.skipTest("faketime is not installed, or a sanitizer is in its place")
        w = self.world()
        w.run()
        w.program = ["faketime", "-f", "+9h", world.PROGRAM]
        w.run(more={"MOONWRIGHT_DATA": os.path.join(w.folder, "other"), "NO_FAKE_STAT": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                    "MOONWRIGHT_HTTP": "127.0.0.1:%d" % world.free_ports(1)[0]})
        w.play()
        w.stop()
        self.right(w)


if __name__ == "__main__":
    unittest.main(verbosity=2)
