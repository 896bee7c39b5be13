"""What the outbound tests share: a customer, a driver, and vendors that fail on demand."""
import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import uuid

from database import ROOT, DatabaseTest, literal

DRIVER = os.environ.get("OUTBOUND_DRIVER", "")
TOKEN = "twilio-auth-token"
PUBLIC = "https://moonwright.example"


class Vendor:
    """One HTTP/1.1 server. `plan` holds answers to come: (status, headers, body), "drop" (the request
    is read, the connection closed), or "hang"; after them `default(request)` answers."""

    def __init__(self, default):
        self.default, self.plan, self.requests = default, [], []
        self.lock = threading.Lock()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        stream = connection.makefile("rb")
        try:
            while self.one(connection, stream):
                pass
        except OSError:
            pass
        connection.close()

    def one(self, connection, stream):
        line = stream.readline().decode()
        if not line:
            return False
        method, target, _ = line.split(" ", 2)
        headers = {}
        while True:
            line = stream.readline().decode().strip()
            if not line:
                break
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0))).decode()
        request = {"method": method, "path": target, "headers": headers, "body": body,
                   "at": time.time()}
        with self.lock:
            self.requests.append(request)
            answer = self.plan.pop(0) if self.plan else None
        if callable(answer):
            answer = answer(request)
        if answer is None:
            answer = self.default(request)
        if answer == "drop":
            connection.shutdown(socket.SHUT_RDWR)
            return False
        if answer == "hang":
            time.sleep(60)
            return False
        status, more, text = answer
        data = (text if isinstance(text, str) else json.dumps(text)).encode()
        head = "HTTP/1.1 %d X\r\nContent-Length: %d\r\n" % (status, len(data))
        for name, value in more.items():
            head += "%s: %s\r\n" % (name, value)
        connection.sendall(head.encode() + b"\r\n" + data)
        return True

    def count(self, method, part=""):
        with self.lock:
            return sum(r["method"] == method and part in r["path"] for r in self.requests)

    def form(self, index=-1):
        posts = [r for r in self.requests if r["method"] == "POST"]
        return dict(urllib.parse.parse_qsl(posts[index]["body"]))

    def close(self):
        self.socket.close()


def accepts_texts(request):
    if request["method"] == "GET":
        return 200, {"Content-Type": "application/json"}, {"messages": [], "next_page_uri": None}
    return 201, {"Content-Type": "application/json"}, {"sid": "SM" + uuid.uuid4().hex,
                                                       "status": "queued"}


def accepts_mails(_):
    return 202, {"X-Message-Id": "mail-" + uuid.uuid4().hex[:8]}, ""


class Driver:
    def __init__(self, url, log_path, settings, workflows):
        with open(log_path, "a") as log:
            self.process = subprocess.Popen(
                [DRIVER, url, os.path.join(ROOT, "lua"), workflows],
                stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ, **settings))
        line = self.process.stdout.readline().split()
        if len(line) != 2:
            raise RuntimeError("the driver didn't start")
        self.port, self.worker = int(line[0]), line[1]

    def post(self, path, body, headers=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request("POST", path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def run(self, name, args, **more):
        call = dict({"instance": str(uuid.uuid4()), "run": 1, "step": "/1", "name": name,
                     "args": args, "event": {}, "workflow": "followup", "class": "marketing",
                     "mode": "live", "now": "2026-06-01T15:00:00Z"}, **more)
        status, text = self.post("/run", json.dumps(call))
        answer = json.loads(text)
        if answer["text"][:1] in "{[":
            answer["value"] = json.loads(answer["text"] or "null")
        return answer

    def start(self, name, args, **more):
        """The same without waiting for its answer."""
        box = []

        def go():
            try:
                box.append(self.run(name, args, **more))
            except OSError:
                pass
        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        return thread, box

    def twilio(self, path, fields, query="", token=TOKEN, url=PUBLIC):
        text = url + path + ("?" + query if query else "")
        for name in sorted(fields):
            text += name + fields[name]
        signature = base64.b64encode(hmac.new(token.encode(), text.encode(),
                                              hashlib.sha1).digest()).decode()
        return self.post(path + ("?" + query if query else ""), urllib.parse.urlencode(fields),
                         {"Content-Type": "application/x-www-form-urlencoded",
                          "X-Twilio-Signature": signature})

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise RuntimeError("the driver didn't end")
        self.process.stdout.close()
        return self.process.returncode


class OutboundTest(DatabaseTest):
    """All tables and a customer, 7; the business clock stands at 11:00 in New York."""

    settings = {}
    scale = 1

    def setUp(self):
        super().setUp()
        self.sql("insert into clock values (true, now(), '2026-06-01 15:00+00', %s)" % self.scale)

    def customer(self, customer=7, phone="+12125550107", email="ann@example.com", state="NY",
                 zip_code="10001", consent=True, **more):
        """A customer as ServiceTitan's tables have it; everything was synced just now."""
        columns = dict({"id": customer, "name": "Ann Lee", "type": "Residential", "state": state,
                        "zip": zip_code, "active": True, "modified_on": "2026-05-01"}, **more)
        self.sql(self.insert_row("st_customers", columns))
        for kind, value, at in (("MobilePhone", phone, 1), ("Email", email, 2)):
            if value:
                self.sql(self.insert_row("st_contacts", {
                    "id": customer * 10 + at, "customer_id": customer, "type": kind, "value": value,
                    "phone": value if kind == "MobilePhone" else None,
                    "email": value if kind == "Email" else None, "do_not_text": False,
                    "marketing": consent, "active": True, "modified_on": "2026-05-01"}))
        for entity in ("customers", "estimates", "jobs", "invoices", "appointments"):
            self.sql("insert into sync_cursors (entity, completed_at) values (%s, now()) "
                     "on conflict do nothing" % literal(entity))
        self.sql("delete from changes")
        return {"id": customer, "name": "Ann Lee", "first_name": "Ann", "phone": phone,
                "email": email, "zone": "America/New_York", "state": state, "tags": {},
                "do_not_service": False}

    def insert_row(self, table, columns):
        names = [n for n, v in columns.items() if v is not None]
        return "insert into %s (%s) values (%s)" % (table, ", ".join(names), ", ".join(
            literal(columns[n]) if not isinstance(columns[n], (bool, int)) else
            str(columns[n]).lower() for n in names))

    def vendor(self, default):
        vendor = Vendor(default)
        self.addCleanup(vendor.close)
        return vendor

    def start(self, **more):
        self.twilio = self.vendor(accepts_texts)
        self.sendgrid = self.vendor(accepts_mails)
        if not hasattr(self, "workflows"):
            self.workflows = self.make_workflows()
        driver = Driver(self.database.url, self.log_path, self.environment(**more), self.workflows)
        self.addCleanup(driver.end)
        return driver

    def environment(self, **more):
        settings = {
            "TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": TOKEN,
            "TWILIO_PHONE_NUMBER": "+18005550100", "TWILIO_BASE_URL": self.twilio.url,
            "SENDGRID_API_KEY": "SG.key", "SENDGRID_FROM_EMAIL": "hello@brightair.example",
            "SENDGRID_BASE_URL": self.sendgrid.url, "PUBLIC_URL": PUBLIC,
            "INDOUBT_LOOK_MS": "300", "INDOUBT_LOOK_AGAIN_MS": "900", "INDOUBT_EMAIL_MS": "600",
            "INDOUBT_GHL_MS": "300", "GHL_API_KEY": "pit-1", "GHL_LOCATION_ID": "loc1",
        }
        settings.update(self.settings)
        settings.update(more)
        return {k: v for k, v in settings.items() if v is not None}

    def make_workflows(self):
        folder = os.path.join(self.folder, "workflows")
        os.mkdir(folder)
        for name in ("company.lua", "ghl", "templates"):
            source = os.path.join(ROOT, "workflows", name)
            target = os.path.join(folder, name)
            if os.path.isdir(source):
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        return folder

    def due(self):
        return self.sql("select utc(business_now())")
