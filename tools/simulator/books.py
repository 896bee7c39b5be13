"""The books: one append-only file of JSON lines, written before each answer.

A line has r (real seconds), b (business time) and k (its kind); the other fields are the kind's.
A line is one write to a file opened for appending, so a killed simulator leaves whole lines; a torn
last line (a full disk) is dropped when the books are read again.
"""
import errno
import json
import os
import sys
import time

from clock import iso3


class Books:
    def __init__(self, path, clock):
        self.path, self.clock = path, clock
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self.fd).st_size
        if size:
            with open(path, "rb") as f:
                f.seek(size - 1)
                if f.read(1) != b"\n":  # what a death left unfinished was never answered
                    os.write(self.fd, b"\n")

    def write(self, kind, **fields):
        now = time.time()
        line = {"r": round(now, 4), "b": iso3(self.clock.business(now)), "k": kind}
        line.update(fields)
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(self.fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as e:              # an answer without its line in the books would be a lie
            print("simulator: cannot write %s: %s" % (self.path, e.strerror), file=sys.stderr)
            os._exit(1)
        return line


def read(path):
    """Every whole line of the books, in order; none when there is no such file."""
    try:
        f = open(path, "rb")
    except FileNotFoundError:
        return
    with f:
        for raw in f:
            try:
                yield json.loads(raw)
            except ValueError:
                continue
