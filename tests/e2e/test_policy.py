"""Every verdict of the policy that stands between a script and a customer, in the database alone."""
import json
import os
import sys
import threading
import time
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from outbound import OutboundTest, literal  # noqa: E402

ANN = {"customer_id": 7, "phone": "+12125550107", "email": "ann@example.com", "state": "NY",
       "zone": "America/New_York", "marketing_consent": True, "stale_seconds": 5,
       "backlog_seconds": None, "do_not_service": False, "do_not_text": False, "do_not_mail": False}


class PolicyTest(OutboundTest):
    def intent(self, recipient=None, **more):
        message = dict({
            "id": str(uuid.uuid4()), "instance": str(uuid.uuid4()), "run": 1, "step": "/1",
            "call": "sms", "workflow": "w", "mode": "live", "live": True, "class": "marketing",
            "channel": "sms", "customer_id": 7, "text": "hi", "due": self.due(),
            "recipient": dict(ANN, **(recipient or {}))}, **more)
        return json.loads(self.sql("select message_intent(%s::json)" % literal(message)))

    def verdict(self, recipient=None, **more):
        v = self.intent(recipient, **more)
        return v["state"] if v["rule"] is None else v["state"] + " " + v["rule"]

    def at(self, business):
        """Sets the business clock, standing nearly still."""
        self.sql("update clock set business_origin = '%s', real_origin = clock_timestamp()" % business)

    def until(self, v):
        return self.sql("select utc(business_of(%s))" % literal(v["until"]))

    def test_all_is_well(self):
        self.assertEqual("intent", self.verdict())

    def test_no_address(self):
        self.assertEqual("suppressed no_address", self.verdict({"phone": None}))
        self.assertEqual("suppressed no_address", self.verdict({"phone": "123"}))
        self.assertEqual("suppressed no_address", self.verdict({"email": None}, channel="email"))
        self.assertEqual(["no_address"] * 3,
                         self.sql("select rule from messaging_log").split())

    def test_the_address_is_that_of_the_moment_not_of_the_event(self):
        v = self.intent({"phone": "+12125550108"}, address="+12125550107")
        self.assertEqual("+12125550108", v["address"])
        self.assertEqual("suppressed no_address", self.verdict({"phone": None}, address="+12125550107"))

    def test_opt_out_is_by_address_and_stops_both_classes(self):
        self.sql("select opt_out('sms', '+12125550107', 'opted_out', 'stop', 'STOP')")
        self.assertEqual("suppressed opted_out", self.verdict())
        self.assertEqual("suppressed opted_out", self.verdict(**{"class": "transactional"}))
        self.assertEqual("suppressed opted_out", self.verdict({"customer_id": 8,
                                                               "phone": "(212) 555-0107"}))
        self.assertEqual("intent", self.verdict(channel="email", call="email"))

    def test_servicetitans_flags(self):
        self.assertEqual("suppressed opted_out", self.verdict({"do_not_text": True}))
        self.assertEqual("suppressed opted_out", self.verdict({"do_not_mail": True}, channel="email"))
        self.assertEqual("suppressed do_not_service", self.verdict({"do_not_service": True}))

    def test_marketing_needs_recorded_consent(self):
        self.assertEqual("suppressed no_consent", self.verdict({"marketing_consent": None}))
        self.assertEqual("suppressed no_consent", self.verdict({"marketing_consent": False}))
        self.assertEqual("intent", self.verdict({"marketing_consent": None},
                                                **{"class": "transactional"}))
        self.sql("insert into consents values ('sms', '+12125550107', true, 'form', now())")
        self.assertEqual("intent", self.verdict({"marketing_consent": None}))

    def test_a_refusal_of_marketing_counts_wherever_it_was_recorded(self):
        self.sql("insert into consents values ('sms', '+12125550107', true, 'form', now())")
        self.assertEqual("suppressed no_consent", self.verdict({"marketing_consent": False}))
        self.sql("update consents set granted = false")
        self.assertEqual("suppressed no_consent", self.verdict())

    def test_quiet_hours_of_both_classes(self):
        for business, kind, wanted in (
                ("2026-06-01 12:59:00+00", "marketing", "2026-06-01T13:00:00Z"),     # 8:59
                ("2026-06-02 00:00:00+00", "marketing", "2026-06-02T13:00:00Z"),     # 20:00
                ("2026-06-01 10:59:00+00", "transactional", "2026-06-01T11:00:00Z"),  # 6:59
                ("2026-06-02 01:00:00+00", "transactional", "2026-06-02T11:00:00Z")):  # 21:00
            self.at(business)
            v = self.intent(**{"class": kind})
            self.assertEqual(("postponed", "quiet_hours", wanted),
                             (v["state"], v["rule"], self.until(v)), business)
        self.at("2026-06-01 13:00:01+00")
        self.assertEqual("intent", self.verdict())

    def test_stricter_states_and_the_recipients_own_zone(self):
        self.at("2026-06-07 14:30:00+00")  # Sunday, 9:30 in Texas
        v = self.intent({"state": "TX", "zone": "America/Chicago"})
        self.assertEqual("2026-06-07T17:00:00Z", self.until(v))
        self.at("2026-06-01 15:30:00+00")  # 8:30 in California
        v = self.intent({"state": "CA", "zone": "America/Los_Angeles"})
        self.assertEqual("2026-06-01T16:00:00Z", self.until(v))
        self.at("2026-11-01 13:30:00+00")  # the clocks went back in the night: 8:30
        self.assertEqual("2026-11-01T14:00:00Z", self.until(self.intent()))

    def test_an_unknown_zone_is_allowed_where_it_is_day_everywhere(self):
        self.at("2026-06-01 15:00:00+00")
        v = self.intent({"zone": None, "state": None})
        self.assertEqual("2026-06-01T19:00:00Z", self.until(v))  # 9:00 in Honolulu
        self.at("2026-06-01 19:00:01+00")
        self.assertEqual("intent", self.verdict({"zone": None, "state": None}))

    def test_an_answer_within_the_hour_may_come_at_night(self):
        self.at("2026-06-02 03:00:00+00")
        self.sql("insert into inbound_messages values ('SM1', 'sms', '+12125550107', null, 'help', "
                 "business_now() - interval '30 min')")
        self.assertEqual("intent", self.verdict(**{"class": "transactional"}))
        self.assertEqual("postponed quiet_hours", self.verdict())

    def test_the_cap_moves_to_the_next_day(self):
        self.assertEqual("intent", self.verdict())
        v = self.intent()
        self.assertEqual(("postponed", "cap", "2026-06-02T13:00:00Z"),
                         (v["state"], v["rule"], self.until(v)))
        self.assertEqual("intent", self.verdict(**{"class": "transactional"}))
        self.assertEqual("intent", self.verdict(channel="email", call="email"))
        self.assertEqual("suppressed cap", self.verdict(not_after="2026-06-02T12:00:00Z"))
        self.at("2026-06-02 13:00:01+00")
        self.assertEqual("intent", self.verdict())

    def test_a_refused_text_gives_its_slot_back(self):
        v = self.intent()
        self.sql("select message_outcome('%s', 'refused', null, '500', 'no', false)" % v["id"])
        self.assertEqual("intent", self.verdict())

    def test_workers_side_by_side_never_pass_the_cap(self):
        self.sql("insert into settings values ('cap_marketing_sms', '2')")
        verdicts = []
        threads = [threading.Thread(target=lambda: verdicts.append(self.verdict()))
                   for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(["intent"] * 2 + ["postponed cap"] * 10, sorted(verdicts))

    def test_shadow_takes_no_slot_of_live_ones(self):
        self.assertEqual("sent", self.verdict(mode="shadow"))
        self.assertEqual("intent", self.verdict())
        self.assertEqual("postponed cap", self.verdict(mode="shadow"))

    def test_once_means_once_from_any_instance(self):
        self.assertEqual("intent", self.verdict(once="welcome"))
        self.assertEqual("suppressed already_sent", self.verdict(once="welcome"))
        self.assertEqual("intent", self.verdict({"customer_id": 8, "phone": "+12125550108"},
                                                once="welcome"))

    def test_once_is_free_again_when_it_was_refused(self):
        v = self.intent(once="welcome")
        self.sql("select message_outcome('%s', 'refused', null, '400', 'no', false)" % v["id"])
        self.assertEqual("intent", self.verdict(once="welcome"))

    def test_what_was_postponed_ends_with_its_instance(self):
        self.at("2026-06-02 02:00:00+00")
        call, worker = {"instance": str(uuid.uuid4())}, str(uuid.uuid4())
        self.assertEqual("postponed quiet_hours", self.verdict(**call))
        self.sql("insert into workflow_queue (instance_id, workflow_definition_id, worker, watched)"
                 " values ('%s', 1, '%s', true)" % (call["instance"], worker))
        self.sql("select finish('%s', array['%s'::uuid], '{}')" % (worker, call["instance"]))
        self.assertEqual("suppressed ended", self.sql("select state || ' ' || rule from messaging_log"))

    def test_too_late(self):
        self.assertEqual("suppressed too_late", self.verdict(not_after="2026-06-01T14:59:00Z"))
        self.at("2026-06-02 01:00:00+00")
        self.assertEqual("suppressed too_late", self.verdict(not_after="2026-06-02T12:00:00Z"))

    def test_stale_knowledge_waits(self):
        for recipient in ({"stale_seconds": 1801}, {"stale_seconds": None},
                          {"backlog_seconds": 1801}):
            v = self.intent(recipient)
            self.assertEqual("postponed stale", v["state"] + " " + v["rule"])
            seconds = float(self.sql("select extract(epoch from %s::timestamptz - now())"
                                     % literal(v["until"])))
            self.assertTrue(50 < seconds < 70, seconds)
        self.assertEqual("intent", self.verdict({"stale_seconds": 1799, "backlog_seconds": 1}))

    def test_replies_that_nobody_has_settled_for_long_make_knowledge_stale(self):
        self.sql("insert into arrivals (type, entity, entity_id, at, payload, arrived_at) values"
                 " ('customer_replied', 'customer', '7', now(), '{}', now() - interval '29 min')")
        self.assertEqual("intent", self.verdict())
        self.sql("update arrivals set arrived_at = now() - interval '31 min'")
        self.assertEqual("postponed stale", self.verdict(channel="email", call="email"))

    def test_after_a_standstill_of_the_sync_what_it_brought_is_settled_first(self):
        self.customer()
        known = "select coalesce(recipient(7) ->> 'catching_up', 'false')"
        change = ("insert into changes (entity, entity_id, new, noticed_at) values"
                  " ('estimate', '1', '{}', clock_timestamp() - interval '1 s')")
        finish = "select sync_finish(0, 'estimates', 'done', null)"
        self.sql(change + ";" + finish)
        self.assertEqual("false", self.sql(known))
        self.sql("update sync_cursors set completed_at = now() - interval '3 days';" + finish)
        self.assertEqual("true", self.sql(known))
        self.assertEqual("postponed stale", self.verdict({"catching_up": True}))
        self.sql("delete from changes;" + change.replace("- interval", "+ interval"))
        self.assertEqual("false", self.sql(known))

    def test_waiting_for_knowledge_is_a_delay(self):
        call = {"instance": str(uuid.uuid4()), "due": self.due()}
        self.assertEqual("postponed stale", self.verdict({"stale_seconds": None}, **call))
        for business in ("2026-06-02 14:00+00", "2026-06-02 16:00+00"):
            self.at(business)
            self.sql("update messaging_log set until = business_now() - interval '1 s'")
            self.assertEqual("postponed stale" if "14:00" in business else "held late",
                             self.verdict({"stale_seconds": None}, **call))

    def test_more_than_a_day_late_is_held_for_a_person(self):
        self.sql("update clock set business_origin = '2026-06-05 15:00+00', real_origin = "
                 "clock_timestamp()")
        v = self.intent(due="2026-06-04T14:00:00Z")
        self.assertEqual("held late", v["state"] + " " + v["rule"])
        self.assertEqual("intent", self.verdict(due="2026-06-04T16:00:00Z"))
        sent = self.sql("update messaging_log set state = 'sent' where state = 'intent' returning id")
        with self.assertRaisesRegex(RuntimeError, "this send is not held: it is sent"):
            self.sql("select settle_send('%s', 'not_sent')" % sent)

    def test_fast_business_time_alone_is_not_late(self):
        self.sql("update clock set business_origin = '2026-06-01 15:00+00', real_origin = "
                 "clock_timestamp(), scale = 30000")
        v = json.loads(self.sql("select message_intent(%s::json)" % literal({
            "id": str(uuid.uuid4()), "instance": str(uuid.uuid4()), "run": 1, "step": "/1",
            "call": "sms", "mode": "live", "live": True, "class": "transactional", "channel": "sms",
            "customer_id": 7, "text": "x", "due": "2026-05-29T15:00:00Z", "recipient": ANN})))
        self.assertNotEqual("held", v["state"])

    def test_a_postponed_send_is_not_late_for_having_waited(self):
        self.at("2026-06-01 02:00:00+00")
        call = {"instance": str(uuid.uuid4()), "due": "2026-06-01T01:59:00Z"}
        self.assertEqual("postponed quiet_hours", self.verdict(**call))
        self.sql("update messaging_log set until = '2026-06-05 13:00+00'")
        self.at("2026-06-05 14:00:00+00")
        self.assertEqual("intent", self.verdict(**call))
        self.assertEqual("1", self.sql("select count(*) from messaging_log"))

    def test_a_held_late_send_leaves_when_a_person_says_so(self):
        self.at("2026-06-05 15:00:00+00")
        call = {"instance": str(uuid.uuid4()), "due": "2026-06-03T15:00:00Z"}
        v = self.intent(**call)
        self.assertEqual("held", self.intent(**call)["verdict"])
        self.sql("select settle_send('%s', 'not_sent')" % v["id"])
        self.assertEqual("intent", self.verdict(**call))

    def test_nobody_decides_about_what_may_be_on_the_wire(self):
        v = self.intent()
        with self.assertRaisesRegex(RuntimeError, "on its way"):
            self.sql("select settle_send('%s', 'not_sent')" % v["id"])
        self.sql("update messaging_log set intended_at = clock_timestamp() - interval '46 s'")
        self.assertEqual("intent", self.sql("select settle_send('%s', 'not_sent')" % v["id"]))

    def test_what_turns_out_to_be_sent_is_not_tried_again(self):
        call = {"instance": str(uuid.uuid4())}
        for proof in ("message_told('%s', 'SM1', 'delivered', 6, null, false)",
                      "message_outcome('%s', 'sent', 'SM1', null, null, false)"):
            self.at("2026-06-01 15:00:00+00")
            self.sql("truncate messaging_log, message_slots")
            v = self.intent(**call)
            self.sql("update messaging_log set state = 'in_doubt', intended_at = now() - interval '2 min'")
            self.sql("select settle_send('%s', 'not_sent')" % v["id"])
            self.at("2026-06-02 02:00:00+00")
            self.assertEqual("postponed quiet_hours", self.verdict(**call))
            self.sql("select " + proof % v["id"])
            self.at("2026-06-02 15:00:00+00")
            self.assertEqual(("already", v["id"]), tuple(self.intent(**call)[k] for k in ("verdict", "id")))
            self.assertEqual("sent", self.sql("select state from messaging_log"))

    def test_an_inbound_text_counts_once_though_its_delivery_was_forgotten(self):
        def inbound(sid, text):
            return self.sql("select hook_twilio_inbound(%s::json)" % literal(
                {"sid": sid, "from": "+12125550107", "text": text}))
        self.assertEqual("ok", inbound("SM1", "START"))
        self.assertEqual("ok", inbound("SM2", "STOP"))
        self.sql("delete from webhook_deliveries")
        self.assertEqual("repeated", inbound("SM1", "START"))
        self.assertEqual("1", self.sql("select count(*) from opt_outs"))

    def test_staff_have_no_quiet_hours_caps_or_consent(self):
        self.at("2026-06-02 03:00:00+00")
        for _ in range(3):
            self.assertEqual("intent", self.verdict(staff=True, recipient=None, customer_id=None,
                                                    address="+12125550199"))

    def test_a_row_of_another_attempt_says_what_it_was(self):
        call = {"instance": str(uuid.uuid4())}
        v = self.intent(**call)
        self.assertEqual("in_doubt", self.intent(**call)["verdict"])
        self.assertEqual("send", self.intent(id=v["id"], **call)["verdict"])
        self.sql("select message_outcome('%s', 'sent', 'SM1', null, null, false)" % v["id"])
        self.assertEqual("already", self.intent(**call)["verdict"])
        self.assertEqual("send", self.intent(run=2, **dict(call, **{"class": "transactional"}))["verdict"])

    def test_the_first_outcome_counts(self):
        v = self.intent()
        self.sql("select message_told('%s', 'SM1', 'sent', 4, null, false)" % v["id"])
        self.sql("select message_outcome('%s', 'in_doubt', null, 'no_answer', 'x', false)" % v["id"])
        self.assertEqual("sent callback", self.sql(
            "select state || ' ' || settled_by from messaging_log"))
        self.sql("select message_outcome('%s', 'refused', null, '400', 'x', false)" % v["id"])
        self.assertEqual("sent", self.sql("select state from messaging_log"))

    def test_tokens_never_pass_the_window(self):
        self.sql("update provider_limits set capacity = 20, refill = 7.5, tokens = 20, "
                 "refilled_at = clock_timestamp() - interval '1 h' where provider = 'ghl'")
        begin, granted = time.time(), 0
        while time.time() < begin + 3:
            granted += int(self.sql("select granted from draw_tokens('ghl', 50)"))
        self.assertLessEqual(granted, 20 + 7.5 * (time.time() - begin) + 1)
        self.assertLessEqual(20 + 7.5 * 10, 100)

    def test_a_clock_that_is_set_back_stops_nothing(self):
        self.sql("select draw_tokens('ghl', 50), provider_result('ghl', false, 0);"
                 "update provider_limits set tokens = 0, failures = 0, refilled_at = now() + interval '1 hour',"
                 " paused_until = now() + interval '1 hour' where provider = 'ghl'")
        self.assertEqual("0", self.sql("select granted from draw_tokens('ghl', 5)"))
        self.sql("select pg_sleep(0.5)")
        self.assertIn(self.sql("select granted from draw_tokens('ghl', 5)"), "12345")

    def test_a_vendors_pause_and_five_failures_stop_all_tokens(self):
        self.sql("select provider_result('ghl', false, 2000)")
        granted, wait = self.sql("select * from draw_tokens('ghl', 5)").split("|")
        self.assertEqual("0", granted)
        self.assertTrue(1000 < int(wait) <= 2001)
        for _ in range(5):
            self.sql("select provider_result('twilio', false, 0)")
        self.assertEqual("0", self.sql("select granted from draw_tokens('twilio', 5)"))
        self.sql("select provider_result('twilio', true, 0)")
        self.assertEqual("5", self.sql("select granted from draw_tokens('twilio', 5)"))

    def test_words_that_revoke(self):
        for text in ("STOP", "stop.", "Unsubscribe", "Please stop texting me", "don't text me again",
                     "DO NOT CONTACT ME", "take me off your list", "no more messages please",
                     "opt out", "quit sending these", "I want to unsubscribe from this"):
            self.assertIn(self.sql("select revocation(%s, null)" % literal(text)), ("stop", "words"),
                          text)
        for text in ("Yes please", "Can you stop by at 5?", "I'll call you", "When will it end?",
                     "Please cancel my appointment", "don't forget to text me", "Is Friday ok"):
            self.assertNotIn(self.sql("select revocation(%s, null)" % literal(text)),
                             ("stop", "words"), text)


if __name__ == "__main__":
    unittest.main(verbosity=1)
