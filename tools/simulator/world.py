"""Rows and their versions: the facts of life.py as the vendor stores and shows them.

Every entity has a log of versions in the order in which they become visible to readers. A
continuation token names a place in that order, not an index, so it means the same after the
simulator was killed and has worked the world out again from the seed.
"""
import bisect
import hashlib
import heapq
import json

import company
from clock import iso7
from life import DAY, ENTITIES, Life

PARENTS = ("customers", "locations", "jobs")


class Version:
    __slots__ = ("id", "number", "at", "row", "place", "raw")

    def __init__(self, key, number, at, row, place):
        self.id, self.number, self.at, self.row, self.place = key, number, at, row, place
        self.raw = None

    def text(self):
        if self.raw is None:
            self.raw = json.dumps(self.row, separators=(",", ":")).encode()
        return self.raw


class Feed:
    def __init__(self):
        self.log, self.places = [], []   # visible versions and their (time, n)
        self.versions = {}               # id -> every version, also not yet visible ones
        self.newest = {}                 # id -> index in log of its newest visible version

    def show(self, version):
        index = bisect.bisect_right(self.places, version.place)
        if index == len(self.log):
            self.log.append(version)
            self.places.append(version.place)
        else:                            # cannot happen: versions are shown in order of place
            raise AssertionError("a version became visible in the past")
        self.newest[version.id] = index

    def page(self, after, limit):
        """Current versions behind the place `after`: (versions, place to go on from, more)."""
        index = bisect.bisect_right(self.places, after)
        found = []
        while index < len(self.log) and len(found) < limit:
            version = self.log[index]
            if self.newest[version.id] == index:
                found.append(version)
            index += 1
        place = self.places[index - 1] if index else after
        more = any(self.newest[self.log[i].id] == i for i in range(index, len(self.log)))
        return found, max(place, after), more

    def current(self):
        """Every visible row's newest visible version, oldest change first."""
        return [v for i, v in enumerate(self.log) if self.newest[v.id] == i]


class World:
    def __init__(self, seed, live_from, customers=400, rate=4.0):
        self.seed = seed
        self.life = Life(seed, live_from, customers, rate)
        self.feeds = {name: Feed() for name in ENTITIES}
        self.heap, self.hidden = [], []
        self.count = self.patches = 0    # facts applied; changes from outside so far
        self.at = self.life.began
        self.stopped_at = None           # life ends here
        self.orphans = []                # (since, probability, business seconds)
        self.hidden_until = {}
        for entity, key, row in company.reference(self.life.began):
            self.apply(self.life.began, entity, key, row)

    def advance(self, at):
        """Lets everything up to this business time happen."""
        if self.stopped_at is not None:
            happening = min(at, self.stopped_at)
        else:
            happening = at
        while self.life.next_day * DAY <= happening:
            for n, fact in enumerate(self.life.day()):
                heapq.heappush(self.heap, (fact[0], self.life.next_day, n, fact))
        while self.heap and self.heap[0][0] <= happening:
            when, _, _, (_, entity, key, fields) = heapq.heappop(self.heap)
            self.reveal(when)
            self.apply(when, entity, key, fields)
        self.reveal(at)
        self.at = max(self.at, at)

    def patch(self, at, entity, key, fields):
        """A change from outside (a control request), at a business time not yet reached."""
        self.patches += 1
        heapq.heappush(self.heap, (at, 1 << 30, self.patches, (at, entity, key, fields)))

    def apply(self, at, entity, key, fields):
        feed = self.feeds[entity]
        versions = feed.versions.setdefault(key, [])
        row = dict(versions[-1].row) if versions else {}
        for name, value in fields.items():
            if name.endswith("+"):
                row[name[:-1]] = round(row.get(name[:-1], 0) + value, 2)
            else:
                row[name] = value
        row["modifiedOn"] = iso7(at)
        self.count += 1
        version = Version(key, len(versions) + 1, at, row, (at, self.count))
        versions.append(version)
        until = self.hidden_until.get((entity, key), 0) if len(versions) > 1 else \
            self.hide(at, entity, key)
        if until > at:
            version.place = (until, self.count)
            heapq.heappush(self.hidden, (until, self.count, entity, version))
        else:
            feed.show(version)

    def hide(self, at, entity, key):
        """How long a new parent stays out of its feed (it can be asked for by id at once)."""
        if entity not in PARENTS:
            return 0
        for since, probability, seconds in self.orphans:
            draw = hashlib.sha256(("%s %s %s" % (self.seed, entity, key)).encode()).digest()
            if at >= since and draw[0] / 256 < probability:
                self.hidden_until[entity, key] = round(at + seconds, 3)
                return self.hidden_until[entity, key]
        return 0

    def reveal(self, at):
        while self.hidden and self.hidden[0][0] <= at:
            _, _, entity, version = heapq.heappop(self.hidden)
            self.feeds[entity].show(version)

    def versions(self, entity, key):
        return self.feeds[entity].versions.get(key, [])


def token(place):
    """A continuation token: opaque to the client, in the order of the feed."""
    return "%.6f.%d" % place


def untoken(text):
    """The place a token names; None when it is not one of ours."""
    try:
        seconds, fraction, count = text.split(".")
        return float(seconds + "." + fraction), int(count)
    except ValueError:
        return None
