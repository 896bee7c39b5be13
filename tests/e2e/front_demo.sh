#!/usr/bin/env bash
# The demo: a short verified scenario, and one that is ended with Ctrl-C.
. "$(dirname "$0")/../support/front.sh"
export TMPDIR=$work PYTHONDONTWRITEBYTECODE=1
demo() { python3 "$source/tools/scenario.py" --program "$program" "$@"; }

demo --check --days 8 > out 2> err
code=$?
[ $code = 0 ] || { cat out err; tail -30 moonwright-demo.*/moonwright.log; fail "the scenario failed"; }
tail -1 out | python3 -c '
import json, sys
said = json.loads(sys.stdin.readline())
assert list(said) == ["rows", "events", "instances", "sent", "ghl", "duplicates", "lost", "seconds"], said
assert said["duplicates"] == 0 and said["lost"] == 0, said
assert said["sent"]["sms"] > 5 and said["ghl"]["opportunities"] > 3 and said["rows"]["st_jobs"] > 500, said
assert said["events"]["estimate_created"] > 5 and said["instances"]["done"] > 20, said
' || { cat out; fail "the last line is not as promised"; }
[ -z "$(ls -d moonwright-demo.* 2> /dev/null)" ] || fail "its folder is left"

# Ctrl-C: it ends cleanly, takes everything along and leaves nothing.
setsid python3 -c 'import signal, os, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execvp(sys.argv[1], sys.argv[1:])' python3 "$source/tools/scenario.py" --program "$program" > out 2> err &
pid=$!
started+=($pid)
happens() { grep -q ' starts ' out && grep -q 'first import done' out; }
within 40 happens
named() { grep -Eq ' starts +[a-z_]+ for [a-z]+ [0-9]+, [A-Z]' out && grep -Eq ' ends +[a-z_]+ for [A-Z]' out; }
within 20 named
folder=$(ls -d moonwright-demo.*)
kill -INT -- -$pid
wait $pid || { cat err; fail "Ctrl-C should end it with 0"; }
[ ! -e "$folder" ] || fail "its folder is left"
! pgrep -f "$work/$folder" > /dev/null || fail "a process is left"
echo ok
