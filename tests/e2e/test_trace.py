"""Trace contexts: what a webhook brings goes with its event into the work of the instance and out to
vendors, as a span of the same trace; where none came there is one all the same."""
import base64
import hashlib
import hmac
import os
import re
import sys
import unittest
import urllib.error
import urllib.parse
import urllib.request
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "support"))
import daemon  # noqa: E402
from database import until  # noqa: E402
from outbound import Vendor, accepts_texts  # noqa: E402

TOKEN, ACCOUNT = "twilio-secret-token", "AC1"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EVENTS = """return events {
  go = { of = "customer", manual = true },
}"""
CALLS = """return workflow { on = "%s", class = "transactional",
  run = function(e)
    lender.rate {}
    lender.apply {}
    sms.send { to = e.customer, text = "Hello" }
    error("in the end")
  end }"""


class TraceTest(daemon.DaemonTest):
    @classmethod
    def setUpClass(cls):
        daemon.EVENTS = EVENTS
        cls.lender, cls.twilio = Vendor(lambda _: (200, {}, {"rate": 5})), Vendor(accepts_texts)
        cls.addClassCleanup(cls.lender.close)
        cls.addClassCleanup(cls.twilio.close)
        cls.settings = {
            "MOONWRIGHT_HTTP_HOSTS": cls.lender.url.rpartition("/")[2], "MOONWRIGHT_LOG_LEVEL": "debug",
            "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_BASE_URL": cls.twilio.url,
            "TWILIO_PHONE_NUMBER": "+18005550100"}
        super().setUpClass()
        cls.command("live", "on")
        cls.write("actions/lender.lua", daemon.LENDER % {"url": cls.lender.url})
        cls.write("replied.lua", CALLS % "customer_replied")
        cls.write("gone.lua", CALLS % "go")
        until(lambda: cls.sql("select count(*) from workflow_definitions where active and name in ('replied', 'gone')"),
              "2", 30, "loaded")

    def setUp(self):
        self.lender.requests.clear()
        self.twilio.requests.clear()

    def log(self):
        with open(os.path.join(self.folder, "log"), errors="replace") as log:
            return log.read()

    def text(self, number, traceparent):
        """A text comes in; the event that it makes."""
        sid = "SM" + uuid.uuid4().hex
        fields = {"MessageSid": sid, "From": number, "To": "+18005550100", "Body": "Hi"}
        signed = self.environment["PUBLIC_URL"] + "/hooks/twilio/inbound" + "".join(k + fields[k] for k in sorted(fields))
        signature = base64.b64encode(hmac.new(TOKEN.encode(), signed.encode(), hashlib.sha1).digest()).decode()
        headers = {"X-Twilio-Signature": signature}
        if traceparent is not None:
            headers["traceparent"] = traceparent
        request = urllib.request.Request("http://127.0.0.1:%d/hooks/twilio/inbound" % self.port,
                                         urllib.parse.urlencode(fields).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            self.assertEqual(200, answer.status)
        self.wait("select count(*) from events where payload->'reply'->>'id' = '%s'" % sid, "1")
        return self.sql("select payload->>'trace' from events where payload->'reply'->>'id' = '%s'" % sid)

    def ended_in_the_end(self, workflow):
        self.wait("select count(*) from instances where workflow = '%s' and state <> 'stuck'" % workflow, "0")
        return self.sql("select id from instances where workflow = '%s' order by created_at desc, id desc limit 1" % workflow)

    def sent(self, count=3):
        """The spans that left, all of one trace."""
        requests = self.lender.requests + [r for r in self.twilio.requests if r["method"] == "POST"]
        self.assertEqual(count, len(requests))
        found = [re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])", r["headers"]["traceparent"]) for r in requests]
        self.assertNotIn(None, found)
        self.assertEqual(1, len({m[1] for m in found}))
        self.assertEqual(count, len({m[2] for m in found}))
        return found[0][1], {m[2] for m in found}, {m[3] for m in found}

    def test_a_trace_goes_all_the_way(self):
        kept = self.text("+12125550199", "00-%s-%s-00" % (TRACE, SPAN))
        self.assertRegex(kept, r"^00-%s-[0-9a-f]{16}-00$" % TRACE)
        self.assertNotIn(SPAN, kept)  # the request was a span of its own
        instance = self.ended_in_the_end("replied")
        trace, spans, sampled = self.sent()
        self.assertEqual((TRACE, {"00"}), (trace, sampled))
        self.assertNotIn(SPAN, spans)
        self.assertNotIn(kept[36:52], spans)
        log = self.log()
        self.assertRegex(log, r'message="webhook taken" kind="twilio inbound" trace=%s span=%s' % (TRACE, kept[36:52]))
        self.assertRegex(log, r'message=stuck instance=%s trace=%s ' % (instance, TRACE))
        for span in spans:
            self.assertRegex(log, r'message=answered provider=\w+ instance=%s trace=%s span=%s status=20\d ' % (
                instance, TRACE, span))

    def test_a_broken_one_counts_as_none(self):
        seen = set()
        for header in (None, "00-%s-%s-01-more" % (TRACE, SPAN), "00-%s-0000000000000000-01" % TRACE,
                       "ff-%s-%s-01" % (TRACE, SPAN), "00-%s-%s-01" % (TRACE.upper(), SPAN), "x" * 4000):
            kept = self.text("+12125550198", header)
            self.assertRegex(kept, r"^00-[0-9a-f]{32}-[0-9a-f]{16}-01$")
            self.assertNotIn(TRACE, kept)
            seen.add(kept)
        self.assertEqual(6, len(seen))
        self.ended_in_the_end("replied")

    def test_what_came_without_has_its_own(self):
        self.go(5)
        self.wait("select state from instances where workflow = 'gone'", "stuck")
        instance = self.ended_in_the_end("gone")
        trace, _, sampled = self.sent(2)  # nobody has this customer's number
        self.assertEqual((instance.replace("-", ""), {"01"}), (trace, sampled))
        self.assertIn("message=stuck instance=%s trace=%s" % (instance, trace), self.log())
        self.assertEqual("", self.sql("select trace from arrivals"))


if __name__ == "__main__":
    unittest.main()
