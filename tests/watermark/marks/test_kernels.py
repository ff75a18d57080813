"""The compiled loops do what their plain numpy forms do, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from watermark.marks import kernels
from watermark.marks.chips import BlockKeys, OwnerChips, recipient_chips
from watermark.marks.spans import quantise, score_blind, score_difference
from watermark.marks.statistic import BLIND_LIMIT, energies, quantise_blind, signed_totals
from watermark.marks.survey import as_rows, deviations
from watermark.marks.weights import _moved
from watermark.model.digest import BlockLayout, layout_of
from watermark.model.dtypes import decode, dtype, encode

#: Whole blocks; blocks that end in a short row; rows that are no whole bytes; one row; less than a byte.
SHAPES = [(64, 1024), (301, 192), (77, 37), (3, 40_000), (1, 5)]


def drawn(layout: BlockLayout) -> OwnerChips:
    keys = [BlockKeys(bytes([block]) * 32, bytes(32), block) for block in range(layout.blocks)]
    return OwnerChips(keys, [stop - start for start, stop in map(layout.bounds, range(layout.blocks))])


def values_of(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    draw = np.random.default_rng(seed)
    sizes = 10.0 ** draw.uniform(-3, 1, shape[0])
    flat = (draw.standard_normal(shape) * sizes[:, None]).astype(np.float32).ravel()
    flat[draw.integers(0, flat.size, flat.size // 20 + 1)] = 0
    return flat


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_blind_sums(shape, kind):
    layout, chips = layout_of(shape), drawn(layout_of(shape))
    raw = encode(values_of(shape), dtype(kind))
    patterns = np.frombuffer(raw, "<u2" if kind == "BF16" else "<u4").copy()
    if patterns.size > 100:
        patterns[[3, 50, 99]] = np.frombuffer(
            encode(np.float32([np.inf, -np.inf, np.nan]), dtype(kind)), patterns.dtype
        )
    values = decode(patterns.tobytes(), dtype(kind))
    values = np.where(np.isfinite(values), values, np.float32(0))
    f = np.concatenate([quantise_blind(rows).ravel() for rows in as_rows(values, layout.row)])
    found = score_blind(patterns, chips, layout)
    start = trials = 0
    for block in range(layout.blocks):
        count = np.subtract(*layout.bounds(block)[::-1])
        here, signs = (flat[start : start + count].reshape(1, -1) for flat in (f, chips.signs))
        assert (found.totals[block], found.energies[block]) == (signed_totals(here, signs)[0], energies(here)[0])
        trials += count if energies(here)[0] else 0
        start += count
    assert found.trials == trials
    assert np.abs(f).max() <= BLIND_LIMIT
    assert found.energies.any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("clip_medians", [None, 1.5 * 1.4826])
def test_sums_of_a_difference(shape, clip_medians):
    layout, chips = layout_of(shape), drawn(layout_of(shape))
    shown, stands_for = values_of(shape, seed=6), values_of(shape, seed=7)
    if clip_medians:
        shown[shown.size // 2 :: 7] = 0  # lines with unlike numbers of live weights
    found = score_difference(shown, stands_for, chips, layout, clip_medians)
    totals, squares = [], []
    for d, signs in zip(as_rows(shown, layout.line), as_rows(chips.signs, layout.line), strict=True):
        f, _ = quantise(d, clip_medians)
        totals.append(signed_totals(f, signs))
        squares.append(energies(f))
    assert (found.totals == np.concatenate(totals)).all()
    assert (found.energies == np.concatenate(squares)).all()
    assert found.trials == shown.size


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("has_recipient", [False, True])
def test_move(shape, kind, has_recipient):
    layout, chips = layout_of(shape), drawn(layout_of(shape))
    values = values_of(shape).astype(kind) * kind(1.000000001)
    draw = np.random.default_rng(2)
    recipient = draw.integers(-600, 600, values.size if has_recipient else 0).astype(np.int16)
    still = draw.integers(0, 50, values.size) == 0
    sizes = [np.float32(0.01) * deviations(rows) for rows in as_rows(values, layout.row)]
    owner, other = np.float32((2 / 3) ** 0.5), np.float32((1 / 3) ** 0.5 / 128)
    moves = chips.signs * owner
    if has_recipient:
        moves = recipient.astype(np.float32) * other + moves
    change = moves.astype(kind)
    for rows, size in zip(as_rows(change, layout.row), sizes, strict=True):
        rows *= size.astype(kind)[:, None]
    change[(values == 0) | still] = 0
    moved, largest = _moved(values, chips.packed, recipient, np.concatenate(sizes).astype(kind), still, layout)
    assert moved.tobytes() == (values + change).tobytes()
    assert largest == np.abs(change).max()
    assert (moved != values).any()


def test_cut_to_bfloat16():
    values = values_of((64, 1024))
    random = np.random.default_rng(3).integers(0, 256, values.size).astype(np.uint8)
    cut = np.empty(values.size, np.uint16)
    kernels.cut_to_bfloat16(values, random, cut)
    step = (random.astype(np.uint32) << np.uint32(8)) + np.uint32(128)
    assert (cut == (values.view(np.uint32) + step) >> np.uint32(16)).all()


@pytest.mark.parametrize(
    ("kind", "infinity"), [(np.uint16, 0x7F80), (np.uint16, 0x7C00), (np.uint32, 0x7F800000), (np.uint64, 0x7FF << 52)]
)
@pytest.mark.parametrize("spoiled", [(), ("zero",), ("endless",), ("nan",), ("zero", "endless", "nan", "minus zero")])
def test_scan(kind, infinity, spoiled):
    magnitude = (1 << (8 * kind().itemsize - 1)) - 1
    patterns = np.random.default_rng(4).integers(1, infinity, 1_000, dtype=np.uint64).astype(kind) & ~kind(6)
    special = {"zero": 0, "minus zero": magnitude + 1, "endless": infinity | (magnitude + 1), "nan": infinity + 1}
    for place, name in enumerate(spoiled):
        patterns[place * 7 : place * 7 + 3] = special[name]
    sizes = patterns & kind(magnitude)
    assert kernels.scan(patterns, kind(infinity), kind(magnitude)) == (
        np.bitwise_or.reduce(patterns),
        np.count_nonzero(sizes >= infinity),
        np.count_nonzero(sizes > infinity),
        np.count_nonzero(sizes),
    )


def test_moments():
    values = values_of((50, 777))
    sums, squares = np.empty(50), np.empty(50)
    kernels.moments(values, sums, squares, 777)
    rows = values.reshape(50, 777).astype(np.float64)
    assert sums == pytest.approx(rows.sum(axis=1), rel=1e-12, abs=1e-12)
    assert squares == pytest.approx(np.square(rows).sum(axis=1), rel=1e-12)


def test_recipient_sums():
    draw = np.random.default_rng(5)
    draws, table = draw.integers(0, 1 << 16, (16, 3_001)).astype(np.uint16), draw.integers(-90, 90, 1 << 16)
    assert (recipient_chips(draws, table.astype(np.int16)) == table[draws].sum(axis=0)).all()


@pytest.mark.parametrize(("spoil", "finite"), [(None, True), (np.inf, False), (-np.inf, False), (np.nan, False)])
def test_all_finite(spoil, finite):
    values = np.full(1_003, np.finfo(np.float32).max, np.float32)
    if spoil is not None:
        values[500] = spoil
    assert kernels.all_finite(values) is finite


@pytest.mark.slow
def test_they_work_where_nothing_can_be_kept(tmp_path):
    # A container with a read-only file system: code is then compiled anew at each start, and nothing else changes.
    (tmp_path / "file").touch()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "below")}
    script = "from watermark.marks import kernels; import numpy; print(kernels.all_finite(numpy.ones(3, 'f4')))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
