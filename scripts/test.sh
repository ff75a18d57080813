#!/bin/sh
# Set everything up and run all tests, the slow ones too. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
if .venv/bin/python -m pytest "$@"; then
    echo "test: all passed. next: sh scripts/demo.sh"
else
    code=$?
    echo "test: FAILED. next: look at the first failure above, and run it alone: sh scripts/test.sh -x -k NAME" >&2
    exit "$code"
fi
