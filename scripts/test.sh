#!/bin/sh
# Set everything up and run all tests, the slow ones too. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
# One process a core, a file's tests together; a core that waits busily for its neighbour would slow training tenfold.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
if .venv/bin/python -m pytest -n auto --dist loadscope --durations=15 "$@"; then
    echo "test: all passed. next: sh scripts/demo.sh"
else
    code=$?
    echo "test: FAILED. next: look at the first failure above, and run it alone: sh scripts/test.sh -x -k NAME" >&2
    exit "$code"
fi
