#!/bin/sh
# Put the openssl command, which plays the time stamping authority in the tests, into .venv/openssl or the folder named.
# Takes the system's own when there is one, else unpacks Debian's package there. Needs no root and installs nothing.
set -eu
cd "$(dirname "$0")/.."
target=${1:-.venv/openssl}

works() {
    [ -x "$target/openssl" ] && "$target/openssl" ts -help >/dev/null 2>&1
}

fail() {
    echo "openssl: $1" >&2
    echo "openssl: next: install it (Debian: apt install openssl) and run sh $0" >&2
    exit 1
}

works && exit 0
mkdir -p "$target"
tool=$(command -v openssl || true)
[ -z "$tool" ] || ln -sf "$tool" "$target/openssl"
works && exit 0

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "this system has no Debian packages"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! (cd "$work" && apt-get -qq download openssl && ls openssl_*.deb) >/dev/null 2>&1; then
    # No package lists, or not ours to use: fetch some of our own.
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    set -- -o "Dir::State=$work/state" -o "Dir::Cache=$work/cache" -o Dir::State::status=/var/lib/dpkg/status \
        -o APT::Sandbox::User=root
    (cd "$work" && apt-get -qq "$@" update && apt-get -qq "$@" download openssl) >/dev/null 2>"$work/said" || {
        cat "$work/said" >&2
        fail "Debian's package could not be fetched"
    }
fi
dpkg-deb -x "$work"/openssl_*.deb "$work/unpacked"
rm -f "$target/openssl"
cp -L "$work/unpacked/usr/bin/openssl" "$target/"
works || fail "Debian's openssl does not run here"
