"""Flow control in the settling unit: what starts, what waits, what goes into what, on a real database."""
import json
import os
import sys
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from database import DatabaseTest, literal  # noqa: E402
from test_settle import EMPTY, event, start  # noqa: E402


def span(seconds=0, days=0, zone="UTC"):
    return {"days": days, "seconds": seconds, "zone": zone}


def rate(limit, seconds, over="wait", key=""):
    return {"rate": {"limit": limit, "per": span(seconds), "over": over, "key": key}}


def slots(limit, key="", hold=False):
    return {"concurrency": {"limit": limit, "key": key, "hold": hold}}


def debounce(seconds, key="customer:9", latest=None):
    return {"debounce": {"key": key, "quiet": span(seconds), "latest": latest and span(latest)}}


def batch(seconds, most=500, key="customer:9"):
    return {"batch": {"key": key, "within": span(seconds), "max": most}}


def family(name="estimate", customer="customer:9"):
    return {"family": {"name": name, "customer": customer}}


class Case(DatabaseTest):
    def setUp(self):
        super().setUp()
        self.n = 0
        self.sql("insert into clock values (true, now(), '2026-06-01 12:00+00', 1);"
                 "insert into settings (name, value) values ('live', 'on');"
                 "insert into workflow_definitions (name, version, sha256, files, declaration, active)"
                 " values ('follow', 1, 'a', '{}', '{}', true)")
        self.worker = str(uuid.uuid4())
        self.sql("select worker_enter('%s', 'here', 1, 0, 'workflow', 600000)" % self.worker)

    def settle(self, events=(), starts=(), **more):
        given = {**EMPTY, "events": list(events), "starts": list(starts), **more}
        return json.loads(self.sql("begin; select lock_gate(); select settle(%s::json); commit"
                                   % literal(given)))

    def event(self, kind="estimate_created", **more):
        self.n += 1
        return event(kind, "estimate", self.n, "2026-06-01T10:00:%02dZ" % self.n, **more)

    def began(self, flow, **more):
        """Settles one event that asks for a start; the start."""
        e = self.event()
        s = start(e, flow=flow, **{"key": "customer:9", **more})
        self.settle([e], [s])
        return s

    def rows(self, text):
        out = self.sql(text)
        return out.split("\n") if out else []

    def skips(self):
        return self.rows("select outcome, reason from workflow_skips order by id")

    def pass_time(self, seconds):
        """Business time goes by, and with it what is due."""
        self.sql("update clock set business_origin = business_origin + interval '%s s';"
                 "update workflow_queue set due = due - interval '%s s'" % (seconds, seconds))

    def claim(self):
        """A worker takes what is due and asks for leave, and again for what is given back as due; those that may
        begin."""
        begun = set()
        for _ in range(2):
            taken = self.rows("begin; select instance_id || ' ' || flow from claim('%s', 100); commit" % self.worker)
            asking = [row.split()[0] for row in taken if row.endswith(" 2")]
            refused = self.rows("begin; select lock_gate(); select * from flow_begin('%s', array[%s]::uuid[]); commit"
                                % (self.worker, ",".join("'%s'" % i for i in asking))) if asking else []
            begun |= {row.split()[0] for row in taken} - set(refused)
        return sorted(begun)

    def claimed(self):
        """A worker takes what is due, and hasn't asked yet; their events."""
        return self.rows("select event from claim('%s', 100)" % self.worker)

    def begin(self, instance):
        """It asks now; the instance if it may not begin."""
        return self.rows("begin; select lock_gate(); select * from flow_begin('%s', array['%s']::uuid[]); commit"
                         % (self.worker, instance["instance"]))

    def finish(self, *instances):
        ids = "array[%s]::uuid[]" % ",".join("'%s'" % i for i in instances)
        self.sql("begin; select fence('%s'); select lock_gate(); select finish('%s', %s, null);"
                 "select flow_left(%s); commit" % (self.worker, self.worker, ids, ids))

    def release(self, instance, state, due="infinity"):
        given = [{"instance": instance, "state": state, "due": due if due != "infinity" else None,
                  "reason": {"code": state} if state == "stuck" else None}]
        self.sql("begin; select lock_gate(); select release('%s', %s::json); select flow_left(array['%s'::uuid]); commit"
                 % (self.worker, literal(given), instance))

    def stop(self, kind="customer_replied", key="customer:9"):
        self.n += 1
        e = event(kind, "customer", self.n, "2026-06-01T10:00:%02dZ" % self.n, keys=[key])
        self.settle([e])

    def due_in(self, instance):
        """Seconds from now, rounded; none when it isn't due by itself."""
        text = self.sql("select round(extract(epoch from due - clock_timestamp())) from workflow_queue"
                        " where instance_id = '%s'" % instance["instance"])
        return int(text) if text else None


class RateTest(Case):
    def test_the_window_slides(self):
        first = [self.began(rate(2, 3600), key=None) for _ in range(2)]
        self.assertEqual(2, len(self.claim()))
        self.pass_time(1800)
        third, fourth, fifth = (self.began(rate(2, 3600), key=None) for _ in range(3))
        self.assertAlmostEqual(1800, self.due_in(third), delta=5)
        self.assertAlmostEqual(1800, self.due_in(fourth), delta=5)
        self.assertAlmostEqual(5400, self.due_in(fifth), delta=5)
        self.assertEqual([], self.claim())
        self.assertEqual("pending|rate", self.sql(
            "select state, reason->>'code' from workflow_queue where instance_id = '%s'" % third["instance"]))
        self.assertEqual(["delayed|rate"] * 3, self.skips())
        self.pass_time(1801)
        self.assertEqual(sorted([third["instance"], fourth["instance"]]), self.claim())
        self.assertEqual(2, len(first))

    def test_what_is_overdue_after_an_outage_still_keeps_the_rate(self):
        asked = [self.began(rate(1, 3600), key=None)["instance"] for _ in range(4)]
        self.pass_time(100000)
        seen = []
        for _ in range(4):
            begun = self.claim()
            self.assertEqual(1, len(begun))
            seen += begun
            self.pass_time(1800)
            self.assertEqual([], self.claim())
            self.pass_time(1801)
        self.assertEqual(sorted(asked), sorted(seen))
        self.assertEqual("0", self.sql(
            "select count(*) from (select lead(at) over (order by at) - at as gap from workflow_rate_starts) x"
            " where gap < interval '1 hour'"))

    def test_two_units_at_once_pass_one(self):
        e, f = self.event(), self.event()
        one, two = (start(x, key=None, flow=rate(1, 3600, "skip")) for x in (e, f))
        self.overlap("select lock_gate(); select settle(%s::json)" % literal({**EMPTY, "events": [e], "starts": [one]}),
                     "begin; select lock_gate(); select settle(%s::json); commit"
                     % literal({**EMPTY, "events": [f], "starts": [two]}))
        self.assertEqual("1", self.sql("select count(*) from workflow_queue"))
        self.assertEqual(["skipped|rate"], self.skips())

    def test_two_workers_that_ask_at_once_begin_one(self):
        asked = [self.began(rate(1, 3600), key=None)["instance"] for _ in range(2)]
        self.sql("update workflow_queue set due = now()")
        self.rows("select instance_id from claim('%s', 100)" % self.worker)
        refused = self.overlap(*("select * from flow_begin('%s', array['%s']::uuid[])" % (self.worker, i) for i in asked))
        self.assertEqual(("", asked[1]), refused)

    def test_over_it_is_skipped_where_that_is_said_and_counted_by_key(self):
        told = [self.began(rate(1, 3600, "skip", key), key=None) for key in ("customer:1", "customer:1", "customer:2")]
        self.assertEqual(sorted([told[0]["instance"], told[2]["instance"]]), self.claim())
        self.assertEqual("rate|1|customer:1", self.sql("select reason, detail->>'limit', detail->>'key' from workflow_skips"))
        self.pass_time(3601)
        self.began(rate(1, 3600, "skip", "customer:1"), key=None)
        self.assertEqual("3", self.sql("select count(*) from workflow_instances"))

    def test_what_was_stopped_while_it_waited_leaves_its_place(self):
        self.began(rate(1, 3600), key=None)
        self.claim()
        waits = self.began(rate(1, 3600), key=None, stops=[("customer_replied", "customer:9", False)])
        self.stop()
        self.assertEqual([waits["instance"]], self.rows("select instance_id from claim('%s', 100)" % self.worker))
        self.finish(waits["instance"])
        self.assertAlmostEqual(3600, self.due_in(self.began(rate(1, 3600), key=None)), delta=5)

    def test_a_day_is_one_of_the_calendar(self):
        self.assertEqual("2026-03-08 16:00:00+00", self.sql(
            "set timezone = 'UTC'; select span_after('2026-03-07 17:00+00', '%s')"
            % json.dumps(span(days=1, zone="America/New_York"))).strip())

    def test_shadow_does_not_count(self):
        self.began(rate(1, 3600), key=None, shadow=True)
        self.assertEqual(0, self.due_in(self.began(rate(1, 3600), key=None)))

    def test_a_merge_of_customers_takes_the_starts_with_it(self):
        self.began(rate(1, 3600, "skip", "customer:7"), key=None)
        self.settle(merged=[{"gone": 7, "kept": 9}])
        self.began(rate(1, 3600, "skip", "customer:9"), key=None)
        self.began(rate(1, 3600, "skip", "customer:7"), key=None)
        self.assertEqual(["skipped|rate"] * 2, self.skips())


class SlotTest(Case):
    def held(self):
        return int(self.sql("select count(*) from workflow_flow where slot is not null"))

    def test_the_next_goes_on_when_one_ends_by_priority_then_age(self):
        asked = [self.began(slots(1), key=None, priority=p)["instance"] for p in (2, 3, 2, 1)]
        self.assertEqual([asked[0]], self.claim())
        self.assertEqual(["delayed|concurrency"] * 3, self.skips())
        self.assertEqual("0", self.sql("select count(*) from workflow_queue where due is not null and worker is null"))
        self.assertEqual("3", self.sql("select count(*) from workflow_queue where reason->>'code' = 'concurrency'"))
        order = [asked[0]]
        for _ in range(3):
            self.finish(order[-1])
            begun = self.claim()
            self.assertEqual(1, len(begun))
            order += begun
        self.assertEqual([asked[0], asked[3], asked[2], asked[1]], order)
        self.finish(order[-1])
        self.assertEqual(0, self.held())

    def test_a_wait_gives_the_slot_back_and_takes_one_again(self):
        one, two = (self.began(slots(1), key=None)["instance"] for _ in range(2))
        self.assertEqual([one], self.claim())
        self.release(one, "sleeping")
        self.assertEqual([two], self.claim())
        self.sql("update workflow_queue set due = now() where instance_id = '%s'" % one)
        self.assertEqual([], self.claim())
        self.finish(two)
        self.assertEqual([one], self.claim())

    def test_a_wait_holds_it_where_that_is_said_but_not_stuck_or_paused(self):
        one, two = (self.began(slots(1, hold=True), key=None)["instance"] for _ in range(2))
        self.assertEqual([one], self.claim())
        self.release(one, "sleeping")
        self.assertEqual([], self.claim())
        self.sql("select pause_instance('%s')" % one)
        self.assertEqual([two], self.claim())
        self.release(two, "stuck")
        self.sql("select resume_instance('%s')" % one)
        self.assertEqual([one], self.claim())
        self.sql("select resume_instance('%s')" % two)
        self.assertEqual([], self.claim())
        self.assertEqual(1, self.held())

    def test_the_paused_and_the_stopped_do_not_get_the_slot_that_is_freed(self):
        one, paused, stopped, last = (
            self.began(slots(1), key=None, stops=[("customer_replied", "customer:%d" % n, False)])["instance"]
            for n in range(4))
        self.assertEqual([one], self.claim())
        self.sql("select pause_instance('%s')" % paused)
        self.stop(key="customer:2")
        self.assertEqual("t", self.sql("select due <= now() from workflow_queue where instance_id = '%s'" % stopped))
        self.finish(one)
        self.assertEqual(last, self.sql("select instance_id from workflow_flow where slot is not null"))

    def test_what_was_stopped_while_it_was_refused_is_due(self):
        one, two = (self.began(slots(1), key=None, stops=[("customer_replied", "customer:9", False)])["instance"]
                    for _ in range(2))
        self.sql("update workflow_queue set due = now()")
        self.rows("select instance_id from claim('%s', 100)" % self.worker)
        self.stop()
        self.rows("begin; select lock_gate(); select * from flow_begin('%s', array['%s','%s']::uuid[]); commit"
                  % (self.worker, one, two))
        self.assertEqual("t", self.sql("select due <= now() from workflow_queue where worker is null"))

    def test_two_workers_that_ask_at_once_get_one_slot(self):
        held = self.began(slots(1), key=None)["instance"]
        asked = [self.began(slots(1), key=None)["instance"] for _ in range(2)]
        self.claim()
        self.finish(held)
        self.sql("update workflow_flow set slot = null; update workflow_queue set due = now()")
        self.rows("select instance_id from claim('%s', 100)" % self.worker)
        refused = self.overlap(*("select * from flow_begin('%s', array['%s']::uuid[])" % (self.worker, i) for i in asked))
        self.assertEqual(("", asked[1]), refused)

    def test_a_slot_freed_while_another_asks_for_it_is_not_lost(self):
        one, two = (self.began(slots(1), key=None)["instance"] for _ in range(2))
        self.assertEqual([one], self.claim())
        self.sql("update workflow_queue set due = now() where worker is null")
        self.rows("select instance_id from claim('%s', 100)" % self.worker)
        ids = "array['%s'::uuid]" % one
        self.overlap("select * from flow_begin('%s', array['%s']::uuid[])" % (self.worker, two),
                     "begin; select finish('%s', %s, null); select flow_left(%s); commit" % (self.worker, ids, ids))
        self.assertEqual([two], self.claim())

    def test_keys_have_slots_of_their_own_and_shadow_too(self):
        for more in ({"flow": slots(1, "job:1")}, {"flow": slots(1, "job:2")},
                     {"flow": slots(1, "job:1"), "shadow": True}):
            self.began(more.pop("flow"), key=None, **more)
        self.assertEqual(3, len(self.claim()))

    def test_a_worker_that_died_keeps_its_slots_until_its_instances_are_taken_over(self):
        one, two = (self.began(slots(1), key=None)["instance"] for _ in range(2))
        self.claim()
        self.sql("select takeover('%s', null); select worker_enter('%s', 'here', 1, 0, 'workflow', 600000)"
                 % (self.worker, self.worker))
        self.assertEqual([one], self.claim())
        self.finish(one)
        self.assertEqual([two], self.claim())

    def test_a_merge_brings_two_keys_together(self):
        one, two = (self.began(slots(1, "customer:%d" % n), key=None)["instance"] for n in (7, 9))
        self.assertEqual(2, len(self.claim()))
        self.settle(merged=[{"gone": 7, "kept": 9}])
        last = self.began(slots(1, "customer:9"), key=None)["instance"]
        self.finish(one)
        self.assertEqual([], self.claim())
        self.finish(two)
        self.assertEqual([last], self.claim())


class DebounceTest(Case):
    def of(self, instance):
        return self.sql("select q.event_id || ' ' || i.event_id || ' ' || i.entity_id from workflow_queue q"
                        " join workflow_instances i on i.id = q.instance_id where q.instance_id = '%s'"
                        % instance["instance"])

    def test_the_newest_event_starts_when_the_key_was_quiet(self):
        first = self.began(debounce(120), if_running="queue")
        self.assertAlmostEqual(120, self.due_in(first), delta=2)
        self.pass_time(90)
        second = self.began(debounce(120), if_running="queue")
        self.assertAlmostEqual(120, self.due_in(first), delta=2)
        self.assertEqual("%s %s %d" % (second["event"], second["event"], self.n), self.of(first))
        self.assertEqual("1", self.sql("select count(*) from workflow_instances"))
        self.assertEqual(["merged|debounce", "delayed|debounce"], self.skips())
        self.pass_time(119)
        self.assertEqual([], self.claim())
        self.pass_time(2)
        self.assertEqual([first["instance"]], self.claim())

    def test_at_the_latest_after_max(self):
        first = self.began(debounce(120, latest=200), if_running="queue")
        self.pass_time(100)
        self.began(debounce(120, latest=200), if_running="queue")
        self.assertAlmostEqual(100, self.due_in(first), delta=2)

    def test_an_older_fact_that_comes_later_moves_the_time_not_the_event(self):
        late = self.event()
        newer = self.began(debounce(120), if_running="queue")
        self.pass_time(60)
        self.settle([late], [start(late, key="customer:9", flow=debounce(120), if_running="queue")])
        self.assertIn(newer["event"], self.of(newer))
        self.assertAlmostEqual(120, self.due_in(newer), delta=2)

    def test_what_comes_while_it_is_at_work_begins_after_it(self):
        first = self.began(debounce(120), if_running="queue")
        self.pass_time(121)
        self.assertEqual([first["instance"]], self.claim())
        second = self.began(debounce(120), if_running="queue")
        third = self.began(debounce(120), if_running="queue")
        self.assertIn(third["event"], self.of(second))
        self.finish(first["instance"])
        self.assertEqual([], self.claim())
        self.assertAlmostEqual(120, self.due_in(second), delta=2)
        self.pass_time(121)
        self.assertEqual([second["instance"]], self.claim())

    def test_a_replacement_stops_the_old_one_at_once(self):
        first = self.began(debounce(60), if_running="replace")
        self.pass_time(61)
        self.claim()
        second = self.began(debounce(60), if_running="replace")
        self.assertEqual("replaced", self.sql("select kind from workflow_inbox where instance_id = '%s'"
                                              % first["instance"]))
        self.finish(first["instance"])
        self.assertEqual([], self.claim())
        self.pass_time(61)
        self.assertEqual([second["instance"]], self.claim())

    def test_a_stop_ends_it_and_the_next_event_begins_another(self):
        stops = [("customer_replied", "customer:9", False)]
        first = self.began(debounce(120), stops=stops, if_running="queue")
        self.stop()
        self.assertLessEqual(self.due_in(first), 0)
        self.n += 30
        second = self.began(debounce(120), stops=stops, if_running="queue")
        self.assertEqual("2", self.sql("select count(*) from workflow_instances"))
        self.assertEqual([first["instance"]], self.rows("select instance_id from claim('%s', 100)" % self.worker))
        self.finish(first["instance"])
        self.assertEqual([], self.claim())
        self.assertAlmostEqual(120, self.due_in(second), delta=2)

    def test_the_stops_are_those_of_the_newest(self):
        first = self.began(debounce(120), stops=[("customer_replied", "customer:1", False)], if_running="queue")
        self.began(debounce(120), stops=[("customer_replied", "customer:2", False)], if_running="queue")
        self.stop(key="customer:1")
        self.assertGreater(self.due_in(first), 0)
        self.stop(key="customer:2")
        self.assertLessEqual(self.due_in(first), 0)

    def test_one_that_is_paused_gathers_on(self):
        first = self.began(debounce(120), if_running="queue")
        self.sql("select pause_instance('%s')" % first["instance"])
        second = self.began(debounce(120), if_running="queue")
        self.assertIn(second["event"], self.of(first))
        self.assertIsNone(self.due_in(first))
        self.sql("select resume_instance('%s')" % first["instance"])
        self.assertEqual([], self.claim())
        self.assertAlmostEqual(120, self.due_in(first), delta=2)

    def test_of_two_that_merge_the_newer_event_stays(self):
        old, new = (self.began(debounce(120, "customer:%d" % n), key="customer:%d" % n, if_running="queue", )
                    for n in (9, 7))
        self.sql("update workflow_instances set customer_id = 7 where id = '%s'" % new["instance"])
        self.settle(merged=[{"gone": 7, "kept": 9}])
        self.assertEqual("stopping|merged", self.sql(
            "select state, reason->>'name' from workflow_queue where instance_id = '%s'" % old["instance"]))
        self.assertEqual("follow live customer:9|pending", self.sql(
            "select business_key, state from workflow_queue where instance_id = '%s'" % new["instance"]))

    def test_one_that_is_claimed_but_has_not_begun_waits_again(self):
        first = self.began(debounce(120), if_running="queue")
        self.pass_time(121)
        self.rows("select instance_id from claim('%s', 100)" % self.worker)
        second = self.began(debounce(120), if_running="queue")
        self.assertEqual([first["instance"]], self.rows(
            "begin; select lock_gate(); select * from flow_begin('%s', array['%s']::uuid[]); commit"
            % (self.worker, first["instance"])))
        self.assertIn(second["event"], self.of(first))
        self.assertAlmostEqual(120, self.due_in(first), delta=2)

    def test_at_the_latest_one_that_is_claimed_begins_with_the_newest(self):
        first = self.began(debounce(120, latest=150), if_running="queue")
        self.pass_time(151)
        self.claimed()
        second = self.began(debounce(120, latest=150), if_running="queue")
        self.assertEqual([first["instance"]], self.begin(first))
        self.pass_time(1)
        self.assertEqual([first["instance"]], self.claim())
        self.assertIn(second["event"], self.of(first))


class BatchTest(Case):
    def gathered(self, instance):
        return json.loads(self.sql("select payload from events where id = (select event_id from workflow_queue"
                                   " where instance_id = '%s')" % instance["instance"]))

    def test_lists_all_by_time_and_e_is_the_first(self):
        first = self.began(batch(3600), if_running="queue")
        self.assertEqual([1], [e["estimate"]["id"] for e in self.gathered(first)["batch"]])
        self.pass_time(600)
        self.began(batch(3600), if_running="queue")
        events = [self.event() for _ in range(3)]
        self.settle(events, [start(e, key="customer:9", flow=batch(3600), if_running="queue") for e in events])
        got = self.gathered(first)
        self.assertEqual(1, got["estimate"]["id"])
        self.assertEqual([1, 2, 3, 4, 5], [e["estimate"]["id"] for e in got["batch"]])
        self.assertAlmostEqual(3000, self.due_in(first), delta=2)
        self.assertEqual(["delayed|batch"] + ["merged|batch"] * 4, self.skips())

    def test_when_full_it_starts_at_once_and_the_next_event_begins_another(self):
        first = self.began(batch(3600, 3), if_running="queue")
        for _ in range(2):
            self.began(batch(3600, 3), if_running="queue")
        self.assertLessEqual(self.due_in(first), 0)
        self.assertEqual([first["instance"]], self.claim())
        fourth = self.began(batch(3600, 3), if_running="queue")
        self.began(batch(3600, 3), if_running="queue")
        self.assertEqual([4, 5], [e["estimate"]["id"] for e in self.gathered(fourth)["batch"]])
        self.finish(first["instance"])
        self.claim()
        self.assertAlmostEqual(3600, self.due_in(fourth), delta=2)

    def test_one_that_is_claimed_but_has_not_begun_is_read_anew(self):
        for most in (500, 2):
            first = self.began(batch(3600, most), if_running="queue")
            self.pass_time(3601)
            self.assertEqual(1, len(json.loads(self.claimed()[0])["batch"]))
            self.began(batch(3600, most), if_running="queue")
            self.assertEqual([first["instance"]], self.begin(first))
            self.pass_time(1)
            self.assertEqual(2, len(json.loads(self.claimed()[0])["batch"]))
            self.assertEqual([], self.begin(first))
            self.finish(first["instance"])

    def test_its_own_events_do_not_wake_its_waits(self):
        first = self.began(batch(3600), if_running="queue")
        self.began(batch(3600), if_running="queue")
        self.assertEqual("t", self.sql("select q.since >= max(e.settled) from workflow_queue q, events e"
                                       " where e.type = 'estimate_created' group by q.since"))
        self.assertEqual(2, len(self.gathered(first)["batch"]))

    def test_a_merge_puts_two_into_one(self):
        one, two = (self.began(batch(3600, key="customer:%d" % n), key="customer:%d" % n, if_running="queue")
                    for n in (9, 7))
        self.sql("update workflow_instances set customer_id = 7 where id = '%s'" % two["instance"])
        self.settle(merged=[{"gone": 7, "kept": 9}])
        self.assertEqual([1, 2], [e["estimate"]["id"] for e in self.gathered(one)["batch"]])
        self.assertEqual("stopping", self.sql("select state from workflow_queue where instance_id = '%s'"
                                              % two["instance"]))


class FamilyTest(Case):
    def test_one_of_a_family_lives_and_another_is_skipped(self):
        one = self.began(family(), key="a")
        self.began(family(), key="b", workflow="other")
        self.assertEqual("1", self.sql("select count(*) from workflow_instances"))
        self.assertEqual("other|skipped|family|" + one["instance"], self.sql(
            "select workflow, outcome, reason, detail->>'instance' from workflow_skips"))
        self.began(family("lead"), key="c")
        self.began(family(customer="phone:+15550100"), key="d")
        self.assertEqual("3", self.sql("select count(*) from workflow_instances"))
        self.claim()
        self.finish(one["instance"])
        self.began(family(), key="e")
        self.assertEqual("4", self.sql("select count(*) from workflow_instances"))

    def test_a_newcomer_of_higher_priority_begins_when_the_other_has_stopped(self):
        low = self.began(family(), key="a")
        self.assertEqual([low["instance"]], self.claim())
        high = self.began(family(), key="b", workflow="urgent", priority=1)
        self.assertEqual([], self.claim())
        self.assertEqual("replaced", self.sql("select kind from workflow_inbox"))
        self.began(family(), key="c")
        self.finish(low["instance"])
        self.assertEqual([high["instance"]], self.claim())
        self.assertEqual(["delayed|family", "skipped|family"], self.skips())

    def test_a_parent_does_not_block_its_child_and_both_block_others(self):
        parent = self.began(family(), key="a")
        self.claim()
        child = self.began(family(), key="b", workflow="nurture", parent=parent["instance"], detached=False)
        self.assertEqual([child["instance"]], self.claim())
        self.began(family(), key="c")
        self.finish(parent["instance"])
        self.began(family(), key="d")
        self.assertEqual("2", self.sql("select count(*) from workflow_instances"))
        self.assertEqual(["skipped|family"] * 2, self.skips())

    def test_shadow_does_not_block_live(self):
        self.began(family(), key="a", shadow=True)
        self.began(family(), key="b")
        self.assertEqual("2", self.sql("select count(*) from workflow_instances"))

    def test_its_own_key_is_answered_by_if_running(self):
        self.began(family(), key="a", if_running="replace")
        self.claim()
        self.began(family(), key="a", if_running="replace")
        self.assertEqual(["delayed|key taken"], self.skips())

    def test_two_units_at_once_start_one(self):
        e, f = self.event(), self.event()
        one, two = (start(x, w, key=w, flow=family()) for x, w in ((e, "a"), (f, "b")))
        self.overlap("select lock_gate(); select settle(%s::json)" % literal({**EMPTY, "events": [e], "starts": [one]}),
                     "begin; select lock_gate(); select settle(%s::json); commit"
                     % literal({**EMPTY, "events": [f], "starts": [two]}))
        self.assertEqual("1", self.sql("select count(*) from workflow_queue"))

    def test_of_two_that_a_merge_brings_together_the_higher_goes_on(self):
        for kept, gone, more in ((9, 7, {"priority": 1}), (19, 17, {})):
            old = self.began(family(customer="customer:%d" % kept), key="k%d" % kept)
            new = self.began(family(customer="customer:%d" % gone), key="k%d" % gone, **more)
            self.settle(merged=[{"gone": gone, "kept": kept}])
            loser = old if more else max(old, new, key=lambda s: s["instance"])
            self.assertEqual([loser["instance"]], self.rows(
                "select instance_id from workflow_queue where state = 'stopping' and instance_id in ('%s', '%s')"
                % (old["instance"], new["instance"])))


class ChildTest(Case):
    def test_a_child_that_is_not_started_tells_its_parent_why(self):
        parent = self.began(None, key="p")
        self.began(rate(1, 3600, "skip"), key=None, workflow="touch")
        child = self.began(rate(1, 3600, "skip"), key=None, workflow="touch", parent=parent["instance"], detached=False)
        self.assertEqual("stopped|not started: rate", self.sql(
            "select state, reason from workflow_instances where id = '%s'" % child["instance"]))

    def test_a_child_that_is_replaced_while_it_queues_wakes_its_parent(self):
        parent, holder = (self.began(None, key=k)["instance"] for k in ("p", "k"))
        self.assertEqual(2, len(self.claim()))
        self.began(None, key="k", if_running="replace", parent=parent, detached=False)
        wait = {"i": 0, "kind": "event", "instance": parent, "run": 1, "branch": "", "ordinal": 1, "seq": 1,
                "child": self.sql("select instance_id from workflow_queue where parent_id = '%s'" % parent),
                "name": "call.end#1", "hash": "x", "input": [], "release": True}
        self.assertEqual("waits", self.sql("select result from suspend('%s', %s::json)" % (self.worker, literal([wait]))))
        self.assertIsNone(self.due_in({"instance": parent}))
        self.began(None, key="k", if_running="replace")
        self.assertEqual("stopped|replaced", self.sql(
            "select state, reason from workflow_instances where parent_id = '%s'" % parent))
        self.assertEqual([parent], self.claim())
        self.assertEqual("t", self.sql("select worker is not null from workflow_queue where instance_id = '%s'" % holder))

    def test_children_of_a_campaign_begin_at_the_rate(self):
        parent = self.began(None, key="p")
        events = [self.event() for _ in range(7)]
        starts = [start(e, "touch", flow={**rate(3, 3600), **family("reactivation", "customer:%d" % n)},
                        parent=parent["instance"], detached=False) for n, e in enumerate(events)]
        self.settle(events, starts)
        self.assertEqual([0, 0, 0, 3600, 3600, 3600, 7200],
                         [round(self.due_in(s) / 10) * 10 for s in starts])
        self.assertEqual("7|7", self.sql("select c->>'total', c->>'live' from children_of('%s') c" % parent["instance"]))


if __name__ == "__main__":
    unittest.main()
