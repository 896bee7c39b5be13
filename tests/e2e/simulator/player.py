"""A faultless product in miniature: it reads the simulated company tick by tick and plays the
shipped workflows into synthetic books, for tests of the oracle. It shares no rule with the oracle:
it is written forwards, as events, timers and sends.
"""
import heapq
import json
import random
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from clock import Clock, iso3, parse_time
from ghl import e164
from world import World, token

HOUR, DAY = 3600.0, 86400.0
TEMPLATES = {
    "estimate_1": "Hi {customer.first_name or there}, your estimate {estimate.name} over "
                  "{estimate.total as money} is ready.",
    "estimate_2": "Any questions about {estimate.name}, {customer.first_name or there}?",
    "estimate_3": "Your price of {estimate.total as money} still stands.",
    "estimate_4": "Last call for {estimate.name}: {estimate.total as money}.",
    "review_1": "Thanks for having us today! Would you tell others how it went?",
    "review_2": "A short review helps our technicians a lot.",
    "overdue_1": "Subject: Invoice {invoice.number}\n"
                 "Dear {to.name}, invoice {invoice.number} is due.",
    "overdue_office": "Subject: Overdue\n"
                      "{customer.name or a customer} owes invoice {invoice.number}.",
    "overdue_2": "Invoice {invoice.number} is still open. Reply if we can help.",
    "reactivation": "Subject: Time for a check-up?\n"
                    "Hello {customer.first_name or there}, it has been a while: {company.links.booking}",
}


def write_templates(folder):
    for name, text in TEMPLATES.items():
        with open("%s/%s.txt" % (folder, name), "w") as f:
            f.write(text + "\n")


class Player:
    def __init__(self, seed="7", days=40, scale=30000.0, tick=0.25, rate=4.0, customers=150):
        self.clock = Clock("2026-06-01T12:00:00Z@2026-11-23T06:00:00Z*%r" % scale)
        self.world = World(seed, self.clock.business_origin, customers, rate)
        self.rng = random.Random("player %s" % seed)
        self.lines, self.places, self.told, self.rows, self.timers = [], {}, {}, {}, []
        self.live, self.stopped, self.blocked, self.days = {}, set(), set(), {}
        self.sent = self.made = self.order = 0
        self.contacts, self.opportunities = {}, {}
        self.now = self.clock.business_origin
        self.write("start", seed=seed, clock=self.clock.text(), customers=customers, rate=rate)
        self.zones = None
        end = self.now + days * DAY
        while self.now < end:
            self.now += tick * scale
            self.step()
        self.write("end")

    def write(self, kind, **fields):
        line = {"r": self.clock.real(self.now), "b": iso3(self.now), "k": kind}
        line.update(fields)
        self.lines.append(line)

    def step(self):
        self.world.advance(self.now)
        self.people = {p["id"]: p for p in self.world.life.profiles}
        changes = []
        for entity in self.world.feeds:
            before = self.places.get(entity, (0, 0))
            found, self.places[entity], _ = self.world.feeds[entity].page(before, 10 ** 9)
            self.live.setdefault(entity, self.now)
            if found or before != self.told.get(entity):
                self.told[entity] = before
                self.write("page", feed=entity, entity=entity, start=token(before),
                           rows=[[v.id, v.number] for v in found])
            for version in found:
                old = self.rows.get((entity, version.id))
                self.rows[entity, version.id] = version.row
                changes.append((entity, old, version.row))
        for entity, old, row in changes:
            getattr(self, "on_" + entity, lambda *a: None)(old or {}, row)
        while self.timers and self.timers[0][0] <= self.now:
            _, _, do = heapq.heappop(self.timers)
            do()

    def at(self, when, do):
        self.order += 1
        heapq.heappush(self.timers, (when, self.order, do))

    def is_live(self, entity, text):
        return parse_time(text) >= self.live[entity]

    # events

    def on_estimates(self, old, row):
        status, was = row["status"]["name"], (old.get("status") or {}).get("name")
        if not old and self.is_live("estimates", row["createdOn"]):
            self.opportunity(row["customerId"], "Sales", "Estimate sent", "open",
                             st_estimate_id=str(row["id"]))
            if status == "Open" and row["subtotal"] + row["tax"] >= 1000:
                self.follow(row, self.now, 1)
        if status != was and status != "Open" and self.is_live("estimates", row["modifiedOn"]):
            self.stopped.add(("estimate", row["id"]))
            if status == "Sold":
                self.opportunity(row["customerId"], "Sales", "Job Sold", "won",
                                 st_estimate_id=str(row["id"]))
            else:
                self.opportunity(row["customerId"], None, None, "lost",
                                 st_estimate_id=str(row["id"]))

    def follow(self, row, began, k):
        ages = (2 * HOUR, 2 * DAY, 5 * DAY, 10 * DAY)

        def go():
            self.text("estimate_%d" % k, row["customerId"], ("estimate", row["id"]), True,
                      lambda: self.follow(row, began, k + 1),
                      "%s over $%s" % (row["name"], "{:,.2f}".format(row["subtotal"] + row["tax"])))
        if k <= 4:
            self.at(began + ages[k - 1], go)

    def on_jobs(self, old, row):
        live = self.is_live("jobs", row["createdOn"])
        if not old and live:
            self.contact(row["customerId"])
            if row["jobTypeId"] in (305, 306):
                estimate = row["createdFromEstimateId"]
                known = estimate and str(estimate) in self.opportunities
                fields = {"st_estimate_id": str(estimate)} if known else \
                    {"st_job_id": str(row["id"])}
                self.opportunity(row["customerId"], "Install", "Install scheduled",
                                 "won" if known else "open", **fields)
        if row["jobStatus"] == "Completed" and old.get("jobStatus") != "Completed" and \
                self.is_live("jobs", row["completedOn"]):
            who, job = row["customerId"], ("job", row["id"])
            self.at(self.now + 2 * HOUR, lambda: self.text(
                "review_1", who, job, True, lambda: self.at(self.now + 3 * DAY, lambda: self.text(
                    "review_2", who, job, True, lambda: None))))

    def on_invoices(self, old, row):
        if float(row["balance"]) <= 0:
            self.stopped.add(("invoice", row["id"]))
        elif not old:
            due = parse_time(row["dueDate"]) + DAY + 11 * HOUR
            if due > self.live["invoices"]:
                while due < self.now:
                    due += DAY
                self.at(due, lambda: self.overdue(row))

    def overdue(self, row):
        if ("invoice", row["id"]) in self.stopped:
            return
        who = self.people[row["customer"]["id"]]
        if who["email"] and not who["do_not_service"]:
            self.mail(who["email"], "overdue_1", row, who)
        self.mail("office@brightair.example", "overdue_office", row, who)
        self.at(self.now + 7 * DAY, lambda: self.text(
            "overdue_2", who["id"], ("invoice", row["id"]), False, lambda: None,
            row["referenceNumber"]))

    # effects

    def mail(self, to, template, row, who):
        self.sent += 1
        text = TEMPLATES[template].partition("\n")[2]
        text = text.replace("{to.name}", who["name"]).replace(
            "{invoice.number}", row["referenceNumber"]).replace(
            "{customer.name or a customer}", who["name"])
        self.write("mail", mail={"id": "mail%d" % self.sent, "to": [to], "subject": "s",
                                 "text": text, "args": {"m": "i%d" % self.sent}})

    def consent(self, who):
        rows = [self.rows["contacts", key] for key in range(6000000 + who["n"] * 4,
                                                            6000000 + who["n"] * 4 + 3)
                if ("contacts", key) in self.rows]
        return all(r["preferences"] and r["preferences"]["marketingUpdatesEnabled"] for r in rows)

    def text(self, template, customer, subject, marketing, then, extra=""):
        who = self.people[customer]
        number = who["mobile"] and e164(who["mobile"])
        if subject in self.stopped or number in self.blocked:
            return
        if not number or who["do_not_text"] or who["do_not_service"] or \
                marketing and not self.consent(who):
            then()
            return
        zone, again = ZoneInfo(who["city"][4]), lambda: self.text(
            template, customer, subject, marketing, then, extra)
        local = datetime.fromtimestamp(self.now, zone)
        first, last = (9, 20) if marketing else (7, 21)
        if marketing and who["city"][1] == "TX" and local.weekday() == 6:
            first = 12
        if not first <= local.hour < last:
            day = local if local.hour < first else local + timedelta(days=1)
            self.at(day.replace(hour=first, minute=0).timestamp(), again)
            return
        if marketing:
            if (number, local.date()) in self.days:
                day = local + timedelta(days=1)
                self.at(day.replace(hour=first, minute=0).timestamp(), again)
                return
            self.days[number, local.date()] = True
        self.sent += 1
        body = TEMPLATES[template]
        body = body.replace("{customer.first_name or there}", "there")
        total, name = extra.partition(" over ")[2], extra.partition(" over ")[0]
        body = body.replace("{estimate.total as money}", total).replace("{estimate.name}", name)
        body = body.replace("{invoice.number}", extra)
        self.write("message", intent="i%d" % self.sent, message={
            "sid": "SM%d" % self.sent, "to": number, "body": body})
        if self.rng.random() < 0.04:
            self.blocked.add(number)
            self.write("inbound", after="SM%d" % self.sent, sid="in%d" % self.sent, body="STOP",
                       stop=True, revoked=True, answer=200, sent=self.clock.real(self.now),
                       **{"from": number})
        then()

    def contact(self, customer):
        who = self.people[customer]
        phone = who["mobile"] or who["landline"]
        if not (phone or who["email"]):
            return None
        key = phone or who["email"]
        op = "update" if key in self.contacts else "create"
        self.made += op == "create"
        contact = self.contacts.setdefault(key, {"id": "C%d" % self.made})
        contact.update(phone=phone and e164(phone), email=who["email"])
        self.write("contact", op=op, contact=dict(contact),
                   fields={"st_customer_id": str(customer)})
        return contact["id"]

    def opportunity(self, customer, pipeline, stage, status, **fields):
        key = next(iter(fields.values()))
        if key not in self.opportunities and pipeline is None:
            return                    # nothing to lose: its estimate is older than we are
        contact = self.contact(customer)
        if contact is None:
            return
        op = "update" if key in self.opportunities else "create"
        self.made += op == "create"
        known = self.opportunities.setdefault(key, {"id": "O%d" % self.made})
        known.update(status=status, pipeline=pipeline or known.get("pipeline"),
                     stage=stage or known.get("stage"))
        self.write("opportunity", op=op, opportunity={"id": known["id"], "status": status},
                   fields=fields, pipeline=known["pipeline"], stage=known["stage"])

    def save(self, path, lines=None):
        with open(path, "w") as f:
            for line in self.lines if lines is None else lines:
                f.write(json.dumps(line) + "\n")
