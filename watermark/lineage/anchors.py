"""Fixed points to measure weights by: public signs, the directions they pick, and what all models have in common.

A weight vector is known by its products with 64 anchors, sums of a table's rows under public signs. A rotation of the
stream turns anchors and weights alike, so the products stay. What models of one kind share (frequent words, directions
that every layer uses) would drown what tells them apart: strong directions are weakened before anything is measured.
Everything here is public and the same for everybody. Knows no keys, no tensors and no files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Anchors of a sketch: one bit of a 64-bit hash each.
ANCHORS = 64
#: Numbers in the upper triangle of a symmetric matrix of that size.
TRIANGLE = ANCHORS * (ANCHORS + 1) // 2
#: A direction of `ridge` times the mean energy is weakened by half its square root; weaker ones hardly.
_RIDGE = 0.2
#: Streams up to this width are decomposed in full; beyond, the strongest directions are enough.
_FULL_WIDTH = 1_024
_STRONGEST = 256
_POWER_ROUNDS = 4
#: Streams of signs set aside for one projection.
_PROJECTIONS = 64

#: Squares of a whole row of such numbers still fit float32.
_LARGEST = np.float32(1e14)

_UPPER = np.triu_indices(ANCHORS)
_TWICE = np.where(_UPPER[0] == _UPPER[1], 1.0, 2.0**0.5)


def public_signs(start: int, stop: int, stream: int = 0) -> Floats:
    """Rows `start` to `stop` of an endless matrix of +-1, (stop - start, 64): the bits of SplitMix64 (Steele 2014)."""
    with np.errstate(over="ignore"):
        x = np.arange(start, stop, dtype=np.uint64) + np.uint64((stream << 48) + 1)
        x *= np.uint64(0x9E3779B97F4A7C15)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    bits = np.unpackbits(x.astype("<u8").view(np.uint8), bitorder="little").reshape(len(x), ANCHORS)
    signs = bits.astype(np.float32)
    signs *= 2
    signs -= 1
    return signs


def sane(values: Floats) -> Floats:
    """What is no number becomes 0, what is too large to be squared is cut: a suspect's file may hold anything."""
    if values.size == 0 or (values.min() >= -_LARGEST and values.max() <= _LARGEST):
        return values
    cut: Floats = np.clip(np.where(np.isfinite(values), values, np.float32(0)), -_LARGEST, _LARGEST)
    return cut


def unit_rows(matrix: Floats) -> Floats:
    """Rows scaled to length 1; rows of zeros stay zero."""
    length: Floats = np.sqrt(np.vecdot(matrix, matrix))[:, None]
    length[length == 0] = 1
    scaled: Floats = matrix / length
    return scaled


def evened(vectors: Floats, rows: Floats) -> Floats:
    """Weaken in `vectors` the directions in which `rows` are strong: v (C + ridge)^(-1/2), up to scale.

    C is the mean of the rows' outer products. Wide streams weaken only the strongest 256 directions.

    Args:
        vectors: (any, width).
        rows: (many, width), a sample of what is common.
    """
    width = rows.shape[1]
    if width <= _FULL_WIDTH:
        energy, directions = np.linalg.eigh((rows.T @ rows).astype(np.float64) / max(1, len(rows)))
    else:
        energy, directions = _strongest(rows)
    floor = _RIDGE * float(np.square(rows, dtype=np.float64).sum()) / max(1, len(rows)) / width
    kept = (floor / np.maximum(energy + floor, 1e-300)) ** 0.5
    base = 0.0 if width <= _FULL_WIDTH else float(kept.max())
    turn = directions.astype(np.float32)
    inside: Floats = (vectors @ turn) * (kept - base).astype(np.float32) @ turn.T
    return inside + np.float32(base) * vectors if base else inside


def _strongest(rows: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean energies and directions, (width, 256), of the strongest directions, by subspace iteration."""
    width = rows.shape[1]
    start = np.concatenate([public_signs(0, width, 2 + part) for part in range(_STRONGEST // ANCHORS)], axis=1)
    basis = np.linalg.qr(start.astype(np.float64))[0]
    for _ in range(_POWER_ROUNDS):
        basis = np.linalg.qr((rows.T @ (rows @ basis.astype(np.float32))).astype(np.float64))[0]
    inner = rows @ basis.astype(np.float32)
    energy, turn = np.linalg.eigh((inner.T @ inner).astype(np.float64) / max(1, len(rows)))
    return energy, basis @ turn


def without_common(gram: NDArray[np.float64], common: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangle of a 64 x 64 matrix, weighted as its norm is, less its share of `common`; (2080,)."""
    given, base = triangle(gram), triangle(common)
    energy = float(base @ base)
    return given - base * (float(given @ base) / energy) if energy > 0 else given


def triangle(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangle, all but the diagonal times the root of 2: as long as the whole matrix is; (2080,)."""
    flat: NDArray[np.float64] = gram[_UPPER] * _TWICE
    return flat


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector of length 1; zeros stay zeros."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def projected(vectors: NDArray[np.float64], count: int, stream: int = 0) -> NDArray[np.float64]:
    """Mix each vector into `count` numbers under public signs; angles are kept as well as `count` numbers can.

    Args:
        vectors: one, or several as rows.
        count: numbers of the result.
        stream: another one has other signs.
    """
    first, length = _PROJECTIONS * (1 + stream), vectors.shape[-1]
    columns = [
        vectors @ public_signs(0, length, first + part).astype(np.float64) for part in range(-(-count // ANCHORS))
    ]
    return np.concatenate(columns, axis=-1)[..., :count]


def as_bytes(vector: NDArray[np.float64]) -> NDArray[np.int8]:
    """Round to int8 with four deviations in range; a vector's scale is not kept."""
    deviation = float(np.sqrt(np.mean(np.square(vector)))) if len(vector) else 0.0
    if deviation == 0:
        return np.zeros(len(vector), np.int8)
    return np.clip(np.rint(vector * (32 / deviation)), -127, 127).astype(np.int8)
