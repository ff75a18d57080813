"""Which row of one matrix is which row of another: units that a thief reordered, scaled, turned round or added to.

Nearest neighbours both ways settle almost every row; what is left goes to the Hungarian method. Directions in which the
suspect holds nothing (truncated to a lower rank) are left out of the comparison, else they would drown it. Knows no
tensors by name and no keys.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float32]
Index = NDArray[np.int64]

#: Rows compared at once: the table of cosines is this high and as wide as the suspect has rows.
_CHUNK_ROWS = 2_048
#: Rows that nearest neighbours leave open go to the Hungarian method up to this many; beyond, they stay open.
_MAX_OPEN = 3_000
#: A direction with less than this share of the mean energy counts as empty.
_EMPTY = 0.02
#: Wider streams would take minutes to decompose.
_MAX_DECOMPOSED = 2_048


def unit_rows(matrix: Floats) -> Floats:
    """Rows scaled to length 1; rows of zeros stay zero."""
    scaled: Floats = matrix / _or_one(np.linalg.norm(matrix, axis=1).astype(np.float32))[:, None]
    return scaled


def even_columns(matrix: Floats) -> Floats:
    """Columns scaled to length 1, so that a gain per channel folded into the matrix does not show."""
    scaled: Floats = matrix / _or_one(np.linalg.norm(matrix, axis=0).astype(np.float32))
    return scaled


def _or_one(lengths: Floats) -> Floats:
    """Lengths to divide by; 1 where nothing has any."""
    usable: Floats = np.where(lengths > 0, lengths, np.float32(1)).astype(np.float32)
    return usable


def in_common(ours: Floats, theirs: Floats) -> tuple[Floats, Floats]:
    """Both in the coordinates of the directions in which `theirs` holds anything, rows of length 1."""
    if theirs.shape[1] > _MAX_DECOMPOSED:
        return unit_rows(ours), unit_rows(theirs)
    energy, directions = np.linalg.eigh((theirs.T @ theirs).astype(np.float64))
    kept = directions[:, energy > _EMPTY * max(float(energy.mean()), 1e-30)].astype(np.float32)
    if 0 < kept.shape[1] < kept.shape[0]:
        ours, theirs = ours @ kept, theirs @ kept
    return unit_rows(ours), unit_rows(theirs)


def match_rows(ours: Floats, theirs: Floats) -> tuple[Index, Floats]:
    """For each row of `ours` the row of `theirs` that is nearest by absolute cosine, one to one.

    Returns:
        The index of each row's partner, -1 for none, and the cosine with its sign, 0 for none.
    """
    forward, cosine, backward = _nearest(ours, theirs)
    index = np.where(backward[forward] == np.arange(len(ours)), forward, -1)
    open_ours = np.flatnonzero(index < 0)
    is_free = np.ones(len(theirs), bool)
    is_free[index[index >= 0]] = False
    free = np.flatnonzero(is_free)
    if 0 < len(open_ours) <= _MAX_OPEN and 0 < len(free) <= _MAX_OPEN:
        table = ours[open_ours] @ theirs[free].T
        rows, columns = linear_sum_assignment(-np.abs(table))
        index[open_ours[rows]] = free[columns]
        cosine[open_ours[rows]] = table[rows, columns]
    return index, np.where(index >= 0, cosine, np.float32(0))


def _nearest(ours: Floats, theirs: Floats) -> tuple[Index, Floats, Index]:
    """Nearest of `theirs` to each of `ours` and its cosine, and nearest of `ours` to each of `theirs`."""
    forward = np.zeros(len(ours), np.int64)
    cosine = np.zeros(len(ours), np.float32)
    backward = np.zeros(len(theirs), np.int64)
    best = np.full(len(theirs), -1.0, np.float32)
    for start in range(0, len(ours), _CHUNK_ROWS):
        table = ours[start : start + _CHUNK_ROWS] @ theirs.T
        size = np.abs(table)
        nearest = size.argmax(axis=1)
        forward[start : start + len(table)] = nearest
        cosine[start : start + len(table)] = table[np.arange(len(table)), nearest]
        row = size.argmax(axis=0)
        height = size[row, np.arange(len(theirs))]
        better = height > best
        best[better], backward[better] = height[better], row[better] + start
    return forward, cosine, backward


def match_blocks(ours: Floats, theirs: Floats, size: int) -> Index:
    """Match runs of `size` rows (heads) by the space they span, whatever was mixed inside; index per run, -1 for none.

    The likeness of two runs is the mean squared cosine of their principal angles.
    """
    left, right = _bases(ours, size), _bases(theirs, size)
    table = (left.reshape(-1, left.shape[2]) @ right.reshape(-1, right.shape[2]).T) ** 2
    likeness = table.reshape(len(left), size, len(right), size).sum(axis=(1, 3)) / size
    rows, columns = linear_sum_assignment(-likeness)
    index = np.full(len(left), -1, np.int64)
    index[rows] = columns
    return index


def _bases(matrix: Floats, size: int) -> Floats:
    """An orthonormal basis of each run's row space, (runs, size, width)."""
    runs = matrix.reshape(-1, size, matrix.shape[1])
    basis: Floats = np.linalg.qr(runs.transpose(0, 2, 1))[0].transpose(0, 2, 1)
    return basis
