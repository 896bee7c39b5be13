"""The simulator over real sockets: the vendors' protocols, faults, books, a restart."""
import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from urllib.parse import parse_qsl, quote, urlencode

HERE = os.path.dirname(os.path.abspath(__file__))
SIMULATOR = os.path.abspath(os.path.join(HERE, "../../../tools/simulator"))
sys.path[:0] = [SIMULATOR]

import sign  # noqa: E402

ACCOUNT, TOKEN = "AC" + "5" * 32, "simulator-auth-token"
MESSAGES = "/twilio/2010-04-01/Accounts/%s/Messages.json" % ACCOUNT
LOCATION = "simLocation000000001"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Receiver(http.server.BaseHTTPRequestHandler):
    """Stands for the product's web role: keeps what was posted."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


class Simulator:
    def __init__(self, folder, hooks, *more, scale=3000):
        self.port, self.folder = free_port(), folder
        self.books = os.path.join(folder, "books.jsonl")
        clock = "2026-06-01T12:00:00Z@%s*%d" % (
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), scale)
        self.command = [sys.executable, SIMULATOR, "--port", str(self.port), "--clock", clock,
                        "--books", self.books, "--public-url", "http://127.0.0.1:%d" % hooks,
                        "--customers", "60", "--stops", "0", "--replies", "0", *more]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def stop(self, how=signal.SIGTERM):
        self.connection.close()
        self.process.send_signal(how)
        self.process.wait()
        self.process.stdout.close()

    def ask(self, method, path, body=None, headers=()):
        self.connection.request(method, path, body, dict(headers))
        answer = self.connection.getresponse()
        data = answer.read()
        kind = answer.headers.get("Content-Type") or ""
        return answer.status, answer.headers, json.loads(data) if "json" in kind and data else data

    def fault(self, **rule):
        status, _, body = self.ask("POST", "/sim/faults", json.dumps(rule))
        assert status == 200, body

    def lines(self, kind):
        with open(self.books) as f:
            return [x for x in map(json.loads, f) if x["k"] == kind]

    # the vendors

    def token(self, secret="sim-secret"):
        return self.ask("POST", "/st-auth/connect/token", urlencode({
            "grant_type": "client_credentials", "client_id": "sim-client",
            "client_secret": secret}))

    def titan(self, path, method="GET"):
        if not hasattr(self, "bearer"):
            self.bearer = self.token()[2]["access_token"]
        return self.ask(method, "/st/" + path.replace("~", "v2/tenant/1001"), headers={
            "Authorization": "Bearer " + self.bearer, "ST-App-Key": "ak1.simulator"})

    def ghl(self, method, path, body=None, **headers):
        headers = {"Authorization": "Bearer pit-simulator", "Version": "2021-07-28"} | headers
        return self.ask(method, "/ghl" + path, json.dumps(body) if body is not None else None,
                        headers)

    def text(self, to, body, **more):
        form = {"To": to, "From": "+12125550100", "Body": body} | more
        return self.ask("POST", MESSAGES, urlencode(form), self.basic())

    def basic(self, token=TOKEN):
        both = base64.b64encode(("%s:%s" % (ACCOUNT, token)).encode()).decode()
        return {"Authorization": "Basic " + both}

    def mail(self, **more):
        body = {"personalizations": [{"to": [{"email": "ann@example.com"}]}],
                "from": {"email": "office@brightair.example"}, "subject": "Hello",
                "content": [{"type": "text/plain", "value": "Hi"}],
                "custom_args": {"m": "intent-1"}} | more
        return self.ask("POST", "/sendgrid/v3/mail/send", json.dumps(body),
                        {"Authorization": "Bearer SG.simulator"})


class WithSimulator(unittest.TestCase):
    options = ()

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.server.got, self.server.status = [], 204
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.sim = Simulator(self.folder.name, self.server.server_port, *self.options)

    def tearDown(self):
        self.sim.stop()
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()

    def hooks(self, path, count, seconds=6):
        end = time.time() + seconds
        while time.time() < end:
            got = [g for g in self.server.got if g[0].startswith(path)]
            if len(got) >= count:
                return got
            time.sleep(0.02)
        self.fail("%d posts to %s wanted, %d came" % (count, path, len(got)))


class ServiceTitan(WithSimulator):
    def test_wrong_secret(self):
        status, _, body = self.sim.token("wrong")
        self.assertEqual((status, body), (400, {"error": "invalid_client"}))

    def test_credentials(self):
        path = "/st/crm/v2/tenant/1001/customers"
        bearer = self.sim.token()[2]["access_token"]
        self.assertEqual(self.sim.ask("GET", path)[0], 401)
        self.assertEqual(self.sim.ask("GET", path, headers={"Authorization": bearer})[0], 401)
        both = {"Authorization": bearer, "ST-App-Key": "ak1.simulator"}
        self.assertEqual(self.sim.ask("GET", path, headers=both)[0], 200)
        self.assertEqual(self.sim.ask("GET", path.replace("1001", "5"), headers=both)[0], 403)

    def test_appointments_are_not_in_dispatch(self):
        self.assertEqual(self.sim.titan("dispatch/~/appointments")[0], 404)
        self.assertEqual(self.sim.titan("jpm/~/appointments")[0], 200)

    def test_list_pages_cover_everything_once(self):
        seen, page = [], 1
        while True:
            status, headers, body = self.sim.titan(
                "crm/~/customers?active=Any&pageSize=7&includeTotal=true&page=%d" % page)
            self.assertEqual(status, 200)
            self.assertIn("Jun 2026", headers["Date"])
            seen += [row["id"] for row in body["data"]]
            if not body["hasMore"]:
                break
            page += 1
        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual(len(seen), body["totalCount"])

    def test_filters(self):
        bad = self.sim.titan("crm/~/customers?pageSize=5001")
        self.assertEqual(bad[0], 400)
        self.assertIn("pageSize", bad[2]["errors"])
        self.assertEqual(self.sim.titan("crm/~/customers/contacts")[0], 400)
        rows = self.sim.titan("jpm/~/jobs?sort=%2BModifiedOn&pageSize=500"
                              "&modifiedOnOrAfter=2026-05-01T00:00:00Z")[2]["data"]
        self.assertEqual(rows, sorted(rows, key=lambda r: r["modifiedOn"]))
        self.assertTrue(all(r["modifiedOn"] >= "2026-05-01" for r in rows))
        ids = [r["id"] for r in rows[:3]]
        found = self.sim.titan("jpm/~/jobs?ids=" + ",".join(map(str, ids)))[2]["data"]
        self.assertEqual(sorted(r["id"] for r in found), sorted(ids))
        self.assertNotIn("active", found[0])
        self.assertEqual(len(self.sim.titan("marketing/~/campaigns")[2]["data"]), 4)
        self.assertEqual(len(self.sim.titan("marketing/~/campaigns?active=Any")[2]["data"]), 5)

    def test_export_goes_on_where_it_ended(self):
        first = self.sim.titan("crm/~/export/customers?from=2020-01-01")[2]
        self.assertFalse(first["hasMore"])
        again = self.sim.titan("crm/~/export/customers?from=" + first["continueFrom"])[2]
        self.assertEqual(again["data"], [])
        row = first["data"][0]
        self.sim.ask("POST", "/sim/patch", json.dumps(
            {"entity": "customers", "id": row["id"], "fields": {"name": "New Name"}}))
        after = self.sim.titan("crm/~/export/customers?from=" + first["continueFrom"])[2]
        self.assertIn((row["id"], "New Name"), [(r["id"], r["name"]) for r in after["data"]])
        self.assertEqual(self.sim.titan("crm/~/export/customers?from=nonsense")[0], 400)

    def test_limit(self):
        statuses = [self.sim.titan("settings/~/business-units")[0] for _ in range(75)]
        self.assertIn(429, statuses)
        status, headers, body = self.sim.titan("settings/~/business-units")
        if status == 429:
            self.assertEqual(headers["Retry-After"], "1")
        time.sleep(1.05)
        self.assertEqual(self.sim.titan("settings/~/business-units")[0], 200)

    def test_parents_after_children(self):
        self.sim.fault(provider="servicetitan", fault="orphans", p=1, delay=3)
        self.sim.ask("POST", "/sim/patch", json.dumps({
            "entity": "customers", "id": 42, "fields": {"id": 42, "active": True, "name": "X"}}))
        feed = self.sim.titan("crm/~/export/customers?from=2026-06-01")[2]["data"]
        self.assertNotIn(42, [r["id"] for r in feed])
        self.assertEqual(len(self.sim.titan("crm/~/customers?ids=42")[2]["data"]), 1)
        time.sleep(3.2)
        feed = self.sim.titan("crm/~/export/customers?from=2026-06-01")[2]["data"]
        self.assertIn(42, [r["id"] for r in feed])

    def test_older_versions_late(self):
        rows = self.sim.titan("sales/~/export/estimates?from=2020-01-01")[2]["data"]
        self.sim.fault(provider="servicetitan", fault="old_rows", next=1)
        late = self.sim.titan("sales/~/export/estimates?from=2020-01-01")[2]["data"]
        self.assertGreater(len(late), len(rows))
        newest = {r["id"]: r["modifiedOn"] for r in rows}
        self.assertTrue(any(r["modifiedOn"] < newest[r["id"]] for r in late[len(rows):]))


class ShortTokens(WithSimulator):
    options = ("--token-life", "1")

    def test_expired_token(self):
        self.assertEqual(self.sim.titan("settings/~/tag-types")[0], 200)
        time.sleep(1.2)
        self.assertEqual(self.sim.titan("settings/~/tag-types")[0], 401)


class HighLevel(WithSimulator):
    def contact(self, **more):
        return self.sim.ghl("POST", "/contacts/upsert", {"locationId": LOCATION} | more)

    def test_headers(self):
        path = "/opportunities/pipelines?locationId=" + LOCATION
        status, headers, body = self.sim.ghl("GET", path)
        self.assertEqual([p["name"] for p in body["pipelines"]], ["Sales", "Install"])
        self.assertEqual(headers["X-RateLimit-Max"], "100")
        self.assertEqual(self.sim.ghl("GET", path, Version="1")[0], 400)
        status, _, body = self.sim.ghl("GET", path, Authorization="Bearer x")
        self.assertEqual((status, body["error"]), (401, "Unauthorized"))
        self.assertEqual(self.sim.ghl("GET", path + "x")[0], 403)

    def test_upsert_twice_is_one_contact(self):
        first = self.contact(phone="2125551234", email="Ann@Example.com", customFields=[
            {"key": "st_customer_id", "field_value": "7"}])[2]
        again = self.contact(phone="+12125551234", firstName="Ann")[2]
        self.assertTrue(first["new"])
        self.assertFalse(again["new"])
        self.assertEqual(first["contact"]["id"], again["contact"]["id"])
        self.assertEqual(again["contact"]["phone"], "+12125551234")
        self.assertEqual(again["contact"]["customFields"][0]["value"], "7")
        self.assertEqual(self.contact(firstName="Nobody")[0], 400)

    def test_upsert_drops_a_number_of_somebody_else(self):
        one = self.contact(email="one@example.com")[2]["contact"]
        two = self.contact(phone="+12125550002")[2]["contact"]
        both = self.contact(email="one@example.com", phone="+12125550002")[2]["contact"]
        self.assertEqual(both["id"], one["id"])
        self.assertNotIn("phone", both)
        self.assertEqual(self.sim.ghl("GET", "/contacts/" + two["id"])[2]["contact"]["phone"],
                         "+12125550002")

    def test_duplicates_and_unknown_properties(self):
        known = self.contact(phone="+12125550003")[2]["contact"]
        status, _, body = self.sim.ghl("POST", "/contacts/", {"locationId": LOCATION,
                                                              "phone": "+12125550003"})
        self.assertEqual((status, body["meta"]["contactId"]), (400, known["id"]))
        self.assertEqual(body["meta"]["matchingField"], "phone")
        status, _, body = self.sim.ghl("PUT", "/contacts/" + known["id"], {"locationId": "x"})
        self.assertEqual((status, body["message"]),
                         (422, ["property locationId should not exist"]))
        found = self.sim.ghl("GET", "/contacts/search/duplicate?locationId=%s&number=%s" % (
            LOCATION, quote("+12125550003")))[2]
        self.assertEqual(found["contact"]["id"], known["id"])

    def test_search_lags_behind(self):
        made = self.contact(phone="+12125550004", customFields=[
            {"key": "st_customer_id", "field_value": "9"}])[2]["contact"]
        field = made["customFields"][0]["id"]
        ask = {"locationId": LOCATION, "filters": [
            {"field": "customFields." + field, "operator": "eq", "value": "9"}]}
        self.assertEqual(self.sim.ghl("POST", "/contacts/search", ask)[2]["total"], 0)
        time.sleep(0.4)
        found = self.sim.ghl("POST", "/contacts/search", ask)[2]
        self.assertEqual([c["id"] for c in found["contacts"]], [made["id"]])

    def test_opportunity(self):
        contact = self.contact(phone="+12125550005")[2]["contact"]["id"]
        pipelines = self.sim.ghl("GET", "/opportunities/pipelines?locationId=" + LOCATION)[2]
        sales, install = pipelines["pipelines"]
        body = {"locationId": LOCATION, "pipelineId": sales["id"], "contactId": contact,
                "pipelineStageId": sales["stages"][1]["id"], "name": "Heat pump", "status": "open",
                "monetaryValue": 1200.5,
                "customFields": [{"key": "st_estimate_id", "field_value": "11"}]}
        status, _, made = self.sim.ghl("POST", "/opportunities/", body)
        self.assertEqual(status, 201)
        key = made["opportunity"]["id"]
        status, _, moved = self.sim.ghl("PUT", "/opportunities/" + key, {
            "pipelineId": install["id"], "pipelineStageId": install["stages"][0]["id"]})
        self.assertEqual((status, moved["opportunity"]["pipelineId"]), (200, install["id"]))
        self.assertEqual(self.sim.ghl("PUT", "/opportunities/" + key, {
            "pipelineStageId": sales["stages"][0]["id"]})[0], 400)
        self.assertEqual(self.sim.ghl("PUT", "/opportunities/%s/status" % key,
                                      {"status": "won"})[2], {"succeded": True})
        self.assertEqual(self.sim.ghl("POST", "/opportunities/", {"name": "x"})[0], 422)
        time.sleep(0.4)
        found = self.sim.ghl("GET", "/opportunities/search?location_id=%s&status=won" % LOCATION)[2]
        self.assertEqual([o["id"] for o in found["opportunities"]], [key])
        line = self.sim.lines("opportunity")[-1]
        self.assertEqual((line["pipeline"], line["fields"]["st_estimate_id"]), ("Install", "11"))

    def test_limit(self):
        path = "/opportunities/pipelines?locationId=" + LOCATION
        statuses = [self.sim.ghl("GET", path)[0] for _ in range(101)]
        self.assertEqual(statuses, [200] * 100 + [429])


class OneOpportunity(WithSimulator):
    options = ("--ghl-one-opportunity",)

    def test_second_is_refused(self):
        contact = self.sim.ghl("POST", "/contacts/upsert", {
            "locationId": LOCATION, "phone": "+12125550005"})[2]["contact"]["id"]
        sales = self.sim.ghl("GET", "/opportunities/pipelines?locationId=" +
                             LOCATION)[2]["pipelines"][0]
        body = {"locationId": LOCATION, "pipelineId": sales["id"], "contactId": contact,
                "name": "One", "status": "open"}
        first = self.sim.ghl("POST", "/opportunities/", body)[2]["opportunity"]["id"]
        status, _, refused = self.sim.ghl("POST", "/opportunities/", body)
        self.assertEqual((status, refused["code"]), (400, "OPPORTUNITY_NO_DUPLICATE"))
        self.assertEqual(refused["meta"]["existingId"], first)


class Twilio(WithSimulator):
    def test_send_and_callbacks(self):
        url = "http://127.0.0.1:%d/hooks/twilio/status?m=intent-7" % self.server.server_port
        status, _, message = self.sim.text("+12125559001", "Hello", StatusCallback=url)
        self.assertEqual((status, message["status"]), (201, "queued"))
        self.assertEqual(self.sim.lines("message")[-1]["intent"], "intent-7")
        got = self.hooks("/hooks/twilio/status?m=intent-7", 2)
        for path, headers, body in got:
            params = parse_qsl(body.decode(), keep_blank_values=True)
            text = "http://127.0.0.1:%d%s" % (self.server.server_port, path) + "".join(
                k + v for k, v in sorted(params))
            want = base64.b64encode(hmac.new(TOKEN.encode(), text.encode(), hashlib.sha1).digest())
            self.assertEqual(headers["X-Twilio-Signature"], want.decode())
            self.assertEqual(dict(params)["MessageSid"], message["sid"])

    def test_refusals(self):
        self.assertEqual(self.sim.text("5551234", "x")[2]["code"], 21211)
        self.assertEqual(self.sim.text("+12125559001", "")[2]["code"], 21602)
        self.assertEqual(self.sim.text("+12125559001", "x" * 1601)[2]["code"], 21617)
        answer = self.sim.ask("POST", MESSAGES, "To=%2B12125559001", self.basic_wrong())
        self.assertEqual((answer[0], answer[2]["code"]), (401, 20003))

    def basic_wrong(self):
        return self.sim.basic("wrong")

    def test_stop_blocks_the_number(self):
        self.sim.ask("POST", "/sim/inbound", json.dumps({"from": "+12125559002", "body": "Stop"}))
        _, _, body = self.hooks("/hooks/twilio/inbound", 1)[0]
        form = dict(parse_qsl(body.decode()))
        self.assertEqual((form["From"], form["OptOutType"]), ("+12125559002", "STOP"))
        status, _, refused = self.sim.text("+12125559002", "Hello")
        self.assertEqual((status, refused["code"]), (400, 21610))
        self.assertEqual(self.sim.lines("message_refused")[-1]["to"], "+12125559002")

    def test_list_finds_what_was_sent_to_a_number(self):
        sids = [self.sim.text("+12125559003", "n %d" % i)[2]["sid"] for i in range(3)]
        self.sim.text("+12125559004", "other")
        body = self.sim.ask("GET", MESSAGES + "?To=%2B12125559003&PageSize=2", None,
                            self.sim.basic())[2]
        self.assertEqual([m["sid"] for m in body["messages"]], [sids[2], sids[1]])
        body = self.sim.ask("GET", "/twilio" + body["next_page_uri"], None, self.sim.basic())[2]
        self.assertEqual([m["sid"] for m in body["messages"]], [sids[0]])

    def test_drop_after_accept(self):
        self.sim.fault(provider="twilio", fault="drop", next=1)
        with self.assertRaises((http.client.RemoteDisconnected, ConnectionResetError)):
            self.sim.text("+12125559005", "gone")
        self.assertEqual(len(self.sim.lines("message")), 1)

    def test_error_and_malformed_after_accept(self):
        self.sim.fault(provider="twilio", fault="error", next=1)
        self.assertEqual(self.sim.text("+12125559006", "a")[0], 500)
        self.sim.fault(provider="twilio", fault="malformed", next=1)
        with self.assertRaises(ValueError):
            self.sim.text("+12125559006", "b")
        self.sim.fault(provider="twilio", fault="500", next=1)
        self.assertEqual(self.sim.text("+12125559006", "c")[0], 500)
        self.assertEqual([m["message"]["body"] for m in self.sim.lines("message")], ["a", "b"])

    def test_killed_and_started_again(self):
        first = self.sim.text("+12125559007", "before")[2]
        contact = self.sim.ghl("POST", "/contacts/upsert", {
            "locationId": LOCATION, "phone": "+12125550005"})[2]["contact"]["id"]
        token = self.sim.titan("crm/~/export/customers?from=2020-01-01")[2]["continueFrom"]
        self.sim.fault(provider="twilio", fault="429", next=1, retry_after=3)
        self.sim.stop(signal.SIGKILL)
        self.sim.start()
        status, headers, _ = self.sim.text("+12125559007", "refused")
        self.assertEqual((status, headers["Retry-After"]), (429, "3"))
        second = self.sim.text("+12125559007", "after")[2]
        self.assertNotEqual(first["sid"], second["sid"])
        body = self.sim.ask("GET", MESSAGES + "?To=%2B12125559007", None, self.sim.basic())[2]
        self.assertEqual(len(body["messages"]), 2)
        again = self.sim.ghl("POST", "/contacts/upsert", {
            "locationId": LOCATION, "phone": "+12125550005"})[2]
        self.assertEqual((again["new"], again["contact"]["id"]), (False, contact))
        more = self.sim.titan("crm/~/export/customers?from=" + token)
        self.assertEqual(more[0], 200)
        self.assertLess(len(more[2]["data"]), 20)


class SendGrid(WithSimulator):
    def test_send_and_events(self):
        status, headers, _ = self.sim.mail()
        self.assertEqual(status, 202)
        key = headers["X-Message-Id"]
        got = self.hooks("/hooks/sendgrid", 2)
        public = self.environment()["SENDGRID_WEBHOOK_PUBLIC_KEY"]
        for _, headers, body in got:
            event = json.loads(body)[0]
            self.assertEqual(event["sg_message_id"].partition(".")[0], key)
            self.assertEqual(event["m"], "intent-1")
            self.verify(public, headers, body)

    def environment(self):
        out = subprocess.run([sys.executable, SIMULATOR, "env"], capture_output=True, text=True)
        return dict(line.split("=", 1) for line in out.stdout.splitlines())

    def verify(self, public, headers, body):
        folder = self.folder.name
        with open(folder + "/key.der", "wb") as f:
            f.write(base64.b64decode(public))
        with open(folder + "/sig", "wb") as f:
            f.write(base64.b64decode(headers["X-Twilio-Email-Event-Webhook-Signature"]))
        stamp = headers["X-Twilio-Email-Event-Webhook-Timestamp"].encode()
        done = subprocess.run(["openssl", "dgst", "-sha256", "-keyform", "DER", "-verify",
                               folder + "/key.der", "-signature", folder + "/sig"],
                              input=stamp + body, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_refusals(self):
        self.assertEqual(self.sim.mail(subject="")[0], 400)
        self.assertEqual(self.sim.mail(custom_args={"m": 1})[0], 400)
        self.assertEqual(self.sim.mail(personalizations=[])[2]["errors"][0]["field"],
                         "personalizations")
        self.assertEqual(self.sim.mail(mail_settings={"sandbox_mode": {"enable": True}})[0], 200)
        self.assertEqual(self.sim.lines("mail"), [])


class Signature(unittest.TestCase):
    def test_twilio_example(self):
        params = [("CallSid", "CA1234567890ABCDE"), ("Caller", "+14158675309"),
                  ("Digits", "1234"), ("From", "+14158675309"), ("To", "+18005551212")]
        self.assertEqual(sign.twilio_signature("12345", "https://mycompany.com/myapp.php?foo=1"
                                               "&bar=2", params), "RSOYDt4T1cUTdK1PDd93/VVr8B8=")


if __name__ == "__main__":
    unittest.main()
