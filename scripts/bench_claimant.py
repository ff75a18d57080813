"""What a dishonest claimant gains by searching for a key that fits: real tries, and what chance predicts.

    python -m scripts.bench_claimant [--tries 1048576] [--carriers 4096] [--suspects 1]

Each try redraws one salt, R, its scrypt (N = 2 in place of 2^17) and the chips of a block, against innocent weights.
Prints the best key after each power of two, and the median that the normal law predicts. Exits 1 when the best shows
more bits than log2 of the tries and 10, which an honest key does once in a thousand runs. 110 microseconds of one
core a try.
"""

from __future__ import annotations

import argparse
import math
import sys
import time

import numpy as np

from tests.attacks.claimant.search import predicted_bits, search
from watermark.marks.statistic import quantise_blind

SLACK_BITS = 10


def main() -> int:
    """Search, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=1 << 20)
    parser.add_argument("--carriers", type=int, default=4_096)
    parser.add_argument("--suspects", type=int, default=1, help="innocent suspects, one search each")
    asked = parser.parse_args()
    print(f"{'suspect':>7} {'tries':>9} {'best, bits':>10} {'predicted':>9} {'log2 tries':>10} {'seconds':>8}")
    fooled = False
    for number in range(asked.suspects):
        weights = np.random.default_rng(number).normal(0, 0.05, (1, asked.carriers)).astype(np.float32)
        begun = time.perf_counter()
        for best in search(quantise_blind(weights).ravel(), asked.tries):
            spent = time.perf_counter() - begun
            tries = math.log2(best.tries)
            print(
                f"{number:>7} {best.tries:>9} {best.bits:>10.1f} {predicted_bits(best.tries):>9.1f}"
                f" {tries:>10.0f} {spent:>8.1f}"
            )
            fooled |= best.bits > tries + SLACK_BITS
    return int(fooled)


if __name__ == "__main__":
    sys.exit(main())
