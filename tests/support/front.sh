# Sourced by the tests of commands and processes: a folder of its own, a database of its own, and a
# few ways to say what is expected.
set -uo pipefail
program=${MOONWRIGHT_PROGRAM:?} source=${MOONWRIGHT_SOURCE:?}
export MOONWRIGHT_HOME=$source
work=$(mktemp -d /tmp/moonwright-front.XXXXXX)
chmod 755 "$work"
cd "$work" || exit 1
databases=() started=()

cleanup() {
    local pid
    for pid in ${started[@]+"${started[@]}"}; do
        kill -KILL "$pid" 2> /dev/null
    done
    # What a test left of a private server.
    for pid in "$work"/*/postgres/postmaster.pid; do
        [ -f "$pid" ] && kill -QUIT "$(head -1 "$pid")" 2> /dev/null
    done
    for name in ${databases[@]+"${databases[@]}"}; do
        sql "drop database if exists $name with (force)" > /dev/null
    done
    cd / && rm -rf "$work"
}
trap cleanup EXIT

fail() {
    echo "FAILED: $*"
    [ ! -f "$work/err" ] || tail -20 "$work/err"
    exit 1
}
sql() { # STATEMENT [URL]
    psql "${2:-$MOONWRIGHT_TEST_DATABASE_URL}" -XAtqc "$1"
}
# Makes a database; its address is in $url.
new_database() {
    local name
    name=front_$$_${#databases[@]}
    sql "create database $name" || fail "no test database"
    databases+=("$name")
    url="${MOONWRIGHT_TEST_DATABASE_URL/dbname=test/dbname=$name}"
}
# Runs the program; out and err are files, code its exit code.
run() {
    "$program" "$@" > "$work/out" 2> "$work/err"
    code=$?
}
# The last run failed with this text on one single line.
refused() {
    [ "$code" != 0 ] || fail "it should have been refused: $*"
    grep -qF -- "$1" "$work/err" || fail "expected the message '$1'"
    [ "$(grep -c '^moonwright: ' "$work/err")" = 1 ] || fail "expected one line, '$1'"
}
accepted() {
    [ "$code" = 0 ] || fail "exit code $code: ${1:-}"
}
said() {
    grep -qF -- "$1" "$work/out" || { cat "$work/out"; fail "expected the output '$1'"; }
}
# Until a condition holds: within SECONDS COMMAND... (more where others keep the machine busy)
within() {
    local end=$((SECONDS + $1 * 4))
    shift
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "never became true: $*"
        sleep 0.05
    done
}
gone() {
    ! kill -0 "$1" 2> /dev/null || grep -q '^State:.*Z' "/proc/$1/status" 2> /dev/null
}
