#!/usr/bin/env bash
# The structure, held: includes run one way, each library has its one folder, files stay small,
# dangerous functions stay out, and nothing unfinished or private is in the repository.
set -uo pipefail
cd "${1:-$(dirname "$0")/..}" || exit 1
problems=0
problem() {
    echo "$*"
    problems=$((problems + 1))
}
# Each line of its input is a problem.
problems_of() {
    local line
    while IFS= read -r line; do
        [ -z "$line" ] || problem "$1: $line"
    done
}
# The tree as it will be committed, whether git is here or not.
files() {
    if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
        git ls-files -- "$@"
    else
        find "$@" \( -name .git -o -name node_modules -o -name __pycache__ -o -path './build*' \
            -o -path ./var \) -prune -o -type f -not -name .env -print
    fi
}

# front -> engine -> script -> io -> base
layers=(base io script engine front)
for i in "${!layers[@]}"; do
    for ((j = i + 1; j < ${#layers[@]}; j++)); do
        problems_of "includes run one way" < <(
            grep -rnE "#include \"${layers[j]}/" "src/${layers[i]}" --include='*.[ch]')
    done
    problems_of "layers are libraries of their own" < <(
        grep -nE 'file *\(GLOB' "src/${layers[i]}/CMakeLists.txt")
done
problems_of "a path begins at src/" < <(grep -rnE '#include "([^"/]+|\.\.[^"]*)"' src --include='*.[ch]')

# Which library's headers belong where.
fence() { # WHAT WHERE PATTERN
    problems_of "$1 only in $2" < <(
        grep -rnE "#include <($3)" src --include='*.[ch]' | grep -vE "^$2")
}
fence libevent src/io/ 'event'
fence libpq src/io/ 'libpq-fe|postgres_ext|pg_config|libpq/'
fence libcurl src/io/ 'curl/'
fence inotify src/io/ 'sys/inotify'
fence Lua src/script/ 'lua|lauxlib|lualib'
fence OpenSSL src/base/digest.c 'openssl/'
problems_of "cjson only in src/script/json_read.c" < <(
    grep -rnE 'luaopen_cjson|require *\(?["'\'']cjson' src lua workflows | grep -v '^src/script/json_read.c:')

# Ceilings.
ceiling() { # LINES FILES...
    local most=$1 file n
    shift
    for file in "$@"; do
        [ -f "$file" ] || continue
        n=$(wc -l < "$file")
        [ "$n" -le "$most" ] || problem "$file has $n lines; the ceiling is $most: cut it by idea"
    done
}
mapfile -t c_files < <(files src tests | grep '\.c$')
mapfile -t h_files < <(files src | grep '\.h$')
mapfile -t lua_files < <(files lua workflows 2> /dev/null | grep '\.lua$')
ceiling 600 "${c_files[@]}"
ceiling 160 "${h_files[@]}"
ceiling 300 "${lua_files[@]}"

# Functions that overflow, share state, block the loop, or let libpq do what io/db.c must.
banned='strcpy|strcat|sprintf|vsprintf|strtok|gets|gmtime|localtime|asctime|ctime|PQexec|PQexecParams|PQconnectdb|PQsetdb|curl_easy_perform|system|tmpnam|alloca'
problems_of "banned function" < <(
    grep -rnE "(^|[^A-Za-z0-9_])($banned) *\(" src --include='*.c' | grep -vE '^[^:]+:[0-9]+: *(/?\*|//)')
problems_of "the caller must see errors" < <(grep -rnE '\b(malloc|calloc|realloc|strdup|strndup)\(' src \
    --include='*.c' |
    grep -vE '^src/(base/mem|script/heap)\.c:')
problems_of "file names say what is inside" < <(files src lua | grep -iE '(util|common|manager|helper)s?\.')
problems_of "SQL names no schema, locks nothing for a session" < <(
    grep -rniE 'pg_advisory_lock|set search_path|public\.[a-z_]+' schema src --include='*.sql' --include='*.c')

# What must not be in a finished tree. The words are put together so that this file has none.
words="TO""DO|FIX""ME|X""XX|HA""CK|NOT IMPLE""MENTED"
mapfile -t texts < <(files . | grep -vE '\.(png|ico|pem|der|patch)$|^tests/contract/specs/|package-lock|^src/script/json' | grep -v '/node_modules/')
problems_of "unfinished" < <(grep -nIE "\\b($words)\\b" "${texts[@]}" 2> /dev/null)
problems_of "top-level entry" < <(files . | sed 's|^\./||; s|/.*||' | sort -u |
    grep -vE '^(\..*|CMakeLists\.txt|README\.md|src|lua|workflows|schema|tests|tools)$')

[ "$problems" = 0 ] || { echo "$problems problems"; exit 1; }
echo "the structure holds"
