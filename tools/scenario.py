"""Runs the product and the simulated vendors side by side on a scaled clock; see tools/demo.

Everything lives in a folder of its own that is removed at the end. What was started is started
again when it dies, as an init system would; when this process dies, all of it does.
"""
import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIMULATOR = os.path.join(ROOT, "tools", "simulator")
SETTLE = 2      # real seconds after the end for what is under way
LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """Told to the person in one line."""


class Refused(Failed):
    """Nothing has begun, so there is nothing to look into either."""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def utc(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + \
        ".%03dZ" % (int(seconds * 1000) % 1000)


class Process:
    """A program that is kept running until it is stopped."""

    def __init__(self, name, arguments, folder, environment, log):
        self.name, self.arguments = name, arguments
        self.folder, self.environment, self.log = folder, environment, log
        self.lives, self.started = 0, 0.0
        self.start()

    def start(self):
        parent = os.getpid()

        def with_us():
            LIBC.prctl(1, signal.SIGTERM)       # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)
        self.lives, self.started = self.lives + 1, time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.arguments, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, preexec_fn=with_us)

    def last_line(self):
        with open(self.log, errors="replace") as log:
            told = [line.strip() for line in log.readlines()[-30:] if line.strip()]
        plain = [line for line in told if line.startswith((self.name + ":", "moonwright:"))]
        return (plain or told or ["it said nothing"])[-1]

    def keep(self):
        """Starts it again if it was killed; what ends by itself at once has a reason."""
        code = self.process.poll()
        if code is None:
            return
        if code >= 0 and time.monotonic() - self.started < 20:
            at_once = self.lives == 1 and time.monotonic() - self.started < 5
            raise (Refused if at_once else Failed)(self.last_line())
        print("%s died (%s): starting it again" % (self.name, code), flush=True)
        self.start()

    def stop(self, patience):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Scenario:
    def __init__(self, options):
        self.options = options
        self.folder = tempfile.mkdtemp(prefix="moonwright-demo.")
        os.chmod(self.folder, 0o755)            # PostgreSQL's user must get through
        self.port, http = free_ports(2)
        self.http = options.http or "127.0.0.1:%d" % http
        self.books = os.path.join(self.folder, "books.jsonl")
        self.environment = {k: os.environ[k] for k in ("PATH", "HOME", "TERM", "TMPDIR", "LANG",
                                                       "ASAN_OPTIONS", "UBSAN_OPTIONS")
                            if k in os.environ}
        self.processes = []

    def simulator(self, command):
        o = self.options
        return [sys.executable, SIMULATOR, command, "--port", str(self.port), "--seed", o.seed,
                "--clock", self.clock, "--books", self.books, "--customers", str(o.customers),
                "--rate", str(o.rate),
                "--public-url", "http://" + self.http] + \
            (["--faults", o.faults] if o.faults else [])

    def moonwright(self, *arguments):
        done = subprocess.run([self.options.program, *arguments], cwd=self.folder,
                              env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failed((done.stderr.strip() or "moonwright failed").splitlines()[-1])
        return done.stdout

    def ask(self, path, post=False):
        request = urllib.request.Request("http://127.0.0.1:%d/sim/%s" % (self.port, path),
                                         data=b"" if post else None)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def start(self):
        o = self.options
        self.real_origin = time.time() + 1
        self.clock = "%s@%s*%d" % (o.begin, utc(self.real_origin), o.scale)
        said = subprocess.run(self.simulator("env"), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        if said.returncode != 0:
            raise Refused((said.stderr.strip() or "no simulator").splitlines()[-1])
        settings = said.stdout
        settings += "".join("%s=%s\n" % pair for pair in (
            ("MOONWRIGHT_HOME", ROOT), ("MOONWRIGHT_DATA", os.path.join(self.folder, "var")),
            ("MOONWRIGHT_HTTP", self.http),
            # Once a second is every eight hours of business time.
            ("SYNC_INCREMENTAL_CRON", '"* * * * * *"'), ("SYNC_FULL_CRON", '"0 3 * * *"'),
            ("EVENT_POLL_INTERVAL_MS", 200), ("EXECUTE_POLL_INTERVAL_MS", 100),
            ("HEALTH_CHECK_INTERVAL_MS", 2000)) if pair[0] + "=" not in settings)
        with open(os.path.join(self.folder, ".env"), "w") as file:
            file.write(settings)
        try:
            self.moonwright("migrate")
            self.moonwright("live", "on")
        except Failed as e:
            raise Refused(*e.args)
        sim_log = os.path.join(self.folder, "simulator.log")
        self.log = os.path.join(self.folder, "moonwright.log")
        self.processes.append(Process("simulator", self.simulator("serve"), self.folder,
                                      self.environment, sim_log))
        self.product = Process("moonwright", [o.program, "run", "--workers", str(o.workers)],
                               self.folder, self.environment, self.log)
        self.processes.insert(0, self.product)
        while not self.simulator_answers():
            self.keep()
            time.sleep(0.05)

    def simulator_answers(self):
        try:
            return bool(self.ask("state"))
        except OSError:
            return False

    def keep(self):
        for process in self.processes:
            process.keep()

    def business_days(self):
        return (time.time() - self.real_origin) * self.options.scale / 86400

    def follow(self):
        """Until Ctrl-C."""
        print("ServiceTitan, GoHighLevel, Twilio and SendGrid are simulated; Moonwright answers at "
              "http://%s/healthz.\nA second is %.1f hours of the company's time. Ctrl-C ends it.\n"
              % (self.http, self.options.scale / 3600), flush=True)
        watch = subprocess.Popen([self.options.program, "watch"], cwd=self.folder,
                                 env=self.environment)
        try:
            while watch.poll() is None:
                self.keep()
                time.sleep(0.3)
        except KeyboardInterrupt:
            print("\nending", flush=True)
        finally:
            watch.terminate()
            watch.wait()

    def play(self):
        """Until the company has lived its days and everything owed has been sent."""
        o, told = self.options, time.monotonic()
        while self.business_days() < o.days:
            self.keep()
            time.sleep(0.2)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                try:
                    s = self.ask("state")
                    print("day %2d: %d texts, %d e-mails, %d contacts, %d opportunities" % (
                        max(0, self.business_days()), s["messages"], s["mails"], s["contacts"],
                        s["opportunities"]), flush=True)
                except OSError:
                    pass                        # it was killed and is being started again
        # What came due before this moment is owed, with some seconds of patience; the time until
        # everything has stopped is on top.
        self.ask("end", post=True)
        time.sleep(SETTLE)
        self.keep()
        return json.loads(self.moonwright("status", "--json"))

    def judge(self):
        """The simulator's own word on what was owed, sent, and forbidden."""
        done = subprocess.run([sys.executable, os.path.join(SIMULATOR, "check.py"), "--strict",
                               self.books],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = done.stdout.strip().splitlines() or [""]
        try:
            verdict = json.loads(lines[-1])
        except ValueError:
            raise Failed("the oracle failed: " + lines[-1])
        for line in lines[:-1]:
            print(line, flush=True)
        return done.returncode == 0, verdict

    def stop(self):
        codes = [process.stop(90) for process in self.processes]
        self.processes = []
        return codes


def errors(scenario):
    """What the product itself calls an error; with faults some are to be expected."""
    with open(scenario.log, errors="replace") as log:
        found = [line.strip() for line in log if " level=error " in line]
    if found and not scenario.options.faults:
        print("%d errors in the log, the first: %s" % (len(found), found[0]))
        return True
    return False


def check(scenario, begun):
    counts = scenario.play()
    codes = scenario.stop()
    good, verdict = scenario.judge()
    good = good and not errors(scenario)
    if codes[0] != 0:
        print("moonwright ended with %d: %s" % (codes[0], scenario.product.last_line()))
    if counts["raised"]:
        print("%d changes raised in the company's Lua" % counts["raised"])
    good = good and codes[0] == 0 and not counts["raised"] and not verdict["lost"] \
        and not verdict["duplicates"]
    print(json.dumps({
        "rows": counts["rows"], "events": counts["events"], "instances": counts["instances"],
        "sent": {"sms": verdict["sms"], "email": verdict["email"]},
        "ghl": {"contacts": verdict["contacts"], "opportunities": verdict["opportunities"],
                "won": verdict["won"]},
        "duplicates": verdict["duplicates"], "lost": verdict["lost"],
        "seconds": round(time.monotonic() - begun, 1)}), flush=True)
    return good


def moment(text):
    try:
        time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise argparse.ArgumentTypeError("it must be like 2026-06-01T12:00:00Z")
    return text


def at_least_one(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("it must be a number from 1")
    return int(text)


def arguments():
    p = argparse.ArgumentParser(prog="tools/demo", description="Runs the product against "
                                "simulated vendors on a scaled clock.")
    p.add_argument("--check", action="store_true", help="a fixed scenario, verified, no terminal")
    p.add_argument("--seed", default="7", help="which company")
    p.add_argument("--scale", type=at_least_one, default=30000, help="business seconds in a real one")
    p.add_argument("--days", type=float, default=24, help="business days of --check")
    p.add_argument("--customers", type=at_least_one, default=400, help="when it begins")
    p.add_argument("--rate", type=float, default=4,
                   help="customers' calls a day; at 8 GoHighLevel's rate limit is reached")
    p.add_argument("--begin", type=moment, default="2026-06-01T12:00:00Z", help="business time at the start")
    p.add_argument("--faults", help="'weather', or the simulator's rules as JSON")
    p.add_argument("--workers", type=at_least_one, default=1)
    p.add_argument("--http", help="host:port of the product's web role; default: a free port")
    p.add_argument("--keep", action="store_true", help="keep the folder with data and logs")
    p.add_argument("--program", required=True, help=argparse.SUPPRESS)
    return p.parse_args()


def main():
    options, begun, good, begun_at_all = arguments(), time.monotonic(), False, True
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scenario = Scenario(options)
    try:
        if not options.check:
            print("starting", flush=True)
        scenario.start()
        if options.check:
            good = check(scenario, begun)
        else:
            scenario.follow()
            good = True
    except Failed as e:
        begun_at_all, text = not isinstance(e, Refused), str(e)
        print(text if text.startswith("moonwright:") else "moonwright: " + text, file=sys.stderr)
    except KeyboardInterrupt:
        good = not options.check                # while it starts it may be ended too
        print("\nending", flush=True)
    except BrokenPipeError:
        pass
    except OSError as e:
        print("moonwright: %s" % e, file=sys.stderr)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        scenario.stop()
        if options.keep or (options.check and not good and begun_at_all):
            print("data and logs are in %s" % scenario.folder, file=sys.stderr)
        else:
            shutil.rmtree(scenario.folder, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
