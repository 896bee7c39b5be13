#!/usr/bin/env bash
# Completion by a real bash: what it offers after what was typed.
. "$(dirname "$0")/../support/front.sh"
unset SERVICETITAN_DATABASE_URL MOONWRIGHT_READONLY_URL
new_database
export DATABASE_URL=$url MOONWRIGHT_DATA=$work/data
run migrate
accepted
sql "insert into workflow_definitions (name, version, sha256, files, declaration, active) values
       ('followup', 1, 'x', '{}', '{\"kind\": \"workflow\", \"events\": {\"job_done\": {}, \"promise\": {}}}', true),
       ('fall_check', 1, 'x', '{}', '{\"kind\": \"workflow\"}', true),
       ('old_one', 1, 'x', '{}', '{\"kind\": \"workflow\"}', false),
       ('company', 1, 'x', '{}', '{\"kind\": \"company\"}', true)" "$url"
mkdir bin && ln -s "$program" bin/moonwright
PATH=$work/bin:$PATH
bash --norc -n <(moonwright completion bash) || fail "the script is no bash"

# offers EXPECTED WORDS...: the last word is the one before the cursor
offers() {
    local expected=$1 got
    shift
    got=$(bash --norc -c '
        source <(moonwright completion bash)
        [ "$(complete -p moonwright)" = "complete -F _moonwright moonwright" ] || exit 1
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        _moonwright
        echo "${COMPREPLY[*]}"' bash "$@")
    [ "$got" = "$expected" ] || fail "after '$*': '$got', not '$expected'"
}
offers "config completion" moonwright co
offers "instances inbox" moonwright in
offers "list show cancel pause resume retry restart" moonwright instances ""
offers "resume retry restart" moonwright instances re
offers "stopping stuck stopped" moonwright instances list --state st
offers "stopping stuck stopped" moonwright instances list --state = st
offers "--workflow" moonwright instances list --wo
offers "--state --since" moonwright instances cancel --s
offers "fall_check followup" moonwright instances list --workflow f
offers "followup" moonwright workflows pause fo
offers "followup" moonwright workflows show --json fo
offers "job_done promise" moonwright events emit ""
offers "job_done" moonwright events list --type jo
offers "sent not_sent drop" moonwright sends settle 1234 ""
offers "on off" moonwright live ""
offers "workflow web" moonwright run --role w
offers "customers" moonwright sync cust
offers "estimates" moonwright sync customers esti
offers "workflows" moonwright help workf
offers "--yes" moonwright instances pause --state stuck --y
offers "fall_check followup" moonwright start ""
offers "" moonwright instances show ""x
offers "" moonwright nothing x

# Each verb of the table and each option is offered: the script is made of it.
for command in $(moonwright help | sed -n 's/^  \([a-z]\+\) .*/\1/p'); do
    moonwright completion bash | grep -q "|$command" || fail "$command is not completed"
done
# Without an answer from a database it offers nothing, soon.
DATABASE_URL="host=/nowhere dbname=x" offers "" moonwright workflows pause f
echo ok
