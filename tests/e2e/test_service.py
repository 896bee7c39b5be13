"""What the service manager hears (systemd's protocol, on a socket of our own), and how a stop drains."""
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "support"))
import daemon  # noqa: E402
from database import Connection, until  # noqa: E402
from outbound import Vendor  # noqa: E402

PLAIN = """return workflow { on = "go", class = "transactional", run = function(e) note "one" end }"""
CALLS = """return workflow { on = "go", class = "transactional",
  run = function(e)
    lender.apply {}
    sleep "30d"
  end }"""
LENDER = """return actions {
  apply = { effect = "once", args = {}, run = function(a, key)
    return http.post { url = "%(url)s/apply", json = { reference = key } }.json
  end },
}"""


class Manager:
    """A service manager: a datagram socket, and what was said to it with the time."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.messages, self.senders = [], set()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                data, more, _, _ = self.socket.recvmsg(4096, 100)
            except OSError:
                return
            self.senders.add(int.from_bytes(more[0][2][:4], "little"))
            self.messages.append(data.decode())

    def said(self, line):
        return sum(line in message.split("\n") for message in list(self.messages))

    def close(self):
        self.socket.close()


class ServiceTest(daemon.DaemonTest):
    files = {"plain.lua": PLAIN}

    @classmethod
    def socket_folder(cls):
        folder = daemon.tempfile.mkdtemp(prefix="mw-")
        cls.addClassCleanup(daemon.shutil.rmtree, folder)
        return folder

    @classmethod
    def start(cls):
        pass  # each test starts its own

    def run_with(self, manager, *roles, **more):
        environment = dict(self.environment, NOTIFY_SOCKET=manager, **more)
        with open(os.path.join(self.folder, "log"), "a") as log:
            process = subprocess.Popen([daemon.PROGRAM, "run", "--role", ",".join(roles)], env=environment,
                                       cwd=self.folder, stdout=log, stderr=log)
        self.addCleanup(self.end, process)
        return process

    def manage(self, name):
        manager = Manager(name if name[0] == "\0" else os.path.join(self.socket_folder(), name))
        self.addCleanup(manager.close)
        return manager, manager.socket.getsockname()

    def held(self, statement):
        """A transaction that has done this, on a connection of its own."""
        connection = Connection(self.database.url)
        connection.sql("begin")
        connection.sql(statement)
        return connection

    def test_ready_comes_when_all_workers_are_up_and_reload_when_it_is_done(self):
        manager, path = self.manage("notify")
        lock = self.held("select versions_lock()")  # no workflow is in force before this ends
        process = self.run_with(path, "workflow", "web", "monitor")
        until(lambda: self.sql("select count(*) from workflow_workers"), "3", 30, "entered")
        time.sleep(1)
        self.assertEqual([], manager.messages)
        lock.sql("commit")
        until(lambda: manager.said("READY=1"), 1, 20, "READY=1")
        self.assertEqual("1", self.sql("select count(*) from workflow_definitions where name = 'plain' and active"))
        self.assertEqual("STATUS=all workers are up", manager.messages[0].split("\n")[1])

        # A reload is over when the files were looked at, not before.
        lock.sql("begin")
        lock.sql("select versions_lock()")
        self.write("second.lua", PLAIN)
        process.send_signal(signal.SIGHUP)
        until(lambda: manager.said("RELOADING=1"), 1, 10, "RELOADING=1")
        usec = int(re.search(r"MONOTONIC_USEC=(\d+)", "\n".join(manager.messages))[1])
        self.assertLess(abs(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 - usec), 10000000)
        time.sleep(1)
        self.assertEqual(1, manager.said("READY=1"))
        lock.sql("commit")
        lock.close()
        until(lambda: manager.said("READY=1"), 2, 20, "READY=1 again")
        self.assertEqual("1", self.sql("select count(*) from workflow_definitions where name = 'second' and active"))

        process.terminate()
        self.assertEqual(0, process.wait(20))
        with open(os.path.join(self.folder, "log")) as log:
            self.assertNotIn("ended badly", log.read())
        until(lambda: manager.said("STOPPING=1"), 1, 10, "STOPPING=1")
        self.assertEqual({process.pid}, manager.senders)
        self.assertEqual("", self.sql("select role, name from workflow_workers"))

    def test_the_watchdog_is_fed_while_the_supervisor_lives(self):
        manager, path = self.manage("\0moonwright-%d" % os.getpid())  # the abstract namespace
        process = self.run_with("@" + path[1:].decode(), "web", WATCHDOG_USEC="400000")
        until(lambda: manager.said("WATCHDOG=1") >= 5, True, 20, "fed")
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        fed = manager.said("WATCHDOG=1")
        time.sleep(1)
        self.assertEqual(fed, manager.said("WATCHDOG=1"))
        process.send_signal(signal.SIGCONT)
        until(lambda: manager.said("WATCHDOG=1") > fed, True, 10, "fed again")

    def test_a_watchdog_of_somebody_else_is_not_fed(self):
        manager, path = self.manage("notify")
        self.run_with(path, "web", WATCHDOG_USEC="400000", WATCHDOG_PID="1")
        until(lambda: manager.said("READY=1"), 1, 20, "READY=1")
        time.sleep(1)
        self.assertEqual(0, manager.said("WATCHDOG=1"))

    def test_the_private_postgresql_does_not_answer_for_us(self):
        manager, path = self.manage("notify")
        environment = {k: v for k, v in self.environment.items() if k != "DATABASE_URL"}
        folder = os.path.join(self.folder, "private")
        with open(os.path.join(self.folder, "log"), "a") as log:
            process = subprocess.Popen([daemon.PROGRAM, "run", "--role", "web"], cwd=self.folder, stdout=log, stderr=log,
                                       env=dict(environment, NOTIFY_SOCKET=path, MOONWRIGHT_DATA=folder))
        self.addCleanup(self.end, process)
        until(lambda: manager.said("READY=1"), 1, 60, "READY=1")
        time.sleep(1)
        self.assertEqual(1, manager.said("READY=1"))
        self.assertEqual({process.pid}, manager.senders)
        process.terminate()
        process.wait(20)

    def test_what_dies_at_its_start_is_tried_less_and_less_often(self):
        with open(os.path.join(self.folder, "log"), "w"):
            pass
        process = self.run_with("", "monitor", MOONWRIGHT_CRASH_AT="unit:worker_enter:1")

        def pauses():
            with open(os.path.join(self.folder, "log")) as log:
                return [int(ms) for ms in re.findall(r"worker ended\".* again_in_ms=(\d+)", log.read())]
        until(lambda: pauses()[:5], [100, 200, 400, 800, 1600], 30, "backoff")
        process.terminate()  # it waits for its next life; there is nothing to drain
        self.assertEqual(0, process.wait(5))

    def test_a_role_that_nobody_has_is_refused(self):
        for wrong in ("workflows", "sync,,web", "sync web", ","):
            done = subprocess.run([daemon.PROGRAM, "run", "--role", "web"], cwd=self.folder, text=True, capture_output=True,
                                  env=dict(self.environment, MOONWRIGHT_ROLES=wrong), timeout=20)
            self.assertNotEqual(0, done.returncode)
            self.assertEqual(1, done.stderr.count("\n"), done.stderr)
            self.assertIn("MOONWRIGHT_ROLES is " + wrong, done.stderr)

    def test_without_a_manager_nothing_is_missed(self):
        for address in ("", "relative", "/nowhere/at/all", "@", "/" + "x" * 300):
            process = self.run_with(address, "monitor")
            until(lambda: self.sql("select count(*) from workflow_workers where until > now()"), "1", 20, "up")
            process.terminate()
            self.assertEqual(0, process.wait(20), address)


class DrainTest(daemon.DaemonTest):
    files = {"plain.lua": PLAIN.replace('"go"', '"other"')}
    @classmethod
    def setUpClass(cls):
        cls.go_on = threading.Event()

        def slow(_):
            cls.go_on.wait(60)
            return 200, {}, {"ok": True}
        cls.lender = Vendor(slow)
        cls.addClassCleanup(cls.lender.close)
        cls.addClassCleanup(cls.go_on.set)
        cls.settings = {"MOONWRIGHT_HTTP_HOSTS": cls.lender.url.rpartition("/")[2]}
        super().setUpClass()  # DRAIN_MS is 2000
        cls.command("live", "on")
        cls.write("actions/lender.lua", LENDER % {"url": cls.lender.url})
        cls.write("calls.lua", CALLS)
        cls.in_force("calls")

    def on_the_wire(self, customer):
        before = self.lender.count("POST")
        self.go(customer)
        until(lambda: self.lender.count("POST"), before + 1, 30, "on the wire")

    def test_1_what_is_on_the_wire_is_finished(self):
        self.on_the_wire(1)
        self.process.terminate()
        time.sleep(0.7)
        self.assertIsNone(self.process.poll())
        self.go_on.set()
        self.assertEqual(0, self.process.wait(20))
        self.assertEqual("done|answer", self.sql("select state, settled_by from outbound_log"))
        self.assertEqual("1", self.sql("select count(*) from workflow_step_executions"))
        self.assertEqual("0", self.sql("select count(*) from workflow_workers"))
        self.assertEqual("0", self.sql("select count(*) from workflow_queue where worker is not null"))

    def test_2_it_is_not_waited_for_beyond_the_grace_period(self):
        self.go_on.clear()
        self.start()
        self.on_the_wire(2)
        began = time.time()
        self.process.terminate()
        self.assertEqual(0, self.process.wait(30))
        self.assertGreater(time.time() - began, 1.8)
        self.assertLess(time.time() - began, 12)
        self.assertEqual("intent", self.sql("select state from outbound_log where state <> 'done'"))

    def test_3_a_second_signal_ends_it_at_once(self):
        self.start()
        self.on_the_wire(3)
        began = time.time()
        self.process.terminate()
        time.sleep(0.3)
        self.process.terminate()
        self.process.wait(10)
        self.assertLess(time.time() - began, 1.7)
        self.assertEqual("2", self.sql("select count(*) from outbound_log where state = 'intent'"))


if __name__ == "__main__":
    unittest.main()
