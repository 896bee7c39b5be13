#!/usr/bin/env bash
# Migration: again, several at once, a newer database, a broken file, two databases, the clock.
. "$(dirname "$0")/../support/front.sh"
unset SERVICETITAN_DATABASE_URL MOONWRIGHT_READONLY_URL

# Twice.
new_database
export DATABASE_URL=$url
run migrate
accepted first
said "applied 0003_engine.sql"
run migrate
accepted again
said "the database is up to date"
[ "$(sql 'select count(*) from schema_migrations' "$url")" = "$(ls "$source"/schema/*.sql | wc -l)" ] ||
    fail "every file has its row"
[ "$(sql 'select scale from clock' "$url")" = 1 ] || fail "real time is the default"

# A database that a newer program made.
sql "insert into schema_migrations (number, name, sha256) values (9999, '9999_later.sql', '')" "$url"
run migrate
refused "the database is newer than this program: it has 9999_later.sql"
run run --role web
refused "the database is newer than this program"
sql "delete from schema_migrations where number = 9999" "$url"

# A file that was changed after it was applied.
cp -r "$source/schema" "$source/lua" .
echo "-- more" >> schema/0003_engine.sql
MOONWRIGHT_HOME=$work run migrate
refused "schema/0003_engine.sql is not the file that was applied"
cp "$source/schema/0003_engine.sql" schema/

# A broken file is told with its line and leaves nothing; mended, it goes on there.
cat > schema/9000_broken.sql <<'SQL'
-- database: engine
create table broken_one (a int);
/* a comment; with 'quotes' */ insert into broken_one values ('x;y'::text::int);
SQL
MOONWRIGHT_HOME=$work run migrate
refused "schema/9000_broken.sql:3: "
[ "$(sql "select to_regclass('broken_one') is null" "$url")" = t ] || fail "half a file was applied"
sed -i "s/'x;y'::text::int/1/" schema/9000_broken.sql
MOONWRIGHT_HOME=$work run migrate
accepted mended
echo "create table no_header (a int);" > schema/9001_headless.sql
MOONWRIGHT_HOME=$work run migrate
refused "9001_headless.sql:1: expected '-- database:"

# Several at once.
for round in 1 2 3; do
    new_database
    pids=()
    for i in 1 2 3 4; do
        DATABASE_URL=$url "$program" migrate > "out.$i" 2> "err.$i" &
        pids+=($!)
    done
    for i in 1 2 3 4; do
        wait "${pids[i - 1]}" || { cat "err.$i"; fail "number $i of four migrations failed"; }
    done
    [ "$(cat out.? | grep -c '^applied 0003')" = 1 ] || fail "a file was applied by more than one"
    [ "$(sql 'select count(*) from clock' "$url")" = 1 ] || fail "one clock"
done

# Business time is fixed when the database is made.
new_database
export DATABASE_URL=$url
MOONWRIGHT_CLOCK='2026-06-01 12:00' run migrate
refused "MOONWRIGHT_CLOCK must be BUSINESS@REAL*SCALE"
MOONWRIGHT_CLOCK='2026-06-01T12:00:00Z@2026-11-23T06:00:00Z*30000' run migrate
accepted clock
MOONWRIGHT_CLOCK='2027-01-01T00:00:00Z@2026-11-23T06:00:00Z*1' run migrate
accepted again
[ "$(sql "select utc(business_of('2026-11-23T06:00:02Z')) || ' ' || scale from clock" "$url")" = \
    "2026-06-02T04:40:00Z 30000" ] || fail "the clock moved"

# Two databases: each gets its own tables.
new_database
st=$url
new_database
DATABASE_URL=$url SERVICETITAN_DATABASE_URL=$st run migrate
accepted "two databases"
[ "$(sql "select to_regclass('st_customers') is null and to_regclass('events') is not null" "$url")" = t ] ||
    fail "the engine's database has the wrong tables"
[ "$(sql "select to_regclass('st_customers') is not null and to_regclass('events') is null" "$st")" = t ] ||
    fail "ServiceTitan's database has the wrong tables"

# A company is a schema of its own: what the role's search path says.
sql "create role company_$$ login superuser; alter role company_$$ set search_path = company" "$url"
sql "create schema company" "$url"
DATABASE_URL="${url/user=test/user=company_$$}" run migrate
accepted schema
moved=$(sql "select count(*) from pg_tables where schemaname = 'company' and tablename like 'st\_%'" "$url")
sql "drop schema company cascade" "$url" 2> /dev/null
sql "drop role company_$$" > /dev/null
[ "$moved" -gt 10 ] || fail "the tables are not in the company's schema"

# The read-only role sees the views and no table.
new_database
sql "create role reader_$$ login" || fail "no role"
export DATABASE_URL=$url MOONWRIGHT_READONLY_URL="${url/user=test/user=reader_$$}"
run migrate
accepted readonly
sql "select count(*) from customers" "$MOONWRIGHT_READONLY_URL" > /dev/null || fail "a view is closed"
! sql "select count(*) from st_customers" "$MOONWRIGHT_READONLY_URL" 2> /dev/null || fail "a table is open"
! sql "select count(*) from messaging_log" "$MOONWRIGHT_READONLY_URL" 2> /dev/null || fail "a table is open"
# It can't become more than it is, and no function of ours does for it what it may not.
escape="select set_config('role', 'none', true), query_to_xml('select * from messaging_log', true, true, '')"
! sql "begin read only; set local role reader_$$; $escape" "$MOONWRIGHT_READONLY_URL" 2> /dev/null ||
    fail "a role set in the session is no wall"
for more in "set session authorization test" "select settle_send(gen_random_uuid(), 'drop')" \
    "insert into settings values ('live', 'on')" "create table mine (x int)" \
    "select takeover(gen_random_uuid(), null)" "select pg_read_file('/etc/passwd')"; do
    ! sql "set default_transaction_read_only = off; $more" "$MOONWRIGHT_READONLY_URL" 2> /dev/null ||
        fail "the read-only role may: $more"
done
[ "$(sql "select count(*) from pg_proc where prosecdef" "$url")" = 0 ] || fail "a function of the owner's"
# One that may do more is refused.
sql "grant select on messaging_log to reader_$$" "$url"
run migrate
refused "logs in as reader_$$, who may do more than read views"
sql "revoke select on messaging_log from reader_$$; grant test to reader_$$" "$url"
run migrate
refused "who may do more than read views"
sql "revoke test from reader_$$" "$url"
MOONWRIGHT_READONLY_URL=$url run migrate
refused "logs in as test, who may do more than read views"
run migrate
accepted "readonly again"
sql "drop owned by reader_$$" "$url"
sql "drop role reader_$$"
echo ok
