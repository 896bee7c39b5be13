"""The company's life: customers call, visits happen, estimates are sold or not, bills are paid.

Everything is told in stories. A story begins with a call on some day and is worked out at once to
its end, as facts: (time, entity, id, fields). Each day has its own random numbers, seeded by the
company's seed and the day, so what happens at which business time depends on the seed alone.
"""
import random

import company
from clock import iso7

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
RETURNING = 0.35          # calls from somebody who has called before
ENTITIES = ("business_units", "technicians", "job_types", "campaigns", "tag_types", "customers",
            "contacts", "locations", "location_contacts", "jobs", "appointments", "assignments",
            "estimates", "invoices")


class Life:
    """Stories day by day; `rate` calls a day from `live_from` on, and enough before for
    `customers` customers."""

    def __init__(self, seed, live_from, customers, rate, history_days=240):
        self.seed, self.live_from, self.rate = seed, live_from, rate
        self.first_day = int(live_from // DAY) - history_days
        self.history_rate = customers / (1 - RETURNING) / history_days
        self.next_day = self.first_day
        self.stories = 0
        self.profiles = []        # one for each new customer
        self.began = self.first_day * DAY

    def day(self):
        """All facts of the stories that begin on the next day."""
        day, self.next_day = self.next_day, self.next_day + 1
        rng = random.Random("%s day %d" % (self.seed, day))
        weekday = (day + 3) % 7                       # 1970-01-01 was a Thursday
        rate = self.rate if day * DAY >= self.live_from - DAY else self.history_rate
        rate *= 0.35 if weekday >= 5 else 1.26
        count = int(rate) + (rng.random() < rate % 1)
        starts = sorted(day * DAY + rng.uniform(12.5 * HOUR, 23 * HOUR) for _ in range(count))
        facts = []
        for start in starts:
            facts += Story(self, self.stories, start, rng).facts
            self.stories += 1
        return facts

    def new_profile(self, n, rng):
        """Who calls: everything that is decided about a customer when they are met."""
        city = rng.choice(company.CITIES)
        first, last = rng.choice(company.FIRST), rng.choice(company.LAST)
        commercial = rng.random() < 0.06
        style = rng.random()
        name = rng.choice(company.FIRMS) if commercial else \
            "%s, %s" % (last, first) if style < 0.2 else "%s %s" % (first, last)
        exchange = 555 if n < 10000 else 200 + n // 10000
        number = "%s%03d%04d" % (city[3], exchange, n % 10000)
        kind = rng.random()
        profile = {
            "n": n, "id": 5000000 + n, "name": name, "commercial": commercial, "city": city,
            "street": "%d %s St" % (rng.randrange(1, 990), rng.choice(company.STREETS)),
            "mobile": number if kind < 0.88 else None,
            "landline": number[:3] + "2" + number[4:] if 0.80 <= kind < 0.94 else None,
            "email": "%s.%s.%d@example.com" % (first.lower(), last.lower().replace("'", ""), n)
                     if rng.random() < 0.87 else None,
            "do_not_text": rng.random() < 0.04, "do_not_mail": rng.random() < 0.03,
            "do_not_service": rng.random() < 0.012,
            "consent": rng.choices((True, False, None), (90, 5, 5))[0],
            "consent_ends": rng.uniform(4, 25) * DAY if rng.random() < 0.03 else None,
            "tags": [t for t, _ in company.TAGS if rng.random() < 0.08]}
        if n % 97 == 13 and self.profiles:            # a couple with one phone
            other = self.profiles[-1]
            profile["mobile"], profile["city"] = other["mobile"], other["city"]
        self.profiles.append(profile)
        return profile


def workday(rng, at, least, most):
    """A start between `least` and `most` days after `at`, on a weekday between 9 and 16 Eastern."""
    day = int((at + rng.uniform(least, most) * DAY) // DAY)
    while (day + 3) % 7 >= 5:
        day += 1
    return day * DAY + rng.randrange(13 * 2, 20 * 2 + 1) * 30 * MINUTE


class Story:
    def __init__(self, life, n, start, rng):
        self.n, self.rng, self.facts = n, rng, []
        self.jobs = self.appointments = self.estimates = self.invoices = 0
        known = life.profiles
        if known and rng.random() < RETURNING:
            self.who = rng.choice(known)
        else:
            self.who = life.new_profile(n, rng)
            self.meet(start)
        self.location = 7000000 + self.who["n"]
        kind = rng.choices((company.TYPE_VISIT, company.TYPE_REPAIR, company.TYPE_TUNEUP,
                            company.TYPE_DRAIN), (50, 22, 18, 10))[0]
        self.visit(start + 40, kind)

    def fact(self, at, entity, key, fields):
        self.facts.append((round(at, 3), entity, key, fields))

    def meet(self, at):
        who = self.who
        self.fact(at, "customers", who["id"], {
            "id": who["id"], "active": True, "name": who["name"],
            "type": "Commercial" if who["commercial"] else "Residential",
            "address": company.address(who), "customFields": [], "balance": 0.0,
            "taxExempt": False, "tagTypeIds": who["tags"], "doNotMail": who["do_not_mail"],
            "doNotService": who["do_not_service"], "nationalAccount": False,
            "createdOn": iso7(at), "createdById": 9601, "mergedToId": None,
            "paymentTermId": None, "creditLimit": None, "creditLimitBalance": None,
            "externalData": []})
        self.fact(at + 1, "locations", 7000000 + who["n"], {
            "id": 7000000 + who["n"], "customerId": who["id"], "active": True,
            "name": who["name"], "address": company.address(who), "customFields": [],
            "createdOn": iso7(at + 1), "createdById": 9601, "mergedToId": None, "zoneId": None,
            "taxExempt": False, "tagTypeIds": [], "externalData": [], "taxZoneId": None})
        values = [("MobilePhone", who["mobile"]), ("Phone", who["landline"]),
                  ("Email", who["email"])]
        for k, (kind, value) in enumerate(values):
            if value is None:
                continue
            if kind != "Email" and who["n"] % 2:
                value = "(%s) %s-%s" % (value[:3], value[3:6], value[6:])
            self.contact(at + 2 + k, 6000000 + who["n"] * 4 + k, kind, value, who["consent"])
            if who["consent_ends"] and who["consent"]:
                self.fact(at + who["consent_ends"], "contacts", 6000000 + who["n"] * 4 + k,
                          {"preferences": preferences(False)})

    def contact(self, at, key, kind, value, consent):
        row = {"id": key, "type": kind, "value": value, "memo": None,
               "phoneSettings": {"phoneNumber": value if kind != "Email" else "",
                                 "doNotText": kind != "Email" and self.who["do_not_text"]},
               "createdOn": iso7(at), "preferences": preferences(consent), "active": True}
        self.fact(at, "contacts", key, dict(row, customerId=self.who["id"]))
        if kind != "Email":
            key += 500000000
            self.fact(at, "location_contacts", key,
                      dict(row, id=key, locationId=7000000 + self.who["n"]))

    def job(self, at, kind, start, estimate=None):
        """A job with its first appointment; the job's and the appointment's ids."""
        unit = next(u for t, _, _, u in company.JOB_TYPES if t == kind)
        key = 8000000 + self.n * 4 + self.jobs
        self.jobs += 1
        appointment = self.appointment(at, key, start)
        self.fact(at, "jobs", key, {
            "id": key, "jobNumber": str(key), "projectId": None, "customerId": self.who["id"],
            "locationId": self.location, "jobStatus": "Scheduled", "completedOn": None,
            "businessUnitId": unit, "jobTypeId": kind, "priority": "Normal",
            "campaignId": self.rng.choice((401, 402, 403, 404)), "appointmentCount": 1,
            "firstAppointmentId": appointment, "lastAppointmentId": appointment,
            "recallForId": None, "warrantyId": None, "jobGeneratedLeadSource": None,
            "noCharge": kind == company.TYPE_VISIT, "notificationsEnabled": True,
            "createdOn": iso7(at), "createdById": 9601, "tagTypeIds": [], "leadCallId": None,
            "partnerLeadCallId": None, "bookingId": None, "soldById": 601 if estimate else None,
            "customerPo": "", "invoiceId": 12000000 + self.n * 4 + self.jobs - 1,
            "membershipId": None, "total": None, "createdFromEstimateId": estimate,
            "estimateIds": [], "summary": "", "customFields": [], "externalData": [],
            "active": True})
        return key, appointment

    def appointment(self, at, job, start):
        key = 9000000 + self.n * 8 + self.appointments
        self.appointments += 1
        self.fact(at, "appointments", key, {
            "id": key, "jobId": job, "appointmentNumber": "%d-%d" % (job, self.appointments),
            "start": iso7(start), "end": iso7(start + 2 * HOUR),
            "arrivalWindowStart": iso7(start), "arrivalWindowEnd": iso7(start + HOUR),
            "status": "Scheduled", "specialInstructions": None, "createdOn": iso7(at),
            "customerId": self.who["id"], "unused": False, "createdById": 9601,
            "isConfirmed": False, "active": True})
        tech, name, _ = self.rng.choice(company.TECHNICIANS[:6])
        assigned = at + self.rng.uniform(1, 90) * MINUTE
        self.fact(assigned, "assignments", key + 1000000, {
            "id": key + 1000000, "technicianId": tech, "technicianName": name,
            "assignedById": 9601, "assignedOn": iso7(assigned), "status": "Scheduled",
            "isPaused": False, "jobId": job, "appointmentId": key, "createdOn": iso7(assigned),
            "active": True})
        return key

    def happen(self, job, appointment, start, end, total):
        """The appointment takes place and the job is completed."""
        self.fact(start, "appointments", appointment, {"status": "Working", "isConfirmed": True})
        self.fact(start, "assignments", appointment + 1000000, {"status": "Working"})
        self.fact(start, "jobs", job, {"jobStatus": "InProgress"})
        self.fact(end, "appointments", appointment, {"status": "Done"})
        self.fact(end, "assignments", appointment + 1000000, {"status": "Done"})
        self.fact(end + 20, "jobs", job,
                  {"jobStatus": "Completed", "completedOn": iso7(end + 20), "total": total})

    def visit(self, at, kind):
        rng = self.rng
        start = workday(rng, at, 0.6, 4)
        job, appointment = self.job(at, kind, start)
        if rng.random() < 0.08:
            late = at + (start - at) * rng.uniform(0.2, 0.9)
            self.fact(late, "jobs", job, {"jobStatus": "Canceled"})
            self.fact(late, "appointments", appointment, {"status": "Canceled", "active": False})
            return
        if rng.random() < 0.1:
            moved = at + (start - at) * rng.uniform(0.2, 0.8)
            start = workday(rng, start, 1, 3)
            self.fact(moved, "appointments", appointment, {
                "start": iso7(start), "end": iso7(start + 2 * HOUR),
                "arrivalWindowStart": iso7(start), "arrivalWindowEnd": iso7(start + HOUR)})
        end = start + rng.uniform(1, 3) * HOUR
        total = 0.0 if kind == company.TYPE_VISIT else round(rng.uniform(89, 900), 2)
        self.happen(job, appointment, start, end, total)
        if rng.random() < (0.9 if kind == company.TYPE_VISIT else 0.2):
            self.offer(end - 20 * MINUTE, job, kind)
        self.invoice(end + 300, job, total, 12000000 + job - 8000000, self.who)

    def offer(self, at, job, kind):
        """One or two estimates, and what the customer makes of them."""
        rng = self.rng
        unit = next(u for t, _, _, u in company.JOB_TYPES if t == kind)
        made = []
        for k in range(2 if rng.random() < 0.25 else 1):
            key = 11000000 + self.n * 4 + self.estimates
            self.estimates += 1
            subtotal = round(rng.lognormvariate(8.3, 0.8), 2)
            self.estimate(at + k * 240, key, job, unit, subtotal, recommended=k == 0)
            made.append((key, round(subtotal * 1.07, 2)))
        fate = rng.random()
        decided = at + rng.uniform(0.3, 12) * DAY
        key, total = rng.choice(made)
        if fate < 0.36:
            self.fact(decided, "estimates", key, {"status": {"value": 1, "name": "Sold"},
                                                  "soldOn": iso7(decided), "soldBy": 601})
            for other, _ in made:
                if other != key:
                    self.dismiss(decided + 60, other)
            if rng.random() < 0.92:
                self.install(decided + rng.uniform(0.5, 22) * HOUR, key, total)
        elif fate < 0.62:
            for k, (other, _) in enumerate(made):
                self.dismiss(decided + k * 45, other)
        elif fate < 0.72:
            self.fact(at + rng.uniform(0.5, 3) * DAY, "estimates", key,
                      {"summary": "Price checked with the supplier"})

    def estimate(self, at, key, job, unit, subtotal, recommended):
        sku, good = company.GOODS[key % 5]
        self.fact(at, "estimates", key, {
            "id": key, "jobId": job, "projectId": None, "locationId": self.location,
            "customerId": self.who["id"], "name": good, "jobNumber": str(job),
            "status": {"value": 0, "name": "Open"}, "reviewStatus": "None", "summary": None,
            "createdOn": iso7(at), "soldOn": None, "soldBy": None, "active": True,
            "items": [{
                "id": key * 10, "sku": {
                    "id": sku, "name": good, "displayName": good, "type": "Equipment",
                    "soldHours": 4, "generalLedgerAccountId": 1,
                    "generalLedgerAccountName": "Sales", "modifiedOn": iso7(at)},
                "skuAccount": "Sales", "description": good, "membershipTypeId": None, "qty": 1,
                "unitRate": subtotal, "total": subtotal, "unitCost": 0, "totalCost": 0,
                "itemGroupName": "", "itemGroupRootId": None, "createdOn": iso7(at),
                "modifiedOn": iso7(at), "chargeable": True, "invoiceItemId": None,
                "budgetCodeId": None}],
            "externalLinks": [], "subtotal": subtotal, "tax": round(subtotal * 0.07, 2),
            "businessUnitId": unit, "businessUnitName": dict(company.UNITS)[unit],
            "isRecommended": recommended, "budgetCodeId": None, "isChangeOrder": False,
            "proposalTagName": None})

    def dismiss(self, at, key):
        self.fact(at, "estimates", key, {"status": {"value": 2, "name": "Dismissed"}})

    def install(self, at, estimate, total):
        rng = self.rng
        start = workday(rng, at, 2, 12)
        kind = company.TYPE_HEATER if rng.random() < 0.3 else company.TYPE_SYSTEM
        job, appointment = self.job(at, kind, start, estimate)
        end = start + rng.uniform(4, 8) * HOUR
        self.happen(job, appointment, start, end, total)
        self.invoice(end + 300, job, total, 12000000 + job - 8000000, self.who)

    def invoice(self, at, job, total, key, who):
        rng = self.rng
        term, days = rng.choice((("Due Upon Receipt", 0), ("Net 7", 7), ("Net 15", 15),
                                 ("Net 30", 30)))
        due = (int(at // DAY) + days) * DAY
        name = {"id": who["id"], "name": who["name"]}
        place = {"id": self.location, "name": who["name"]}
        subtotal = round(total / 1.07, 2)
        self.fact(at, "invoices", key, {
            "id": key, "syncStatus": "Pending", "budgetCodeId": None,
            "referenceNumber": str(job), "invoiceDate": iso7(int(at // DAY) * DAY),
            "dueDate": iso7(due), "subTotal": company.money(subtotal),
            "salesTax": company.money(total - subtotal), "salesTaxCode": None, "taxZoneId": None,
            "total": company.money(total), "balance": company.money(total), "invoiceType": None,
            "customer": name, "customerAddress": company.plain_address(who), "location": place,
            "locationAddress": company.plain_address(who), "businessUnit": None,
            "termName": term, "createdBy": "office", "batch": None, "depositedOn": None,
            "createdOn": iso7(at), "adjustmentToId": None,
            "job": {"id": job, "number": str(job), "type": None}, "projectId": None,
            "royalty": None, "employeeInfo": None, "commissionEligibilityDate": None,
            "sentStatus": "NotSent", "reviewStatus": "NeedsReview", "assignedTo": None,
            "summary": None, "items": [], "customFields": [], "active": True,
            "discountTotal": None, "importId": None, "exportId": None, "materialSkuId": None,
            "membershipId": None, "paidOn": None, "invoiceConfiguration": "JobInvoice"})
        if total <= 0:
            return
        self.fact(at, "customers", who["id"], {"balance+": total})
        fate = rng.random()
        if fate < 0.68:
            paid = at + rng.uniform(0.05, 1) * max(due - at, 0.6 * DAY)
        elif fate < 0.9:
            paid = due + rng.uniform(2, 20) * DAY
        else:
            return
        self.fact(paid, "invoices", key, {"balance": "0.00", "paidOn": iso7(paid)})
        self.fact(paid, "customers", who["id"], {"balance+": -total})


def preferences(marketing):
    if marketing is None:
        return None
    return {"jobRemindersEnabled": True, "marketingUpdatesEnabled": marketing,
            "invoiceStatementNotification": True}
