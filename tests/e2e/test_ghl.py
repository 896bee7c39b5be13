"""GoHighLevel: contacts and opportunities made once, duplicates, doubts, several at a time."""
import json
import os
import sys
import threading
import time
import unittest
import urllib.parse
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from outbound import OutboundTest  # noqa: E402

STAGES = {"Sales": ("New", "Estimate sent", "Appointment set", "Job Sold"),
          "Install": ("Install scheduled", "QA")}
TWIN = {"statusCode": 400, "message": "This location does not allow duplicated contacts.",
        "meta": {"contactId": "twin", "matchingField": "phone"}}


class Location:
    """A small GHL location: contacts by phone, opportunities, pipelines."""

    def __init__(self):
        self.contacts, self.opportunities = {}, {}
        self.lock = threading.Lock()
        self.wait = 0

    def pipelines(self):
        return [{"id": "p" + name, "name": name, "stages": [
            {"id": "s" + stage, "name": stage} for stage in stages]} for name, stages in STAGES.items()]

    def __call__(self, request):
        with self.lock:
            path = urllib.parse.urlsplit(request["path"]).path
            status, body = self.answer(request["method"], path, json.loads(request["body"] or "{}"))
        time.sleep(self.wait)
        return status, {"Content-Type": "application/json"}, body

    def answer(self, method, path, body):
        if path == "/opportunities/pipelines":
            return 200, {"pipelines": self.pipelines()}
        if path == "/contacts/upsert":
            key = next((k for k, c in self.contacts.items() if c.get("phone") == body.get("phone")),
                       "c%d" % (len(self.contacts) + 1))
            self.contacts[key] = dict(self.contacts.get(key, {}), **body)
            return 200, {"new": True, "contact": dict(self.contacts[key], id=key)}
        if path == "/opportunities/search":
            return 200, {"opportunities": list(self.opportunities.values()), "meta": {}}
        if path == "/opportunities/":
            key = "o%d" % (len(self.opportunities) + 1)
            self.opportunities[key] = self.stored(dict(body, id=key))
            return 201, {"opportunity": self.opportunities[key]}
        kind, key = path.strip("/").split("/")[:2]
        if path.endswith("/tags"):
            return 201, {"tags": body["tags"]}
        if kind == "contacts":
            if key not in self.contacts:
                return 400, {"statusCode": 400, "message": "Contact not found for id: " + key}
            self.contacts[key].update(body)
            return 200, {"succeded": True, "contact": dict(self.contacts[key], id=key)}
        if key not in self.opportunities:
            return 404, {"statusCode": 404, "message": "not found"}
        self.opportunities[key].update(self.stored(body))
        return 200, {"opportunity": self.opportunities[key]}

    def stored(self, body):
        if "customFields" in body:
            body["customFields"] = [{"id": "f" + f["key"], "fieldValue": f["field_value"]}
                                    for f in body["customFields"]]
        return body


class GhlTest(OutboundTest):
    def setUp(self):
        super().setUp()
        self.ann = self.customer()
        self.estimate_row(70)
        self.location = Location()
        self.ghl = self.vendor(self.location)
        self.settings = {"GHL_BASE_URL": self.ghl.url}
        self.driver = self.start()

    def estimate_row(self, key, status="Open"):
        self.sql("insert into st_estimates (id, name, status, subtotal, tax, customer_id, modified_on, "
                 "created_on) values (%d, 'New AC', '%s', 1500, 100, 7, now(), now())" % (key, status))

    def estimate(self, key=70, status="Open"):
        return {"id": key, "status": status, "subtotal": 1500, "total": 1600, "customer_id": 7,
                "is_change_order": False}

    def run_action(self, name, args, **more):
        event = {"name": "estimate_created", "estimate": self.estimate(), "customer": self.ann}
        return self.driver.run("ghl." + name, args, **dict({"event": event, "due": self.due()}, **more))

    def sync(self, **more):
        return self.run_action("sync_estimate_to_ghl", {"estimate": self.estimate(),
                                                        "stage": "Estimate sent"}, **more)

    def posts(self, path="/opportunities/"):
        return self.ghl.count("POST", path)

    def test_an_estimate_becomes_a_contact_and_one_opportunity(self):
        answer = self.sync()
        self.assertEqual(("done", "o1"), (answer["verdict"], answer.get("value", {}).get("id")), answer)
        made = self.location.opportunities["o1"]
        self.assertEqual(("Ann Lee #70", 1600, "pSales", "sEstimate sent", "open", "c1"), tuple(
            made[k] for k in ("name", "monetaryValue", "pipelineId", "pipelineStageId", "status",
                              "contactId")))
        contact = self.location.contacts["c1"]
        self.assertEqual(("+12125550107", "loc1"), (contact["phone"], contact["locationId"]))
        self.assertEqual([{"key": "st_customer_id", "field_value": "7"}], contact["customFields"])
        headers = self.ghl.requests[0]["headers"]
        self.assertEqual(("Bearer pit-1", "2021-07-28"), (headers["authorization"],
                                                          headers["version"]))

    def test_a_second_sync_updates_and_makes_nothing(self):
        self.sync()
        answer = self.sync()
        self.assertEqual("o1", answer["value"]["id"])
        self.assertEqual({"pipeline": "Sales", "stage": "Estimate sent"}, answer["value"]["was"])
        self.assertEqual((1, 1), (self.posts("/opportunities/"), self.posts("/contacts/upsert")))

    def test_a_step_that_runs_again_asks_nobody_again(self):
        instance = str(uuid.uuid4())
        self.sync(instance=instance)
        self.sql("update ghl_opportunities set ghl_id = null, owner = '%s/1//1'" % instance)
        self.assertEqual("o1", self.sync(instance=instance)["value"]["id"])
        self.assertEqual(1, self.posts())

    def test_two_at_a_time_make_one(self):
        self.location.wait = 0.3
        threads = [self.driver.start("ghl.sync_estimate_to_ghl", {"estimate": self.estimate()},
                                     event={"customer": self.ann}, due=self.due())
                   for _ in range(4)]
        for thread, _ in threads:
            thread.join(30)
        verdicts = sorted(box[0]["verdict"] for _, box in threads)
        self.assertIn("done", verdicts)
        self.assertEqual(set(verdicts) - {"done", "suspended"}, set())
        self.assertEqual((1, 1), (self.posts(), len(self.location.contacts)))

    def test_sold_moves_it_and_a_late_sync_leaves_it_there(self):
        self.sync()
        answer = self.run_action("move_opportunity_to_job_sold", {"estimate": self.estimate()})
        self.assertEqual("Estimate sent", answer["value"]["was"]["stage"])
        self.sync()
        made = self.location.opportunities["o1"]
        self.assertEqual(("won", "sJob Sold"), (made["status"], made["pipelineStageId"]))

    def test_sold_before_it_was_synced_makes_it_once(self):
        self.run_action("move_opportunity_to_job_sold", {"estimate": self.estimate()})
        self.sync()
        made = self.location.opportunities["o1"]
        self.assertEqual((1, "won", "sJob Sold"), (self.posts(), made["status"],
                                                   made["pipelineStageId"]))

    def test_a_move_without_a_pipeline_only_moves_what_is_open(self):
        stage = {"of": self.estimate(), "stage": "Appointment set"}
        self.assertEqual("no opportunity", self.run_action("move_opportunity", stage)["value"]["skipped"])
        self.sync()
        self.run_action("move_opportunity", stage)
        self.assertEqual("sAppointment set", self.location.opportunities["o1"]["pipelineStageId"])
        self.run_action("move_opportunity", {"of": self.estimate(), "status": "lost"})
        self.assertEqual("it is lost", self.run_action("move_opportunity", stage)["value"]["skipped"])

    def test_a_step_that_comes_late_does_not_move_it_back(self):
        self.sync()
        job = {"id": 90, "number": "90", "no_charge": False, "created_from_estimate_id": 70,
               "customer_id": 7}
        self.run_action("move_opportunity_to_install_pipeline", {"job": job},
                        now="2026-06-03T15:00:00Z")
        self.run_action("move_opportunity_to_job_sold", {"estimate": self.estimate()},
                        now="2026-06-02T15:00:00Z")
        made = self.location.opportunities["o1"]
        self.assertEqual(("won", "pInstall"), (made["status"], made["pipelineId"]))
        answer = self.run_action("move_opportunity", {"of": self.estimate(), "pipeline": "Sales",
                                                      "stage": "New"}, now="2026-06-02T15:00:00Z")
        self.assertEqual("it was moved by something newer", answer["value"]["skipped"])

    def test_a_sale_that_is_noticed_after_its_install_job_does_not_move_it_back(self):
        self.sync()
        job = {"id": 90, "number": "90", "no_charge": False, "created_from_estimate_id": 70,
               "customer_id": 7}
        self.run_action("move_opportunity_to_install_pipeline", {"job": job},
                        now="2026-06-02T15:00:00Z")
        self.run_action("move_opportunity_to_job_sold", {"estimate": self.estimate()},
                        now="2026-06-03T15:00:00Z")
        made = self.location.opportunities["o1"]
        self.assertEqual(("won", "pInstall"), (made["status"], made["pipelineId"]))

    def test_a_sale_that_was_moved_first_does_not_keep_its_install_job_away(self):
        self.sync()
        job = {"id": 90, "number": "90", "no_charge": False, "created_from_estimate_id": 70,
               "customer_id": 7}
        self.run_action("move_opportunity_to_job_sold", {"estimate": self.estimate()},
                        now="2026-06-03T15:00:00Z")
        self.run_action("move_opportunity_to_install_pipeline", {"job": job},
                        now="2026-06-02T15:00:00Z")
        made = self.location.opportunities["o1"]
        self.assertEqual(("won", "pInstall"), (made["status"], made["pipelineId"]))

    def test_two_moves_at_a_time_come_one_after_the_other(self):
        self.sync()
        self.location.wait = 0.4
        event = {"customer": self.ann, "estimate": self.estimate()}
        first, _ = self.driver.start("ghl.move_opportunity_to_job_sold", {"estimate": self.estimate()},
                                     event=event, due=self.due())
        time.sleep(0.15)
        stage = {"of": self.estimate(), "stage": "Appointment set"}
        answer = self.run_action("move_opportunity", stage)
        self.assertEqual("suspended", answer["verdict"], answer)
        first.join(10)
        self.assertEqual("it is won", self.run_action("move_opportunity", stage)["value"]["skipped"])
        self.assertEqual("sJob Sold", self.location.opportunities["o1"]["pipelineStageId"])

    def test_an_install_job_moves_its_estimates_opportunity(self):
        self.sync()
        job = {"id": 90, "number": "90", "no_charge": False, "created_from_estimate_id": 70,
               "customer_id": 7}
        answer = self.run_action("move_opportunity_to_install_pipeline", {"job": job})
        self.assertEqual("o1", answer["value"]["id"], answer)
        made = self.location.opportunities["o1"]
        self.assertEqual(("pInstall", "sInstall scheduled"), (made["pipelineId"],
                                                              made["pipelineStageId"]))
        job = dict(job, id=91, created_from_estimate_id=None)
        event = {"job": job, "customer": self.ann}
        answer = self.run_action("move_opportunity_to_install_pipeline", {"job": job}, event=event)
        self.assertEqual("o2", answer["value"]["id"], answer)
        self.assertEqual("91", self.location.opportunities["o2"]["customFields"][0]["fieldValue"])

    def test_an_answer_lost_after_it_was_made_is_looked_for(self):
        instance = str(uuid.uuid4())
        self.sync()  # the pipelines and the contact are known
        self.estimate_row(71)
        args = {"estimate": self.estimate(71)}

        def made_and_lost(request):
            self.location(request)
            return "drop"
        self.ghl.plan = [made_and_lost]
        answer = self.run_action("sync_estimate_to_ghl", args, instance=instance)
        self.assertEqual(("suspended", "call_in_doubt"), (answer["verdict"], answer["text"]))
        time.sleep(0.4)
        answer = self.run_action("sync_estimate_to_ghl", args, instance=instance)
        self.assertEqual("o2", answer["value"]["id"], answer)
        self.assertEqual(2, len(self.location.opportunities))

    def test_an_answer_lost_before_it_was_made_is_repeated(self):
        instance = str(uuid.uuid4())
        self.sync()
        self.estimate_row(71)
        args = {"estimate": self.estimate(71)}
        self.ghl.plan = [(502, {}, "<html>bad gateway")]
        self.assertEqual("suspended", self.run_action("sync_estimate_to_ghl", args,
                                                      instance=instance)["verdict"])
        time.sleep(0.4)
        answer = self.run_action("sync_estimate_to_ghl", args, instance=instance)
        self.assertEqual("o2", answer["value"]["id"], answer)
        self.assertEqual("not_sent done", self.sql(
            "select string_agg(state, ' ' order by attempt) from outbound_log where call = "
            "'opportunity' and instance_id = '%s'" % instance))

    def test_a_search_that_fails_holds_the_step(self):
        instance = str(uuid.uuid4())
        self.sync()
        self.estimate_row(71)
        args = {"estimate": self.estimate(71)}
        self.ghl.plan = ["drop"]
        self.run_action("sync_estimate_to_ghl", args, instance=instance)
        time.sleep(0.4)
        self.ghl.plan = [(403, {}, {"message": "The token does not have access to this location."})]
        answer = self.run_action("sync_estimate_to_ghl", args, instance=instance)
        self.assertEqual(("held", "send_in_doubt"), (answer["verdict"], answer["value"]["code"]))
        self.assertEqual(1, len(self.location.opportunities))

    def test_errors_of_the_server_are_retried_where_repeating_does_no_harm(self):
        self.ghl.plan = [(500, {}, "oops"), "drop", (429, {}, {"statusCode": 429})]
        answer = self.run_action("sync_customer_to_ghl", {"customer": self.ann})
        self.assertEqual(("done", "c1"), (answer["verdict"], answer["value"]["id"]))

    def test_a_duplicate_contact_is_taken_over(self):
        self.location.contacts["twin"] = {"phone": "+12125550107"}
        self.ghl.plan = [(400, {}, TWIN)]
        answer = self.run_action("sync_customer_to_ghl", {"customer": self.ann})
        self.assertEqual("twin", answer["value"]["id"], answer)
        self.assertEqual("Ann", self.location.contacts["twin"]["firstName"])

    def test_a_phone_of_another_contact_is_a_conflict(self):
        self.run_action("sync_customer_to_ghl", {"customer": self.ann})
        self.sql("update st_customers set name = 'Ann Leeds' where id = 7")
        self.ghl.plan = [(400, {}, TWIN)]
        answer = self.run_action("sync_customer_to_ghl", {"customer": self.ann})
        self.assertTrue(answer["value"]["conflict"], answer)
        last = json.loads(self.ghl.requests[-1]["body"])
        self.assertEqual(("Ann Leeds", False), (last["name"], "phone" in last))

    def test_what_upsert_drops_silently_is_a_conflict(self):
        self.ghl.plan = [(200, {}, {"contact": {"id": "c9", "phone": "+19995550000",
                                                "email": "ann@example.com"}})]
        answer = self.run_action("sync_customer_to_ghl", {"customer": self.ann})
        self.assertEqual(("c9", True), (answer["value"]["id"], answer["value"]["conflict"]))

    def test_a_contact_that_ghl_forgot_is_made_anew(self):
        self.run_action("sync_customer_to_ghl", {"customer": self.ann})
        self.location.contacts.clear()
        self.sql("update ghl_contacts set sent_hash = 'old'")
        answer = self.run_action("sync_customer_to_ghl", {"customer": self.ann})
        self.assertEqual(("done", "c1"), (answer["verdict"], answer["value"]["id"]), answer)

    def test_one_opportunity_per_contact_is_shared(self):
        self.location.opportunities["other"] = {"id": "other", "name": "x"}
        self.run_action("sync_customer_to_ghl", {"customer": self.ann})
        self.ghl.plan = [None, (400, {}, {"code": "OPPORTUNITY_NO_DUPLICATE",
                                          "meta": {"existingId": "other"}})]
        answer = self.sync()
        self.assertEqual(("other", True), (answer["value"]["id"], answer["value"]["conflict"]), answer)

    def test_nobody_without_an_address_becomes_a_contact(self):
        self.sql("delete from st_contacts")
        self.assertEqual("no phone and no e-mail", self.sync()["value"]["skipped"])
        self.assertEqual(0, len(self.ghl.requests))
        self.assertEqual("0", self.sql("select count(*) from ghl_opportunities"))

    def test_an_unknown_stage_says_which_there_are(self):
        answer = self.run_action("sync_estimate_to_ghl", {"estimate": self.estimate(), "stage": "Sent"})
        self.assertEqual(("failed", 'the pipeline "Sales" has no stage "Sent"; it has: New, '
                          "Estimate sent, Appointment set, Job Sold"),
                         (answer["verdict"], answer["value"]["message"]))

    def test_shadow_has_the_live_shape_and_asks_nobody(self):
        answer = self.sync(mode="shadow")
        self.assertTrue(answer["value"]["id"].startswith("shadow:"), answer)
        self.assertEqual("done", self.run_action("move_opportunity_to_job_sold", {
            "estimate": self.estimate()}, mode="shadow")["verdict"])
        self.assertEqual(0, len(self.ghl.requests))
        self.assertEqual("o1", self.sync()["value"]["id"])  # live ones see nothing of it

    def test_switched_off(self):
        self.driver.end()
        self.driver = self.start(GHL_AUTO_SYNC_ESTIMATES="0")
        self.assertEqual("GHL_AUTO_SYNC_ESTIMATES is off", self.sync()["value"]["skipped"])


class QueryTest(OutboundTest):
    def setUp(self):
        super().setUp()
        self.customer()

    def query(self, word, sql, **params):
        return self.driver.run("db." + word, {"sql": sql, "params": params}, due=self.due())

    def test_rows_row_and_value(self):
        self.driver = self.start()
        sql = "select id, name, ':no' as text from customers where id = :id and state = :state::text;"
        self.assertEqual([{"id": 7, "name": "Ann Lee", "text": ":no"}],
                         self.query("rows", sql, id=7, state="NY")["value"])
        self.assertEqual("Ann Lee", self.query("row", sql, id=7, state="NY")["value"]["name"])
        self.assertEqual("1", self.query("value", "select count(*) as n from customers")["text"])
        self.assertEqual("null", self.query("row", "select id from customers where id = 9")["text"])
        self.database.sql("insert into st_tag_types (id, name, modified_on) values (1, 'Waitlist', now());"
                          "update st_customers set tag_ids = '{1}' where id = 7")
        self.assertEqual([{"tags": {"Waitlist": True}}],
                         self.query("rows", "select tags from customers where tags ? 'Waitlist'")["value"])
        self.assertEqual([], self.query("rows", "select id from customers where tags ? 'Other'")["value"])

    def test_errors_are_said_in_words(self):
        self.driver = self.start()
        self.assertIn("the query asks for :id and is given no id",
                      self.query("rows", "select * from customers where id = :id")["text"])
        self.assertIn("does not exist", self.query("rows", "select * from custmers")["text"])
        self.assertEqual("failed", self.query("rows", "delete from changes returning 1")["verdict"])
        self.assertIn("more than 10,000 rows",
                      self.query("rows", "select generate_series(1, 20000) as n")["text"])

    def test_without_the_role_it_says_what_to_set(self):
        self.driver = self.start(WITHOUT_READONLY="1")
        self.assertIn("MOONWRIGHT_READONLY_URL", self.query("rows", "select 1 as x")["text"])

    def test_fresh_is_the_newest_row(self):
        self.driver = self.start()
        self.sql("update st_customers set name = 'Ann Leeds' where id = 7")
        answer = self.driver.run("fresh", {"entity": "customer", "id": 7}, due=self.due())
        self.assertEqual("Ann Leeds", answer["value"]["name"], answer)
        answer = self.driver.run("fresh", {"of": "customer", "records": {"customer": 7}},
                                 due=self.due())
        self.assertEqual("Ann Leeds", answer["value"]["customer"]["name"])


if __name__ == "__main__":
    unittest.main(verbosity=1)
