"""Random damage to a good file: no foreign error, and never a file that only we accept.

`scripts/fuzz_safetensors.py` does the same a million times.
"""

from __future__ import annotations

import random
from collections import Counter

from tests.hostile.headers import compare, good_file, mutate, parse_file

SEED = 20261124


def test_damaged_files_are_refused_or_read_as_the_reference_reads_them() -> None:
    rng = random.Random(SEED)
    original = good_file()
    outcomes = Counter(compare(mutate(original, rng)) for _ in range(20_000))
    # The damage must reach both sides, or the comparison says nothing.
    assert outcomes["refused by both"] > 10_000
    assert outcomes["read alike by both"] > 200


def test_every_single_byte_set_to_every_value_in_the_length() -> None:
    original = good_file()
    for at in range(8):
        for value in range(256):
            if value != original[at]:
                assert compare(original[:at] + bytes([value]) + original[at + 1 :]).startswith("refused")


def test_every_header_byte_flipped() -> None:
    original = good_file()
    end = parse_file(original)[2]
    outcomes = Counter(
        compare(original[:at] + bytes([original[at] ^ 1 << bit]) + original[at + 1 :])
        for at in range(8, end)
        for bit in range(8)
    )
    # Flips in names and metadata leave a good file, with other names.
    assert outcomes["refused by both"] > 500
