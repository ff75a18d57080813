"""What is left of a suspect once the unmarked reference is taken out: the family of statistics against the reference.

Each function takes rows of the suspect and of the reference, (rows, elements) in float32, and gives the difference in
which the mark is looked for, rows in the same order. None sees chips or marked weights. Fitted numbers are rounded to
16 bits, so that every machine finds the same ones. Knows no keys and no files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def _rounded(numbers: NDArray[np.float64]) -> Floats:
    mantissa, exponent = np.frexp(numbers)
    rounded: Floats = np.ldexp(np.rint(mantissa * 65536) / 65536, exponent).astype(np.float32)
    return rounded


def _slope(target: Floats, regressor: Floats) -> Floats:
    """Least squares b of target = b * regressor, one a row, (rows, 1)."""
    wide_t, wide_r = target.astype(np.float64), regressor.astype(np.float64)
    energy = np.vecdot(wide_r, wide_r)
    slope = np.where(energy > 0, np.vecdot(wide_t, wide_r) / np.where(energy > 0, energy, 1.0), 0.0)
    return _rounded(slope)[:, None]


def in_reference_scale(suspect: Floats, reference: Floats, *, is_code: bool) -> Floats:
    """Bring integer codes to the reference's scale, row by row; floats are taken as they are."""
    return suspect * _slope(reference, suspect) if is_code else suspect


def difference(suspect: Floats, reference: Floats) -> Floats:
    """x - w, with what the thief set to zero left out."""
    d = suspect - reference
    d[suspect == 0] = 0
    return d


def regression(suspect: Floats, reference: Floats) -> Floats:
    """x - b w with one b a row, for merged and rescaled weights; what was set to zero is left out."""
    d = suspect - _slope(suspect, reference) * reference
    d[suspect == 0] = 0
    return d


def regression_on_base(suspect: Floats, reference: Floats, base: Floats) -> Floats:
    """x - b w - c base with one pair (b, c) a row, for merges with the declared base.

    What was set to zero or put back to the base is left out: DARE drops nine tenths of a fine-tune's difference so.
    """
    gone = (suspect == 0) | (suspect == base)
    x, w, v = (np.where(gone, 0.0, rows.astype(np.float64)) for rows in (suspect, reference, base))
    ww, vv, wv, xw, xv = (np.vecdot(p, q) for p, q in ((w, w), (v, v), (w, v), (x, w), (x, v)))
    determinant = ww * vv - wv * wv
    usable = determinant > 1e-12 * np.maximum(ww * vv, 1e-300)
    safe = np.where(usable, determinant, 1.0)
    b = np.where(usable, (xw * vv - xv * wv) / safe, np.where(ww > 0, xw / np.where(ww > 0, ww, 1.0), 0.0))
    c = np.where(usable, (xv * ww - xw * wv) / safe, 0.0)
    d: Floats = suspect - _rounded(b)[:, None] * reference - _rounded(c)[:, None] * base
    d[gone] = 0
    return d


def leading_directions(gram: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Right singular vectors by falling singular value, (elements, elements), and the numerical rank.

    Args:
        gram: x^T x of the whole tensor.
    """
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    # Squared singular values: float32 storage leaves about 1e-7 relative, squared and with room for rounding.
    rank = int(np.count_nonzero(values > 1e-9 * max(float(values[0]), 0.0))) if len(values) else 0
    return vectors, rank


def leading_directions_of_wide(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """The same for a matrix of fewer rows than elements, from its smaller Gram matrix; (elements, rank)."""
    left, rank = leading_directions(rows @ rows.T)
    right = rows.T @ left[:, : max(1, rank)]
    right /= np.maximum(np.linalg.norm(right, axis=0), 1e-300)
    return right, rank
