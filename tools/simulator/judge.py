"""Compares what the vendors received with what was owed, and says what is wrong."""
from datetime import datetime
from zoneinfo import ZoneInfo

from clock import iso
from owed import FOREVER, allowed
from record import DAY

ARRIVALS_IN_QUIET = 0.35      # of marketing texts, arriving in quiet hours; half the day is quiet


class Verdict:
    """What is wrong; and notes: races that the company cannot tell apart either."""

    def __init__(self):
        self.lost, self.duplicates, self.forbidden, self.notes = [], [], [], []

    def problems(self):
        return (["lost: " + p for p in self.lost] + ["duplicate: " + p for p in self.duplicates] +
                ["forbidden: " + p for p in self.forbidden])


class Judge:
    def __init__(self, record, owed, templates, wire_slack):
        self.record, self.owed, self.templates = record, owed, templates
        self.wire = wire_slack * record.clock.scale
        self.verdict = Verdict()

    def run(self):
        self.verdict.lost += self.owed.unfetched
        self.match("sms", self.record.messages)
        self.match("email", self.record.mails)
        for item in self.owed.items:
            if item.got is None and item.high is not None:
                self.verdict.lost.append("%s to %s for %s, owed between %s and %s" % (
                    item.template, item.address, item.about, iso(item.low), iso(item.high)))
        self.quiet_hours()
        self.caps()
        self.contacts()
        self.opportunities()
        return self.verdict

    # texts and mails

    def match(self, channel, received):
        by_key, intents = {}, {}
        for item in self.owed.items:
            if item.channel == channel:
                by_key.setdefault((item.address, item.template), []).append(item)
        for m in sorted(received, key=lambda m: m["b"]):
            m["template"] = self.templates.name_of(m["text"])
            m["item"] = None
            what = "%s to %s at %s" % (m["template"] or "%r" % m["text"][:60], m["to"],
                                       iso(m["b"]))
            if m["intent"] and not m["refused"]:
                if m["intent"] in intents:
                    self.verdict.duplicates.append("%s: intent %s was sent already at %s" % (
                        what, m["intent"], iso(intents[m["intent"]])))
                    continue
                intents[m["intent"]] = m["b"]
            if m["template"] is None:
                self.verdict.forbidden.append(what + ": no template has this text")
                continue
            self.place(m, by_key.get((m["to"], m["template"]), []), what)

    def place(self, m, items, what):
        """Finds the item that a message is, or says why it is none."""
        candidates = [i for i in items if any(mark in m["text"] for mark in i.marks[:1])]
        if not candidates and m["template"] not in self.templates.numbered:
            candidates = items
        fitting = [i for i in candidates if i.got is None and i.low <= m["b"] <= i.last]
        if fitting:
            best = min(fitting, key=lambda i: (FOREVER if i.high is None else i.high, i.last))
            if not m["refused"]:
                best.got, m["item"] = m, best
            return
        free = [i for i in candidates if i.got is None]
        after = [i for i in free if m["b"] > i.last]
        if after:
            self.verdict.forbidden.append("%s: %s had ended it at %s" % (
                what, after[0].about, iso(after[0].last)))
            after[0].got = m
        elif m["refused"]:
            return
        elif free:
            early = min(free, key=lambda i: i.low)
            self.verdict.forbidden.append("%s: %s is not due before %s" % (
                what, early.about, iso(early.low)))
            early.got = m
        elif candidates:
            self.verdict.duplicates.append("%s: %s was sent already at %s" % (
                what, candidates[0].about, iso(candidates[0].got["b"])))
        else:
            self.verdict.forbidden.append(what + ": nothing asks for it (history, no consent, "
                                                 "an opt-out, or an event that never was)")

    def quiet_hours(self):
        seen = quiet = 0
        for m in self.record.messages:
            item = m.get("item")
            if item is None:
                continue
            steps = int(self.wire / 1800) + 2
            open_at = [allowed(m["b"] - self.wire * k / steps, item.zone, item.state,
                               item.marketing) for k in range(steps + 1)]
            if not any(open_at):
                self.verdict.forbidden.append("%s to %s at %s: quiet hours in %s" % (
                    item.template, item.address, iso(m["b"]), item.zone))
            if item.marketing:
                seen += 1
                quiet += not (open_at[0] or allowed(m["b"] - self.wire / 8, item.zone,
                                                    item.state, True))
        if seen >= 20 and quiet > ARRIVALS_IN_QUIET * seen:
            self.verdict.forbidden.append(
                "%d of %d marketing texts arrived in their recipients' quiet hours" % (quiet, seen))

    def caps(self):
        """One marketing text for an address and local day; an arrival may belong to the day of its
        intent, up to the wire's slack before."""
        by_address = {}
        for m in self.record.messages:
            if not m["refused"] and m.get("item") and m["item"].marketing:
                by_address.setdefault(m["to"], []).append(m)
        for address, messages in by_address.items():
            used = set()
            for m in sorted(messages, key=lambda m: m["b"]):
                zone = ZoneInfo(m["item"].zone)
                first = datetime.fromtimestamp(m["b"] - self.wire, zone).date().toordinal()
                last = datetime.fromtimestamp(m["b"], zone).date().toordinal()
                free = [d for d in range(first, last + 1) if d not in used]
                if free:
                    used.add(free[0])
                else:
                    self.verdict.forbidden.append("%s to %s at %s: a second marketing text on "
                                                  "that day" % (m["template"], address,
                                                                iso(m["b"])))

    # HighLevel

    def contacts(self):
        owners, final, numbers, mails = {}, {}, set(), set()
        for line in self.record.contact_lines:
            contact = line["contact"]
            final[contact["id"]] = line
            numbers.add(contact.get("phone"))
            mails.add(contact.get("email"))
            owner = line["fields"].get("st_customer_id")
            if owner:
                owners.setdefault(str(owner), set()).add(contact["id"])
        self.contact_count = len(final)
        for key, owed in sorted(self.owed.contacts.items()):
            person = self.owed.people[key]
            known = str(key) in owners or person["mobile"] in numbers - {None} or \
                person["email"] in mails - {None}
            if owed and not known:
                self.verdict.lost.append("a contact for customer %d (%s)" % (key, person["name"]))
        now = {}
        for contact_id, line in final.items():
            owner = line["fields"].get("st_customer_id")
            now.setdefault(owner, []).append(contact_id)
            if owner and int(owner) not in self.owed.contacts:
                self.verdict.forbidden.append("contact %s: nothing happened about customer %s "
                                              "since the first import" % (contact_id, owner))
            elif not owner:
                self.verdict.forbidden.append("contact %s has no st_customer_id" % contact_id)
        for owner, ids in now.items():
            if owner and len(ids) > 1:
                self.verdict.duplicates.append("customer %s has contacts %s" % (
                    owner, ", ".join(sorted(ids))))

    def opportunities(self):
        final, born = {}, {}
        for line in self.record.opportunity_lines:
            final[line["opportunity"]["id"]] = line
            born.setdefault(line["opportunity"]["id"], line["r"])
        self.opportunity_count = len(final)
        self.won = sum(l["opportunity"]["status"] == "won" for l in final.values())
        by_estimate, by_job = {}, {}
        for key, line in final.items():
            estimate, job = (line["fields"].get(n) for n in ("st_estimate_id", "st_job_id"))
            if estimate:
                by_estimate.setdefault(int(estimate), []).append(key)
            if job:
                by_job.setdefault(int(job), []).append(key)
            self.belongs(key, estimate, job)
        for what, owners in (("estimate", by_estimate), ("job", by_job)):
            for owner, keys in owners.items():
                if len(keys) > 1:
                    self.verdict.duplicates.append("%s %d has opportunities %s" % (
                        what, owner, ", ".join(sorted(keys))))
        for key, known in sorted(self.owed.by_estimate.items()):
            if known["owed"] and key not in by_estimate:
                self.verdict.lost.append("an opportunity for estimate %d" % key)
            if known["owed"] and key in by_estimate:
                self.status(key, known, final[by_estimate[key][0]])
        self.installs(by_estimate, by_job, final, born)

    def belongs(self, key, estimate, job):
        if estimate:
            known = self.owed.by_estimate.get(int(estimate))
            if known is None or not known["allowed"]:
                self.verdict.forbidden.append("opportunity %s: estimate %s is history or unknown" %
                                              (key, estimate))
        elif job:
            if int(job) not in self.owed.by_job:
                self.verdict.forbidden.append("opportunity %s: job %s is no new installation" %
                                              (key, job))
        else:
            self.verdict.forbidden.append("opportunity %s has neither st_estimate_id nor st_job_id"
                                          % key)

    def status(self, key, known, line):
        status = line["opportunity"]["status"]
        if known["sold"] and status != "won":
            self.verdict.lost.append("estimate %d is sold, its opportunity is %s" % (key, status))
        elif known["sold"] and line["pipeline"] == "Sales" and line["stage"] != "Job Sold":
            text = "estimate %d is sold, its opportunity stands at %s" % (key, line["stage"])
            jobs = [j for j in self.owed.by_job.values() if j["estimate"] == key]
            if all(self.apart(j) for j in jobs):
                self.verdict.lost.append(text)
            else:                     # sale, job and appointment were noticed in one moment
                self.verdict.notes.append(text)
        elif known["lost"] and status != "lost":
            self.verdict.lost.append("estimate %d is dismissed, its opportunity is %s" % (
                key, status))
        elif known["sold"] is False and known["lost"] is False and status != "open":
            self.verdict.forbidden.append("estimate %d is open, its opportunity is %s" % (
                key, status))

    def installs(self, by_estimate, by_job, final, born):
        for key, job in sorted(self.owed.by_job.items()):
            own = by_job.get(key, [])
            other = by_estimate.get(job["estimate"], []) if job["estimate"] else []
            if own and other and own[0] != other[0] and born[other[0]] < born[own[0]]:
                self.verdict.duplicates.append("job %d has opportunity %s beside its estimate's %s"
                                               % (key, own[0], other[0]))
            if not job["owed"]:
                continue
            if not own and not other:
                self.verdict.lost.append("an opportunity for the installation, job %d" % key)
            elif all(final[k]["pipeline"] != "Install" for k in own + other):
                to = self.verdict.lost if self.apart(job) else self.verdict.notes
                to.append("job %d: its opportunity is not in the Install pipeline" % key)

    def apart(self, job):
        """Whether the job was noticed clearly after its estimate was known to be sold."""
        if job["estimate"] is None or job["known"] is None:
            return True
        sold = self.record.becomes("estimates", job["estimate"],
                                   lambda r: r["status"]["name"] == "Sold")
        served = sold and self.record.taken_at("estimates", job["estimate"], sold.number)
        return served is not None and served + self.owed.slack < job["known"][0]


def summary(record, owed, judge, verdict):
    return {"lost": len(verdict.lost), "duplicates": len(verdict.duplicates),
            "forbidden": len(verdict.forbidden),
            "sms": sum(not m["refused"] for m in record.messages), "email": len(record.mails),
            "contacts": judge.contact_count, "opportunities": judge.opportunity_count,
            "won": judge.won, "owed": sum(i.high is not None for i in owed.items),
            "optional": sum(i.high is None for i in owed.items),
            "owed_contacts": sum(owed.contacts.values()),
            "owed_opportunities": sum(e["owed"] for e in owed.by_estimate.values()),
            "days": round((record.end - record.clock.business_origin) / DAY, 1)}
