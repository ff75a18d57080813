"""Rows find each other after reordering, scaling and truncation; heads find each other after mixing."""

from __future__ import annotations

import numpy as np
import pytest

from watermark.lineage.symmetry import units
from watermark.lineage.symmetry.units import even_columns, in_common, match_blocks, match_rows, unit_rows

DRAW = np.random.default_rng(5)


def matrix(rows: int = 120, columns: int = 48, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (rows, columns)).astype(np.float32)


def test_reordered_scaled_and_turned_rows_are_all_found():
    ours = matrix()
    order = DRAW.permutation(len(ours))
    factors = DRAW.uniform(0.3, 3, (len(ours), 1)) * DRAW.choice([-1, 1], (len(ours), 1))
    theirs = (ours * factors)[order].astype(np.float32)
    index, cosine = match_rows(unit_rows(ours), unit_rows(theirs))
    assert (order[index] == np.arange(len(ours))).all()
    assert np.allclose(np.sign(cosine), np.sign(factors[:, 0]))


def test_missing_rows_have_no_partner_and_none_is_taken_twice():
    ours, theirs = matrix(), matrix()[:90]
    index, cosine = match_rows(unit_rows(ours), unit_rows(theirs))
    assert (index[:90] == np.arange(90)).all()
    assert (index[90:] == -1).all()
    assert (cosine[90:] == 0).all()


def test_unlike_rows_are_matched_one_to_one_all_the_same():
    index, _ = match_rows(unit_rows(matrix(seed=1)), unit_rows(matrix(seed=2)))
    assert sorted(index) == list(range(120))


def test_chunks_change_nothing(monkeypatch):
    ours, theirs = unit_rows(matrix(seed=1)), unit_rows(matrix(seed=2))
    whole = match_rows(ours, theirs)
    monkeypatch.setattr(units, "_CHUNK_ROWS", 7)
    cut = match_rows(ours, theirs)
    assert (whole[0] == cut[0]).all()


@pytest.mark.parametrize("rank", [5, 12])
def test_truncated_rows_are_compared_where_the_suspect_holds_anything(rank):
    ours = matrix(200, 64)
    left, values, right = np.linalg.svd(ours, full_matrices=False)
    order = DRAW.permutation(len(ours))
    theirs = ((left[:, :rank] * values[:rank]) @ right[:rank])[order].astype(np.float32)
    index, cosine = match_rows(*in_common(ours, theirs))
    _, plain = match_rows(unit_rows(ours), unit_rows(theirs))
    assert (index == np.argsort(order)).mean() > 0.99
    assert cosine.mean() > 0.99 > plain.mean() + 0.3


def test_gains_folded_into_columns_do_not_show():
    ours = matrix()
    assert np.allclose(even_columns(ours), even_columns(ours * DRAW.uniform(0.2, 5, 48)), atol=1e-6)
    assert (even_columns(np.zeros((3, 4), np.float32)) == 0).all()
    assert (unit_rows(np.zeros((3, 4), np.float32)) == 0).all()


def test_mixed_heads_are_found_by_the_space_they_span():
    heads = matrix(96, 64).reshape(6, 16, 64)
    order = DRAW.permutation(6)
    mixed = np.stack([DRAW.normal(size=(16, 16)) @ head for head in heads])[order].astype(np.float32)
    index = match_blocks(heads.reshape(96, 64), mixed.reshape(96, 64), 16)
    assert (order[index] == np.arange(6)).all()
    assert (match_blocks(heads.reshape(96, 64), mixed[:4].reshape(64, 64), 16) == -1).sum() == 2
