"""A command at a terminal, with somebody who answers what it asks."""
import os
import pty
import subprocess


def answer(words, environment, folder, line):
    """Runs it and types the line; its exit code and all that it said."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, env=environment, cwd=folder, stdin=theirs, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.close(theirs)
    os.write(ours, line.encode() + b"\n")
    said, _ = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, said
