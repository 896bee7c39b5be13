"""Webhooks: signatures, replays, any order, revocations, and what they settle."""
import base64
import json
import os
import subprocess
import sys
import time
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from outbound import OutboundTest  # noqa: E402

STATUS, INBOUND, MAIL = "/hooks/twilio/status", "/hooks/twilio/inbound", "/hooks/sendgrid"


class HooksTest(OutboundTest):
    def setUp(self):
        super().setUp()
        self.key = os.path.join(self.folder, "key.pem")
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out",
                        self.key], check=True, capture_output=True)
        public = subprocess.run(["openssl", "ec", "-in", self.key, "-pubout", "-outform", "DER"],
                                check=True, capture_output=True).stdout
        self.settings = {"SENDGRID_WEBHOOK_PUBLIC_KEY": base64.b64encode(public).decode()}
        self.ann = self.customer()
        self.driver = self.start()

    def mail(self, events, at=None, body=None):
        at = str(int(time.time() if at is None else at))
        body = (json.dumps(events) + "\r\n") if body is None else body
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key],
                                   input=(at + body).encode(), capture_output=True,
                                   check=True).stdout
        return self.driver.post(MAIL, body, {
            "Content-Type": "application/json",
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": at})[0]

    def message(self, state="sent", channel="sms"):
        key = str(uuid.uuid4())
        self.sql("insert into messaging_log (id, instance_id, run, step, call, attempt, channel, "
                 "class, customer_id, address, state, decided_at, provider_id) values ('%s', '%s', 1, "
                 "'/1', 'x', 1, '%s', 'marketing', 7, '%s', '%s', now(), %s)" % (
                     key, uuid.uuid4(), channel, "+12125550107" if channel == "sms" else
                     "ann@example.com", state, "null" if state != "sent" else "'P%s'" % key[:6]))
        return key

    def status(self, key, status, sid="SM1", **more):
        return self.driver.twilio(STATUS, dict({"MessageSid": sid, "MessageStatus": status,
                                                "To": "+12125550107"}, **more), "m=" + key)[0]

    def inbound(self, text, sid=None, number="+12125550107", **more):
        return self.driver.twilio(INBOUND, dict({
            "MessageSid": sid or "SM" + uuid.uuid4().hex, "From": number, "To": "+18005550100",
            "Body": text}, **more))

    def arrivals(self):
        return self.sql("select string_agg(type || ' ' || entity_id, ', ' order by id) from arrivals")

    def nothing_changed(self):
        for table in ("webhook_deliveries", "arrivals", "opt_outs", "inbound_messages"):
            self.assertEqual("0", self.sql("select count(*) from " + table), table)

    def test_statuses_only_move_forward(self):
        key = self.message()
        for status in ("sent", "delivered", "queued", "sending", "sent"):
            self.assertEqual(200, self.status(key, status))
        self.assertEqual("delivered", self.sql("select status from messaging_log"))

    def test_a_callback_before_the_outcome_settles_the_intent(self):
        key = self.message("intent")
        self.assertEqual(200, self.status(key, "queued"))
        self.sql("select message_outcome('%s', 'in_doubt', null, 'no_answer', '', false)" % key)
        self.assertEqual("sent SM1", self.sql("select state || ' ' || provider_id from messaging_log"))

    def test_a_failed_delivery_is_told_once(self):
        key = self.message()
        self.status(key, "failed", ErrorCode="30003")
        self.status(key, "failed", ErrorCode="30003")
        self.status(key, "undelivered", ErrorCode="30003")
        self.assertEqual("message_failed 7", self.arrivals())
        self.assertEqual("", self.sql("select address from opt_outs"))

    def test_a_landline_found_at_delivery_is_not_tried_again(self):
        self.status(self.message(), "undelivered", ErrorCode="30006")
        self.assertEqual("undeliverable", self.sql("select kind from opt_outs"))

    def test_a_bad_signature_changes_nothing(self):
        key = self.message()
        fields = {"MessageSid": "SM1", "MessageStatus": "failed", "To": "x"}
        for answer in (self.driver.twilio(STATUS, fields, "m=" + key, token="wrong"),
                       self.driver.twilio(STATUS, fields, "m=" + key, url="https://evil.example"),
                       self.driver.post(STATUS, "MessageSid=SM1&MessageStatus=failed"),
                       self.driver.twilio(INBOUND, {"MessageSid": "S", "From": "+12125550107",
                                                    "Body": "STOP"}, token="x")):
            self.assertEqual(403, answer[0])
        self.assertEqual(403, self.driver.post(MAIL, "[]", {
            "X-Twilio-Email-Event-Webhook-Signature": "AAAA",
            "X-Twilio-Email-Event-Webhook-Timestamp": "1"})[0])
        self.nothing_changed()

    def test_the_standard_port_may_be_signed(self):
        answer = self.driver.twilio(STATUS, {"MessageSid": "SM1", "MessageStatus": "sent"},
                                    url="https://moonwright.example:443")
        self.assertEqual(200, answer[0])

    def test_malformed_and_oversized_bodies_change_nothing(self):
        self.assertEqual(400, self.driver.twilio(STATUS, {"To": "x"})[0])
        self.assertEqual(400, self.mail(None, body="not json"))
        self.assertEqual(400, self.mail(None, body='{"event": "unsubscribe"}'))
        self.assertEqual(413, self.driver.post(MAIL, "x" * (2 << 20))[0])
        self.assertEqual(405, self.get())
        self.nothing_changed()

    def get(self):
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", self.driver.port)
        connection.request("GET", STATUS)
        status = connection.getresponse().status
        connection.close()
        return status

    def test_stop_is_kept_by_address_and_told_to_every_customer_who_has_it(self):
        self.customer(8, phone="+12125550107", email="bob@example.com")
        status, body = self.inbound("Stop")
        self.assertEqual((200, "<Response/>"), (status, body))
        self.assertEqual("sms +12125550107 opted_out stop",
                         self.sql("select concat_ws(' ', channel, address, kind, source) from opt_outs"))
        self.assertEqual("customer_opted_out 7, customer_opted_out 8, customer_replied 7, "
                         "customer_replied 8", self.arrivals())
        payload = json.loads(self.sql("select payload from arrivals where type = 'customer_replied' "
                                      "and entity_id = '7'"))
        self.assertEqual(("Ann Lee", "Stop", "sms", "+12125550107"), (
            payload["customer"]["name"], payload["reply"]["text"], payload["reply"]["channel"],
            payload["reply"]["phone"]))

    def test_a_refusal_in_free_words_counts(self):
        self.inbound("Please stop texting me!!")
        self.assertEqual("words", self.sql("select source from opt_outs"))

    def test_start_allows_again(self):
        self.inbound("STOP")
        self.inbound("START")
        self.assertEqual("0", self.sql("select count(*) from opt_outs"))

    def test_advanced_opt_out_is_believed(self):
        self.inbound("alto", OptOutType="STOP")
        self.assertEqual("1", self.sql("select count(*) from opt_outs"))

    def test_a_replayed_delivery_is_answered_and_changes_nothing(self):
        for _ in range(3):
            self.assertEqual(200, self.inbound("Hello", sid="SMsame")[0])
        self.assertEqual("customer_replied 7", self.arrivals())
        key = self.message()
        self.status(key, "failed", ErrorCode="30003")
        self.sql("delete from arrivals")
        self.status(key, "failed", ErrorCode="30003")
        self.assertEqual("", self.arrivals())

    def test_an_unknown_number_is_told_by_its_number(self):
        self.inbound("Who is this?", number="+19175550000")
        self.assertEqual("customer_replied +19175550000", self.arrivals())

    def test_bytes_that_are_no_text_are_taken(self):
        fields = {"MessageSid": "SM1", "From": "+12125550107", "Body": "a\x01b\U0001f600"}
        self.assertEqual(200, self.driver.twilio(INBOUND, fields)[0])

    def event(self, kind, **more):
        return dict({"email": "Ann@Example.com", "event": kind, "timestamp": int(time.time()),
                     "sg_event_id": uuid.uuid4().hex, "sg_message_id": "Pxx.filter1.2"}, **more)

    def test_mail_events_settle_and_move_forward(self):
        key = self.message("in_doubt", "email")
        delivered = self.event("delivered", moonwright_id=key)
        self.assertEqual(200, self.mail([delivered, self.event("processed", moonwright_id=key)]))
        self.assertEqual("sent delivered callback Pxx", self.sql(
            "select concat_ws(' ', state, status, settled_by, provider_id) from messaging_log"))
        self.assertEqual(200, self.mail([delivered]))

    def test_unsubscribe_and_spam_reports_opt_out(self):
        for kind in ("unsubscribe", "spamreport", "group_unsubscribe"):
            self.sql("delete from opt_outs; delete from arrivals")
            self.assertEqual(200, self.mail([self.event(kind)]))
            self.assertEqual("email ann@example.com opted_out", self.sql(
                "select concat_ws(' ', channel, address, kind) from opt_outs"))
            self.assertEqual("customer_opted_out 7", self.arrivals())

    def test_a_bounce_is_undeliverable_and_a_failure(self):
        key = self.message("sent", "email")
        self.mail([self.event("bounce", moonwright_id=key, type="bounce", reason="550 no such user")])
        self.assertEqual("undeliverable", self.sql("select kind from opt_outs"))
        self.assertEqual("message_failed 7", self.arrivals())

    def test_a_stale_delivery_changes_nothing(self):
        self.assertEqual(403, self.mail([self.event("unsubscribe")], at=time.time() - 3600))
        self.nothing_changed()

    def test_events_beside_wrong_ones_count(self):
        self.assertEqual(200, self.mail([7, None, {"event": "x"}, self.event("unsubscribe")]))
        self.assertEqual("1", self.sql("select count(*) from opt_outs"))

    def test_without_a_secret_there_is_no_receiver(self):
        self.driver.end()
        self.settings = {"TWILIO_AUTH_TOKEN": None}
        self.driver = self.start()
        self.assertEqual(404, self.status(self.message(), "sent"))
        self.assertEqual(404, self.mail([self.event("unsubscribe")]))
        self.nothing_changed()

    def test_a_delivery_that_was_not_written_is_asked_for_again(self):
        self.sql("alter table opt_outs rename to gone")
        self.assertEqual(503, self.inbound("STOP", sid="SMx")[0])
        self.sql("alter table gone rename to opt_outs")
        self.assertEqual("0", self.sql("select count(*) from webhook_deliveries"))
        self.assertEqual(200, self.inbound("STOP", sid="SMx")[0])
        self.assertEqual("1", self.sql("select count(*) from opt_outs"))


if __name__ == "__main__":
    unittest.main(verbosity=1)
