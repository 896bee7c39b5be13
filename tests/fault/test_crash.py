"""kill -9 at every boundary of the engine: before and inside each unit, while it commits, between
its end and whoever waits for it, right before a request's first byte and right after its answer.

Each run dies once, at one point. In each the end must be the undisturbed run's, and the vendors
must have got each message once. What nobody can know is held for a person, never sent again.

The short tier tries one point of each kind around an intent, a checkpoint and an end; with
MOONWRIGHT_LONG set it is every statement, commit, answer and request there is.
"""
import collections
import concurrent.futures
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import world  # noqa: E402
from synced import SyncedWorld  # noqa: E402
from worded import WordedWorld  # noqa: E402
from world import LONG, Simulator, World, database  # noqa: E402

SHORT = (
    "unit:message_intent(:1",               # before the intent
    "statement:message_intent(:2",          # after its fence
    "sync:message_intent(:2",               # before its commit
    "sent:message_intent(:3",               # during its commit
    "answered:message_intent(:1",           # after it
    "wire:/Messages.json:2",                # the gate was passed
    "accepted:/Messages.json:1",            # after the vendor accepted
    "accepted:/mail/send:2",
    "accepted:/opportunities/:1",
    "sent:message_outcome(:1",
    "sent:from record(:2",                  # during a checkpoint's commit
    "answered:from record(:3",              # after it
    "answered:finish(:1",                   # after the end
    "sent:consume_changes(:1",              # detection
    "statement:from settle(:2",
)
SHORT_SYNC = (
    "unit:with raw as materialized:15",     # a page is here
    "sent:with raw as materialized:17",     # while it and its cursor commit
    "answered:with raw as materialized:19",
    "accepted:/export/customers/contacts:3",
    "sent:sync_finish(:20",                 # the end of a feed's run
)
SHORT_TWO = (
    "sent:lock_gate(); select (s->>'events:1",      # while the events commit
    "unit:drop_changes(:1",                 # settled, and their changes still there
    "sent:drop_changes(:2",
    "sent:with raw as materialized:16",
)
SHORT_WORDS = (
    "sent:start_child(:2",
    "answered:start_child(:4",              # it is there, and its parent wasn't told
    "accepted:/sim/state:1",                # a step's function has the answer to its first call
    "sent:call_intent(:1",
    "wire:/sim/state:2",
    "answered:call_outcome(:1",             # its post is done, and the step isn't recorded
    "sent:emit_event(:1",
    "sent:staff_ask(:2",
    "sent:release(:3",                      # while a next run begins
    "sent:stopping(:1",
    "answered:stopping(:1",                 # decided, nothing is undone
    "wire:/Messages.json:4",                # what undoes
)
# What is tried of the points of a synced world. Feeds without rows are all alike.
SYNC = ("with raw as", "sync_begin(", "sync_finish(", "parents_", "/connect/token", "/customers",
        "/export/estimates")
WORDS = ("call_intent(", "call_outcome(", "/sim/state", "start_child(", "emit_event(", "staff_ask(",
         "release(", "stopping(", "suspend(", "record(", "finish(")
TWO = ("changes", "lock_gate(); select (s->>", "with raw as")
# For one who looks for a fault: CLASS POINT... tries these points alone.
POINTS = sys.argv[2:]
PER_POINT = 3   # occurrences of a point that are tried, from its first towards its last
AT_ONCE = 4


def where(line):
    """A line of the list as MOONWRIGHT_CRASH_AT names it, without its number."""
    kind, _, text = line.partition("\t")
    if kind in ("gate", "wire", "accepted"):
        text = re.sub(r"^.*?//[^/]*", "", text)
        text = re.sub(r"/(AC5+|[A-Za-z0-9]{20})(?=/|$)", "", text)
        text = text.rsplit("/", 1)[-1] if "Messages.json" in text else text
    return kind + ":" + text[:150]


class EngineTest(unittest.TestCase):
    """Detection, execution and sends, on one database."""

    world, two, short, words = World, False, SHORT, ("",)

    @classmethod
    def setUpClass(cls):
        cls.simulator = Simulator()
        cls.addClassCleanup(cls.simulator.close)
        cls.template = world.template(cls.simulator.settings, cls.two)
        cls.addClassCleanup(world.drop, cls.template)

    def whole(self, crash):
        """One run to its end: what is left in the database, the books, where it died, its world."""
        w = self.world(self.simulator, self.template, crash=crash, two=self.two)
        try:
            w.run(keep=True)
            w.play()
            w.stop()
            return w.ledger(), w.books(), w.died(), w.settled
        except Exception as error:
            raise AssertionError("%s: %s\n%s" % (crash, error, w.log()[-8000:])) from None
        finally:
            w.close()

    def points(self, listed):
        seen = collections.Counter(where(line) for line in listed.splitlines()
                                   if line and self.is_ours(where(line)))
        return ["%s:%d" % (point, n) for point, count in sorted(seen.items())
                for n in sorted({1 + k * (count - 1) // PER_POINT for k in range(PER_POINT)})]

    def test_a_death_anywhere_changes_nothing(self):
        ledger, books, listed, _ = self.whole("list")
        points = self.points(listed) if LONG else self.short
        if POINTS:
            points = POINTS
        wrong, missed, held = [], [], 0
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            runs = {pool.submit(self.whole, point): point for point in points}
            for run in concurrent.futures.as_completed(runs):
                point = runs[run]
                try:
                    after, sent, died, settled = run.result()
                except AssertionError as error:
                    wrong.append(str(error))
                    continue
                held += len(settled)
                if not died:
                    missed.append(point)
                if sent != books:
                    wrong.append("%s: the vendors got %s" % (point, difference(books, sent)))
                if after != ledger:
                    wrong.append("%s: left is %s" % (point, difference(ledger, after)))
        print("%d points, %d not passed, %d sends held" % (len(points), len(missed), held))
        self.assertFalse(wrong, "\n".join(wrong))
        self.assertLess(len(missed), 1 + len(points) / 5, missed)


    def is_ours(self, point):
        """Whether a point is tried here: each is in one of the classes."""
        return any(word in point for word in self.words)


class WordsTest(EngineTest):
    """The words that begin children, tell, ask people and undo."""

    world, short, words = WordedWorld, SHORT_WORDS, WORDS


class SyncTest(EngineTest):
    """The copying from ServiceTitan, up to what its rows bring about."""

    world, short, words = SyncedWorld, SHORT_SYNC, SYNC


class TwoDatabasesTest(SyncTest):
    """The same with ServiceTitan's tables in a database of their own: what is one commit there is
    two here, one after the other."""

    two, short, words = True, SHORT_TWO, TWO


def difference(wanted, got):
    """The lines that only one of the two has, with a sign."""
    wanted, got = collections.Counter(wanted), collections.Counter(got)
    return sorted("-" + line for line in (wanted - got).elements()) + \
        sorted("+" + line for line in (got - wanted).elements())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:2], verbosity=2)
