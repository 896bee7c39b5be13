"""What the shipped workflows owe and what they must not do, worked out from the company alone.

Each `Item` is one text, mail, contact or opportunity with the times between which it may come:
`low` (earlier is wrong), `high` (owed by then; None: it may or may not come), `last` (later is
wrong). Whatever stands near a boundary is not owed: the doubt is always in favour of the judged.
"""
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from clock import parse_time
from record import DAY

HOUR = 3600.0
FOREVER = float("inf")
OFFICE = "office@brightair.example"
COMPANY_ZONE = "America/New_York"
FOLLOW_UP = ((1, 2 * HOUR), (2, 2 * DAY), (3, 5 * DAY), (4, 10 * DAY))


class Item:
    def __init__(self, template, address, low, high, last, about, marks=(), zone=COMPANY_ZONE,
                 state="NY", marketing=False, channel="sms"):
        self.template, self.address, self.channel = template, address, channel
        self.low, self.high, self.last = low, high, last
        self.about, self.marks = about, [m for m in marks if m]
        self.zone, self.state, self.marketing = zone, state, marketing
        self.owed_until = FOREVER     # a stop from here on excuses it
        self.chain = None             # the sequence it belongs to
        self.got = None


def allowed(at, zone, state, marketing):
    """Whether a text may go out at this moment in the recipient's zone."""
    local = datetime.fromtimestamp(at, ZoneInfo(zone))
    first, last = (9, 20) if marketing else (7, 21)
    if marketing and state == "TX" and local.weekday() == 6:
        first = 12
    return first <= local.hour < last


def next_allowed(at, zone, state, marketing):
    """The same moment, or the next one at which a text may go out."""
    if at == FOREVER or allowed(at, zone, state, marketing):
        return at
    local = datetime.fromtimestamp(at, ZoneInfo(zone))
    first = 9 if marketing else 7
    for day in range(3):
        for hour in (first, 12):
            begin = (local + timedelta(days=day)).replace(hour=hour, minute=0, second=0)
            moment = begin.timestamp()
            if moment > at and allowed(moment, zone, state, marketing):
                return moment
    return at + 3 * DAY


def money(amount):
    return "${:,.2f}".format(amount)


class Owed:
    """slack, stop_slack: real seconds in which the product may be busy, or hear of a stop."""

    def __init__(self, record, slack, stop_slack):
        self.record, self.world = record, record.world
        self.slack = slack * record.clock.scale        # for anything, from end to end
        self.notice = self.slack / 2                   # from a page to the event
        self.send = self.slack / 4                     # from a due time to the vendor
        self.stop_slack = stop_slack * record.clock.scale
        self.margin = 1.0 * record.clock.scale
        self.people = record.customers()
        self.items, self.unfetched = [], []
        self.contacts = {}            # customer -> owed (True) or merely allowed (False)
        self.by_estimate = {}         # estimate -> owed opportunity?
        self.by_job = {}
        self.shared = {}              # number -> customers who have it
        for person in self.people.values():
            for number in {person["mobile"], person["landline"]} - {None}:
                self.shared.setdefault(number, []).append(person)
        self.undelivered = {}         # number -> since when it may count as dead
        for message in record.messages + record.mails:
            if message["id"] in record.failed:
                self.undelivered.setdefault(message["to"], message["b"])
        self.estimates()
        self.jobs()
        self.invoices()
        self.touched()
        self.spread()
        self.end_of_items()

    # facts

    def live(self, entity, at):
        """True: after the first import began; False: history; None: too near to say."""
        since = self.record.first_page.get(entity)
        if since is None or at < since - self.margin:
            return False
        return True if at > since + self.margin else None

    def noticed(self, entity, key, version, what):
        """Earliest and latest business time at which the product knows of a version; None when it
        cannot know. Notes what it never asked for."""
        served = self.record.served_at(entity, key, version.number)
        taken = self.record.taken_at(entity, key, version.number)
        if taken is None and max(version.place[0], version.at) < self.record.end - 2 * self.slack:
            self.unfetched.append("%s %d (%s) was never fetched" % (entity[:-1], key, what))
        if served is None:
            return None
        return served, FOREVER if taken is None else taken + self.notice

    def stop(self, entity, key, version):
        """(not owed from, wrong from) for a fact that ends a sequence."""
        if version is None:
            return FOREVER, FOREVER
        taken = self.record.taken_at(entity, key, version.number)
        return version.at, FOREVER if taken is None else taken + self.stop_slack

    # who may be written to

    def may_text(self, person, marketing):
        """(number, 'yes' | 'no' | 'maybe', not owed from, wrong from)"""
        number = person["mobile"] or person["landline"]
        if number is None:
            return None, "no", FOREVER, FOREVER
        answers = {self.one_may_text(p, marketing) for p in self.shared[number]}
        answer = answers.pop() if len(answers) == 1 else "maybe"
        if person["landline"] and not person["mobile"] and answer == "yes":
            answer = "maybe"          # whether a landline is tried is the product's choice
        owed, wrong = FOREVER, FOREVER
        if marketing and person["consent_ends"] and answer == "yes":
            at, served = person["consent_ends"]
            owed, wrong = at, FOREVER if served is None else served + self.stop_slack
        posted, acked = self.record.opted_out.get(number, (FOREVER, FOREVER))
        owed = min(owed, posted)
        if acked is not None and acked != FOREVER:
            wrong = min(wrong, acked + self.stop_slack)
        owed = min(owed, self.undelivered.get(number, FOREVER))
        return number, answer, owed, wrong

    def one_may_text(self, person, marketing):
        if person["unsure"]:
            return "maybe"
        if person["do_not_text"] or person["barred"]:
            return "no"
        if marketing and person["consent"] is not True:
            return "no"
        return "yes"

    def text(self, template, person, low, due, last, about, marks, marketing):
        """Adds a text that falls due between low and due; the latest time it should be out."""
        number, answer, owed_until, wrong = self.may_text(person, marketing)
        high = None
        ready = next_allowed(due + self.send, person["zone"], person["state"], marketing)
        ready += self.send
        if number is None or answer == "no":
            return ready
        if answer == "yes":
            high = ready
        item = Item(template, number, low, high, min(last[1], wrong), about, marks,
                    person["zone"], person["state"], marketing)
        item.owed_until = min(last[0], owed_until)
        self.items.append(item)
        return ready

    # the workflows

    def estimates(self):
        for key, versions in self.world.feeds["estimates"].versions.items():
            first = versions[0]
            sold = self.record.becomes("estimates", key, lambda r: r["status"]["name"] == "Sold")
            lost = self.record.becomes("estimates", key,
                                       lambda r: r["status"]["name"] == "Dismissed")
            live = self.live("estimates", first.at)
            fate = sold or lost
            if live is False:
                moved = fate and self.live("estimates", fate.at) is not False
                self.by_estimate[key] = {"owed": False, "allowed": bool(moved), "sold": None,
                                         "lost": None, "versions": versions}
                continue
            known = self.noticed("estimates", key, first, "new estimate")
            person = self.people[first.row["customerId"]]
            reachable = person["mobile"] or person["landline"] or person["email"]
            owed = bool(live and known and reachable and not person["unsure"] and
                        known[1] + self.slack < self.record.end)
            self.by_estimate[key] = {
                "owed": owed, "allowed": True, "versions": versions,
                "sold": self.settled("estimates", key, sold),
                "lost": self.settled("estimates", key, lost)}
            if owed:
                self.contacts[person["id"]] = True
            if known:
                self.follow_up(key, first, person, known, live, fate)

    def settled(self, entity, key, version):
        """Whether a fact must have had its effect by the end: True, None (perhaps), False (no)."""
        if version is None:
            return False
        served = self.record.taken_at(entity, key, version.number)
        if served is None:
            return None
        return True if served + 2 * self.slack < self.record.end else None

    def follow_up(self, key, first, person, known, live, fate):
        row = self.record.first_served("estimates", key).row
        total = row["subtotal"] + row["tax"]
        if row["status"]["name"] != "Open" or total < 999.995:
            return
        last = self.stop("estimates", key, fate)
        before, sure = known[1], live
        for k, age in FOLLOW_UP:
            count = len(self.items)
            ready = self.text("estimate_%d" % k, person, known[0] + age - HOUR - 1,
                              max(before, known[1] + age + HOUR), last, "estimate %d" % key,
                              (money(total), row["name"]), True)
            before = ready
            for item in self.items[count:]:
                item.chain = ("estimate", key, k)
                if not sure:
                    item.high = None

    def jobs(self):
        install = {k for k, v in self.world.feeds["job_types"].versions.items()
                   if v[-1].row["class"] == "Install"}
        for key, versions in self.world.feeds["jobs"].versions.items():
            first = versions[0]
            person = self.people[first.row["customerId"]]
            live = self.live("jobs", first.at)
            known = None
            if live is not False:
                known = self.noticed("jobs", key, first, "new job")
                reachable = person["mobile"] or person["landline"] or person["email"]
                if live and known and known[1] + self.slack < self.record.end and reachable and \
                        not person["unsure"]:
                    self.contacts[person["id"]] = True
            if first.row["jobTypeId"] in install and live is not False:
                self.by_job[key] = {"estimate": first.row["createdFromEstimateId"], "known": known,
                                    "owed": self.contacts.get(person["id"]) is True and bool(
                                        live and known and
                                        known[1] + 2 * self.slack < self.record.end)}
            done = self.record.becomes("jobs", key, lambda r: r["jobStatus"] == "Completed")
            if done is None or self.live("jobs", done.at) is False:
                continue
            known = self.noticed("jobs", key, done, "completed job")
            if known is None:
                continue
            count = len(self.items)
            marks = (first.row["jobNumber"],)
            never = (FOREVER, FOREVER)
            ready = self.text("review_1", person, known[0] + 2 * HOUR - 1, known[1] + 2 * HOUR,
                              never, "job %d" % key, marks, True)
            self.text("review_2", person, known[0] + 3 * DAY - HOUR,
                      max(ready, known[1] + 2 * HOUR) + 3 * DAY + HOUR, never, "job %d" % key,
                      marks, True)
            for k, item in enumerate(self.items[count:]):
                item.chain = ("job", key, k)
                if self.live("jobs", done.at) is None:
                    item.high = None

    def invoices(self):
        for key, versions in self.world.feeds["invoices"].versions.items():
            first = versions[0].row
            if float(first["total"]) <= 0:
                continue
            due = parse_time(first["dueDate"])
            if due + DAY < self.record.first_page.get("invoices", FOREVER) - DAY:
                continue              # overdue before the first import: history
            live = due + DAY > self.record.first_page.get("invoices", FOREVER) + DAY
            known = self.noticed("invoices", key, versions[0], "new invoice")
            paid = self.record.becomes("invoices", key, lambda r: float(r["balance"]) <= 0)
            stop = self.stop("invoices", key, paid)
            if known is None or stop[1] <= max(due + DAY, known[0]):
                continue
            low = max(due + DAY, known[0])
            at_seven = due + DAY + 12 * HOUR
            late = at_seven if known[1] < at_seven else known[1] + 36 * HOUR
            self.overdue(key, first, self.people[first["customer"]["id"]], low,
                         late + self.notice, stop, live)

    def overdue(self, key, row, person, low, late, stop, live):
        about, marks = "invoice %d" % key, (row["referenceNumber"], str(key), person["name"])
        count = len(self.items)
        ready = next_allowed(late + self.send, person["zone"], person["state"], False) + self.send
        if person["email"]:
            sure = not (person["no_mail"] or person["barred"] or person["unsure"])
            self.items.append(Item("overdue_1", person["email"], low, ready if sure else None,
                                   stop[1], about, marks, person["zone"], person["state"],
                                   channel="email"))
        ready += self.send
        self.items.append(Item("overdue_office", OFFICE, low, ready, stop[1], about, marks,
                               channel="email"))
        for item in self.items[count:]:
            item.owed_until = min(stop[0], self.undelivered.get(item.address, FOREVER))
        self.text("overdue_2", person, low + 7 * DAY - HOUR, ready + 7 * DAY + HOUR, stop, about,
                  marks, False)
        for item in self.items[count:]:
            if not live or ("invoices", key) in self.record.patched:
                item.high = None

    def touched(self):
        """Customers about whom anything happened since the first import: a contact may exist."""
        for entity in ("estimates", "jobs", "appointments", "invoices"):
            since = self.record.first_page.get(entity, FOREVER) - self.margin
            for versions in self.world.feeds[entity].versions.values():
                if versions[-1].at >= since:
                    row = versions[-1].row
                    owner = row["customer"]["id"] if entity == "invoices" else row["customerId"]
                    self.contacts.setdefault(owner, False)
        for key, job in self.by_job.items():
            estimate = self.by_estimate.get(job["estimate"])
            if estimate:
                estimate["allowed"] = True

    # caps

    def spread(self):
        """One marketing text an address and day: texts that meet may push each other on."""
        by_address = {}
        for item in self.items:
            if item.marketing:
                by_address.setdefault(item.address, []).append(item)
        for items in by_address.values():
            items.sort(key=lambda i: i.low)
            for item in items:
                if item.high is None:
                    continue
                rivals = sum(1 for i in items if i is not item and
                             i.low < item.high + 6 * DAY and
                             (i.high if i.high is not None else i.low + 8 * DAY) > item.low - DAY)
                item.high += rivals * (DAY + self.send)
            late = {}                 # a late text makes the rest of its sequence late
            for item in items:
                if item.chain and item.high is not None:
                    key = item.chain[:2]
                    item.high = max(item.high, late.get(key, 0))
                    late[key] = item.high + DAY + self.send

    def end_of_items(self):
        """Not owed after all: what may still be on its way at the end, or was ended in time."""
        for item in self.items:
            if item.high is not None and item.high >= min(self.record.end, item.owed_until):
                item.high = None
