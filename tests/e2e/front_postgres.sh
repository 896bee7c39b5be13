#!/usr/bin/env bash
# The private PostgreSQL: made whole or not at all, adopted, told apart, and never left behind.
. "$(dirname "$0")/../support/front.sh"
unset DATABASE_URL SERVICETITAN_DATABASE_URL MOONWRIGHT_READONLY_URL
export MOONWRIGHT_DATA=$work/data MOONWRIGHT_HTTP=127.0.0.1:0
postmaster() { head -1 "$MOONWRIGHT_DATA/postgres/postmaster.pid"; }
is_running() { [ -f "$MOONWRIGHT_DATA/postgres/postmaster.pid" ] && ! gone "$(postmaster)"; }
# Not before the workers run: until then a command might start the server itself, and end it.
healthy() { grep -q "worker started" log && "$program" status; }

# A command makes it, uses it, and stops it.
run migrate
accepted first
[ ! -f data/postgres/postmaster.pid ] || fail "it still runs"
[ ! -e data/postgres.new ] || fail "half a cluster is left"
run status
accepted second
[ "$(stat -c %a data/socket)" = 700 ] || fail "others may connect"

# A running server of our folder is adopted: one that nobody owns any more, too.
"$program" run --role web > log 2>&1 &
supervisor=$!
started+=($supervisor)
within 10 is_running
first=$(postmaster)
run status
accepted "beside a running one"
[ "$(postmaster)" = "$first" ] || fail "a command replaced the running server"
kill -KILL $supervisor
within 10 gone "$first"
"$program" run --role web > log 2>&1 &
supervisor=$!
started+=($supervisor)
within 10 healthy
second=$(postmaster)

# When the server is killed, it is started again.
kill -KILL "$second"
another() { is_running && [ "$(postmaster)" != "$second" ]; }
within 15 another
within 10 healthy
kill -TERM $supervisor
wait $supervisor || fail "it should have ended cleanly"
! is_running || fail "the server was left behind"

# A server that outlived its owner is used as it is.
server=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | tail -1)
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid postgres --regid postgres --init-groups)
(cd / && exec "${as[@]}" "$server/postgres" -D "$MOONWRIGHT_DATA/postgres" -k "$MOONWRIGHT_DATA/socket") > server.log 2>&1 &
started+=($!)
ready() { sed -n 8p "$MOONWRIGHT_DATA/postgres/postmaster.pid" | grep -q ready; }
within 10 ready
orphan=$(postmaster)
"$program" run --role web > log 2>&1 &
supervisor=$!
started+=($supervisor)
uses() { grep -q "uses the server that runs" log; }
within 10 uses
within 10 healthy
[ "$(postmaster)" = "$orphan" ] || fail "the orphan was not adopted"
kill -TERM $supervisor
wait $supervisor || fail "it should have ended cleanly"
within 5 gone "$orphan"

# A pid file whose number now belongs to another program.
printf '%s\n%s\n1\n5432\n%s\n\n\nready\n' $$ "$MOONWRIGHT_DATA/postgres" "$MOONWRIGHT_DATA/socket" \
    > data/postgres/postmaster.pid
[ "$(id -u)" != 0 ] || chown postgres: data/postgres/postmaster.pid
run status
accepted "with a stale pid file"

# A cluster of a major that isn't installed.
kept=$(cat data/postgres/PG_VERSION)
echo 9 > data/postgres/PG_VERSION
run status
refused "was made by PostgreSQL 9, installed is"
echo "$kept" > data/postgres/PG_VERSION

# A leftover of a start that was killed halfway.
mkdir -p halfway/postgres.new/base
MOONWRIGHT_DATA=$work/halfway run migrate
accepted "after a start that was killed"
[ ! -e halfway/postgres.new ] || fail "the leftover is still there"

# A long path: the socket doesn't fit in it.
long=$work/$(printf 'a%.0s' {1..120})
MOONWRIGHT_DATA=$long run migrate
accepted "a long path"
rm -rf /tmp/moonwright-[0-9]*-????????

# Nobody to drop to; a folder that the server's user can't enter.
if [ "$(id -u)" = 0 ]; then
    MOONWRIGHT_POSTGRES_USER=nobody-there MOONWRIGHT_DATA=$work/none run migrate
    refused "there is no user 'nobody-there' to drop to"
    [ ! -e none ] || fail "something was made"
    mkdir -m 700 closed
    MOONWRIGHT_DATA=$work/closed/data run migrate
    refused "can't enter $work/closed/data: set MOONWRIGHT_DATA"
    [ ! -e closed/data ] || fail "something was made"
    mkdir closed/open
    cd closed/open && MOONWRIGHT_DATA=var run migrate; cd "$work"
    refused "can't enter $work/closed/open/var: set MOONWRIGHT_DATA"
    [ ! -e closed/open/var ] || fail "something was made"
    mkdir -p theirs/postgres && echo "$kept" > theirs/postgres/PG_VERSION
    MOONWRIGHT_DATA=$work/theirs run migrate
    refused "$work/theirs/postgres belongs to 'root' and PostgreSQL would run as 'postgres'"
fi

# Something else of that name is left alone; an empty folder is as good as none.
mkdir -p else/postgres/letters
[ "$(id -u)" != 0 ] || chown postgres: else/postgres
MOONWRIGHT_DATA=$work/else run migrate
refused "$work/else/postgres is no PostgreSQL data folder (it has no PG_VERSION): move it away"
[ "$(ls -A else)" = postgres ] || fail "something was made"
rmdir else/postgres/letters
MOONWRIGHT_DATA=$work/else run migrate
accepted "with an empty folder"

# A folder that can't be made.
MOONWRIGHT_DATA=/proc/nowhere run migrate
refused "can't make the folder /proc/nowhere"

# A port in use: one line, and nothing is made.
python3 -c 'import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
print(s.getsockname()[1], flush=True); time.sleep(60)' > port &
started+=($!)
disown
within 5 test -s port
MOONWRIGHT_HTTP=127.0.0.1:$(cat port) MOONWRIGHT_DATA=$work/unmade run run
refused "port $(cat port) of 127.0.0.1 is in use"
[ $code = 1 ] || fail "exit code $code"
[ ! -e unmade ] || fail "something was made"

# A full disk. Needs a small file system, which not every machine lets a test mount.
mkdir full
if mount -t tmpfs -o size=40m tmpfs full 2> /dev/null; then
    MOONWRIGHT_DATA=$work/full/data run migrate
    left=$(ls -A full | wc -l)
    umount full
    refused "MB free and a new one needs"
    [ "$left" -le 2 ] || fail "something is left on the full disk"
fi
echo ok
