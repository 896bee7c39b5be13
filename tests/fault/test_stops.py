"""A sale and a send at the same time: no send leaves whose intent committed after the sale's event.

Each interleaving is forced. One worker stands still at a point of its way to the vendor (SIGSTOP,
see base/crash.h) while another one notices the sale, which may itself stand still with its unit
open; then the first goes on. The order is the database's own: when the transaction of the intent
and that of the event committed.

The short tier forces one of each kind; with MOONWRIGHT_LONG set it is all of them.
"""
import concurrent.futures
import os
import random
import signal
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import world  # noqa: E402
from world import LONG, SEED, Simulator, World, database  # noqa: E402

AT_ONCE = 3
QUOTE = """
return workflow {
  on = "estimate_created",
  class = "transactional",
  stop_when = { %s },
  run = function(e)
    local n = tostring(e.estimate.id)
    %s
    sleep "1s"
    sms.send { to = e.customer, text = "last about " .. n }
    return "ran"
  end }
"""
TEXT = 'sms.send { to = e.customer, text = "first about " .. n }'
NOTE = 'note "here" ' + TEXT
MAIL = 'email.send { to = e.customer, subject = "Your quote", text = "first about " .. n }'
CALL = 'ghl.sync_estimate_to_ghl { estimate = e.estimate, stage = "Estimate sent" }'
PLAIN = '"estimate_approved"'
OURS = "estimate_approved = { when = function(it) return it.estimate.status == 'Sold' end }"
NOT_OURS = "estimate_approved = { when = function(it) return it.estimate.total < 10 end }"

# When a transaction became visible, and which estimate it was about. The daily rule has been asked,
# so that what is settled next is the sale.
ORDER = """
insert into daily_rules (rule, day) values ('invoice_overdue', '2026-07-01');
create table commits (what text, estimate bigint);
create function commits() returns trigger language plpgsql as $$
begin
  if tg_table_name = 'events' then
    if new.type = 'estimate_approved' then
      insert into commits values ('stop', new.entity_id::bigint);
    end if;
  elsif new.state = 'intent' then
    insert into commits select 'intent', e.entity_id::bigint from workflow_instances i
    join events e on e.id = i.event_id where i.id = new.instance_id;
  end if;
  return null;
end $$;
create trigger commits after insert on events for each row execute function commits();
create trigger commits after insert on messaging_log for each row execute function commits();
create trigger commits after insert on outbound_log for each row execute function commits();
"""
LATE = """
select count(*) from commits s join commits i on i.estimate = s.estimate
where s.what = 'stop' and i.what = 'intent'
  and pg_xact_commit_timestamp(i.xmin) > pg_xact_commit_timestamp(s.xmin)
"""

NONE, ONE, EITHER = (0,), (1,), (0, 1)
# Where the sender stands still, what it runs up to its first send, where the one who notices the
# sale stands still and holds its unit open, and how much leaves.
WAYS = {
    # after the claim, before anything is decided
    "claimed": ("unit:draw_tokens(:1", TEXT, "", NONE),
    "asking who it is for": ("unit:recipient(:1", TEXT, "", NONE),
    # around the step before it
    "before a step is written": ("unit:from record(:1", NOTE, "", NONE),
    "a step is written, not committed": ("sync:from record(:1", NOTE, "", NONE),
    "after a step": ("answered:from record(:1", NOTE, "", NONE),
    "a sleep is written, not committed": ("sync:from suspend(:1", TEXT, "", ONE),
    # before the intent
    "before the intent": ("unit:message_intent(:1", TEXT, "", NONE),
    "between fence and intent": ("statement:message_intent(:1", TEXT, "", NONE),
    "before the intent of an e-mail": ("unit:message_intent(:1", MAIL, "", NONE),
    "before the intent of a call": ("unit:call_intent(:1", CALL, "", NONE),
    # the other one's unit is open: the intent waits for it
    "the sale has the gate": ("unit:message_intent(:1", TEXT, "statement:from settle(:1", NONE),
    "the sale is settled, not committed": (
        "unit:message_intent(:1", TEXT, "sync:consume_changes(:1", NONE),
    "the sale is settled, not committed, and a call": (
        "unit:call_intent(:1", CALL, "sync:consume_changes(:1", NONE),
    # the intent is first: the other one waits for it
    "the intent is written, not committed": ("sync:message_intent(:1", TEXT, "", ONE),
    "the intent of a call is written, not committed": ("sync:call_intent(:1", CALL, "", ONE),
    # after it: what was meant before the sale may leave, for five seconds
    "the intent commits": ("sent:message_intent(:1", TEXT, "", EITHER),
    "the intent is committed": ("answered:message_intent(:1", TEXT, "", EITHER),
    "right before the wire": ("gate:/Messages.json:1", TEXT, "", EITHER),
    "at the first byte": ("wire:/Messages.json:1", TEXT, "", ONE),
    "after the vendor accepted": ("accepted:/Messages.json:1", TEXT, "", ONE),
}
SHORT = ("claimed", "a step is written, not committed", "before the intent",
         "the sale is settled, not committed", "the sale is settled, not committed, and a call",
         "the intent is written, not committed", "right before the wire")
JUDGED = ("before the intent", "the sale is settled, not committed", "after a step",
          "the intent is written, not committed")


class Two:
    """A sender that will stand still at a point, and one who is there to notice."""

    def __init__(self, test, point, before, stops, other_point):
        self.w = World(test.simulator, test.template, 1, crash=point,
                       workflow=QUOTE % (stops, before),
                       more={"WORKER_LEASE_MS": "120000", "MOONWRIGHT_CRASH_HOW": "stop"})
        self.w.sql(ORDER)
        self.estimate = self.w.first + 1
        self.mark = os.path.join(self.w.folder, "stood")
        more = {"MOONWRIGHT_DATA": os.path.join(self.w.folder, "other"),
                "MOONWRIGHT_HTTP": "127.0.0.1:%d" % world.free_ports(1)[0],
                "MOONWRIGHT_CRASH_AT": other_point, "MOONWRIGHT_CRASH_ONCE": self.mark}
        self.other = self.w.run(more=more)
        database.until(lambda: self.w.sql(
            "select count(*) from workflow_definitions where name = 'quote' and active"), "1", 60)
        self.worker_of_other = self.w.pid_of_worker()
        self.hold_other()
        self.sender = None

    def hold_other(self):
        """It stands still in the middle of nothing, and has not the turn to detect."""
        open_units = ("select count(*) from pg_stat_activity where datname = current_database() and "
                      "pid <> pg_backend_pid() and xact_start is not null")
        while True:
            os.kill(self.other.pid, signal.SIGSTOP)     # nobody calls its worker hung
            os.kill(self.worker_of_other, signal.SIGSTOP)
            time.sleep(0.05)
            if self.w.sql(open_units) == "0":
                break
            os.kill(self.worker_of_other, signal.SIGCONT)
            time.sleep(0.05)
        self.free_the_turn()

    def free_the_turn(self):
        self.w.sql("update detector set worker = null, until = '-infinity'")

    def until_the_sender_stands(self):
        self.sender = self.w.run()
        self.w.begin()
        database.until(self.w.died, lambda where: where != "", 60, "it stands still")
        self.stopped = database.until(self.standing, lambda pids: len(pids) == 1, 20)[0]
        os.kill(self.sender.pid, signal.SIGSTOP)
        if self.w.died().startswith(("statement", "sync")):
            database.until(self.open_unit, True, 60, "all it sent is executed")
        self.free_the_turn()

    def open_unit(self):
        """A unit waits for more from its client."""
        return self.w.sql("select count(*) from pg_stat_activity where wait_event = 'ClientRead' and "
                          "xact_start is not null and datname = current_database()") != "0"

    def standing(self):
        return [pid for pid in self.w.children(self.sender) if state_of(pid) == "T"]

    def sell(self):
        self.w.sql("update st_estimates set status = 'Sold', sold_on = business_now(), "
                   "modified_on = business_now()")

    def other_goes_on(self):
        os.kill(self.worker_of_other, signal.SIGCONT)

    def other_stands(self):
        try:
            with open(self.mark) as file:
                return file.read() and state_of(self.worker_of_other) == "T"
        except FileNotFoundError:
            return False

    def sender_goes_on(self):
        os.kill(self.stopped, signal.SIGCONT)
        os.kill(self.sender.pid, signal.SIGCONT)

    def settled(self):
        return self.w.sql("select count(*) from events where type = 'estimate_approved'") == "1"

    def waiting(self):
        return int(self.w.sql("select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
                              " and datname = current_database()"))

    def end(self):
        self.w.until_all(self.w.ENDED, 60)
        state, reason = self.w.sql("select state, coalesce(reason, outcome) from instances").split("|")
        books = self.w.books()
        return {"late": self.w.sql(LATE), "state": state, "why": reason,
                "first": sum(" last" not in line for line in books),
                "last": sum(" last" in line for line in books)}

    def close(self):
        for process in (self.other, self.sender):
            if process and process.poll() is None:
                for pid in self.w.children(process):
                    os.kill(pid, signal.SIGCONT)
                os.kill(process.pid, signal.SIGCONT)
        self.w.stop()
        self.w.close()


def state_of(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.simulator = Simulator()
        cls.addClassCleanup(cls.simulator.close)
        cls.template = world.template(cls.simulator.settings)
        cls.addClassCleanup(world.drop, cls.template)

    def all_of(self, runs):
        """runs: {name: function}; what went wrong in each, several at a time."""
        wrong = []

        def one(name, run):
            try:
                run()
            except Exception as error:
                wrong.append("%s: %s" % (name, error))
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for name, run in runs.items():
                pool.submit(one, name, run)
        self.assertFalse(wrong, "\n".join(wrong))

    def both(self, point, before, stops, other_point, play):
        two = Two(self, point, before, stops, other_point)
        try:
            two.until_the_sender_stands()
            play(two)
            return two.end()
        except Exception as error:
            raise AssertionError("%s\n%s" % (error, two.w.log()[-5000:])) from None
        finally:
            two.close()


class InterleavingTest(Case):
    def meet(self, name, stops=PLAIN, hold=0):
        """The sender stands at a point, the sale is noticed, the sender goes on."""
        point, before, other_point, leaves = WAYS[name]

        def play(two):
            two.sell()
            two.other_goes_on()
            if other_point:                     # the sale's unit is open, and has the gate
                database.until(two.other_stands, True, 60, "the sale's unit is open")
                database.until(two.open_unit, True, 60, "all it sent is executed")
                two.sender_goes_on()
                database.until(two.waiting, lambda n: n > 0, 60, "the intent waits for the gate")
                two.other_goes_on()
            elif point.startswith("sync:") and "_intent(" in point:    # the intent's has it
                database.until(two.waiting, lambda n: n > 0, 60, "the sale waits for the gate")
                two.sender_goes_on()
            else:                               # it may wait for the gate here too
                database.until(lambda: two.settled() or two.waiting() > 0, True, 60,
                               "the sale is settled")
                time.sleep(hold)
                two.sender_goes_on()
        return self.both(point, before, stops, other_point, play), leaves

    def stops(self, name, stops=PLAIN, hold=0, leaves=None):
        got, leaves_there = self.meet(name, stops, hold)
        self.assertEqual("0", got["late"], "an intent committed after the sale")
        self.assertEqual(("stopped", "estimate_approved"), (got["state"], got["why"]))
        self.assertIn(got["first"], leaves or leaves_there)
        self.assertEqual(0, got["last"])

    def goes_on(self, name):
        got, _ = self.meet(name, NOT_OURS)
        self.assertEqual(("done", "ran", 1, 1),
                         (got["state"], got["why"], got["first"], got["last"]))

    def test_a_sale_during_the_way_to_the_vendor(self):
        self.all_of({name: lambda name=name: self.stops(name)
                     for name in (WAYS if LONG else SHORT)})

    def test_an_intent_that_got_old_meanwhile_does_not_leave(self):
        self.all_of({name: lambda name=name: self.stops(name, hold=6, leaves=NONE)
                     for name in (("the intent commits", "the intent is committed",
                                   "right before the wire") if LONG else ("right before the wire",))})

    def test_a_sale_that_lua_has_to_judge(self):
        names = JUDGED if LONG else JUDGED[:1]
        runs = {name + ", ours": lambda name=name: self.stops(name, OURS) for name in names}
        runs.update({name + ", not ours": lambda name=name: self.goes_on(name) for name in names})
        self.all_of(runs)


class HolderTest(Case):
    """A send whose instance is nobody's, or another's, when its intent comes: as after a claim that the
    database has forgotten. It is refused; whoever claims it then sends, once."""

    def taken_away(self, point, before):
        said = []

        def play(two):
            two.w.sql("update workflow_queue set worker = null, due = null")
            two.sender_goes_on()
            database.until(lambda: "an instance isn't ours any more" in two.w.log(), True, 60, "refused")
            said.append((two.w.sql("select (select count(*) from messaging_log) + "
                                   "(select count(*) from outbound_log)"), two.w.books()))
            two.w.sql("update workflow_queue set due = now(); select pg_notify('work', '')")
            two.other_goes_on()
        got = self.both(point, before, PLAIN, "", play)
        self.assertEqual([("0", [])], said)
        self.assertEqual(("done", "ran", 1), (got["state"], got["why"], got["last"]))
        self.assertGreaterEqual(got["first"], 1)

    def test_what_the_worker_does_not_hold_is_not_sent(self):
        self.all_of({name: lambda name=name, before=before: self.taken_away("unit:%s(:1" % name, before)
                     for name, before in (("message_intent", TEXT), ("call_intent", CALL))})


class PersonTest(Case):
    """What a person does, and a deletion, meet a send like a sale does."""

    def meet(self, action):
        def play(two):
            action(two)
            two.sender_goes_on()
            two.other_goes_on()
        return self.both("unit:message_intent(:1", TEXT, PLAIN, "", play)

    def instance(self, two):
        return two.w.sql("select id from workflow_instances")

    def test_what_is_cancelled_sends_nothing(self):
        got = self.meet(lambda two: two.w.sql("select cancel_instance('%s')" % self.instance(two)))
        self.assertEqual((0, 0, "cancelled"), (got["first"], got["last"], got["state"]))

    def test_what_is_paused_sends_nothing_until_it_is_resumed(self):
        said = []

        def play(two):
            two.w.sql("select pause_instance('%s')" % self.instance(two))
            two.sender_goes_on()
            database.until(lambda: two.w.sql("select state from instances"), "paused", 60)
            said.append(two.w.books())
            two.other_goes_on()
            two.w.sql("select resume_instance('%s'); select pg_notify('work', '')"
                      % self.instance(two))
        got = self.both("unit:message_intent(:1", TEXT, PLAIN, "", play)
        self.assertEqual([[]], said)
        self.assertEqual((1, 1, "done"), (got["first"], got["last"], got["state"]))

    def test_what_is_about_a_deleted_row_sends_nothing(self):
        def delete(two):
            two.w.sql("delete from st_estimates")
            two.other_goes_on()
            database.until(lambda: two.w.sql(
                "select count(*) from workflow_inbox where kind = 'deleted'"), "1", 60)
        got = self.meet(delete)
        self.assertEqual((0, 0, "stopped"), (got["first"], got["last"], got["state"]))


class RaceTest(Case):
    """The same unforced: many sales within the second in which texts are due, two workers."""

    def test_no_intent_follows_a_sale_of_the_same_second(self):
        count = 60 if LONG else 16
        w = World(self.simulator, self.template, count, workflow=QUOTE % (PLAIN, "sleep '2s' " + TEXT))
        try:
            w.sql(ORDER)
            w.run(2)
            w.begin()
            database.until(lambda: w.sql("select count(*) from workflow_waits"), str(count), 60)
            due = float(w.sql("select extract(epoch from min(real_of(deadline)) - clock_timestamp())"
                              " from workflow_waits"))
            rng, base = random.Random(SEED), time.monotonic() + due
            moments = sorted((rng.uniform(-0.3, 1.2), n) for n in w.numbers_of_ours())

            def sell(part):
                connection = database.Connection(database.url_of(w.name))
                for moment, n in part:
                    time.sleep(max(0, base + moment - time.monotonic()))
                    connection.sql("update st_estimates set status = 'Sold', sold_on = business_now(),"
                                   " modified_on = business_now() where id = %d" % (w.first + n))
                connection.close()
            threads = [threading.Thread(target=sell, args=(moments[k::2],)) for k in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            w.until_all(w.ENDED, 60)
            # Every sale came, some behind the end.
            database.until(lambda: w.sql("select count(*) from commits where what = 'stop'"),
                           str(count), 60)
            w.stop()
            self.assertEqual("0", w.sql(LATE), "an intent committed after its sale")
            intents = int(w.sql("select count(*) from messaging_log where state = 'sent'"))
            self.assertEqual(intents, len(w.books()))
            self.assertEqual(len(w.books()), len(set(w.books())))
        except Exception as error:
            raise AssertionError("%s\n%s" % (error, w.log()[-5000:])) from None
        finally:
            w.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
