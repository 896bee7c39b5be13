#!/usr/bin/env bash
# The supervisor: restarts the killed and the hung, dies with its children, ends in order.
. "$(dirname "$0")/../support/front.sh"
unset SERVICETITAN_DATABASE_URL MOONWRIGHT_READONLY_URL SERVICE_TITAN_CLIENT_ID
new_database
export DATABASE_URL=$url MOONWRIGHT_DATA=$work/data MOONWRIGHT_HTTP=127.0.0.1:0 WORKER_LEASE_MS=6000
pid_of() { sed -nE "s/.*worker started\".* worker=$1 pid=([0-9]+).*/\1/p" log | tail -1; }
started_times() { grep -cE "worker started\".* worker=$1 " log; }
start() {
    : > log
    rm -rf data/heartbeat
    "$program" run "$@" >> log 2>&1 &
    supervisor=$!
    started+=($supervisor)
}
beats() { [ -f "data/heartbeat/$1" ] && [ "$(($(date +%s) - $(stat -c %Y "data/heartbeat/$1")))" -le 2 ]; }

start --role web,monitor
within 15 beats web
within 15 beats monitor

# The same role once more in the same folder: their heartbeats would hide each other.
run run --role monitor
refused "another moonwright (process $supervisor) runs the role monitor in $work/data"

# A killed worker comes back.
web=$(pid_of web)
kill -KILL "$web"
twice() { [ "$(started_times web)" -ge 2 ]; }
within 10 twice
[ "$(pid_of web)" != "$web" ] || fail "the same worker"

# One that hangs is killed after half a lease, and comes back.
monitor=$(pid_of monitor)
kill -STOP "$monitor"
within 15 gone "$monitor"
again() { [ "$(started_times monitor)" -ge 2 ]; }
within 10 again
grep -q 'worker hangs and is killed' log || fail "it does not say so"

# Its children die with it.
web=$(pid_of web) monitor=$(pid_of monitor)
kill -KILL $supervisor
within 5 gone "$web"
within 5 gone "$monitor"

# SIGTERM ends all of it in order, SIGHUP doesn't.
start --role web,monitor
within 15 beats web
web=$(pid_of web)
kill -HUP $supervisor
sleep 0.5
! gone "$web" || fail "SIGHUP ended a worker"
kill -TERM $supervisor
wait $supervisor || fail "it should have ended with 0"
gone "$web" || fail "a worker is left"

# A second signal ends it at once, even with a worker that doesn't listen.
start --role web
within 15 beats web
web=$(pid_of web)
kill -STOP "$web"
kill -INT $supervisor
sleep 0.3
kill -INT $supervisor
within 3 gone $supervisor
gone "$web" || fail "a worker is left"

# A feature that lacks a setting is off; the others work.
SERVICE_TITAN_CLIENT_ID=abc start --role sync,web
up() { grep -q 'all workers are up' log; }
within 15 up
grep -q 'nothing is copied from ServiceTitan.* missing=SERVICE_TITAN_CLIENT_SECRET' log || fail "it doesn't say what is missing"
kill -TERM $supervisor
wait $supervisor || fail "it should have ended with 0"

# What can't begin says why, and that it ends everything.
MOONWRIGHT_WORKFLOWS=$work/none run run --role workflow,web
refused "the company's files, where MOONWRIGHT_WORKFLOWS says: can't follow the folder $work/none"
grep -q "a worker can't begin: everything ends.*worker=workflow" err || fail "it doesn't say who ended it"

# A database that isn't there yet is waited for.
DATABASE_URL="host=$work/nowhere user=x dbname=x" start --role web
waits() { grep -q "the database doesn't answer" log; }
within 10 waits
kill -TERM $supervisor
wait $supervisor
echo ok
