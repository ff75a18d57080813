"""The exact statistics of the keyed test: quantise what the suspect shows to small integers, then sum signs.

For +-1 chips s and any f that never saw them, T = sum s f obeys p <= exp(-T^2 / 2 sum f^2). Here f is rounded to
integers of at most 127 with a scale taken from an order statistic, which does not depend on summation order: sums of
up to 16,384 products are exact in float32, and beyond that in integers. Two machines agree to the last bit. Weights
between lines are order statistics too, rounded to six bits.

Matrices here are rows of one tensor: (rows, row elements), float32. Knows no keys and no files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from watermark.marks import kernels

Floats = NDArray[np.float32]

LIMIT = 127
BLIND_LIMIT = np.float32(96)
_SAMPLE = 33
#: f^2 <= 127^2, so 1,024 of them sum exactly in float32 (2^24).
_EXACT_SQUARES = 1_024


@dataclass(frozen=True)
class LineSums:
    """Exact sums of a run of lines: T and energy of each line, the weight of each, and the carriers behind them."""

    totals: NDArray[np.int64]
    energies: NDArray[np.int64]
    weights: Floats
    trials: int

    def times(self, weight: float) -> LineSums:
        """The same sums at so many times their weights."""
        return self if weight == 1 else replace(self, weights=self.weights * np.float32(weight))


def floats_of(patterns: NDArray[np.unsignedinteger]) -> Floats:
    """Values of bit patterns of bfloat16 (16 bits) or float32, with 0 for what is no number, in the same shape.

    An infinite weight of a suspect is no evidence either way.
    """
    flat = np.ascontiguousarray(patterns).ravel()
    wide = flat.view(np.uint32) if flat.itemsize == 4 else np.empty(len(flat), np.uint32)
    if flat.itemsize == 2:
        kernels.widen(flat, wide)
    values: Floats = wide.view(np.float32)
    if not kernels.all_finite(values):
        values = np.where(np.isfinite(values), values, np.float32(0))
    return values.reshape(patterns.shape)


def median_magnitude(patterns: NDArray[np.unsignedinteger]) -> Floats:
    """Median |x| of each row over 33 evenly spaced elements; a third of the largest where most are zero, (rows,)."""
    columns = patterns.shape[1]
    sample = np.abs(floats_of(patterns[:, :: max(1, columns // _SAMPLE)][:, : min(_SAMPLE, columns)]))
    middle = sample.shape[1] // 2
    median = np.partition(sample, middle, axis=1)[:, middle]
    empty = median == 0
    if empty.any():
        median = np.where(empty, np.abs(floats_of(patterns)).max(axis=1) / np.float32(3), median)
    return median.astype(np.float32)


def scale_exponent(median: Floats) -> NDArray[np.int32]:
    """k such that median * 2^k lies in [16, 32); 0 where the median is 0."""
    return np.where(median > 0, 5 - np.frexp(median)[1], 0).astype(np.int32)


def quantise_blind(rows: Floats) -> Floats:
    """What a suspect shows by itself: each row in its own scale, clipped at two to four deviations (96 units).

    f = round(x * 2^k), clipped; integers in float32. Where the clip falls costs under 2 % of the evidence of a normal
    row, and heavy tails gain by it; one limit for all rows is what keeps this at memory speed.
    """
    values: Floats = rows * blind_factors(rows.view(np.uint32))[:, None]
    np.rint(values, out=values)
    np.clip(values, -BLIND_LIMIT, BLIND_LIMIT, out=values)
    return values


def blind_factors(patterns: NDArray[np.unsignedinteger]) -> Floats:
    """2^k of each row of bit patterns, (rows,)."""
    exponent = np.clip(scale_exponent(median_magnitude(patterns)), -120, 120)
    factors: Floats = np.ldexp(np.float32(1), exponent).astype(np.float32)
    return factors


def signed_totals(values: Floats, chips: Floats) -> NDArray[np.int64]:
    """T of each line: `values` (integers) and `chips` (+-1) are (lines, carriers) in float32; exact below 2^24."""
    totals: NDArray[np.int64] = np.vecdot(values, chips).astype(np.int64)
    return totals


def energies(values: Floats) -> NDArray[np.int64]:
    """Sum of f^2 of each line, exact; `values` is (lines, carriers)."""
    lines, count = values.shape
    whole = count // _EXACT_SQUARES * _EXACT_SQUARES
    body = values[:, :whole].reshape(lines, -1, _EXACT_SQUARES)
    total: NDArray[np.int64] = np.vecdot(body, body).astype(np.int64).sum(axis=1)
    if whole < count:
        tail = values[:, whole:]
        total = total + np.vecdot(tail, tail).astype(np.int64)
    return total


def weighted_sum(parts: list[LineSums]) -> tuple[int, int, int]:
    """Join lines under their weights, rounded to six bits: (T, energy, trials) as exact integers.

    Lines whose weight is 2^40 below the largest add nothing that a number of this size shows, and are left out.
    """
    if not parts:
        return 0, 0, 0
    totals = np.concatenate([part.totals for part in parts])
    energy = np.concatenate([part.energies for part in parts])
    mantissa, exponents = np.frexp(np.concatenate([part.weights for part in parts]).astype(np.float64))
    factors = np.rint(mantissa * 64).astype(np.int64)
    live = (energy > 0) & (factors > 0)
    if not live.any():
        return 0, 0, 0
    top = int(exponents[live].max())
    total = spread = 0
    for exponent in np.unique(exponents[live]):
        shift = int(exponent) - top + 40
        if shift < 0:
            continue
        chosen = live & (exponents == exponent)
        weight = factors[chosen]
        total += int((weight * totals[chosen]).sum()) << shift
        spread += int((weight * weight * energy[chosen]).sum()) << (2 * shift)
    return total, spread, sum(part.trials for part in parts)
