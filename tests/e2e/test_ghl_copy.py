"""The copy of what GoHighLevel has, and install jobs whose opportunity was left behind."""
import json
import os
import sys
import time
import unittest
import urllib.parse
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "..", "tools", "simulator")]
from ghl import GHL  # noqa: E402
from outbound import OutboundTest  # noqa: E402


class Books:
    def write(self, *_, **__):
        pass


class World:
    """What the simulator's GHL needs around it."""
    seed, books = 1, Books()

    def now(self):
        return time.time()


class Asked:
    def __init__(self, request):
        parts = urllib.parse.urlsplit(request["path"])
        self.method, self.headers, self.path = request["method"], request["headers"], parts.path
        self.query, self.body = dict(urllib.parse.parse_qsl(parts.query)), request["body"]

    def json(self):
        return json.loads(self.body)


class GhlCopyTest(OutboundTest):
    def setUp(self):
        super().setUp()
        self.ann = self.customer()
        self.bob = self.customer(8, "+12125550108", "bob@example.com", name="Bob Ray")
        self.location = GHL(World(), "pit-1", "loc1", limit=10000, search_delay=0)
        self.ghl = self.vendor(self.answer)
        self.settings = {"GHL_BASE_URL": self.ghl.url}
        self.driver = self.start()

    def answer(self, request):
        asked = Asked(request)
        status, headers, body = self.location.handle(asked, asked.path)
        return status, dict(headers), body.decode()

    def contact(self, name, **fields):
        body = dict({"locationId": "loc1", "firstName": name}, **fields)
        return self.location.create_contact(body)[1]["contact"]["id"]

    def opportunity(self, contact, name, stage="Estimate sent", pipeline="Sales", **fields):
        place = next(p for p in self.location.pipelines if p["name"] == pipeline)
        return self.location.create_opportunity(dict({
            "locationId": "loc1", "contactId": contact, "name": name, "pipelineId": place["id"],
            "pipelineStageId": self.stage(stage), "status": "open"}, **fields))[1]["opportunity"]["id"]

    def stage(self, name):
        return next(s["id"] for p in self.location.pipelines for s in p["stages"] if s["name"] == name)

    def move_there(self, key, **body):
        self.location.write_opportunity("update", self.location.opportunities[key], body)

    def run_action(self, name, args=None, **more):
        event = {"name": "estimate_created", "customer": self.ann}
        answer = self.driver.run("ghl." + name, args or {}, **dict({"event": event, "due": self.due()},
                                                                    **more))
        self.assertEqual("done", answer["verdict"], answer)
        return answer["value"]

    def rows(self, table, columns):
        return self.sql("select %s from %s order by ghl_id, 1" % (columns, table)).split("\n")

    def test_contacts_are_matched_by_id_then_phone_then_mail(self):
        by_id = self.contact("Anna", phone="+13035550000",
                             customFields=[{"key": "st_customer_id", "field_value": "7"}])
        by_mail = self.contact("Bob", email="BOB@example.com")
        stranger = self.contact("Zoe", email="zoe@example.com")
        self.assertEqual({"seen": 3, "matched": 2, "linked": 2},
                         self.run_action("sync_contacts_from_ghl"))
        self.assertEqual({by_id + "|7", by_mail + "|8", stranger + "|"},
                         set(self.rows("ghl_contacts", "ghl_id, st_customer_id")))
        self.assertEqual({"seen": 3, "matched": 2, "linked": 0},
                         self.run_action("sync_contacts_from_ghl"))
        self.assertEqual(3, len(self.rows("ghl_contacts", "ghl_id")))

    def test_a_number_of_two_customers_matches_nobody(self):
        self.sql("update st_contacts set phone = '+12125550107' where phone = '+12125550108'")
        self.contact("Ann or Bob", phone="+12125550107")
        self.assertEqual(0, self.run_action("sync_contacts_from_ghl")["matched"])

    def test_a_link_stays_and_a_second_contact_is_a_conflict(self):
        mine = self.run_action("sync_customer_to_ghl", {"customer": self.ann})["id"]
        self.contact("Ann", phone="+13035550001",
                     customFields=[{"key": "st_customer_id", "field_value": "7"}])
        self.run_action("sync_contacts_from_ghl")
        self.assertEqual(mine + "|t", self.sql(
            "select ghl_id, conflict from ghl_contacts where st_customer_id = 7"))

    def test_a_contact_that_was_found_is_used_and_not_made_again(self):
        there = self.contact("Anna", phone="+13035550000",
                             customFields=[{"key": "st_customer_id", "field_value": "7"}])
        self.run_action("sync_contacts_from_ghl")
        self.assertEqual(there, self.run_action("sync_customer_to_ghl", {"customer": self.ann})["id"])
        self.assertEqual(1, len(self.location.contacts))

    def test_a_stranger_who_becomes_a_customer_or_goes_is_one_row_or_none(self):
        self.contact("Zoe", email="zoe@example.com")
        gone = self.contact("Max", email="max@example.com")
        self.run_action("sync_contacts_from_ghl")
        self.customer(9, "+12125550109", "zoe@example.com", name="Zoe Fox")
        del self.location.contacts[gone]
        time.sleep(0.01)
        self.assertEqual(1, self.run_action("sync_contacts_from_ghl")["linked"])
        self.assertEqual("9", self.sql("select st_customer_id from ghl_contacts"))

    def test_all_pages_are_walked(self):
        people = [self.contact("P%d" % n, email="p%d@example.com" % n) for n in range(250)]
        self.assertEqual(250, self.run_action("sync_contacts_from_ghl")["seen"])
        self.assertEqual("250", self.sql("select count(*) from ghl_contacts"))
        for n, one in enumerate(people[:230]):
            self.opportunity(one, "O%d" % n)
        self.assertEqual(230, self.run_action("sync_opportunities_from_ghl")["seen"])
        self.assertEqual("230", self.sql("select count(*) from ghl_opportunities"))

    def test_a_walk_that_stopped_goes_on_at_its_page(self):
        for n in range(150):
            self.contact("P%d" % n, email="p%d@example.com" % n)
        instance = str(uuid.uuid4())
        seen = []

        def fails_once(request):
            seen.append(request)
            return (401, {}, {"message": "Invalid token"}) if len(seen) == 3 else self.answer(request)
        self.ghl.plan = [fails_once] * 3
        args = {"event": {}, "due": self.due(), "instance": instance}
        self.assertEqual("failed", self.driver.run("ghl.sync_contacts_from_ghl", {}, **args)["verdict"])
        asked = self.ghl.count("POST", "/contacts/search")
        self.assertEqual(150, self.run_action("sync_contacts_from_ghl", instance=instance)["seen"])
        self.assertEqual(asked + 1, self.ghl.count("POST", "/contacts/search"))
        self.assertEqual("150", self.sql("select count(*) from ghl_contacts"))

    def test_opportunities_are_known_by_their_custom_fields(self):
        ann = self.contact("Ann", phone="+12125550107")
        of_estimate = self.opportunity(ann, "A", customFields=[
            {"key": "st_estimate_id", "field_value": "70"}])
        of_job = self.opportunity(ann, "B", customFields=[{"key": "st_job_id", "field_value": "90"}])
        other = self.opportunity(ann, "C", customFields=[
            {"key": "st_job_id", "field_value": "not a number"}])
        self.run_action("sync_contacts_from_ghl")
        self.assertEqual({"seen": 3, "matched": 3, "linked": 2},
                         self.run_action("sync_opportunities_from_ghl"))
        self.assertEqual({of_estimate + "|estimate|70|7", of_job + "|job|90|7", other + "|||7"},
                         set(self.rows("ghl_opportunities", "ghl_id, of, of_id, st_customer_id")))
        self.run_action("sync_opportunities_from_ghl")
        self.assertEqual(3, len(self.rows("ghl_opportunities", "ghl_id")))

    def estimate(self, key=70):
        self.sql("insert into st_estimates (id, name, status, subtotal, tax, customer_id, modified_on, "
                 "created_on) values (%d, 'AC', 'Open', 1500, 100, 7, now(), now())" % key)
        return {"id": key, "status": "Open", "subtotal": 1500, "total": 1600, "customer_id": 7,
                "is_change_order": False}

    def test_what_people_moved_in_ghl_stays_there(self):
        args = {"estimate": self.estimate(), "stage": "Estimate sent"}
        made = self.run_action("sync_estimate_to_ghl", args)["id"]
        self.move_there(made, pipelineStageId=self.stage("Appointment set"))
        time.sleep(1.1)
        self.run_action("sync_opportunities_from_ghl")
        self.assertEqual("Appointment set|t", self.sql("select stage, moved from ghl_opportunities"))
        self.run_action("sync_estimate_to_ghl", args)
        self.assertEqual(self.stage("Appointment set"),
                         self.location.opportunities[made]["pipelineStageId"])

    def test_a_change_of_ours_while_ghl_was_asked_stays(self):
        made = self.run_action("sync_estimate_to_ghl", {"estimate": self.estimate(),
                                                        "stage": "Estimate sent"})["id"]
        time.sleep(1.1)

        def changed_meanwhile(request):
            answer = self.answer(request)
            self.sql("update ghl_opportunities set stage = 'Job Sold', status = 'won', "
                     "synced_at = business_now()")
            return answer
        self.ghl.plan = [self.answer, changed_meanwhile]
        self.run_action("sync_opportunities_from_ghl")
        self.assertEqual(made + "|Job Sold|won", self.sql(
            "select ghl_id, stage, status from ghl_opportunities"))

    def job(self, key, estimate=None, status="Scheduled", job_type=5):
        self.sql("insert into st_jobs (id, number, customer_id, job_type_id, created_from_estimate_id, "
                 "status, modified_on, created_on) values (%d, '%d', 7, %d, %s, '%s', now(), now())"
                 % (key, key, job_type, estimate or "null", status))

    def test_install_jobs_that_were_missed_are_moved(self):
        self.sql("insert into st_job_types (id, name, class, modified_on) values "
                 "(5, 'AC install', 'Install', now()), (6, 'Tune-up', 'Service', now())")
        of_estimate = self.run_action("sync_estimate_to_ghl", {"estimate": self.estimate()})["id"]
        self.job(90, 70)
        self.job(91)
        self.job(92, status="Completed")
        self.job(93, job_type=6)
        self.assertEqual({"moved": 2, "skipped": 0, "failed": 0},
                         self.run_action("process_install_job_moves"))
        install = self.stage("Install scheduled")
        stages = [o["pipelineStageId"] for o in self.location.opportunities.values()]
        self.assertEqual([install, install], stages)
        self.assertEqual(install, self.location.opportunities[of_estimate]["pipelineStageId"])
        self.assertEqual({"moved": 0, "skipped": 0, "failed": 0},
                         self.run_action("process_install_job_moves"))

    def test_one_job_that_is_refused_does_not_keep_the_others(self):
        self.sql("insert into st_job_types (id, name, class, modified_on) values "
                 "(5, 'AC install', 'Install', now())")
        self.run_action("sync_estimate_to_ghl", {"estimate": self.estimate()})
        self.run_action("sync_estimate_to_ghl", {"estimate": self.estimate(71)})
        self.job(90, 70)
        self.job(91, 71)
        refused = []

        def refuses_one(request):
            if request["method"] == "PUT" and not refused:
                refused.append(request)
                return 422, {}, {"message": ["no"]}
            return self.answer(request)
        self.ghl.plan = [refuses_one] * 3
        answer = self.run_action("process_install_job_moves")
        self.assertEqual((1, 1), (answer["moved"], answer["failed"]), answer)

    def test_switched_off_nobody_is_asked(self):
        self.driver.end()
        self.driver = self.start(GHL_SYNC_ENABLED="0")
        before = len(self.ghl.requests)
        for name, args in (("sync_contacts_from_ghl", {}), ("sync_opportunities_from_ghl", {}),
                           ("process_install_job_moves", {}),
                           ("add_tag", {"customer": self.ann, "tag": "x"})):
            self.assertEqual("GHL_SYNC_ENABLED is off", self.run_action(name, args)["skipped"])
        self.assertEqual(before, len(self.ghl.requests))


if __name__ == "__main__":
    unittest.main()
