"""Throw random damage at the safetensors header reader and compare it with the reference reader.

    python scripts/fuzz_safetensors.py [--count 1000000] [--seed N]

Three findings end the run with exit code 1 and print the file as hex: an error that is none of ours, a file that we
accept and the reference refuses, and one that both accept and read differently. Files that only we refuse are counted:
names that stand twice and unknown members are meant to be there.
"""

from __future__ import annotations

import argparse
import random
import resource
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.hostile.headers import compare, good_file, mutate


def main() -> int:
    """Run until the count is reached or something is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print(f"seed {arguments.seed}", flush=True)
    original = good_file()
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    for number in range(arguments.count):
        damaged = mutate(original, rng)
        try:
            outcomes[compare(damaged)] += 1
        except Exception as error:  # noqa: BLE001 (any error is the finding)
            print(f"input {number}: {type(error).__name__}: {error}\n{damaged.hex()}")
            return 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{arguments.count} inputs in {time.monotonic() - start:.0f} s, memory +{grown:.0f} MiB, nothing found")
    for outcome, count in outcomes.most_common():
        print(f"{count:10,d}  {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
