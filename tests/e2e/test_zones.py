"""The words of time and schedules in many zones, compared with PostgreSQL's own reckoning.

All changes of the clocks in 2026 and 2027 are looked for by PostgreSQL; around them, and at any other
time, thousands of questions are made up (MOONWRIGHT_SEED repeats them) and answered by both.
"""
import datetime
import functools
import json
import os
import random
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from database import ROOT, SERVER, Connection, DatabaseTest, literal  # noqa: E402

LUA = os.environ.get("LUA", "lua5.4")
PRELOAD = {"LD_PRELOAD": os.environ["LUA_PRELOAD"], "ASAN_OPTIONS": "detect_leaks=0"} \
    if os.environ.get("LUA_PRELOAD") else {}   # the interpreter isn't built with ASan
PROGRAM = os.environ.get("MOONWRIGHT_PROGRAM", "")
US = ("America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles", "America/Anchorage",
      "America/Indiana/Indianapolis", "America/Phoenix", "Pacific/Honolulu")
ZONES = US + ("UTC", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/London", "America/Santiago",
              "Pacific/Chatham", "Africa/Cairo")
CHANGES = ("2026-03-08", "2026-11-01", "2027-03-14", "2027-11-07")  # of the United States
BEGIN, END = 1767225600, 1830297600     # 2026-01-01, 2028-01-01
POLICIES = [(gap, fold) for gap in ("next", "skip") for fold in ("first", "last", "both")]

# Times on the wall in PostgreSQL's words: of those that come twice the first, one that is skipped as
# PostgreSQL reads it.
ORACLE = """
create function pg_temp.first_at(wall timestamp, zone text) returns timestamptz language sql immutable as $$
  select coalesce(min(c) filter (where c at time zone zone = wall), wall at time zone zone)
  from (select (wall at time zone zone) + make_interval(mins => m) as c from generate_series(-120, 0, 30) m) x
$$;
create function pg_temp.moment(zone text, t text, days int, secs int, clock text) returns timestamptz
language plpgsql immutable as $$
declare
  at timestamptz := case when length(t) = 10 then pg_temp.first_at(t::timestamp, zone) else t::timestamptz end;
begin
  if days <> 0 then
    at := pg_temp.first_at((at at time zone zone) + make_interval(days => days), zone);
  end if;
  at := at + make_interval(secs => secs);
  return case when clock = '' then at else pg_temp.first_at((at at time zone zone)::date + clock::time, zone) end;
end $$;
-- From minute to minute until the office is open.
create function pg_temp.open(zone text, t text) returns timestamptz language sql immutable as $$
  select min(m) from (
    select t::timestamptz as m union all
    select * from generate_series(date_trunc('minute', t::timestamptz) + interval '1 min',
                                  t::timestamptz + interval '3 days', interval '1 min')) x (m)
  cross join lateral (select m at time zone zone as w) y
  cross join lateral (select extract(isodow from w) as day, w::time as clock) z
  where day <= 5 and clock >= '08:00' and clock < '18:00'
     or day = 6 and (clock >= '09:00' and clock < '12:00' or clock >= '13:00' and clock < '15:00')
     or day = 7 and clock < '06:00'
$$;
"""


@functools.lru_cache(None)
def matches(field, value, low):
    """A field of a crontab, read in the plainest way."""
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            first, last = low, 999
        elif not last:
            last = 999 if step else first
        if int(first) <= value <= int(last) and (value - int(first)) % int(step or 1) == 0:
            return True
    return False


class ZonesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        seed = int(os.environ.get("MOONWRIGHT_SEED", "0")) or random.randrange(1, 1 << 30)
        print("MOONWRIGHT_SEED=%d" % seed)
        cls.random = random.Random(seed)
        cls.server = Connection(SERVER)
        cls.addClassCleanup(cls.server.close)
        cls.server.sql("set timezone = 'UTC'; set datestyle = 'ISO'")
        cls.server.sql(ORACLE)
        cls.changes = {zone: [] for zone in ZONES}
        for row in cls.sql(
                "select zone, extract(epoch from t)::bigint from unnest(%s) zone, lateral ("
                "select t, t at time zone zone - lag(t) over (order by t) at time zone zone as went"
                " from generate_series('2026-01-01Z'::timestamptz, '2028-01-01Z', '30 min') t) x"
                " where went <> interval '30 min' order by 1, 2" % cls.array(ZONES)):
            cls.changes[row[0]].append(int(row[1]))

    @classmethod
    def sql(cls, text):
        return [line.split("|") for line in cls.server.sql(text).split("\n") if line]

    @staticmethod
    def array(texts):
        return "array[%s]::text[]" % ", ".join(literal(t) for t in texts)

    def ours(self, questions):
        said = subprocess.run([LUA, os.path.join(ROOT, "tests", "support", "time_words.lua")],
                              input="\n".join("\t".join(q) for q in questions), text=True, check=True,
                              env=dict(os.environ, **PRELOAD),
                              stdout=subprocess.PIPE, timeout=200).stdout
        return said.split("\n")[:-1]

    def compare(self, questions, theirs):
        ours = self.ours(questions)
        self.assertEqual((len(questions), len(questions)), (len(ours), len(theirs)))
        wrong = ["%s: %s, not %s" % (q, a, b) for q, a, b in zip(questions, ours, theirs) if a != b]
        self.assertEqual([], wrong[:10], "%d of %d" % (len(wrong), len(questions)))

    def times(self, zone, count):
        """Times of interest in a zone: most of them near a change of its clocks."""
        for _ in range(count):
            near = self.random.choice(self.changes[zone] or [BEGIN + 86400 * 66])
            at = self.random.choice((near + self.random.randrange(-8 * 86400, 8 * 86400),
                                     near + self.random.randrange(-30, 30) * 900,
                                     self.random.randrange(BEGIN, END)))
            yield time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))

    def test_the_clocks_change_when_the_law_says(self):
        days = {zone: self.sql("select string_agg(((to_timestamp(c) at time zone %s)::date)::text, ' ' order by c)"
                               " from unnest('{%s}'::bigint[]) c" % (literal(zone), ",".join(
                                   str(c) for c in self.changes[zone]))) for zone in US}
        for zone in US[:6]:
            self.assertEqual([[" ".join(CHANGES)]], days[zone], zone)
        for zone in US[6:]:
            self.assertEqual([[""]], [row or [""] for row in days[zone]] or [[""]], zone)

    def test_moments(self):
        questions, asked = [], []
        for zone in ZONES:
            for t in self.times(zone, 250):
                t = t[:10] if self.random.random() < 0.15 else t
                way = self.random.choice(("", "before", "after", "after"))
                days, hours, minutes = (self.random.choice((0, 0, n)) for n in (
                    self.random.choice((1, 2, 3, 7, 30, 200)), self.random.randrange(1, 80),
                    self.random.randrange(1, 90)))
                duration = "".join("%d%s" % (n, unit) for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"))
                                   if n) or "0d"
                clock = self.random.choice(("", "", "01:30", "02:30", "02:00", "00:00", "23:45", "10:00"))
                sign = {"": 0, "before": -1, "after": 1}[way]
                questions.append(("moment", zone, t, way, duration, clock))
                asked.append({"zone": zone, "t": t, "days": sign * days, "secs": sign * (hours * 60 + minutes) * 60,
                              "clock": clock})
        theirs = self.sql("select to_char(pg_temp.moment(zone, t, days, secs, clock) at time zone 'UTC',"
                          " 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from json_to_recordset(%s) as x"
                          " (zone text, t text, days int, secs int, clock text)" % literal(json.dumps(asked)))
        self.compare(questions, [row[0] for row in theirs])

    def test_dates_and_the_office(self):
        asked = [{"zone": zone, "t": t} for zone in ZONES for t in self.times(zone, 40)]
        rows = self.sql("select to_char(t::timestamptz at time zone zone, 'YYYY-MM-DD ID HH24:MI'),"
                        " to_char(pg_temp.open(zone, t) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
                        " from json_to_recordset(%s) as x (zone text, t text)" % literal(json.dumps(asked)))
        self.compare([("date", a["zone"], a["t"]) for a in asked], [r[0] for r in rows])
        self.compare([("open", a["zone"], a["t"]) for a in asked], [r[1] for r in rows])

    # --- schedules ---

    def field(self, low, high):
        pick = self.random.random()
        a, b = sorted(self.random.randrange(low, high + 1) for _ in range(2))
        if pick < 0.3:
            return "*"
        if pick < 0.5:
            return "%d-%d" % (a, b)
        if pick < 0.65:
            return "*/%d" % self.random.randrange(1, (high - low) // 2 + 1)
        if pick < 0.8:
            return "%d,%d" % (a, b)
        return str(a)

    def cron(self):
        hour = self.random.choice(("0", "1", "2", "3", "1-2", "1,2", "2,3", "*", "*/2", self.field(0, 23)))
        rare = self.random.random() < 0.15
        return " ".join((self.random.choice(("0", "30", "*/15", "*/40", self.field(0, 59))), hour,
                         self.field(1, 31) if rare else "*", self.field(1, 12) if rare else "*",
                         self.random.choice(("*", "*", "*", "0,6", "1-5", self.field(0, 6)))))

    def walls(self, zone, begin, end):
        """What the clock shows at each minute, and how PostgreSQL reads each minute that it skips."""
        (row,) = self.sql("select string_agg((extract(epoch from to_timestamp(t) at time zone %s) / 60)::bigint::text,"
                          " ',' order by t) from generate_series(%d, %d, 60) t" % (literal(zone), begin, end))
        walls = [int(w) for w in row[0].split(",")]
        lost = [w for a, b in zip(walls, walls[1:]) for w in range(a + 1, b)]
        read = self.sql("select extract(epoch from (timestamp 'epoch' + make_interval(mins => w::int)) at time zone %s)"
                        "::bigint from unnest('{%s}'::bigint[]) w order by w"
                        % (literal(zone), ",".join(map(str, lost)))) if lost else []
        return walls, dict(zip(lost, (int(r[0]) for r in read)))

    def fits(self, cron, wall):
        minute, hour, day, month, weekday = cron.split(" ")
        if not matches(minute, wall % 60, 0) or not matches(hour, wall // 60 % 24, 0):
            return False
        days = wall // 1440
        date = datetime.date.fromordinal(719163 + days)
        by_day, by_weekday = matches(day, date.day, 1), matches(weekday, date.isoweekday() % 7, 0)
        both = day[0] == "*" or weekday[0] == "*"
        return matches(month, date.month, 1) and (
            by_day and by_weekday if both else by_day or by_weekday)

    def fitting(self, cron, begin, walls, lost):
        """The times that fit: wall -> its instants, and of those that are skipped the one that is taken."""
        shown = {}
        for n, wall in enumerate(walls):
            if self.fits(cron, wall):
                shown.setdefault(wall, []).append(begin + 60 * n)
        return shown, [at for wall, at in lost.items() if self.fits(cron, wall)]

    @staticmethod
    def expected(shown, skipped, gap, fold):
        fires = {at: "moved" if gap == "next" else "skipped" for at in skipped}
        for times in shown.values():
            notes = ("plain",) if len(times) == 1 else ("first", "last")
            for at, note in zip(times, notes):
                if note == "plain" or fold in (note, "both"):
                    fires[at] = note
        return fires

    def test_schedules(self):
        questions, theirs = [], []
        for zone in ZONES:
            changes = self.changes[zone] or [BEGIN + 86400 * d for d in (66, 304)]
            for change in changes:
                begin, end = change - 36 * 3600, change + 36 * 3600
                walls, lost = self.walls(zone, begin, end)
                for cron in ["30 1 * * *", "30 2 * * *"] + [self.cron() for _ in range(6)]:
                    fitting = self.fitting(cron, begin, walls, lost)
                    for gap, fold in POLICIES:
                        # Looked at from within: the hours at both ends only complete it.
                        after = change + self.random.choice((-86400, -5400, -1800, 0, 1800, 5400))
                        fires = self.expected(*fitting, gap, fold)
                        questions.append(("fires", zone, cron, gap, fold, str(after), str(end - 43200)))
                        theirs.append(", ".join("%d %s" % (at, fires[at]) for at in sorted(fires)
                                                if after < at <= end - 43200))
        self.compare(questions, theirs)

    def test_preview(self):
        for zone, cron, day, n in (("America/New_York", "30 2 * * *", "2026-03-07", 3),
                                   ("America/Phoenix", "30 2 * * *", "2026-03-07", 3),
                                   ("America/Chicago", "15,45 1 * * *", "2026-10-31", 6),
                                   ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04", 3)):
            for gap, fold in POLICIES:
                said = json.loads(subprocess.run(
                    [PROGRAM, "schedule", "preview", "--cron", cron, "--zone", zone, "--gap", gap, "--fold", fold,
                     "--from", day, "-n", str(n), "--json"], check=True, stdout=subprocess.PIPE, text=True,
                    env=dict(os.environ, MOONWRIGHT_HOME=ROOT, DATABASE_URL=""), cwd="/").stdout)
                (row,) = self.sql("select extract(epoch from pg_temp.first_at('%s', '%s'))::bigint" % (day, zone))
                begin = int(row[0])
                walls, lost = self.walls(zone, begin, begin + 6 * 86400)
                fires = self.expected(*self.fitting(cron, begin, walls, lost), gap, fold)
                wanted, count = [], 0
                for at in sorted(fires):
                    if count == n:
                        break
                    made = fires[at] != "skipped"
                    count += made
                    (shown,) = self.sql(
                        "select to_char(to_timestamp(%d) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),"
                        " to_char(to_timestamp(%d) at time zone '%s', 'YYYY-MM-DD\"T\"HH24:MI:SS')" % (at, at, zone))
                    wanted.append((shown[0] if made else None, shown[1] if made else None,
                                   None if fires[at] == "plain" else fires[at]))
                self.assertEqual(wanted, [(f["utc"], f["local"] and f["local"][:19], f["note"])
                                          for f in said["fires"]], (zone, cron, gap, fold))


class QuietTest(DatabaseTest):
    """Quiet hours, by going from minute to minute until one is allowed."""
    kinds = ["engine"]

    def test_the_next_allowed_minute(self):
        seed = int(os.environ.get("MOONWRIGHT_SEED", "0")) or random.randrange(1, 1 << 30)
        print("MOONWRIGHT_SEED=%d" % seed)
        some, asked = random.Random(seed), []
        for zone in US + ("Europe/London", "Australia/Lord_Howe"):
            for day in CHANGES:
                for _ in range(6):
                    at = int(datetime.datetime.fromisoformat(day + "T00:00+00:00").timestamp())
                    asked.append({"zone": zone, "t": at + some.randrange(-1440, 3000) * 60,
                                  "class": some.choice(("marketing", "transactional")),
                                  "state": some.choice(("NY", "TX", "FL", None))})
        wrong = self.sql("""
          with asked as (select *, to_timestamp(t) as at from json_to_recordset(%s) as x
                         (zone text, t bigint, class text, state text)),
          answered as (
            select a.*, coalesce(quiet_until(a.class, a.zone, a.state, a.at), a.at) as ours,
              (select min(m) from generate_series(a.at, a.at + interval '2 days', interval '1 min') m
               cross join lateral (select m at time zone a.zone as w) l
               cross join lateral quiet_window(a.class, a.state, extract(isodow from w)::int) q
               where w::time >= q.opens and w::time < q.closes) as theirs from asked a)
          select zone, class, state, at, ours, theirs from answered where ours is distinct from theirs"""
                         % literal(json.dumps(asked)))
        self.assertEqual("", wrong)


if __name__ == "__main__":
    unittest.main()
