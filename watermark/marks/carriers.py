"""Which tensors can carry a mark, decided from their values alone.

A mark needs weights that nobody else can compute and a grid fine enough to hide it. Tensors of one dimension, integer
and 8-bit types, constants, masks, positions, filter banks (STFT, mel) and weights that were quantised before carry
none: their equality would be no evidence, or rounding them again would erase the mark exactly. Names are never looked
at. Knows no keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.model.dtypes import DType

#: Types whose values can be moved by less than a hundredth of their spread.
CARRIER_TYPES = frozenset({"F64", "F32", "F16", "BF16"})
#: Distinct values under which a sample is a code book, a mask or a quantised tensor.
_FEW_VALUES = 300
#: Share of the energy that a two-term recurrence leaves unexplained in a computed curve.
_COMPUTED_RESIDUAL = 0.05
#: Share of a tensor's groups that have to be integers for it to be quantised: nine tenths.
_MOST = 0.9
#: Directions under which a matrix of low rank shows the mark to whoever projects on them.
LOW_RANK = 8.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """The grid on which a tensor's values lie: mantissa bits kept, or the range of fp16."""

    name: str
    mantissa_bits: int


NATIVE_GRIDS = {"F64": Grid("F64", 52), "F32": Grid("F32", 23), "F16": Grid("F16", 10), "BF16": Grid("BF16", 7)}


def grid_of(dtype: DType, low_bits: int, fits_half: bool) -> Grid:
    """Find the grid from the OR of all bit patterns: a bf16 model stored as F32 counts as bf16.

    Args:
        dtype: the stored type.
        low_bits: bitwise OR over the bit patterns of every value (32 bits for F32, 64 for F64).
        fits_half: every value is exact in fp16.
    """
    native = NATIVE_GRIDS[dtype.name]
    if dtype.name not in {"F32", "F64"} or low_bits == 0:
        return native
    zeros = (low_bits & -low_bits).bit_length() - 1
    if dtype.name == "F64":
        return Grid("F32", 23) if zeros >= 29 else native
    if fits_half and zeros >= 13:
        return NATIVE_GRIDS["F16"]
    if zeros >= 16:
        return NATIVE_GRIDS["BF16"]
    return Grid(f"M{23 - zeros}", 23 - zeros) if zeros >= 6 else native


def reason_against(sample: Floats, *, has_codes: bool = False) -> str | None:
    """Why a tensor with these consecutive rows cannot carry a mark, or None.

    Args:
        sample: some consecutive rows of the tensor, (rows, columns), finite.
        has_codes: the mark would move its codes, so that few values and even steps speak against nothing.
    """
    if sample.size == 0 or float(sample.max()) == float(sample.min()):
        return "constant"
    if not has_codes and np.unique(sample).size < min(_FEW_VALUES, sample.size // 4):
        return "few distinct values: a mask, a table or quantised weights"
    if not has_codes and _is_lattice(sample):
        return "quantised weights: rounding them again would erase a mark"
    if _is_banded(sample):
        return "a filter bank that anyone can compute"
    if _is_computed(sample) or _is_computed(np.ascontiguousarray(sample.T)):
        return "a smooth table that anyone can compute"
    return None


def _is_lattice(sample: Floats) -> bool:
    """Whether most rows, or groups of 128, are small integers times a scale of their own (int8, int4)."""
    for group in (sample.shape[1], 128, 64, 32):
        if group > sample.shape[1] or group < MIN_LATTICE_ELEMENTS:
            continue
        columns = sample.shape[1] // group * group
        pieces = sample[:, :columns].reshape(-1, group)
        largest = np.abs(pieces).max(axis=1, keepdims=True)
        pieces, largest = pieces[largest[:, 0] > 0], largest[largest[:, 0] > 0]
        for steps in (127.0, 128.0, 7.0, 8.0):
            if len(pieces) and _mostly_integers(pieces, np.float32(steps) / largest):
                return True
    return False


def _mostly_integers(pieces: Floats, scale: Floats) -> bool:
    """Whether scaling makes most groups integers; where it makes none of the first tenth so, no more are looked at."""
    few = -(-len(pieces) // 10)
    return bool(_are_integers(pieces[:few] * scale[:few]).any() and _are_integers(pieces * scale).mean() > _MOST)


def _are_integers(codes: Floats) -> NDArray[np.bool_]:
    """Which groups hold small integers only."""
    integers: NDArray[np.bool_] = np.all(np.abs(codes - np.rint(codes)) < 2e-3, axis=1)
    return integers


MIN_LATTICE_ELEMENTS = 32


def _is_banded(sample: Floats) -> bool:
    """Whether each row is zero but for at most two runs, as in mel filter banks."""
    if np.mean(sample == 0) < 0.8 or sample.shape[1] < 32:
        return False
    live = sample != 0
    runs = (live[:, 1:] & ~live[:, :-1]).sum(axis=1) + live[:, 0]
    return bool(np.mean(runs <= 2) > 0.9)


def _is_computed(rows: Floats) -> bool:
    """Whether x[t+1] = a x[t] + b x[t-1] with one pair (a, b) a row explains the rows: sinusoids, ramps, positions."""
    if rows.shape[1] < 16:
        return False
    x = rows.astype(np.float64)
    limit = _COMPUTED_RESIDUAL * float(np.vecdot(x[:, 2:], x[:, 2:]).sum())
    few = -(-len(x) // 4)  # of weights, a quarter of the rows leaves too much already
    return limit > 0 and _unexplained(x[:few]) < limit and _unexplained(x) < limit


def _unexplained(x: NDArray[np.float64]) -> float:
    """What the best recurrence of each row leaves of its energy, over all rows."""
    ahead, here, before = x[:, 2:], x[:, 1:-1], x[:, :-2]
    hh, bb, hb = (np.vecdot(p, q) for p, q in ((here, here), (before, before), (here, before)))
    ah, ab = np.vecdot(ahead, here), np.vecdot(ahead, before)
    determinant = hh * bb - hb * hb
    usable = determinant > 1e-9 * np.maximum(hh * bb, 1e-300)
    safe = np.where(usable, determinant, 1.0)
    a = np.where(usable, (ah * bb - ab * hb) / safe, np.where(hh > 0, ah / np.maximum(hh, 1e-300), 0.0))
    b = np.where(usable, (ab * hh - ah * hb) / safe, 0.0)
    residual = ahead - a[:, None] * here - b[:, None] * before
    return float(np.vecdot(residual, residual).sum())


def effective_rank(sample: Floats) -> float:
    """(sum l)^2 / sum l^2 over the squared singular values l of up to 64 rows: directions that carry the energy."""
    rows = sample[:64].astype(np.float64)
    spectrum = np.linalg.eigvalsh(rows @ rows.T)
    square = float(np.square(spectrum).sum())
    return float(spectrum.sum()) ** 2 / square if square > 0 else 0.0
