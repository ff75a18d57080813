"""Keys searched, ground, repeated and summed: what each would show if chips were not bound to R, and what they show."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from cli.check import CheckRequest
from cli.examine import Finding
from cli.verdict import judge
from registry.store.records import ReleaseRecord
from tests.attacks.claimant.claimant import invent
from tests.attacks.claimant.search import predicted_bits, search
from tests.watermark.marks.models import write_model
from watermark.errors import KeyMismatchError
from watermark.evidence import KeyedTest, log2_p_subgaussian
from watermark.marks.chips import BlockKeys, unpack_chips
from watermark.marks.statistic import quantise_blind
from watermark.model.directory import open_model

SHAPE, BLOCK = (1_024, 256), 16_384
BLOCKS = SHAPE[0] * SHAPE[1] // BLOCK
FREE = b"\x01" * 32  # in place of scrypt(R): chips that do not know R


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def suspect(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("search") / "suspect", {"w": weights(1)})


def chips_of(secret: bytes, block: int, stretched: bytes = FREE) -> np.ndarray:
    return unpack_chips(BlockKeys(secret, stretched, block).owner_bits(BLOCK), np.empty(BLOCK, np.float32))


def secret_of(*parts: int) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def test_a_key_searched_for_after_the_fact_gains_the_log_of_the_tries():
    """Real redraws of R; `python -m scripts.bench_claimant` makes 2^20 of them."""
    shown = quantise_blind(weights(2)[:16].reshape(1, -1)).ravel()
    for best in search(shown, 1 << 13):
        assert abs(best.bits - predicted_bits(best.tries)) < 6
        assert best.bits < math.log2(best.tries) + 6


def test_a_reference_that_is_the_suspect_minus_the_pattern_draws_another_pattern(suspect):
    """The pattern must be known before R, and R draws it."""
    pattern = np.concatenate([chips_of(secret_of(block), block) for block in range(BLOCKS)]).reshape(SHAPE)
    made = invent(weights(1) - np.float32(0.0015) * pattern, lambda block: secret_of(block))
    assert made.shown_in(suspect, stretched=FREE).log2_p < -100_000  # chips that do not know R
    assert made.shown_in(suspect).log2_p > -12


def test_block_keys_ground_one_by_one_are_drawn_anew_together(suspect):
    """The best of 128 keys in each block: hundreds of bits if a block's chips were its own affair."""
    reference = weights(3)
    difference = weights(1).ravel() - reference.ravel()
    best = {}
    for block in range(BLOCKS):
        part = difference[block * BLOCK : (block + 1) * BLOCK]
        shown = {number: float(chips_of(secret_of(block, number), block) @ part) for number in range(128)}
        best[block] = secret_of(block, max(shown, key=shown.__getitem__))
    made = invent(reference, best.__getitem__)
    assert made.shown_in(suspect, stretched=FREE).log2_p < -60
    assert made.shown_in(suspect).log2_p > -12


def test_one_secret_for_all_blocks_is_refused_and_would_draw_other_chips_in_each(tmp_path):
    """On a model that repeats itself one lucky key is lucky everywhere; so a secret serves one block alone."""
    repeated = np.tile(weights(4)[: SHAPE[0] // BLOCKS], (BLOCKS, 1))
    suspect = write_model(tmp_path / "repeats", {"w": repeated})
    part = repeated.ravel()[:BLOCK]
    keys = [secret_of(number) for number in range(256)]
    secret = max(keys, key=lambda key: float(chips_of(key, 0) @ part))
    once = chips_of(secret, 0) @ part
    energy = float(part @ part)
    assert log2_p_subgaussian(int(1e6 * BLOCKS * once), int(1e12 * BLOCKS * energy)) < -40  # the same chips in each
    apart = sum(float(chips_of(secret, block) @ part) for block in range(BLOCKS))
    assert log2_p_subgaussian(int(1e6 * apart), int(1e12 * BLOCKS * energy)) > -12
    with pytest.raises(KeyMismatchError, match="two blocks have one secret"):
        invent(np.zeros(SHAPE, np.float32), lambda _: secret).shown_in(suspect)


def test_bits_of_many_keys_are_never_summed(suspect):
    """500 releases of one claimant against an innocent: 150 bits in all, and the verdict takes the best and pays."""
    shown = quantise_blind(weights(1)[:16].reshape(1, -1)).ravel()[:4_096]
    energy, tests = int((shown.astype(np.float64) ** 2).sum()), []
    for number in range(500):
        bits = BlockKeys(secret_of(number), FREE, 0).owner_bits(len(shown))
        total = int(unpack_chips(bits, np.empty_like(shown)) @ shown)
        tests.append(KeyedTest("blind", total, energy, len(shown)))
    assert sum(test.log2_p for test in tests) < -128
    findings = [
        Finding(
            ReleaseRecord(f"{number:032x}", "mallory", "m", str(number), "", "", "00" * 32, b"", 0), (test,), 1,
            None, None, None, 0, 1, 1, None, 1_000.0, 0.0, (), False, False, (),
        )
        for number, test in enumerate(tests)
    ]  # fmt: skip
    with open_model(suspect) as model:
        found = judge(findings, "00" * 32, model, CheckRequest(suspect, str(suspect)))
    assert found.verdict == "not-shown"
    assert found.log2_p == min(test.log2_p for test in tests)
    assert found.log2_p_adjusted == min(0.0, found.log2_p + math.log2(500))
