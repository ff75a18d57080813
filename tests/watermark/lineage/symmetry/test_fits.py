"""Each fit takes the plainest explanation that holds, undoes it, and is charged for what it fits."""

from __future__ import annotations

import numpy as np
import pytest

from watermark.lineage.symmetry.fits import (
    IN_PLACE,
    MIXED,
    PAIRS,
    REORDERED,
    fit_again,
    fit_heads,
    fit_rows,
    head_sizes,
)

DRAW = np.random.default_rng(9)
ROWS, WIDTH, HEAD = 64, 96, 16


def face(seed: int = 1, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (rows, WIDTH)).astype(np.float32)


def rotary(values: np.ndarray) -> np.ndarray:
    """A complex number on each pair of rows (i, i + half) of each head."""
    heads = values.reshape(-1, 2, HEAD // 2, WIDTH)
    angle, size = DRAW.uniform(0, 6, (len(heads), HEAD // 2, 1)), DRAW.uniform(0.5, 2, (len(heads), HEAD // 2, 1))
    real, imaginary = size * np.cos(angle), size * np.sin(angle)
    turned = [real * heads[:, 0] - imaginary * heads[:, 1], imaginary * heads[:, 0] + real * heads[:, 1]]
    return np.stack(turned, axis=1).reshape(-1, WIDTH).astype(np.float32)


def mixed(values: np.ndarray) -> np.ndarray:
    heads = values.reshape(-1, HEAD, WIDTH)
    order = DRAW.permutation(len(heads))
    return np.concatenate([DRAW.normal(size=(HEAD, HEAD)) @ heads[head] for head in order]).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda w: w, IN_PLACE),
        (lambda w: w * DRAW.uniform(0.5, 2, (1, WIDTH)).astype(np.float32), IN_PLACE),
        (lambda w: w * DRAW.uniform(0.5, 2, (ROWS, 1)).astype(np.float32), IN_PLACE),
        (lambda w: w[DRAW.permutation(ROWS)], REORDERED),
        (rotary, PAIRS),
        (mixed, MIXED),
    ],
)
def test_the_plainest_explanation_is_taken_and_undone(change, kind):
    ours = face()
    theirs = change(ours)
    fit = fit_heads(ours, theirs, fit_rows(ours, theirs), enough=0.005)
    assert fit.kind == kind
    assert np.abs(fit.apply(theirs) - ours).max() < 1e-3
    assert fit.explained > 0.999
    assert fit.is_identity == (kind == IN_PLACE)


def test_noise_on_reordered_rows_is_not_taken_for_a_mix():
    # Rows that have much in common: mixing any sixteen of them smooths the noise, and would take the mark along.
    common = DRAW.normal(0, 0.1, (ROWS, 6)) @ DRAW.normal(0, 0.7, (6, WIDTH))
    ours = (common + face()).astype(np.float32)
    order = DRAW.permutation(ROWS)
    theirs = (ours + 0.8 * ours.std() * DRAW.normal(size=ours.shape)).astype(np.float32)[order]
    fit = fit_heads(ours, theirs, fit_rows(ours, theirs), enough=0.005)
    assert fit.kind == REORDERED
    assert (order[fit.index] == np.arange(ROWS)).mean() > 0.95
    assert fit_again(ours, theirs, fit).kind == REORDERED


def test_a_mix_is_found_under_noise():
    ours = face()
    theirs = mixed(ours)
    theirs += 0.3 * theirs.std() * DRAW.normal(size=theirs.shape).astype(np.float32)
    assert fit_heads(ours, theirs, fit_rows(ours, theirs), enough=0.005).kind == MIXED


def test_a_fit_again_keeps_the_explanation():
    ours = face()
    for theirs in (mixed(ours), rotary(ours), ours[::-1].copy()):
        fit = fit_heads(ours, theirs, fit_rows(ours, theirs), enough=0.005)
        again = fit_again(ours, theirs, fit)
        assert again.kind == fit.kind
        assert np.allclose(again.apply(theirs), ours, atol=1e-3)


def test_fitting_is_charged_so_that_the_unlike_explain_little():
    ours, theirs = face(1), face(2)
    fit = fit_heads(ours, theirs, fit_rows(ours, theirs), enough=0.005)
    assert fit.explained < 0.25


def test_rows_without_a_partner_become_zero():
    ours = face()
    fit = fit_rows(ours, ours[:50])
    aligned = fit.apply(ours[:50])
    assert np.allclose(aligned[:50], ours[:50], atol=1e-4)
    assert (aligned[50:] == 0).all()


def test_only_sizes_that_divide_both_are_tried_likely_ones_first():
    assert head_sizes(64, 64, 96) == [32, 16, 8]
    assert head_sizes(64, 64, 96, likely=(16,)) == [16, 32, 8]
    assert head_sizes(60, 64, 96) == []
    assert head_sizes(8, 8, 96) == []
