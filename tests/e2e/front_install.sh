#!/usr/bin/env bash
# Installing what is missing: not a byte of network when nothing is, and one line when it fails.
. "$(dirname "$0")/../support/front.sh"
mkdir bin
PATH=$work/bin:$PATH
stub() { # NAME SCRIPT
    printf '#!/bin/sh\necho "$*" >> %s/calls.%s\n%s\n' "$work" "$1" "$2" > "bin/$1"
    chmod +x "bin/$1"
}
install() {
    rm -f calls.*
    "$source/tools/install-packages" "$@" > out 2> err
    code=$?
}
all='for p in "$@"; do case $p in -*|"\${"*) ;; *) printf "installed %s " "$p" ;; esac; done'
stub apt-get 'echo "E: Temporary failure resolving deb.debian.org" >&2; exit 100'
stub sudo 'exec "$@"'

stub dpkg-query "$all"
install test
accepted "nothing is missing"
[ ! -e calls.apt-get ] || fail "apt-get was called though nothing is missing"
[ ! -s out ] || fail "it talks though there is nothing to say"

stub dpkg-query "$all"' | sed "s/installed postgresql //"; exit 1'
install run
refused "can't install postgresql: E: Temporary failure resolving deb.debian.org (is there a network?)"
[ "$(grep -- ' install ' calls.apt-get | grep -o -- '-y .*' | sort -u)" = \
    "-y --no-install-recommends postgresql" ] ||
    fail "it must ask for what is missing and nothing else"

# Lists that can't be fetched are the reason, not the package that apt then doesn't know.
stub apt-get 'case "$*" in *update*) echo "E: Failed to fetch http://deb.example/InRelease" ;;
*) echo "E: Unable to locate package postgresql" ;; esac; exit 100'
install run
refused "can't install postgresql: E: Failed to fetch http://deb.example/InRelease (is there a network?)"

# Old lists: they are fetched and it is tried once more.
stub apt-get 'case "$*" in *update*) touch updated ;; *) [ -e updated ] ;; esac'
install run
accepted "with old lists"

# Nobody who may install.
if [ "$(id -u)" = 0 ]; then
    rm bin/sudo
    chmod -R a+rX . && chmod 777 .
    as_nobody() { setpriv --reuid nobody --clear-groups "$source/tools/install-packages" run > out 2> err; }
    if setpriv --reuid nobody --clear-groups test -x "$source/tools/install-packages" && ! command -v sudo > /dev/null; then
        as_nobody
        code=$?
        refused "missing packages: as root, run: apt-get install postgresql"
    fi
fi
echo ok
