"""What an author says about tries: how many, how long one takes, what counts when nobody knows."""
import os
import sys
import time
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from outbound import OutboundTest  # noqa: E402

LENDER = """return actions {
  apply = { effect = "once", in_doubt = "drop", args = {}, run = function(a, key)
    return http.post { url = "%(url)s/apply", json = { reference = key } }.json
  end },
  rate = { effect = "read", args = {}, run = function()
    return http.get { url = "%(url)s/rate" }.json
  end },
}"""


class TriesTest(OutboundTest):
    settings = {"INDOUBT_EMAIL_MS": "100", "INDOUBT_GHL_MS": "100"}

    def setUp(self):
        super().setUp()
        self.ann = self.customer()
        self.lender = self.vendor(lambda _: (200, {}, {"rate": 5}))
        self.workflows = self.make_workflows()
        os.mkdir(os.path.join(self.workflows, "actions"))
        with open(os.path.join(self.workflows, "actions", "lender.lua"), "w") as f:
            f.write(LENDER % {"url": self.lender.url})
        self.driver = self.start(MOONWRIGHT_HTTP_HOSTS=self.lender.url.rpartition("/")[2])

    def run_action(self, name, args, options, instance=None):
        return self.driver.run(name, args, options=options, event={"customer": self.ann},
                               due=self.due(), instance=instance or str(uuid.uuid4()))

    def text(self, **options):
        return self.run_action("sms.send", {"to": self.ann, "text": "Hi"}, options)

    def test_a_text_is_tried_as_often_as_the_author_says(self):
        busy = (429, {}, {"code": 20429, "message": "busy"})
        self.twilio.plan = [busy] * 9
        answer = self.text(retries=2)
        self.assertEqual(("failed", "unavailable", 3), (
            answer["verdict"], answer["value"]["code"], answer["value"]["attempts"]), answer)
        self.assertEqual(3, self.twilio.count("POST"))

    def test_without_retries_there_is_one_try(self):
        self.twilio.plan = [(429, {}, {"code": 20429, "message": "busy"})]
        self.assertEqual(1, self.text(retries=0)["value"]["attempts"])
        self.assertEqual(1, self.twilio.count("POST"))

    def test_a_call_is_tried_as_often_as_the_author_says(self):
        self.lender.plan = [(500, {}, "")] * 9
        answer = self.run_action("lender.rate", {}, {"retries": 1})
        self.assertEqual(("unavailable", 2), (answer["value"]["code"], answer["value"]["attempts"]))
        self.assertEqual(2, self.lender.count("GET"))

    def test_a_credential_that_an_error_page_repeats_is_not_kept(self):
        secret = "SG.a-secret-that-comes-back"
        self.sendgrid.plan = [(400, {}, {"errors": [{"message": "bad key " + secret}]})]
        self.lender.plan = [(400, {}, "you sent " + secret + " " + "x" * 190 + secret)]
        self.driver.end()
        sendgrid, lender = self.sendgrid, self.lender
        self.driver = self.start(MOONWRIGHT_HTTP_HOSTS=lender.url.rpartition("/")[2], SENDGRID_API_KEY=secret,
                                 SENDGRID_BASE_URL=sendgrid.url)
        answer = self.run_action("lender.apply", {}, {"retries": 0})
        self.assertIn("you sent ***", answer["text"])
        mail = self.run_action("email.send", {"to": self.ann, "subject": "Hi", "text": "Hi"}, {"retries": 0})
        self.assertIn("bad key ***", mail["text"])
        kept = self.sql("select coalesce(response, '') || coalesce(error_message, '') from outbound_log "
                        "union all select coalesce(error_message, '') from messaging_log")
        self.assertIn("***", kept)
        for text in (kept, answer["text"], mail["text"]):
            self.assertNotIn("SG.a-s", text)

    def test_a_name_that_leads_into_our_own_network_is_refused_at_once(self):
        port = self.lender.url.rpartition(":")[2]
        with open(os.path.join(self.workflows, "actions", "lender.lua"), "w") as f:
            f.write(LENDER % {"url": "http://localhost:" + port})
        self.driver.end()
        self.driver = self.start(MOONWRIGHT_HTTP_HOSTS="localhost:" + port)
        answer = self.run_action("lender.rate", {}, {})
        self.assertEqual(("failed", "refused", 1), (answer["verdict"], answer["value"]["code"],
                                                    answer["value"]["attempts"]), answer)
        self.assertIn("an address that is not public", answer["value"]["message"])
        self.assertEqual(0, self.lender.count("GET"))

    def test_a_try_ends_after_the_authors_time(self):
        self.lender.plan = ["hang", "hang"]
        begin = time.time()
        answer = self.run_action("lender.rate", {}, {"retries": 1, "timeout": "1s"})
        self.assertEqual("failed", answer["verdict"], answer)
        self.assertLess(time.time() - begin, 25)  # the vendor takes a minute

    def test_a_text_without_an_answer_in_time_is_in_doubt(self):
        self.twilio.plan = ["hang"]
        begin = time.time()
        answer = self.text(timeout="1s")
        self.assertEqual(("suspended", "send_in_doubt"), (answer["verdict"], answer["text"]))
        self.assertLess(time.time() - begin, 25)  # the vendor takes a minute

    def mail_in_doubt(self, verdict):
        instance = str(uuid.uuid4())
        self.sql("delete from message_slots")
        self.sendgrid.plan = [(500, {}, "")]
        mail = {"to": self.ann, "subject": "S", "text": "T"}
        self.assertEqual("suspended", self.run_action("email.send", mail, {"in_doubt": verdict},
                                                      instance)["verdict"])
        time.sleep(0.2)
        answer = self.run_action("email.send", mail, {"in_doubt": verdict}, instance)
        self.assertEqual("done", answer["verdict"], answer)
        self.assertEqual([], self.sendgrid.plan)
        return answer["value"]

    def test_a_mail_in_doubt_counts_as_the_author_said(self):
        self.assertEqual("sent", self.mail_in_doubt("sent")["status"])
        value = self.mail_in_doubt("drop")
        self.assertEqual(("suppressed", "dropped"), (value["status"], value["reason"]))
        self.assertEqual("in_doubt in_doubt", self.sql(
            "select string_agg(settled_by, ' ') from messaging_log"))
        self.assertEqual(2, self.sendgrid.count("POST"))

    def test_a_call_in_doubt_counts_as_its_action_or_its_author_said(self):
        for options, verdict in (({}, "failed"), ({"in_doubt": "sent"}, "done")):
            instance = str(uuid.uuid4())
            self.lender.plan = ["drop"]
            self.assertEqual("suspended", self.run_action("lender.apply", {}, options,
                                                          instance)["verdict"])
            time.sleep(0.2)
            answer = self.run_action("lender.apply", {}, options, instance)
            self.assertEqual(verdict, answer["verdict"], answer)
        self.assertEqual(2, self.lender.count("POST"))


if __name__ == "__main__":
    unittest.main()
