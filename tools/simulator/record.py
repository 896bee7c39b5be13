"""What the books of a run say, beside the world of that run worked out again from its seed."""
import bisect

from books import read
from clock import Clock, parse_time
from ghl import e164
from world import World, untoken

DAY = 86400.0


class Record:
    """times: b is business, r is real seconds. `served` has, for each row, when which version was
    first shown to a reader; `asked` has, for each entity, when a reader of its export first went on
    from which place: what lies before it was taken. `messages` also has attempts that Twilio
    refused."""

    def __init__(self, path):
        self.clock = self.world = None
        self.served, self.asked, self.first_page, self.lines = {}, {}, {}, 0
        self.messages, self.mails = [], []
        self.contact_lines, self.opportunity_lines = [], []
        self.opted_out, self.failed, self.patched = {}, {}, set()
        self.real_end = self.end = None
        for line in read(path):
            if self.world is None and line["k"] != "start":
                raise ValueError("%s does not begin with a start line" % path)
            self.lines += 1
            self.take(line)
            if self.end is not None:
                break
            self.last = line
        if self.world is None:
            raise ValueError("%s is empty or missing" % path)
        if self.end is None:
            self.end, self.real_end = parse_time(self.last["b"]), self.last["r"]
        self.world.advance(self.end)

    def take(self, line):
        kind, b, r = line["k"], parse_time(line["b"]), line["r"]
        if kind == "start":
            if self.world is None:
                self.clock = Clock(line["clock"])
                self.world = World(line["seed"], self.clock.business_origin, line["customers"],
                                   line["rate"])
        elif kind == "page":
            self.first_page.setdefault(line["entity"], b)
            place = untoken(line.get("start", ""))
            if place:
                places, times = self.asked.setdefault(line["entity"], ([], []))
                if not places or place > places[-1]:
                    places.append(place)
                    times.append(b)
            for key, number in line["rows"]:
                seen = self.served.setdefault((line["entity"], key), [])
                if not seen or seen[-1][0] < number:
                    seen.append((number, b))
        elif kind == "message":
            m = line["message"]
            self.messages.append({"b": b, "r": r, "to": m["to"], "text": m["body"],
                                  "intent": line["intent"], "refused": False, "id": m["sid"]})
        elif kind == "message_refused":
            self.messages.append({"b": b, "r": r, "to": line["to"], "text": line["body"],
                                  "intent": line["intent"], "refused": True, "id": "refused"})
        elif kind == "mail":
            m = line["mail"]
            for to in m["to"]:
                self.mails.append({"b": b, "r": r, "to": to.lower(), "text": m["text"],
                                   "subject": m["subject"] or "", "intent": m["args"].get("m"),
                                   "refused": False, "id": m["id"]})
        elif kind == "contact":
            self.contact_lines.append(line)
        elif kind == "opportunity":
            self.opportunity_lines.append(dict(line, at=b))
        elif kind == "callback" and line["status"] in ("failed", "undelivered"):
            self.failed.setdefault(line["sid"], b)
        elif kind == "mail_event" and line["event"] == "bounce":
            self.failed.setdefault(line["id"], b)
        elif kind == "inbound" and line["revoked"]:
            posted = self.clock.business(line["sent"])
            acked = b if 200 <= line["answer"] < 300 else None
            old = self.opted_out.get(line["from"])
            if not old or (old[1] is None and acked):
                self.opted_out[line["from"]] = (old[0] if old else posted, acked)
        elif kind == "faults":
            for rule in line["new"]:
                if rule["fault"] == "orphans":
                    self.world.orphans.append((rule["since"], float(rule.get("p", 1)),
                                               rule.get("delay", 3) * self.clock.scale))
        elif kind == "stop_life":
            self.world.stopped_at = line["at"]
        elif kind == "patch":
            self.world.patch(line["at"], line["entity"], line["id"], line["fields"])
            self.patched.add((line["entity"], line["id"]))
        elif kind == "end":
            self.end, self.real_end = b, r

    def served_at(self, entity, key, number=1):
        """When a version of at least this number was first shown; None if never."""
        for seen, b in self.served.get((entity, key), ()):
            if seen >= number:
                return b
        return None

    def taken_at(self, entity, key, number=1):
        """From when the reader surely had a version of at least this number; None if never."""
        served = self.served_at(entity, key, number)
        if served is None or entity not in self.asked:
            return served
        places, times = self.asked[entity]
        index = bisect.bisect_left(places, self.world.versions(entity, key)[number - 1].place)
        return max(served, times[index]) if index < len(times) else None

    def first_served(self, entity, key):
        """The version that a reader saw first."""
        seen = self.served.get((entity, key))
        return self.world.versions(entity, key)[seen[0][0] - 1] if seen else None

    def becomes(self, entity, key, test):
        """The first version whose row passes the test, or None."""
        for version in self.world.versions(entity, key):
            if test(version.row):
                return version
        return None

    def customers(self):
        """id -> what a sender needs to know of a customer, from the contacts as they are."""
        zones = {p["id"]: (p["city"][4], p["city"][1]) for p in self.world.life.profiles}
        people = {}
        for key, versions in self.world.feeds["customers"].versions.items():
            row = versions[-1].row
            zone, state = zones.get(key, ("America/New_York", "NY"))
            people[key] = {"id": key, "name": row["name"], "zone": zone, "state": state,
                           "mobile": None, "landline": None, "email": None, "consent": None,
                           "consent_ends": None, "do_not_text": False,
                           "barred": row["doNotService"], "no_mail": row["doNotMail"],
                           "unsure": ("customers", key) in self.patched or not row["active"]}
        for key, versions in self.world.feeds["contacts"].versions.items():
            row, first = versions[-1].row, versions[0].row
            person = people.get(row["customerId"])
            if person is None or not row["active"]:
                continue
            if ("contacts", key) in self.patched:
                person["unsure"] = True
            if row["type"] == "Email":
                person["email"] = row["value"].lower()
            else:
                kind = "mobile" if row["type"] == "MobilePhone" else "landline"
                person[kind] = e164(row["value"])
                person["do_not_text"] |= row["phoneSettings"]["doNotText"]
            wish = first["preferences"]
            person["consent"] = wish["marketingUpdatesEnabled"] if wish else None
            if len(versions) > 1 and person["consent"]:
                ends = (versions[1].at, self.taken_at("contacts", key, 2))
                person["consent_ends"] = person["consent_ends"] or ends
        return people
