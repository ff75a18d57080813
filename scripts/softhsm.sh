#!/bin/sh
# Put SoftHSM 2, a PKCS#11 token in software, where the tests look for it: .venv/softhsm, or the folder named.
# Takes the system's own when there is one, else unpacks Debian's packages there. Needs no root and installs nothing.
set -eu
cd "$(dirname "$0")/.."
target=${1:-.venv/softhsm}

works() {
    [ -f "$1/libsofthsm2.so" ] && [ -x "$1/softhsm2-util" ] && "$1/softhsm2-util" --version >/dev/null 2>&1
}

if works "$target"; then
    exit 0
fi
mkdir -p "$target"
tool=$(command -v softhsm2-util || true)
for module in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
    /usr/local/lib/softhsm/libsofthsm2.so /opt/homebrew/lib/softhsm/libsofthsm2.so; do
    if [ -n "$tool" ] && [ -f "$module" ]; then
        ln -sf "$module" "$target/libsofthsm2.so"
        ln -sf "$tool" "$target/softhsm2-util"
        break
    fi
done
if works "$target"; then
    exit 0
fi

fail() {
    echo "softhsm: $1" >&2
    echo "softhsm: next: install SoftHSM 2 (Debian: apt install softhsm2; Fedora: dnf install softhsm) and run sh $0" >&2
    exit 1
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "this system has no Debian packages"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
download() {
    (cd "$work" && apt-get -qq "$@" download softhsm2 libsofthsm2 >/dev/null 2>"$work/said") &&
        ls "$work"/softhsm2_*.deb "$work"/libsofthsm2_*.deb >/dev/null 2>&1
}
if ! download; then
    # No package lists, or not ours to use: fetch some of our own.
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    set -- -o "Dir::State=$work/state" -o "Dir::Cache=$work/cache" -o Dir::State::status=/var/lib/dpkg/status \
        -o APT::Sandbox::User=root
    apt-get -qq "$@" update >/dev/null 2>"$work/said" && download "$@" || {
        cat "$work/said" >&2
        fail "Debian's packages of SoftHSM could not be fetched"
    }
fi
for package in "$work"/softhsm2_*.deb "$work"/libsofthsm2_*.deb; do
    dpkg-deb -x "$package" "$work/unpacked"
done
rm -f "$target/libsofthsm2.so" "$target/softhsm2-util"
cp -L "$work/unpacked/usr/lib/softhsm/libsofthsm2.so" "$work/unpacked/usr/bin/softhsm2-util" "$target/"
works "$target" || fail "Debian's SoftHSM does not run here"
