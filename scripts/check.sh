#!/bin/sh
# What must hold before every commit, in under a minute: style, types, layers, fast tests.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
failed=

check() {
    name=$1
    shift
    echo "check: $name"
    "$@" || failed="$failed $name"
}

bin=.venv/bin
check style "$bin/ruff" check --quiet .
check format "$bin/ruff" format --quiet --check .
check types "$bin/mypy" --no-error-summary
check layers "$bin/lint-imports"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
check tests "$bin/python" -m pytest -n auto --dist loadscope -m "not slow" "$@"

if [ -n "$failed" ]; then
    echo "check: FAILED:$failed. next: mend these; \`$bin/ruff check --fix . && $bin/ruff format .\` does what it can" >&2
    exit 1
fi
echo "check: all hold. next: commit; sh scripts/test.sh also runs the slow tests"
