#!/usr/bin/env bash
# The check of mutants must see one whose function is defined again behind it, and no other.
set -euo pipefail
run=$1/fault/mutants/run
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/schema" "$tree/tests/fault/mutants"
function_of() { printf 'create %sfunction %s() returns int language sql as $$\n  select %s;\n$$;\n\n' "$@"; }
{ function_of '' kept 1; function_of '' replaced 2; echo "create table t (a int);"; } > "$tree/schema/0001_first.sql"
{ function_of 'or replace ' replaced 3; } > "$tree/schema/0002_second.sql"

mutant() { # NAME FILE FROM TO
    { echo "# protects: x"; echo "# killed by: x"
      sed "s/$3/$4/" "$tree/schema/$2" | diff -U1 --label "a/schema/$2" --label "b/schema/$2" "$tree/schema/$2" - || true
    } > "$tree/tests/fault/mutants/$1.patch"
}
mutant kept 0001_first.sql 'select 1' 'select 7'
mutant table 0001_first.sql 'a int' 'a text'
mutant later 0002_second.sql 'select 3' 'select 7'
"$run" --applies "$tree"                       # nothing is wrong with these

mutant dead 0001_first.sql 'select 2' 'select 7'
said=$("$run" --applies "$tree") && { echo "a dead mutant was not seen"; exit 1; }
wanted='BROKEN    dead: nobody runs replaced of schema/0001_first.sql: schema/0002_second.sql defines it again'
[[ $said == "$wanted"* && $(wc -l <<< "$said") -eq 1 ]] || { echo "said: $said"; exit 1; }
