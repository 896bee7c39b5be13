#!/usr/bin/env bash
# What people ask and say: live, instances, sends, events, status; and what the monitor tells them.
. "$(dirname "$0")/../support/front.sh"
unset SERVICETITAN_DATABASE_URL MOONWRIGHT_READONLY_URL SERVICE_TITAN_CLIENT_ID MOONWRIGHT_LIVE
new_database
export DATABASE_URL=$url MOONWRIGHT_DATA=$work/data HEALTH_CHECK_INTERVAL_MS=200
run instances list
refused "run \`moonwright migrate\`"
run migrate
accepted

# Nothing is sent before somebody says so.
run live
said "live is off"
run live on
said "live is on"
MOONWRIGHT_LIVE=0 run live
said "but MOONWRIGHT_LIVE is 0 here, which always wins"
run live off
said "live is off"
run live maybe
[ $code = 2 ] || fail "a wrong word must be a usage error"
refused 'the word is on|off, not "maybe"'

one=11111111-1111-7111-8111-111111111111
sql "insert into workflow_definitions (name, version, sha256, files, declaration, active)
       values ('followup', 3, 'x', '{}', '{\"on\": \"estimate_created\", \"class\": \"marketing\"}', true);
     insert into workflow_instances (id, workflow_definition_id, workflow, entity, entity_id, customer_id, created_at)
       values ('$one', 1, 'followup', 'estimate', '42', 7, business_now());
     insert into workflow_queue (instance_id, workflow_definition_id, state, reason)
       values ('$one', 1, 'stuck', '{\"code\": \"send_in_doubt\", \"message\": \"nobody knows whether it arrived\"}');
     insert into workflow_notes values ('$one', 1, '', 1, 'called back', business_now());
     insert into messaging_log (id, instance_id, run, step, call, attempt, workflow, channel, class, address, body, state, decided_at)
       values ('22222222-2222-7222-8222-222222222222', '$one', 1, '/1', 'sms', 1, 'followup', 'sms',
               'marketing', '+12025550101', 'Hi', 'held', business_now());
     insert into detect_errors (rule, entity, entity_id, message) values ('estimate_created', 'estimate', '42',
               'events.lua:7: attempt to index a nil value')" "$url" || fail "no rows"

run workflows list
said "followup  3        marketing  estimate_created"
run instances list --state stuck
said "nobody knows whether it arrived"
run instances list --state done
said "no such instance"
run instances show 11111111
said "called back"
said "send_in_doubt"
run instances show 99
refused "there is no instance '99'"
[ $code = 3 ] || fail "exit code $code for what is not there"
run events list
said "events.lua:7: attempt to index a nil value"
run events retry x
refused '"x" is not the number of an error'
run events retry 4711
refused "no such error is open"
[ $code = 3 ] || fail "exit code $code for an error that is not there"
run workflows show followup
said "on        estimate_created"
for json in '{"customer":' '[1]' nothing; do
    run start followup "$json"
    refused "is not a JSON object"
    [ $code = 2 ] || fail "exit code $code for $json"
done
for wrong in "--cron=61" "--zone=Mars/Base" "--from=soon"; do
    run schedule preview --cron "0 7 * * *" "$wrong"
    [ $code = 2 ] || fail "exit code $code for $wrong"
done
run sends list --held
said "+12025550101"
run sends settle 33 sent
refused "there is no send '33'"
run sends settle 2222 perhaps
[ $code = 2 ] || fail "a wrong verdict must be a usage error"
run sends settle 2222 not_sent
accepted settle
[ "$(sql "select state from messaging_log where id::text like '2222%'" "$url")" != held ] || fail "still held"
run status --json
python3 -c '
import json, sys
s = json.load(open("out"))
assert s["instances"] == {"stuck": 1} or s["instances"], s
assert s["raised"] == 1 and s["rows"]["st_jobs"] == 0, s' || fail "status"

# The monitor tells once, counts, and takes it back when it has healed.
sql "update workflow_queue set state = 'stuck', due = null, worker = null,
       reason = '{\"code\": \"template\", \"message\": \"no name\"}'" "$url"
sql "insert into webhook_deliveries select 'twilio', n::text, now() - interval '31 days'
       from generate_series(1, 2500) n" "$url"
sql "insert into webhook_deliveries values ('twilio', 'new', now() - interval '29 days')" "$url"
"$program" run --role monitor > log 2>&1 &
supervisor=$!
started+=($supervisor)
pruned() { [ "$(sql "select string_agg(delivery_id, ' ') from webhook_deliveries" "$url")" = new ]; }
alerted() { [ "$(sql "select count >= 3 from system_alerts where kind = 'stuck' and subject = 'template' and resolved_at is null" "$url")" = t ]; }
within 15 alerted
within 15 pruned
[ "$(sql "select count(*) from system_alerts where kind = 'stuck'" "$url")" = 1 ] || fail "an alert per look"
sql "select message from system_alerts where kind = 'raised'" "$url" | grep -q 'index a nil value' || fail "what raised is not told"
sql "delete from workflow_queue" "$url"
healed() { [ "$(sql "select count(*) from system_alerts where kind = 'stuck' and resolved_at is null" "$url")" = 0 ]; }
within 10 healed
kill -TERM $supervisor
wait $supervisor || fail "it should have ended cleanly"
echo ok
