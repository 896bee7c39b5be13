"""tools/deploy: the compose file and the unit file are what they should be, and the containers'
commands and health checks do what they say, as processes on one database."""
import json
import os
import re
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.request

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "support"))
import daemon  # noqa: E402
from database import ROOT, until  # noqa: E402

DEPLOY = os.path.join(ROOT, "tools", "deploy")
COMMANDS = {"st-sync-worker": ("sync",), "st-workflow-worker": ("workflow", "web"),
            "st-monitoring-agent": ("monitor",)}
KNOWN = {"build", "image", "restart", "mem_limit", "stop_grace_period", "env_file", "environment", "volumes",
         "tmpfs", "read_only", "cap_drop", "security_opt", "container_name", "command", "healthcheck", "ports"}
PLAIN = """return workflow { on = "go", class = "transactional", run = function(e) note "one" end }"""


def services():
    with open(os.path.join(DEPLOY, "compose.yaml")) as file:
        return yaml.safe_load(file)["services"]


class FilesTest(unittest.TestCase):
    def test_compose_names_the_three_containers(self):
        found = services()
        self.assertEqual(set(COMMANDS), set(found))
        for name, service in found.items():
            self.assertEqual(set(), set(service) - KNOWN)
            self.assertEqual(name, service["container_name"])
            self.assertEqual("run --role " + ",".join(COMMANDS[name]), service["command"])
            self.assertEqual("256m", service["mem_limit"])
            self.assertIsInstance(service["healthcheck"]["test"], str)  # run by a shell
            self.assertNotIn("$", service["healthcheck"]["test"])       # compose would replace it
        self.assertEqual(["127.0.0.1:8080:8080"], found["st-workflow-worker"]["ports"])
        self.assertEqual("sync,workflow,web,monitor", found["st-workflow-worker"]["environment"]["MOONWRIGHT_ROLES"])

    def test_the_grace_period_is_longer_than_ours(self):
        drain = json.loads(self.config())["DRAIN_MS"]
        for service in services().values():
            self.assertGreater(int(service["stop_grace_period"].rstrip("s")) * 1000, drain + 7000)
        with open(os.path.join(DEPLOY, "moonwright.service")) as file:
            stop = int(re.search(r"(?m)^TimeoutStopSec=(\d+)$", file.read())[1])
        self.assertGreater(stop * 1000, drain + 7000)

    def config(self):
        with open(os.path.join(ROOT, "src", "engine", "settings_table.c")) as file:
            return '{"DRAIN_MS": %s}' % re.search(r'INT\("DRAIN_MS", "(\d+)"', file.read())[1]

    def test_dockerfile_copies_from_its_build(self):
        with open(os.path.join(DEPLOY, "Dockerfile")) as file:
            lines = [line for line in file.read().replace("\\\n", " ").split("\n") if line and line[0] != "#"]
        self.assertEqual({"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "ENTRYPOINT", "CMD"},
                         {line.split()[0] for line in lines})
        self.assertEqual(["FROM debian:12-slim AS build", "FROM debian:12-slim"],
                         [line for line in lines if line.startswith("FROM")])
        self.assertIn('ENTRYPOINT ["moonwright"]', lines)
        # What the program is linked with, beside what every Debian has, and nothing else.
        packages = {"libpq.so.5": "libpq5", "libcurl.so.4": "libcurl4", "liblua5.4.so.0": "liblua5.4-0",
                    "libevent_core-2.1.so.7": "libevent-core-2.1-7",
                    "libevent_extra-2.1.so.7": "libevent-extra-2.1-7", "libcrypto.so.3": "libssl3",
                    "liblua5.4-cjson.so.0": "lua-cjson"}
        said = subprocess.run(["readelf", "-d", daemon.PROGRAM], text=True, capture_output=True, check=True).stdout
        needed = {name for name in re.findall(r"NEEDED.*\[(.+)\]", said)
                  if not re.match(r"lib(c|m|asan|ubsan|gcc_s|dl|pthread)\.so|ld-linux", name)}
        installed = next(line for line in lines if "apt-get install" in line)
        installed = set(installed.split("--no-install-recommends")[1].split("&&")[0].split())
        self.assertEqual({packages[name] for name in needed} | {"ca-certificates", "tzdata"}, installed)

    def test_the_unit_file_is_valid_and_hardened(self):
        folder = daemon.tempfile.mkdtemp()
        self.addCleanup(daemon.shutil.rmtree, folder)
        with open(os.path.join(DEPLOY, "moonwright.service")) as file:
            unit = file.read()
        self.assertRegex(unit, r"(?m)^Type=notify$")
        self.assertRegex(unit, r"(?m)^ExecStart=/usr/local/bin/moonwright run$")
        path = os.path.join(folder, "moonwright.service")
        with open(path, "w") as file:
            file.write(unit.replace("/usr/local/bin/moonwright", daemon.PROGRAM))
        done = subprocess.run(["systemd-analyze", "verify", path], text=True, capture_output=True)
        self.assertEqual((0, ""), (done.returncode, done.stdout + done.stderr))
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", path],
                              text=True, capture_output=True)
        self.assertEqual(0, done.returncode, done.stdout[-200:] + done.stderr)

    def test_the_program_can_be_installed(self):
        folder = daemon.tempfile.mkdtemp()
        self.addCleanup(daemon.shutil.rmtree, folder)
        subprocess.run(["cmake", "--install", os.path.dirname(daemon.PROGRAM), "--prefix", folder],
                       check=True, capture_output=True)
        done = subprocess.run([os.path.join(folder, "bin", "moonwright"), "config"], text=True, capture_output=True,
                              cwd=folder, env={"PATH": os.environ["PATH"]})
        self.assertEqual(0, done.returncode, done.stderr)
        for name in ("lua/body.lua", "schema/0001_servicetitan.sql", "workflows/events.lua"):
            self.assertTrue(os.path.exists(os.path.join(folder, "share", "moonwright", name)), name)


class ContainersTest(daemon.DaemonTest):
    files = {"plain.lua": PLAIN}
    settings = {"MOONWRIGHT_ROLES": "sync,workflow,web,monitor", "MOONWRIGHT_LOG": "json"}
    processes = {}

    @classmethod
    def start(cls):
        for name, service in services().items():
            data = os.path.join(cls.folder, name)  # a container's /var/lib/moonwright
            with open(os.path.join(cls.folder, "log"), "a") as log:
                cls.processes[name] = subprocess.Popen(
                    [daemon.PROGRAM, *service["command"].split()], env=dict(cls.environment, MOONWRIGHT_DATA=data),
                    cwd=cls.folder, stdout=log, stderr=log)
            cls.addClassCleanup(cls.end, cls.processes[name])

    def health(self, name):
        test = services()[name]["healthcheck"]["test"]
        return subprocess.run(["sh", "-c", test.replace("/var/lib/moonwright", os.path.join(self.folder, name))],
                              capture_output=True).returncode

    def ready(self):
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d/readyz" % self.port) as answer:
                return answer.status, json.load(answer)["roles"]
        except urllib.error.HTTPError as answer:
            return answer.code, json.load(answer)["roles"]
        except OSError:
            return None

    def children(self, name):
        pid = self.processes[name].pid
        with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
            return [int(child) for child in file.read().split()]

    def test_1_they_work_together(self):
        until(lambda: [self.health(name) for name in COMMANDS], [0, 0, 0], 30, "healthy")
        until(self.ready, (200, dict.fromkeys(("sync", "workflow", "web", "monitor"), True)), 40, "ready")
        self.wait("select count(*) from workflow_definitions where active and name = 'plain'", "1")
        self.go(1)
        self.ended("plain", 1, "done")
        for name, roles in COMMANDS.items():
            self.assertEqual(len(roles), len(self.children(name)))
            resident = 0
            for pid in [self.processes[name].pid, *self.children(name)]:
                with open("/proc/%d/status" % pid) as file:
                    resident += int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1])
            self.assertLess(resident, 128 << 10, name)  # half of what the container may have

    def test_2_a_heartbeat_that_stops_is_seen(self):
        for name, roles in COMMANDS.items():
            for role in roles:
                path = os.path.join(self.folder, name, "heartbeat", role)
                old = time.time() - 60
                daemon.os.utime(path, (old, old))
                if self.health(name) == 0:  # it beat just then
                    os.utime(path, (old, old))
                    self.assertNotEqual(0, self.health(name))
                until(lambda: self.health(name), 0, 30, "beats again")
                os.rename(path, path + ".away")
                missed = self.health(name)
                os.rename(path + ".away", path)
                self.assertNotEqual(0, missed)

    def test_3_they_end_in_time(self):
        began = time.time()
        for process in self.processes.values():
            process.terminate()
        self.assertEqual([0, 0, 0], [process.wait(20) for process in self.processes.values()])
        self.assertLess(time.time() - began, 20)
        self.assertEqual("0", self.sql("select count(*) from workflow_workers"))


if __name__ == "__main__":
    unittest.main()
