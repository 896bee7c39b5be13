"""The oracle: what the shipped workflows owed in a run, against what the vendors received.

  python3 tools/simulator/check.py var/books.jsonl

It works from the simulator's own company and books alone. Each problem is a line, and so is a
note (a race of one moment); the last line is a summary as JSON. Exit status: 0 nothing is wrong,
1 something is, 2 it could not be checked.
"""
import argparse
import json
import os
import sys

from judge import Judge, summary
from owed import Owed
from record import Record
from texts import Templates

HERE = os.path.dirname(os.path.abspath(__file__))
SUMS = ("lost", "duplicates", "forbidden", "sms", "email", "contacts", "opportunities", "won",
        "owed", "optional", "owed_contacts", "owed_opportunities")


def check(path, templates, slack=6.0, stop_slack=5.0, wire_slack=2.0):
    """The problems of one run as lines, its summary, and notes."""
    record = Record(path)
    owed = Owed(record, slack, stop_slack)
    judge = Judge(record, owed, templates, wire_slack)
    verdict = judge.run()
    return verdict.problems(), summary(record, owed, judge, verdict), verdict.notes


def main():
    p = argparse.ArgumentParser(prog="check.py", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("books", nargs="+")
    p.add_argument("--templates", default=os.path.join(HERE, "../../workflows/templates"))
    p.add_argument("--slack", type=float, default=6.0,
                   help="real seconds the product may take for anything it owes")
    p.add_argument("--stop-slack", type=float, default=5.0,
                   help="real seconds between showing it a stop and the last send before it")
    p.add_argument("--wire-slack", type=float, default=2.0,
                   help="real seconds between deciding on a send and its arrival")
    p.add_argument("--strict", action="store_true", help="count notes as losses too")
    options = p.parse_args()
    total, problems, notes = {}, [], []
    try:
        templates = Templates(options.templates)
        for path in options.books:
            found, part, noted = check(path, templates, options.slack, options.stop_slack,
                                       options.wire_slack)
            problems += found
            notes += noted
            for name in SUMS:
                total[name] = total.get(name, 0) + part[name]
            total["days"] = max(total.get("days", 0), part["days"])
    except (OSError, ValueError, KeyError) as e:
        print("check: %s: %s" % (type(e).__name__, e), file=sys.stderr)
        return 2
    if options.strict:
        problems += ["lost: " + n for n in notes]
        total["lost"] += len(notes)
        notes = []
    for line in problems + ["note: " + n for n in notes]:
        print(line)
    print(json.dumps(total))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
