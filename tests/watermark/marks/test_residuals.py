"""What of a suspect is looked at when the declared base is at hand."""

from __future__ import annotations

import numpy as np

from watermark.marks.residuals import regression_on_base
from watermark.marks.spans import quantise

ROWS, LENGTH = 2_048, 512


def z(shown: np.ndarray, chips: np.ndarray) -> float:
    """As the tests see it: rounded and clipped at 2.2 medians of each row."""
    f, _ = quantise(shown, 2.2)
    return float((f * chips).sum() / np.linalg.norm(f))


def test_a_difference_that_was_mostly_put_back_to_the_base_still_shows_the_mark():
    """DARE: nine tenths of each difference dropped, the rest scaled up, averaged with a sibling's."""
    draw = np.random.default_rng(1)
    base = draw.normal(0, 1, (ROWS, LENGTH)).astype(np.float32)
    ours, theirs = (draw.normal(0, 0.1, base.shape).astype(np.float32) for _ in range(2))
    chips, other = (draw.choice(np.array([-1, 1], np.float32), base.shape) for _ in range(2))
    marked = ours + np.float32(0.004) * chips
    kept = [10 * part * (draw.random(base.shape) < 0.1) for part in (marked, theirs)]
    suspect = (base + np.mean(kept, axis=0)).astype(np.float32)
    shown = regression_on_base(suspect, base + ours, base)
    assert z(shown, chips) > 7
    assert abs(z(shown, other)) < 4.5
    innocent = (base + np.mean([10 * ours * (kept[0] != 0), kept[1]], axis=0)).astype(np.float32)
    assert abs(z(regression_on_base(innocent, base + ours, base), chips)) < 4.5


def test_what_equals_the_base_or_zero_is_left_out_and_a_mix_with_the_base_is_seen_through():
    draw = np.random.default_rng(2)
    base = draw.normal(0, 1, (ROWS, LENGTH)).astype(np.float32)
    reference = base + draw.normal(0, 0.1, base.shape).astype(np.float32)
    suspect = reference.copy()
    suspect[:, ::3], suspect[:, 1::3] = base[:, ::3], 0
    shown = regression_on_base(suspect, reference, base)
    assert not shown[:, ::3].any()
    assert not shown[:, 1::3].any()
    mixed = regression_on_base((reference + base) / 2, reference, base)
    assert np.abs(mixed).max() < 1e-4
    assert not regression_on_base(base, reference, base).any()
