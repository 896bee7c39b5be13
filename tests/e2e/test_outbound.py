"""Texts and e-mails against vendors that fail: what is sent once, what is in doubt, what is held."""
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from database import until  # noqa: E402
from outbound import Driver, OutboundTest, literal  # noqa: E402
from pg_proxy import Proxy  # noqa: E402

TEXT = {"text": "Hi {customer.first_name or there}, any questions?"}


class SendTest(OutboundTest):
    def setUp(self):
        super().setUp()
        self.ann = self.customer()
        self.driver = self.start()
        self.event = {"name": "estimate_created", "customer": self.ann}

    def text(self, **more):
        more.setdefault("due", self.due())
        more.setdefault("event", self.event)
        return self.driver.run("sms.send", dict(TEXT, to=self.ann), **more)

    def states(self):
        return self.sql("select string_agg(state || coalesce(':' || rule, ''), ' ' order by attempt, "
                        "intended_at) from messaging_log")

    def test_text_is_sent_once_with_our_id_in_its_callback(self):
        answer = self.text()
        self.assertEqual("done", answer["verdict"], answer)
        self.assertEqual("sent", answer["value"]["status"])
        self.assertEqual("sms", answer["value"]["channel"])
        form = self.twilio.form()
        self.assertEqual(("+12125550107", "Hi Ann, any questions?", "+18005550100"),
                         (form["To"], form["Body"], form["From"]))
        row = self.sql("select id from messaging_log")
        self.assertEqual("https://moonwright.example/hooks/twilio/status?m=" + row,
                         form["StatusCallback"])
        self.assertEqual("sent", self.states())

    def test_a_step_that_runs_again_gets_what_was_recorded(self):
        instance = str(uuid.uuid4())
        first = self.text(instance=instance)
        again = self.text(instance=instance)
        self.assertEqual(first["value"], again["value"])
        self.assertEqual(1, self.twilio.count("POST"))

    def test_who_said_no_during_a_vendors_pause_is_not_written_to(self):
        self.sql("update provider_limits set paused_until = clock_timestamp() + interval '2 s'"
                 " where provider = 'twilio'")
        waiting, answers = self.driver.start("sms.send", dict(TEXT, to=self.ann), due=self.due(),
                                             event=self.event)
        time.sleep(0.7)
        self.sql("update st_contacts set do_not_text = true where customer_id = 7")
        waiting.join(20)
        self.assertEqual("suppressed", answers[0]["value"]["status"], answers)
        self.assertEqual(0, self.twilio.count("POST"))

    def test_email_has_subject_and_our_id(self):
        answer = self.driver.run("email.send", {"to": self.ann, "subject": "Hello {to.name}\nBcc: x",
                                                "text": "Good day"}, event=self.event,
                                 due=self.due())
        self.assertEqual("sent", answer["value"]["status"], answer)
        body = json.loads(self.sendgrid.requests[0]["body"])
        self.assertEqual("Hello Ann Lee Bcc: x", body["subject"])
        self.assertEqual([{"email": "ann@example.com"}], body["personalizations"][0]["to"])
        self.assertEqual(self.sql("select id from messaging_log"),
                         body["custom_args"]["moonwright_id"])
        self.assertTrue(self.sql("select provider_id from messaging_log").startswith("mail-"))

    def test_shadow_sends_nothing_and_looks_the_same(self):
        answer = self.text(mode="shadow")
        self.assertEqual(("sent", True), (answer["value"]["status"], answer["value"]["shadow"]))
        self.assertTrue(answer["value"]["id"].startswith("shadow:"))
        self.assertEqual(0, self.twilio.count("POST"))
        self.assertEqual("sent", self.text()["value"]["status"])  # the live cap is untouched
        self.assertEqual(1, self.twilio.count("POST"))

    def test_a_worker_that_is_not_live_never_sends(self):
        self.driver.end()
        self.driver = self.start(MOONWRIGHT_LIVE="0", MOONWRIGHT_TEST_RECIPIENTS="+12125550107")
        self.assertTrue(self.text()["value"]["shadow"])
        self.sql("delete from message_slots")
        self.assertTrue(self.text(mode="shadow")["value"]["shadow"])
        self.assertEqual(0, self.twilio.count("POST"))

    def test_numbers_for_tests_get_texts_of_shadow_instances(self):
        self.driver.end()
        self.driver = self.start(MOONWRIGHT_TEST_RECIPIENTS="+12125550107, x@example.com")
        self.assertNotIn("shadow", self.text(mode="shadow")["value"])
        self.assertEqual(1, self.twilio.count("POST"))

    def test_a_refusal_is_an_error_of_the_action(self):
        self.twilio.plan = [(401, {}, {"code": 20003, "message": "Authenticate", "status": 401})]
        answer = self.text()
        self.assertEqual("failed", answer["verdict"])
        self.assertEqual(("sms.send", "refused", 20003, 1),
                         tuple(answer["value"][k] for k in ("action", "code", "status", "attempts")))
        self.assertEqual("refused", self.states())

    def test_too_many_requests_are_waited_for_and_sent_once(self):
        self.twilio.plan = [(429, {"Retry-After": "1"}, {"code": 20429, "message": "busy"})]
        begin = time.time()
        self.assertEqual("sent", self.text()["value"]["status"])
        self.assertGreater(time.time() - begin, 0.9)
        self.assertEqual("refused sent", self.states())
        self.assertEqual(2, self.twilio.count("POST"))

    def test_a_number_that_opted_out_at_the_carrier_is_never_asked_again(self):
        self.twilio.plan = [(400, {}, {"code": 21610, "status": 400,
                                       "message": "Attempt to send to unsubscribed recipient"})]
        answer = self.text()
        self.assertEqual(("suppressed", "opted_out"),
                         (answer["value"]["status"], answer["value"]["reason"]))
        self.assertEqual("opted_out", self.text()["value"]["reason"])
        self.assertEqual(1, self.twilio.count("POST"))
        self.assertEqual("sms +12125550107 opted_out carrier",
                         self.sql("select concat_ws(' ', channel, address, kind, source) from opt_outs"))

    def test_a_landline_falls_back_to_email(self):
        self.twilio.plan = [(400, {}, {"code": 21614, "message": "not a mobile", "status": 400})]
        answer = self.driver.run("sms.send", dict(TEXT, to=self.ann, fallback="email",
                                                  subject="A question"),
                                 event=self.event, due=self.due())
        self.assertEqual(("sent", "email"), (answer["value"]["status"], answer["value"]["channel"]))
        self.assertEqual(1, self.sendgrid.count("POST"))

    def test_a_reused_connection_that_drops_after_the_post_sends_once(self):
        self.sql("insert into settings values ('cap_marketing_sms', '9')")
        self.assertEqual("sent", self.text()["value"]["status"])
        self.twilio.plan = ["drop"]
        answer = self.text()
        self.assertEqual(("suspended", "send_in_doubt"), (answer["verdict"], answer["text"]))
        self.assertEqual(2, self.twilio.count("POST"))
        self.assertEqual("sent in_doubt", self.sql(
            "select string_agg(state, ' ' order by intended_at) from messaging_log"))

    def test_an_error_of_the_server_is_in_doubt_and_not_sent_again(self):
        for status in (500, 503, 302):
            self.twilio.plan = [(status, {}, "oops")]
            instance = str(uuid.uuid4())
            self.sql("delete from message_slots")
            self.assertEqual("suspended", self.text(instance=instance)["verdict"])
            self.assertEqual("suspended", self.text(instance=instance)["verdict"])
        self.assertEqual(3, self.twilio.count("POST"))

    def test_an_answer_that_cannot_be_read_is_in_doubt(self):
        self.twilio.plan = [(201, {}, b"\xff\xfe not json".decode("latin1"))]
        self.assertEqual("suspended", self.text()["verdict"])

    def in_doubt(self, instance):
        self.twilio.plan = ["drop"]
        self.assertEqual("suspended", self.text(instance=instance)["verdict"])
        return self.sql("select id from messaging_log where instance_id = '%s'" % instance)

    def test_in_doubt_is_settled_by_a_callback_before_any_look(self):
        instance = str(uuid.uuid4())
        row = self.in_doubt(instance)
        status, _ = self.driver.twilio("/hooks/twilio/status", {
            "MessageSid": "SM77", "MessageStatus": "sent", "To": "+12125550107"}, "m=" + row)
        self.assertEqual(200, status)
        time.sleep(0.4)
        self.assertEqual("sent", self.text(instance=instance)["value"]["status"])
        self.assertEqual(1, self.twilio.count("POST"))
        self.assertEqual(0, self.twilio.count("GET"))
        self.assertEqual("callback SM77", self.sql(
            "select settled_by || ' ' || provider_id from messaging_log"))

    def listed(self, *messages):
        return lambda request: (200, {}, {"messages": list(messages), "next_page_uri": None})

    def message(self, **more):
        return dict({"sid": "SM9", "to": "+12125550107", "body": "Hi Ann, any questions?",
                     "direction": "outbound-api", "date_created": self.sql(
                         "select to_char(business_now(), 'Dy, DD Mon YYYY HH24:MI:SS +0000')")}, **more)

    def test_in_doubt_is_not_looked_for_at_once(self):
        self.driver.end()
        self.driver = self.start(INDOUBT_LOOK_MS="20000")
        instance = str(uuid.uuid4())
        self.in_doubt(instance)
        self.assertEqual("suspended", self.text(instance=instance)["verdict"])
        self.assertEqual(0, self.twilio.count("GET"))

    def test_a_wrong_clock_of_ours_delays_nothing(self):
        fake = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
        if not os.path.exists(fake) or "ASAN_OPTIONS" in os.environ:
            self.skipTest("faketime is not installed, or a sanitizer is in its place")
        self.driver.end()
        self.driver = self.start(LD_PRELOAD=fake, FAKETIME="+9h", FAKETIME_DONT_FAKE_MONOTONIC="1", NO_FAKE_STAT="1")
        instance = str(uuid.uuid4())
        self.in_doubt(instance)
        time.sleep(0.4)
        answer = self.text(instance=instance)
        self.assertEqual(1, self.twilio.count("GET"))
        self.assertEqual("t", self.sql("select timestamptz '%s' between now() and now() + interval '1 min'"
                                       % answer["until"]), answer)

    def test_an_intent_whose_connection_was_cut_while_it_was_written_is_one(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        host = dict(field.split("=", 1) for field in self.database.url.split())["host"]
        proxy = Proxy(folder, os.path.join(host, ".s.PGSQL.5432"))
        self.addCleanup(proxy.close)
        for table in ("messaging_log", "outbound_log"):
            self.sql("create sequence {0}_slow; create function {0}_slow() returns trigger language plpgsql as $$ begin"
                     " if nextval('{0}_slow') = 1 then perform pg_sleep(2); end if; return null; end $$; create trigger"
                     " slow after insert on {0} for each row execute function {0}_slow()".format(table))
        driver = Driver(self.database.url.replace(host, folder), self.log_path, self.environment(), self.workflows)
        self.addCleanup(driver.end)
        self.driver.end()
        self.driver = driver
        thread, box = driver.start("sms.send", dict(TEXT, to=self.ann), event=self.event, due=self.due())
        until(lambda: self.sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'"), "1", 10, "slow")
        proxy.drop()
        thread.join(30)
        self.assertEqual("done", box[0]["verdict"], box)
        self.assertEqual("sent", box[0]["value"]["status"])
        self.assertEqual("sent", self.states())
        self.assertEqual(1, self.twilio.count("POST"))

    def test_in_doubt_is_found_at_the_vendor(self):
        instance = str(uuid.uuid4())
        self.in_doubt(instance)
        time.sleep(0.4)
        self.twilio.plan = [self.listed(self.message())]
        self.assertEqual("sent", self.text(instance=instance)["value"]["status"])
        self.assertEqual(1, self.twilio.count("POST"))
        self.assertEqual("look-up SM9", self.sql(
            "select settled_by || ' ' || provider_id from messaging_log"))

    def test_another_workflows_equal_text_is_not_taken_for_ours(self):
        self.sql("insert into settings values ('cap_marketing_sms', '9')")
        self.text()
        sid = self.sql("select provider_id from messaging_log")
        instance = str(uuid.uuid4())
        self.in_doubt(instance)
        time.sleep(0.4)
        self.twilio.plan = [self.listed(self.message(sid=sid))]
        self.assertEqual("suspended", self.text(instance=instance)["verdict"])

    def test_in_doubt_is_sent_again_only_after_two_empty_looks(self):
        instance = str(uuid.uuid4())
        self.in_doubt(instance)
        time.sleep(0.4)
        self.assertEqual("suspended", self.text(instance=instance)["verdict"])
        self.assertEqual(1, self.twilio.count("GET"))
        self.assertEqual("suspended", self.text(instance=instance)["verdict"])  # too early
        self.assertEqual(1, self.twilio.count("POST"))
        time.sleep(1.0)
        answer = self.text(instance=instance)
        self.assertEqual("sent", answer["value"]["status"], answer)
        self.assertEqual(2, self.twilio.count("POST"))
        self.assertEqual("not_sent sent", self.states())

    def test_a_message_that_is_not_quite_ours_holds_the_step(self):
        instance = str(uuid.uuid4())
        row = self.in_doubt(instance)
        time.sleep(0.4)
        self.twilio.plan = [self.listed(self.message(body="Sent from your trial - Hi Ann"))]
        answer = self.text(instance=instance)
        self.assertEqual(("held", "send_in_doubt", row),
                         (answer["verdict"], answer["value"]["code"], answer["value"]["id"]))
        self.assertEqual("held", self.text(instance=instance)["verdict"])
        self.sql("select settle_send('%s', 'not_sent')" % row)
        self.assertEqual("sent", self.text(instance=instance)["value"]["status"])
        self.assertEqual(2, self.twilio.count("POST"))

    def test_a_person_drops_a_held_send(self):
        instance = str(uuid.uuid4())
        row = self.in_doubt(instance)
        self.sql("select settle_send('%s', 'drop')" % row)
        answer = self.text(instance=instance)
        self.assertEqual(("suppressed", "dropped"),
                         (answer["value"]["status"], answer["value"]["reason"]))
        self.assertEqual(1, self.twilio.count("POST"))

    def test_a_late_callback_frees_a_held_send(self):
        instance = str(uuid.uuid4())
        row = self.in_doubt(instance)
        self.sql("select outbound_hold('%s', 'in_doubt')" % row)
        self.driver.twilio("/hooks/twilio/status", {"MessageSid": "SM5", "MessageStatus": "delivered",
                                                    "To": "x"}, "m=" + row)
        self.assertEqual("sent", self.text(instance=instance)["value"]["status"])

    def test_an_email_in_doubt_waits_for_its_event_and_is_held(self):
        instance = str(uuid.uuid4())
        self.sendgrid.plan = [(500, {}, "")]
        mail = {"to": self.ann, "subject": "S", "text": "T"}
        more = {"event": self.event, "due": self.due(), "instance": instance}
        self.assertEqual("suspended", self.driver.run("email.send", mail, **more)["verdict"])
        time.sleep(0.7)
        self.assertEqual("held", self.driver.run("email.send", mail, **more)["verdict"])
        self.assertEqual(1, self.sendgrid.count("POST"))

    def test_a_worker_killed_between_intent_and_outcome_leaves_a_doubt(self):
        self.twilio.plan = ["hang"]
        instance = str(uuid.uuid4())
        self.driver.start("sms.send", dict(TEXT, to=self.ann), instance=instance, due=self.due(),
                          event=self.event)
        self.wait("select count(*) from messaging_log where state = 'intent'", "1")
        until(lambda: self.twilio.count("POST"), 1)
        self.driver.kill()
        old = self.twilio
        self.driver = self.start()
        self.assertEqual("suspended", self.text(instance=instance)["verdict"])
        self.assertEqual((1, 0), (old.count("POST"), self.twilio.count("POST")))

    def test_a_cancelled_action_still_writes_what_became_of_its_text(self):
        go = threading.Event()

        def slow(_):
            go.wait(60)
            return 201, {}, {"sid": "SMslow"}
        self.twilio.plan = [slow]
        self.driver.start("sms.send", dict(TEXT, to=self.ann), due=self.due(), event=self.event)
        until(lambda: self.twilio.count("POST"), 1)
        self.driver.post("/cancel", "")
        go.set()
        self.wait("select state || provider_id from messaging_log", "sentSMslow")

    def test_a_lost_lease_sends_nothing(self):
        self.sql("delete from workflow_workers")
        answer = self.text()
        self.assertEqual("lost", answer["verdict"])
        self.assertEqual(0, self.twilio.count("POST"))

    def test_nothing_leaves_when_the_lease_may_run_out_on_the_way(self):
        driver = self.start(WORKER_LEASE_MS="6000")
        self.sql("alter function worker_renew rename to really_renew")
        time.sleep(4.4)  # two thirds of the lease: the database still takes our intents
        answer = driver.run("sms.send", dict(TEXT, to=self.ann), due=self.due(), event=self.event)
        self.assertEqual("lost", answer["verdict"])
        self.assertEqual(0, self.twilio.count("POST"))
        self.assertIn("refused", self.states())

    def test_an_intent_that_got_old_on_the_way_leaves_as_a_new_one(self):
        _, answer = self.overlap("select lock_gate()", self.text, 5.3)
        self.assertEqual("sent", answer["value"]["status"], answer)
        self.assertEqual("refused sent", self.states())
        self.assertEqual(1, self.twilio.count("POST"))

    def test_what_a_vendor_said_is_written_though_the_lease_is_lost(self):
        go = threading.Event()

        def slow(_):
            go.wait(60)
            return 201, {}, {"sid": "SMslow"}
        self.twilio.plan = [slow]
        self.driver.start("sms.send", dict(TEXT, to=self.ann), due=self.due(), event=self.event)
        self.wait("select count(*) from messaging_log where state = 'intent'", "1")
        self.sql("delete from workflow_workers")
        go.set()
        self.wait("select state || provider_id from messaging_log", "sentSMslow")

    def test_a_stop_that_waits_to_be_judged_refuses_the_intent(self):
        self.sql("create or replace function stop_pending(instance uuid) returns boolean "
                 "language sql volatile as 'select true'")
        self.assertEqual("stopping", self.text()["verdict"])
        self.assertEqual("0", self.sql("select count(*) from messaging_log"))

    def test_an_intent_waits_for_events_that_are_being_settled(self):
        # The event's unit is open when the text wants to leave; its stop is seen.
        self.sql("create table stops (x int); create or replace function stop_pending(instance uuid) "
                 "returns boolean language sql volatile as 'select exists (select from stops)'")
        _, answer = self.overlap("select lock_gate(); insert into stops values (1)", self.text)
        self.assertEqual("stopping", answer["verdict"])

    def test_a_missing_value_holds_the_step_with_its_reason(self):
        answer = self.driver.run("sms.send", {"to": self.ann, "text": "About {estimate.name}"},
                                 event=self.event, due=self.due())
        self.assertEqual("held", answer["verdict"])
        self.assertEqual("template_error", answer["value"]["code"])
        self.assertEqual("sms.send: text: estimate.name is missing; write {estimate.name or …}",
                         answer["value"]["message"])

    def test_staff_are_reached_by_role_at_any_hour(self):
        self.sql("update clock set business_origin = '2026-06-01 05:00+00'")
        answer = self.driver.run("email.send", {"to": "office", "subject": "S", "text": "Hi {to.name}"},
                                 event=self.event, due=self.due())
        self.assertEqual("sent", answer["value"]["status"], answer)
        self.assertEqual("office@brightair.example", self.sql("select address from messaging_log"))

    def test_postponed_says_when_to_ask_again(self):
        self.sql("update clock set business_origin = '2026-06-01 05:00+00'")
        answer = self.text()
        self.assertEqual(("suspended", "quiet_hours"), (answer["verdict"], answer["text"]))
        self.assertEqual("2026-06-01T13:00:00Z", self.sql(
            "select utc(business_of(%s))" % literal(answer["until"])))

    def test_an_unknown_field_is_named(self):
        answer = self.driver.run("sms.send", {"to": self.ann, "txt": "x"}, due=self.due())
        self.assertEqual("held", answer["verdict"])
        self.assertIn('sms.send: unknown field "txt"; did you mean "text"?', answer["value"]["message"])

    def test_reload_takes_new_templates_and_refuses_a_broken_company(self):
        path = os.path.join(self.workflows, "templates", "fresh.txt")
        with open(path, "w") as f:
            f.write("New words")
        self.assertEqual('{"error":""}', self.driver.post("/reload", "")[1])
        answer = self.driver.run("sms.send", {"to": self.ann, "template": "fresh"}, due=self.due())
        self.assertEqual("sent", answer["value"]["status"], answer)
        with open(os.path.join(self.workflows, "company.lua"), "w") as f:
            f.write("return company { nam = 1 }")
        self.assertIn("did you mean", self.driver.post("/reload", "")[1])
        self.sql("delete from message_slots")
        answer = self.driver.run("sms.send", {"to": self.ann, "template": "fresh"}, due=self.due())
        self.assertEqual("sent", answer["value"]["status"], answer)

    def test_tokens_limit_what_leaves(self):
        self.sql("insert into settings values ('cap_marketing_sms', '99')")
        self.sql("update provider_limits set capacity = 5, refill = 5, tokens = 5 "
                 "where provider = 'twilio'")
        began = time.time()
        threads = [self.driver.start("sms.send", dict(TEXT, to=self.ann), due=self.due(),
                                     event=self.event)[0] for _ in range(15)]
        for thread in threads:
            thread.join(60)
        times = sorted(r["at"] for r in self.twilio.requests if r["method"] == "POST")
        self.assertEqual(15, len(times))
        for n, at in enumerate(times):
            self.assertLessEqual(n + 1, 5 + 5 * (at - began) + 1, "more than capacity and refill")

    def test_those_who_wait_for_a_vendor_leave_room_for_others(self):
        self.sql("update provider_limits set capacity = 1, refill = 0.01, tokens = 0, refilled_at = "
                 "clock_timestamp() where provider = 'twilio'")
        waiting = [self.driver.start("sms.send", dict(TEXT, to=self.ann), due=self.due(),
                                     event=self.event) for _ in range(260)]
        deadline = time.time() + 60
        while sum(len(box) for _, box in waiting) < 60 and time.time() < deadline:
            time.sleep(0.05)
        answers = [box[0] for _, box in waiting if box]
        self.assertEqual({"suspended"}, {a["verdict"] for a in answers})
        self.assertEqual(60, len(answers), "as many as are over the crowd")
        self.assertEqual("0", self.sql("select count(*) from messaging_log"), "nothing was intended")
        self.driver.kill()
        for thread, _ in waiting:
            thread.join(60)


if __name__ == "__main__":
    unittest.main(verbosity=1)
