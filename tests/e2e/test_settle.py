"""Settling what was detected: every promise of the settling unit, on a real database."""
import json
import os
import sys
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from database import DatabaseTest, literal  # noqa: E402

EMPTY = {k: [] for k in ("events", "starts", "errors", "arrivals", "deleted", "merged", "daily",
                         "resolved", "failed_again")}


def event(kind, entity, number, at, customer=9, weak=False, keys=None):
    return {"id": str(uuid.uuid4()), "type": kind, "entity": entity, "entity_id": str(number),
            "at": at, "noticed": "2026-06-01T12:00:00Z", "weak": weak, "customer": customer,
            "keys": keys or ["%s:%s" % (entity, number), "customer:%s" % customer],
            "payload": {"name": kind, entity: {"id": number}}}


def start(e, workflow="follow", key=None, if_running="skip", stops=(), **more):
    return {"instance": str(uuid.uuid4()), "event": e["id"], "workflow": workflow, "definition": 1,
            "key": key, "if_running": if_running, "priority": 2, "shadow": False,
            "stops": [{"type": t, "key": k, "judged": j} for t, k, j in stops], **more}


class SettleTest(DatabaseTest):
    def setUp(self):
        super().setUp()
        self.sql("insert into clock values (true, now(), '2026-06-01 12:00+00', 1);"
                 "insert into settings (name, value) values ('live', 'on')")

    def settle(self, events=(), starts=(), **more):
        batch = {**EMPTY, "events": list(events), "starts": list(starts), **more}
        return json.loads(self.sql("begin; select lock_gate(); select settle(%s::json); commit"
                                   % literal(batch)))

    def rows(self, text):
        out = self.sql(text)
        return out.split("\n") if out else []

    def hold(self, instance):
        """A worker takes the instance."""
        worker = str(uuid.uuid4())
        self.sql("select worker_enter('%s', 'here', 1, 0, 'workflow', 60000);"
                 "update workflow_queue set worker = '%s', due = null where instance_id = '%s'"
                 % (worker, worker, instance["instance"]))
        return worker

    # --- events ---

    def test_a_fact_is_settled_once_however_often_it_is_told(self):
        e = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00.5Z")
        again = dict(e, id=str(uuid.uuid4()))
        self.assertEqual(1, self.settle([e], [start(e)])["events"])
        told = self.settle([again], [start(again)])
        self.assertEqual((0, 0), (told["events"], told["started"]))
        self.assertEqual("1", self.sql("select count(*) from workflow_instances"))

    def test_a_resale_is_a_new_fact(self):
        for at in ("2026-06-01T10:00:00Z", "2026-06-05T10:00:00Z"):
            e = event("estimate_approved", "estimate", 7, at)
            self.assertEqual(1, self.settle([e], [start(e)])["started"])

    def test_an_insert_dated_by_its_modification_adds_no_second_event(self):
        self.settle([event("invoice_paid", "invoice", 3, "2026-06-01T10:00:00Z")])
        late = event("invoice_paid", "invoice", 3, "2026-06-09T10:00:00Z", weak=True)
        self.assertEqual(0, self.settle([late])["events"])
        other = event("invoice_paid", "invoice", 4, "2026-06-09T10:00:00Z", weak=True)
        self.assertEqual(1, self.settle([other])["events"])

    def test_settled_numbers_follow_the_order_of_the_batch(self):
        batch = [event("job_moved", "job", n, "2026-06-01T10:00:00Z") for n in range(5)]
        self.settle(batch)
        self.settle([event("job_moved", "job", 9, "2026-06-01T10:00:00Z")])
        self.assertEqual(["0", "1", "2", "3", "4", "9"],
                         self.rows("select entity_id from events order by settled"))
        self.assertEqual("6", self.sql("select settled from gate"))

    def test_an_arrival_that_is_gone_takes_the_whole_unit_back(self):
        e = event("customer_replied", "customer", 9, "2026-06-01T10:00:00Z")
        with self.assertRaisesRegex(RuntimeError, "somebody else"):
            self.settle([e], [start(e)], arrivals=[12345])
        self.assertEqual("0", self.sql("select count(*) from events"))

    # --- starts ---

    def test_a_start_carries_its_mode_key_and_stops(self):
        e = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z")
        shadow = dict(start(e, "shade", "estimate:7"), shadow=True)
        self.settle([e], [start(e, key="estimate:7", stops=[("estimate_approved", "estimate:7", False)]),
                          shadow])
        self.assertEqual(["follow|live|follow live estimate:7|t", "shade|shadow|shade shadow estimate:7|f"],
                         self.rows("select workflow, mode, q.business_key, watched from workflow_instances i"
                                   " join workflow_queue q on q.instance_id = i.id order by 1"))
        self.sql("update settings set value = 'off' where name = 'live'")
        f = event("estimate_created", "estimate", 8, "2026-06-01T10:00:00Z")
        self.settle([f], [start(f)])
        self.assertEqual("shadow", self.sql("select mode from workflow_instances where event_id = '%s'"
                                            % f["id"]))

    def test_a_claim_leaves_the_indexes_of_the_queue_alone(self):
        made = [event("estimate_created", "estimate", n, "2026-06-01T10:00:00Z") for n in range(30)]
        self.settle(made, [start(e, key="estimate:%s" % e["entity_id"]) for e in made])
        self.sql("select worker_enter('%s', 'here', 1, 0, 'workflow', 60000)" % made[0]["id"])
        self.assertEqual(["30", "30", "30"], self.rows(
            "begin; select count(*) from claim('%s', 100);"
            "select pg_stat_get_xact_tuples_updated('workflow_queue'::regclass);"
            "select pg_stat_get_xact_tuples_hot_updated('workflow_queue'::regclass); commit" % made[0]["id"]))
        self.assertEqual("0", self.sql("select count(*) from claim('%s', 100)" % made[0]["id"]))

    def test_a_taken_key_skips_with_a_row(self):
        e, f = (event("estimate_created", "estimate", 7, "2026-06-01T1%d:00:00Z" % n) for n in (0, 1))
        told = self.settle([e, f], [start(e, key="k"), start(f, key="k")])
        self.assertEqual((1, 1), (told["started"], told["skipped"]))
        self.assertEqual("follow|key taken", self.sql("select workflow, reason from workflow_skips"))

    def test_a_queued_start_begins_when_the_holder_ends(self):
        events = [event("estimate_created", "estimate", 7, "2026-06-01T1%d:00:00Z" % n) for n in range(3)]
        starts = [start(e, key="k", if_running="queue") for e in events]
        self.settle(events, starts)
        self.assertEqual("1", self.sql("select count(*) from workflow_queue where due is not null"))
        for n in range(2):
            worker = self.hold(starts[n])
            self.sql("select finish('%s', array['%s'::uuid], '{}')" % (worker, starts[n]["instance"]))
            self.assertEqual(starts[n + 1]["instance"], self.sql(
                "select instance_id from workflow_queue where business_key = 'follow live k'"
                " and due is not null and queued_key is null"))

    def test_a_replacement_begins_after_the_old_one_was_stopped(self):
        events = [event("estimate_created", "estimate", 7, "2026-06-01T1%d:00:00Z" % n) for n in range(3)]
        starts = [start(e, key="k", if_running="replace") for e in events]
        self.settle(events[:1], starts[:1])
        worker = self.hold(starts[0])
        self.settle(events[1:2], starts[1:2])
        self.settle(events[2:], starts[2:])
        old = starts[0]["instance"]
        self.assertEqual("replaced", self.sql("select distinct payload->>'name' from stop_candidates(array['%s'::uuid])"
                                              % old))
        self.assertEqual("stopped|replaced", self.sql(
            "select state, reason from workflow_instances where id = '%s'" % starts[1]["instance"]))
        self.sql("select finish('%s', array['%s'::uuid], '{}')" % (worker, old))
        self.assertEqual([starts[2]["instance"]], self.rows(
            "select instance_id from workflow_queue where due is not null"))

    def test_a_move_to_another_version_keeps_what_is_asked_of_an_instance(self):
        for how in ("select stop_instance('%s', 'cancelled')", "select pause_instance('%s')"):
            e = event("estimate_created", "estimate", self.sql("select count(*) from events"), "2026-06-01T10:00:00Z")
            one = start(e, stops=[("customer_replied", "customer:9", False)])
            self.settle([e], [one])
            self.sql("insert into workflow_definitions (name, version, sha256, files, declaration) values"
                     " ('follow', 2, 'b', '{}', '{}') on conflict do nothing")
            worker = self.hold(one)
            self.sql(how % one["instance"])
            self.sql("select takeover('%s', null)" % worker)  # such as a drain
            moved = self.sql("select migrate_instances((select max(id) from workflow_definitions), %s::json)"
                             % literal([{"instance": one["instance"], "epoch": 0, "stops": []}]))
            self.assertEqual(one["instance"], moved)
            self.assertEqual("t", self.sql("select stop_pending('%s')" % one["instance"]))

    def test_an_answer_at_the_last_moment_is_heard_or_refused(self):
        e = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z")
        one = start(e)
        self.settle([e], [one])
        worker = self.hold(one)
        due = self.sql("select utc(business_now() + interval '2 s')")
        asked = json.loads(self.sql("select staff_ask('%s', 'place', %s::json)" % (
            one["instance"], literal({"to": "csr", "title": "t", "approval": True, "due": due}))))
        wait = {"i": 0, "kind": "event", "instance": one["instance"], "run": 1, "branch": "", "ordinal": 1, "seq": 1,
                "name": "approve.answer#1", "hash": "x", "input": [], "release": True, "judged": False,
                "deadline": due, "types": [{"type": "task_answered", "keys": ["task:" + asked["id"]]}]}
        answer, decided = self.overlap(
            "select answer_task('%s', '{\"approved\": true}')" % asked["id"],
            "select pg_sleep(2.1); begin; select lock_gate(); select result from suspend('%s', %s::json); commit"
            % (worker, literal([wait])), hold=3)
        self.assertEqual("done", answer.strip())
        self.assertEqual("behind", decided.strip().split("\n")[-1])

    def test_ending_and_queueing_at_the_same_time_lose_nobody(self):
        e, f = (event("estimate_created", "estimate", 7, "2026-06-01T1%d:00:00Z" % n) for n in (0, 1))
        first, second = (start(x, key="k", if_running="queue") for x in (e, f))
        self.settle([e], [first])
        worker = self.hold(first)
        batch = {**EMPTY, "events": [f], "starts": [second]}
        self.overlap("select finish('%s', array['%s'::uuid], '{}')" % (worker, first["instance"]),
                     "begin; select lock_gate(); select settle(%s::json); commit" % literal(batch))
        self.assertEqual(second["instance"], self.sql(
            "select instance_id from workflow_queue where business_key is not null and due is not null"))

    def test_queueing_before_the_holder_ends_is_seen_by_its_end(self):
        e, f = (event("estimate_created", "estimate", 7, "2026-06-01T1%d:00:00Z" % n) for n in (0, 1))
        first, second = (start(x, key="k", if_running="queue") for x in (e, f))
        self.settle([e], [first])
        worker = self.hold(first)
        batch = {**EMPTY, "events": [f], "starts": [second]}
        self.overlap("select lock_gate(); select settle(%s::json)" % literal(batch),
                     "select finish('%s', array['%s'::uuid], '{}')" % (worker, first["instance"]))
        self.assertEqual(second["instance"], self.sql(
            "select instance_id from workflow_queue where business_key is not null and due is not null"))

    # --- looking back ---

    def test_what_was_stopped_already_does_not_start(self):
        stop = event("estimate_approved", "estimate", 7, "2026-06-02T10:00:00Z")
        made = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z")
        stops = [("estimate_approved", "estimate:7", False)]
        for events in ([made, stop], [stop, made]):
            told = self.settle([dict(e, id=str(uuid.uuid4())) for e in events])
            self.assertEqual(2, told["events"])
            self.sql("truncate events, event_keys")
            told = self.settle(events, [start(made, stops=stops)])
            self.assertEqual((0, 1), (told["started"], told["skipped"]))
            self.assertEqual("already stopped|estimate_approved",
                             self.sql("select reason, detail->>'by' from workflow_skips"))
            self.sql("truncate events, event_keys, workflow_skips")

    def test_an_older_stop_is_of_another_time(self):
        self.settle([event("estimate_approved", "estimate", 7, "2026-05-02T10:00:00Z")])
        made = event("estimate_unsold", "estimate", 7, "2026-06-01T10:00:00Z")
        told = self.settle([made], [start(made, stops=[("estimate_approved", "estimate:7", False)])])
        self.assertEqual(1, told["started"])
        self.assertEqual("0", self.sql(
            "select count(*) from stop_candidates(array(select instance_id from workflow_queue))"))

    def test_a_stop_that_lua_has_to_judge_is_left_to_it(self):
        old, new = (event("estimate_repriced", "estimate", 7, at)
                    for at in ("2026-05-01T10:00:00Z", "2026-06-02T10:00:00Z"))
        self.settle([new])
        self.settle([old])
        made = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z")
        told = self.settle([made], [start(made, stops=[("estimate_repriced", "estimate:7", True)])])
        self.assertEqual(1, told["started"])
        self.assertEqual([new["id"] + "|t"], self.rows(
            "select event_id, judged from stop_candidates(array(select instance_id from workflow_queue))"))

    # --- wakes and stops ---

    def started(self, stops=(("estimate_approved", "estimate:7", False),), **more):
        e = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z")
        s = start(e, stops=stops, **more)
        self.settle([e], [s])
        return s

    def asleep(self, s, state="sleeping", due="now() + interval '5 days'"):
        self.sql("update workflow_queue set state = '%s', due = %s where instance_id = '%s'"
                 % (state, due, s["instance"]))

    def due(self, s):
        return self.sql("select due is not null and due <= clock_timestamp() from workflow_queue"
                        " where instance_id = '%s'" % s["instance"])

    def stop(self, kind="estimate_approved"):
        self.settle([event(kind, "estimate", 7, "2026-06-03T10:00:00Z")])

    def test_a_stop_wakes_what_sleeps_and_what_is_stuck(self):
        for state, due in (("sleeping", "now() + interval '5 days'"), ("stuck", "null"), ("paused", "null")):
            with self.subTest(state):
                self.sql("truncate events, event_keys, workflow_queue, workflow_instances,"
                         " workflow_subscriptions, workflow_inbox")
                s = self.started()
                self.asleep(s, state, due)
                self.stop()
                self.assertEqual("t", self.due(s))
                self.assertEqual(state, self.sql("select state from workflow_queue"))
                self.assertEqual("1", self.sql("select count(*) from workflow_inbox where kind = 'stop'"))

    def test_an_instance_that_a_worker_holds_is_not_touched(self):
        s = self.started()
        self.hold(s)
        before = self.sql("select xmin, * from workflow_queue")
        self.stop()
        self.assertEqual(before, self.sql("select xmin, * from workflow_queue"))
        self.assertEqual("1", self.sql("select count(*) from workflow_inbox"))
        self.assertEqual("t", self.sql("select stop_pending('%s')" % s["instance"]))

    def test_a_wait_is_woken_and_its_own_trigger_is_not_its_answer(self):
        s = self.started(stops=())
        self.asleep(s, "waiting")
        self.sql("insert into workflow_subscriptions (instance_id, kind, type, key, since) select"
                 " instance_id, 'wait', t, 'estimate:7', since from workflow_queue,"
                 " unnest(array['estimate_created', 'estimate_approved']) t")
        self.settle([event("estimate_created", "estimate", 8, "2026-06-03T10:00:00Z")])
        self.assertEqual("f", self.due(s))
        self.stop()
        self.assertEqual("t", self.due(s))

    def test_a_wait_of_an_instance_that_a_worker_holds_is_there_when_it_is_released(self):
        s = self.started(stops=())
        worker = self.hold(s)
        self.sql("insert into workflow_subscriptions (instance_id, kind, type, key, since) select"
                 " instance_id, 'wait', 'estimate_approved', 'estimate:7', since from workflow_queue")
        self.stop()
        self.assertEqual("f", self.sql("select due is not null from workflow_queue"))
        self.sql("select release('%s', %s)" % (worker, literal([
            {"instance": s["instance"], "state": "waiting", "due": "2030-01-01T00:00:00Z"}])))
        self.assertEqual("t", self.due(s))

    def test_what_waits_behind_another_is_ended_by_a_stop_but_not_begun_by_a_doubtful_one(self):
        first = self.started(key="k", if_running="queue")
        e = event("estimate_created", "estimate", 7, "2026-06-01T11:00:00Z")
        second = start(e, key="k", if_running="queue", stops=[
            ("estimate_approved", "estimate:7", False), ("estimate_repriced", "estimate:7", True)])
        self.settle([e], [second])
        self.settle([event("estimate_repriced", "estimate", 7, "2026-06-02T10:00:00Z")])
        self.assertEqual("f", self.due(second))
        self.stop()
        self.assertEqual("t", self.due(second))
        self.assertEqual("t", self.due(first))

    def test_a_release_meanwhile_is_woken(self):
        """The worker lets go of the instance while the stop is being settled: one of both sees it."""
        s = self.started()
        worker = self.hold(s)
        stop = event("estimate_approved", "estimate", 7, "2026-06-03T10:00:00Z")
        release = json.dumps([{"instance": s["instance"], "state": "sleeping",
                               "due": "2030-01-01T00:00:00Z", "reason": None}])
        self.overlap("select release('%s', '%s')" % (worker, release), lambda: self.settle([stop]))
        self.assertEqual("t", self.due(s))

    def test_a_wait_registered_at_the_same_time_misses_no_event(self):
        s = self.started(stops=())
        worker = self.hold(s)
        spec = json.dumps([{
            "i": 0, "kind": "event", "instance": s["instance"], "run": 1, "branch": "", "ordinal": 1,
            "seq": 1, "name": "wait_for#1", "hash": "x", "input": {}, "deadline": None, "release": True,
            "types": [{"type": "estimate_approved", "keys": ["estimate:7"]}], "judged": False}])
        waits = "select lock_gate(); select result from suspend('%s', '%s')" % (worker, spec)
        batch = {**EMPTY, "events": [event("estimate_approved", "estimate", 7, "2026-06-03T10:00:00Z")]}
        settles = "select lock_gate(); select settle(%s::json)" % literal(batch)
        for wait_first in (True, False):
            with self.subTest(wait_first=wait_first):
                if wait_first:
                    said, _ = self.overlap(waits, "begin; %s; commit" % settles)
                else:
                    _, said = self.overlap(settles, "begin; %s; commit" % waits)
                decided = "done" in said
                self.assertTrue(decided or self.due(s) == "t", said)
                self.assertEqual(not wait_first, decided)
                self.sql("truncate events, event_keys, workflow_subscriptions, workflow_waits,"
                         " workflow_inbox, workflow_step_executions;"
                         "update workflow_queue set worker = '%s', due = null" % worker)

    def test_two_settling_units_in_a_row_see_each_other(self):
        """The start and its stop are settled by two detectors at once: it never stays running."""
        made = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z")
        stop = event("estimate_approved", "estimate", 7, "2026-06-02T10:00:00Z")
        first = {**EMPTY, "events": [made],
                 "starts": [start(made, stops=[("estimate_approved", "estimate:7", False)])]}
        second = {**EMPTY, "events": [stop]}
        unit = "select lock_gate(); select settle(%s::json)"
        for one, other in ((first, second), (second, first)):
            self.overlap(unit % literal(one), "begin; %s; commit" % unit % literal(other))
            self.assertIn(self.sql("select count(*) from workflow_queue q where not stop_pending(q.instance_id)"),
                          ("0",))
            self.sql("truncate events, event_keys, workflow_queue, workflow_instances,"
                     " workflow_subscriptions, workflow_inbox, workflow_skips")

    # --- deletions, merges ---

    def test_what_is_about_a_deleted_row_ends(self):
        s = self.started()
        gone = event("estimate_deleted", "estimate", 7, "2026-06-04T10:00:00Z")
        self.settle([gone], deleted=[{"entity": "estimate", "id": "7", "event": gone["id"]}])
        self.assertEqual("stopping|deleted|t", self.sql(
            "select state, reason->>'name', due <= clock_timestamp() from workflow_queue"))
        self.assertEqual(s["instance"], self.sql("select instance_id from workflow_queue"))

    def test_what_was_made_and_deleted_in_one_batch_ends_but_not_what_the_deletion_starts(self):
        made = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z")
        gone = event("estimate_deleted", "estimate", 7, "2026-06-04T10:00:00Z")
        self.settle([made, gone], [start(made), start(gone, "tidy")],
                    deleted=[{"entity": "estimate", "id": "7", "event": gone["id"]}])
        self.assertEqual(["follow|stopping", "tidy|pending"], self.rows(
            "select workflow, q.state from workflow_instances i join workflow_queue q"
            " on q.instance_id = i.id order by 1"))

    def test_a_merge_takes_subscriptions_keys_and_instances_along(self):
        e = event("customer_replied", "customer", 1, "2026-06-01T10:00:00Z", customer=1)
        self.settle([e], [start(e, key="customer:1", stops=[("customer_opted_out", "customer:1", False)])])
        self.settle(merged=[{"gone": 1, "kept": 2}])
        self.assertEqual("2|follow live customer:2", self.sql(
            "select customer_id, q.business_key from workflow_instances i"
            " join workflow_queue q on q.instance_id = i.id"))
        stop = event("customer_opted_out", "customer", 2, "2026-06-02T10:00:00Z", customer=2)
        self.sql("update workflow_queue set due = null, state = 'waiting'")
        self.assertEqual(1, self.settle([stop])["woken"])
        late = event("customer_replied", "customer", 1, "2026-06-03T10:00:00Z", customer=1)
        told = self.settle([late], [start(late, key="customer:1")])
        self.assertEqual(1, told["skipped"])

    def waits_for_customer_1(self, s, worker):
        spec = [{"i": 0, "kind": "event", "instance": s["instance"], "run": 1, "branch": "",
                 "ordinal": 1, "seq": 1, "name": "wait_for#1", "hash": "x", "input": {},
                 "deadline": None, "release": True, "judged": False,
                 "types": [{"type": "customer_replied", "keys": ["customer:1"]}]}]
        return self.sql("begin; select lock_gate(); select result from suspend('%s', %s); commit"
                        % (worker, literal(spec)))

    def test_a_wait_after_a_merge_hears_of_who_was_kept(self):
        e = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z", customer=1)
        s = start(e)
        self.settle([e], [s])
        worker = self.hold(s)
        self.settle(merged=[{"gone": 1, "kept": 2}])
        self.assertEqual("waits", self.waits_for_customer_1(s, worker))
        self.assertEqual("f", self.due(s))
        reply = event("customer_replied", "customer", 2, "2026-06-02T10:00:00Z", customer=2)
        self.assertEqual(1, self.settle([reply])["woken"])
        self.assertEqual("t", self.due(s))
        self.sql("update workflow_queue set worker = '%s'" % worker)
        self.assertEqual("done", self.waits_for_customer_1(s, worker))

    def test_a_merge_lets_what_waits_hear_what_was_settled_before(self):
        e = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z", customer=1)
        s = start(e)
        self.settle([e], [s])
        self.assertEqual("waits", self.waits_for_customer_1(s, self.hold(s)))
        self.settle([event("customer_replied", "customer", 2, "2026-06-02T10:00:00Z", customer=2)])
        self.assertEqual("f", self.due(s))
        self.settle(merged=[{"gone": 1, "kept": 2}])
        self.assertEqual("t", self.due(s))

    def test_what_was_sent_once_to_one_is_not_sent_again_to_who_was_kept(self):
        self.sql("insert into message_once values ('customer:1', 'welcome', false, gen_random_uuid()),"
                 " ('customer:1', 'both', false, gen_random_uuid()),"
                 " ('customer:2', 'both', false, gen_random_uuid())")
        self.settle(merged=[{"gone": 1, "kept": 2}])
        self.assertEqual(["customer:2|both", "customer:2|welcome"],
                         self.rows("select who, what from message_once order by 2"))

    def test_of_two_that_a_merge_makes_one_the_younger_stops(self):
        a, b = (event("customer_replied", "customer", n, "2026-06-01T10:00:00Z", customer=n) for n in (1, 2))
        one, two = start(a, key="customer:1"), start(b, key="customer:2")
        one["instance"], two["instance"] = sorted([one["instance"], two["instance"]])
        self.settle([a, b], [one, two])
        self.settle(merged=[{"gone": 1, "kept": 2}])
        self.assertEqual([one["instance"] + "|pending|follow live customer:2", two["instance"] + "|stopping|"],
                         self.rows("select instance_id, state, business_key from workflow_queue order by 1"))

    # --- errors ---

    def test_what_raised_is_a_row_and_can_be_judged_again(self):
        e = event("estimate_created", "estimate", 7, "2026-06-01T10:00:00Z")
        error = {"workflow": "follow", "entity": "estimate", "entity_id": "7", "event": e["id"],
                 "message": "follow.lua:3: attempt to index nil"}
        self.assertEqual(1, self.settle([e], errors=[error])["errors"])
        self.assertEqual(0, self.settle([dict(e, id=str(uuid.uuid4()))],
                                        errors=[dict(error, event=str(uuid.uuid4()))])["errors"])
        self.assertEqual("1", self.sql("select retry_detect_errors()"))
        retry, = json.loads(self.sql("select read_retries(10)"))
        self.assertEqual("estimate_created", retry["event"]["name"])
        s = start(e, again=True)
        told = self.settle([], [s], resolved=[retry["id"]])
        self.assertEqual(1, told["started"])
        self.assertEqual(0, self.settle([], [dict(s, instance=str(uuid.uuid4()))])["started"])
        self.assertEqual("[]", self.sql("select read_retries(10)"))

    # --- daily rules, turns, versions ---

    def test_a_daily_rule_finds_only_what_is_new(self):
        self.settle([event("invoice_overdue", "invoice", 1, "2026-05-11T00:00:00Z")])
        rows = [["1", "2026-05-10"], ["2", "2026-05-10"], ["3", "2025-01-01"], ["4", None]]
        found = json.loads(self.sql("select daily_new('invoice_overdue', 'invoice', %s::json,"
                                    " '2026-05-01Z', 500)" % literal(rows)))
        self.assertEqual((False, [{"id": "2", "once": "2026-05-10"}]), (found["more"], found["rows"]))
        found = json.loads(self.sql("select daily_new('invoice_overdue', 'invoice', %s::json, null, 1)"
                                    % literal(rows)))
        self.assertEqual((True, "3"), (found["more"], found["rows"][0]["id"]))
        found = json.loads(self.sql("select daily_new('invoice_overdue', 'invoice', %s::json, null, 1, %s::json)"
                                    % (literal(rows), literal(found["last"]))))
        self.assertEqual((False, "2"), (found["more"], found["rows"][0]["id"]))
        self.settle(daily=[{"rule": "invoice_overdue", "day": "2026-06-01"}])
        self.assertEqual("2026-06-01", self.sql("select day from daily_rules"))

    def test_one_worker_at_a_time_has_the_turn(self):
        a, b = str(uuid.uuid4()), str(uuid.uuid4())
        for w in (a, b):
            self.sql("select worker_enter('%s', 'here', 1, 0, 'workflow', 60000)" % w)
        ask = "select detect_turn('%s')"
        self.assertEqual(["t", "f", "t"], [self.sql(ask % w) for w in (a, b, a)])
        self.sql("delete from workflow_workers where id = '%s'" % a)
        self.assertEqual("t", self.sql(ask % b))

    def test_a_version_is_found_again_by_its_content(self):
        put = "select put_in_force('follow', '%s', '{}', '{}', 1)"
        self.assertEqual(["t", "f", "t", "t"], [self.sql(put % sha) for sha in ("aa", "aa", "bb", "aa")])
        self.assertEqual(["1|t", "2|f"], self.rows(
            "select version, active from workflow_definitions order by 1"))


if __name__ == "__main__":
    unittest.main()
