#!/usr/bin/env bash
# A misspelt or wrong setting is refused where it stands; secrets are never shown.
. "$(dirname "$0")/../support/front.sh"
unset DATABASE_URL

env_file() {
    printf '%b' "$1" > .env
    run config
}

env_file 'TWILIO_ACOUNT_SID=AC1\n'
refused ".env:1: there is no setting 'TWILIO_ACOUNT_SID'; did you mean 'TWILIO_ACCOUNT_SID'?"
env_file 'LENDER_KEY=s3cret\n'
refused ".env:1: there is no setting 'LENDER_KEY'; what your own actions read by setting \"LENDER_KEY\" goes into the environment"
env_file '# fine\n\nGHL_API_KEY\n'
refused ".env:3: expected NAME=value"
env_file 'GHL_LOCATION_ID=a\nGHL_LOCATION_ID=b\n'
refused ".env:2: 'GHL_LOCATION_ID' is set twice"
env_file 'EVENT_POLL_INTERVAL_MS=soon\n'
refused '.env:1: EVENT_POLL_INTERVAL_MS must be a whole number from 10 to 86400000, not "soon"'
env_file 'EVENT_POLL_INTERVAL_MS=0\n'
refused "must be a whole number from 10"
env_file 'MOONWRIGHT_LIVE=perhaps\n'
refused '.env:1: MOONWRIGHT_LIVE must be 1 or 0, not "perhaps"'
env_file 'SYNC_FULL_CRON=nightly\n'
refused '.env:1: SYNC_FULL_CRON: "nightly" is not a schedule'
env_file 'MOONWRIGHT_LOG=xml\n'
refused 'MOONWRIGHT_LOG must be text or json, not "xml"'
env_file 'PUBLIC_URL=example.com\n'
refused "PUBLIC_URL must begin with https:// or http://"
env_file 'MOONWRIGHT_HTTP=8080\n'
refused "MOONWRIGHT_HTTP must be host:port"
env_file 'SENDGRID_FROM_NAME="Bright Air\n'
refused '.env:1: the closing " is missing'
env_file 'SENDGRID_FROM_NAME="Bright" Air\n'
refused 'there is something after the closing "'
env_file 'DATABASE_URL=my-secret-word\n'
refused '.env:1: DATABASE_URL must be postgresql://USER:PASSWORD@HOST/DATABASE'
! grep -q my-secret-word err || fail "what was set is shown"
rm .env
GHL_SYNC_ENABLED=maybe run config
refused "in the environment: GHL_SYNC_ENABLED must be 1 or 0"

# Quotes, comments, blanks, CRLF and a byte order mark; the environment wins.
printf '\xef\xbb\xbfexport SENDGRID_FROM_NAME = "Bright \\"Air\\" # not a comment"  # one\r\n' > .env
printf "GHL_LOCATION_ID='a b' \nTWILIO_PHONE_NUMBER=+1 # comment\nPUBLIC_URL=https://x.example/\n" >> .env
TWILIO_PHONE_NUMBER=+12 run config
accepted
said 'Bright "Air" # not a comment  (.env)'
said 'a b  (.env)'
said '+12  (environment)'
grep -qE 'PUBLIC_URL +https://x.example  ' out || fail "the slash at the end of an address stays"

# Secrets.
cat > .env <<'ENV'
DATABASE_URL=postgres://mw:s3cr3t-one@db.example/moonwright
SERVICETITAN_DATABASE_URL=host=db user=mw password=s3cr3t-two dbname=st
SERVICE_TITAN_CLIENT_SECRET=s3cr3t-three
SERVICE_TITAN_APP_KEY=s3cr3t-four
TWILIO_AUTH_TOKEN=s3cr3t-five
SENDGRID_API_KEY=s3cr3t-six
GHL_API_KEY=s3cr3t-seven
ANTHROPIC_API_KEY=s3cr3t-eight
CALLRAIL_SIGNING_KEY=s3cr3t-nine
ENV
run config
accepted
! grep -q s3cr3t out || { grep s3cr3t out; fail "a secret is shown"; }
said 'postgres://mw:***@db.example/moonwright'
said 'password=*** dbname=st'

# What is missing for what.
rm .env
run config
said 'sync       off: copying from ServiceTitan; missing: SERVICE_TITAN_CLIENT_ID SERVICE_TITAN_CLIENT_SECRET SERVICE_TITAN_TENANT_ID SERVICE_TITAN_APP_KEY'
said 'TWILIO_PHONE_NUMBER (or TWILIO_MESSAGING_SERVICE_SID)'

# Commands.
run wrong
[ $code = 2 ] || fail "an unknown command must be a usage error"
run help
accepted
run help wrong
[ $code = 2 ] || fail "help about an unknown command must be a usage error"
refused "there is no command 'wrong'"
run help
for command in run migrate config live status watch sync workflows instances events sends; do
    grep -qE "^  $command " out || fail "help doesn't tell about $command"
done
run migrate now
[ $code = 2 ] || fail "a wrong argument must be a usage error"
DATABASE_URL="host=$work/nowhere user=x dbname=x" run migrate
refused "moonwright: "
[ $code = 75 ] || fail "a database that doesn't answer is worth another try"
echo ok
