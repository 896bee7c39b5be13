"""The oracle over synthetic books: clean ones pass, and each kind of wrong fails.

A send swallowed, doubled, or made after a stop must each be found, wherever in the run it happens.
"""
import collections
import copy
import os
import re
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../../../tools/simulator"), HERE]

import check  # noqa: E402
import judge  # noqa: E402
import owed  # noqa: E402
import player  # noqa: E402
import record  # noqa: E402
from clock import iso3  # noqa: E402
from texts import Templates  # noqa: E402

DAY = 86400.0
make_world, worlds = record.World, {}


def kept_world(*key):
    """One world for all judgements of the same run: it is the same each time, only slow to make."""
    if key not in worlds:
        worlds[key] = make_world(*key)
    return worlds[key]


record.World = kept_world


class Oracle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        player.write_templates(cls.folder.name)
        cls.templates = Templates(cls.folder.name)
        cls.player = player.Player(days=40)
        cls.path = os.path.join(cls.folder.name, "books.jsonl")
        cls.player.save(cls.path)
        cls.record = record.Record(cls.path)
        cls.owed = owed.Owed(cls.record, 6.0, 5.0)
        cls.judge = judge.Judge(cls.record, cls.owed, cls.templates, 2.0)
        cls.verdict = cls.judge.run()

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def problems(self, lines):
        path = os.path.join(self.folder.name, "changed.jsonl")
        self.player.save(path, lines)
        return check.check(path, self.templates)[:2]

    def lines(self):
        return copy.copy(self.player.lines)

    def owed_messages(self, prefix, channel="sms"):
        """Lines of messages that were owed, with their items, where no other item could have
        got the message instead."""
        same = collections.Counter((i.address, i.template, i.channel == "sms" or i.marks[0])
                                   for i in self.owed.items)
        items = {i.got["id"]: i for i in self.owed.items
                 if i.got and i.high is not None and i.template.startswith(prefix) and
                 i.channel == channel and
                 same[i.address, i.template, i.channel == "sms" or i.marks[0]] == 1}
        kind = "message" if channel == "sms" else "mail"
        for n, line in enumerate(self.player.lines):
            if line["k"] == kind:
                key = line["message"]["sid"] if channel == "sms" else line["mail"]["id"]
                if key in items:
                    yield n, line, items[key]

    def some(self, found, count=3):
        found = list(found)
        self.assertGreater(len(found), 0)
        return found[::max(1, len(found) // count)]

    def insert(self, template_line, at, sid):
        """The books with a copy of a message at another business time."""
        message = dict(template_line["message"], sid=sid)
        line = dict(template_line, b=iso3(at), r=self.record.clock.real(at), intent=sid,
                    message=message)
        lines = [x for x in self.lines() if x["r"] <= line["r"]]
        return lines + [line] + self.player.lines[len(lines):]

    def test_clean_books_pass_and_owe_much(self):
        problems, total = self.problems(self.lines())
        self.assertEqual(problems, [])
        self.assertGreater(total["sms"], 300)
        self.assertGreater(total["owed"], 200)
        self.assertGreater(total["email"], 20)
        self.assertGreater(total["owed_contacts"], 50)
        self.assertGreater(total["owed_opportunities"], 40)
        self.assertGreater(total["won"], 5)

    def test_clean_books_of_other_seeds_pass(self):
        for seed in ("1", "2"):
            other = player.Player(seed=seed, days=30)
            problems, _ = self.problems(other.lines)
            self.assertEqual(problems, [], "seed " + seed)

    def test_a_slow_clock_shows_the_same(self):
        other = player.Player(seed="5", days=20, scale=3000.0, tick=0.5)
        problems, total = self.problems(other.lines)
        self.assertEqual(problems, [])
        self.assertGreater(total["owed"], 60)

    def test_swallowed_text(self):
        for prefix in ("estimate_", "review_1", "review_2", "overdue_2"):
            for n, line, item in self.some(self.owed_messages(prefix)):
                lines = self.lines()
                del lines[n]
                problems, total = self.problems(lines)
                self.assertTrue(any(p.startswith("lost: ") for p in problems), item.template)
                self.assertGreater(total["lost"], 0)

    def test_swallowed_mail(self):
        for prefix in ("overdue_1", "overdue_office"):
            for n, _, _ in self.some(self.owed_messages(prefix, "email")):
                lines = self.lines()
                del lines[n]
                problems, _ = self.problems(lines)
                self.assertTrue(any(p.startswith("lost: " + prefix) for p in problems))

    def test_doubled_text_with_the_same_intent(self):
        for n, line, _ in self.some(self.owed_messages("estimate_")):
            lines = self.lines()
            lines.insert(n + 1, dict(line, message=dict(line["message"], sid="twice")))
            problems, total = self.problems(lines)
            self.assertEqual(total["duplicates"], 1)
            self.assertEqual(len(problems), 1)

    def test_doubled_text_with_another_intent(self):
        for n, line, _ in self.some(self.owed_messages("estimate_1")):
            problems, total = self.problems(
                self.insert(line, self.record.clock.business(line["r"]) + 2 * DAY, "twice"))
            self.assertGreater(total["duplicates"] + total["forbidden"], 0)

    def test_doubled_mail(self):
        for n, line, _ in self.some(self.owed_messages("overdue_1", "email")):
            lines = self.lines()
            mail = dict(line["mail"], id="twice", args={"m": "other"})
            lines.insert(n + 1, dict(line, mail=mail))
            _, total = self.problems(lines)
            self.assertEqual(total["duplicates"], 1)

    def test_text_after_its_estimate_was_decided(self):
        tried = 0
        for item in self.owed.items:
            if item.got is None and item.template == "estimate_4" and \
                    item.last + 2 * DAY < self.record.end and item.last < item.low:
                line = next(l for n, l, i in self.owed_messages("estimate_1"))
                text = player.TEMPLATES["estimate_4"].replace(
                    "{estimate.name}", item.marks[1]).replace(
                    "{estimate.total as money}", item.marks[0])
                fake = dict(line, message=dict(line["message"], to=item.address, body=text))
                at = max(item.low, item.last + DAY)
                if at >= self.record.end:
                    continue
                problems, total = self.problems(self.insert(fake, at, "late"))
                self.assertGreater(total["forbidden"], 0, problems)
                tried += 1
                if tried == 5:
                    break
        self.assertGreater(tried, 2)

    def test_text_after_stop(self):
        tried = 0
        for number, (_, acked) in self.record.opted_out.items():
            at = acked + 3 * DAY
            line = next((l for l in self.player.lines
                         if l["k"] == "message" and l["message"]["to"] == number), None)
            if line and at < self.record.end:
                _, total = self.problems(self.insert(line, at, "late"))
                self.assertGreater(total["forbidden"] + total["duplicates"], 0)
                tried += 1
        self.assertGreater(tried, 2)

    def test_text_about_history(self):
        old = [v[-1].row for v in self.record.world.feeds["estimates"].versions.values()
               if v[-1].row["status"]["name"] == "Open" and
               v[-1].at < self.record.clock.business_origin - 3 * DAY]
        known = {i.address for i in self.owed.items}
        person = next(p for p in (self.owed.people[r["customerId"]] for r in old)
                      if p["mobile"] and p["mobile"] not in known)
        line = next(l for n, l, i in self.owed_messages("estimate_1"))
        fake = dict(line, message=dict(line["message"], to=person["mobile"]))
        _, total = self.problems(self.insert(fake, self.record.end - 5 * DAY, "old"))
        self.assertEqual(total["forbidden"], 1)

    def test_texts_without_a_cap(self):
        lines, first = [], {}
        for line in self.player.lines:      # every text to a number moved to one day of it
            if line["k"] == "message":
                first.setdefault(line["message"]["to"], line)
        number = max(first, key=lambda n: sum(1 for l in self.player.lines if l["k"] == "message"
                                              and l["message"]["to"] == n))
        at = None
        for line in self.player.lines:
            if line["k"] == "message" and line["message"]["to"] == number:
                at = at or line
                line = dict(line, b=at["b"], r=at["r"])
            lines.append(line)
        problems, _ = self.problems(lines)
        self.assertNotEqual(problems, [])

    def test_texts_at_night(self):
        shifted = []
        for line in self.player.lines:
            if line["k"] == "message":
                at = self.record.clock.business(line["r"]) + 12 * 3600
                line = dict(line, b=iso3(at), r=self.record.clock.real(at))
            shifted.append(line)
        problems, _ = self.problems(shifted)
        self.assertTrue(any("quiet hours" in p for p in problems))

    def test_missing_contact_and_opportunity(self):
        made = [l for l in self.player.lines if l["k"] == "contact"]
        owner = made[5]["fields"]["st_customer_id"]
        lines = [l for l in self.lines()
                 if l["k"] != "contact" or l["fields"]["st_customer_id"] != owner]
        self.assertTrue(any("a contact for customer " + owner in p
                            for p in self.problems(lines)[0]))
        made = [l for l in self.player.lines if l["k"] == "opportunity"]
        key = made[3]["opportunity"]["id"]
        lines = [l for l in self.lines()
                 if l["k"] != "opportunity" or l["opportunity"]["id"] != key]
        self.assertTrue(any(p.startswith("lost: an opportunity") for p in self.problems(lines)[0]))

    def test_second_contact_and_second_opportunity(self):
        for kind, name in (("contact", "contact"), ("opportunity", "opportunity")):
            line = next(l for l in self.player.lines if l["k"] == kind and l["op"] == "create")
            twin = dict(line, **{name: dict(line[name], id="twin")})
            _, total = self.problems(self.lines()[:-1] + [twin, self.player.lines[-1]])
            self.assertGreater(total["duplicates"], 0)

    def test_sold_estimate_left_open(self):
        won = [l for l in self.player.lines
               if l["k"] == "opportunity" and l["opportunity"]["status"] == "won"]
        key = won[2]["opportunity"]["id"]
        lines = [l for l in self.lines() if l["k"] != "opportunity" or
                 l["opportunity"]["id"] != key or l["opportunity"]["status"] == "open"]
        problems, _ = self.problems(lines)
        self.assertTrue(any(p.startswith("lost: ") for p in problems))

    def test_rows_never_fetched(self):
        lines = [l for l in self.lines() if l["k"] != "page" or l["entity"] != "estimates" or
                 self.record.clock.business(l["r"]) < self.record.clock.business_origin + DAY]
        problems, _ = self.problems(lines)
        self.assertTrue(any("was never fetched" in p for p in problems))

    def test_shipped_templates_are_told_apart(self):
        folder = os.path.join(HERE, "../../../workflows/templates")
        shipped = Templates(folder)
        self.assertEqual(sorted(shipped.patterns), sorted(player.TEMPLATES))
        for name in shipped.patterns:
            with open(os.path.join(folder, name + ".txt"), encoding="utf-8") as f:
                text = f.read()
            if text.startswith("Subject:"):
                text = text.partition("\n")[2]
            self.assertEqual(shipped.name_of(re.sub(r"\{[^{}]*\}", "Ann 7", text)), name)
        self.assertIsNone(shipped.name_of("Hi ,"))

    def test_words_of_nobody(self):
        line = next(l for l in self.player.lines if l["k"] == "message")
        lines = self.lines() + []
        fake = dict(line, intent="x", message=dict(line["message"], sid="x", body="Hi ,"))
        lines.insert(len(lines) - 1, fake)
        _, total = self.problems(lines)
        self.assertEqual(total["forbidden"], 1)


if __name__ == "__main__":
    unittest.main()
