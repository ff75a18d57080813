"""Align low-rank adapters: a weight's change kept as the product of two narrow matrices, up and down (LoRA).

Only the product counts: a thief can mix the inner dimension by any matrix and undo it on the other side, store more
inner dimensions than are used, or add the product to the base and ship the sum. The down matrix of the reference tells
how the suspect's inner dimension is mixed (least squares of few numbers), and both factors are brought back with that
one matrix. Which factors belong together shows in the spaces that they span. Where the base is at hand, the suspect's
differences from it are taken apart too. Sees the unmarked reference, the base and the suspect, never a key.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from watermark.lineage.symmetry.alignment import Placement
from watermark.lineage.symmetry.faces import Face, Weights
from watermark.lineage.symmetry.fits import explained_share, fit_scales
from watermark.lineage.symmetry.singular import singular
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

FACTORS = "factors"
#: How loaders call the two factors; the reference's names are its own.
_NAMES = (
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("lora_down", "lora_up"),
    ("lora_a", "lora_b"),
)
#: Shares of a space that two factors, or a factor pair and a difference, have in common when they are taken for each
#: other. Unlike ones share about rank / width.
_LIKE = 0.3
#: Directions with less than this share of the strongest are rounding.
_EMPTY = 1e-5


@dataclass(frozen=True)
class Factors:
    """The two factors of one weight's change: `up` (outputs, rank) times `down` (rank, inputs)."""

    down: TensorInfo
    up: TensorInfo


@dataclass(frozen=True)
class _Found:
    """A pair of the reference and the suspect's factors for it, (outputs, rank) and (rank, inputs)."""

    pair: Factors
    up: Floats
    down: Floats


def factor_pairs(tensors: Iterable[TensorInfo]) -> list[Factors]:
    """The pairs of factors among tensors, by the names that their loader demands."""
    by_name = {tensor.name: tensor for tensor in tensors}
    pairs = []
    for name, tensor in by_name.items():
        for down, up in _NAMES:
            other = by_name.get(name.replace(down, up)) if down in name else None
            if other is not None and tensor.shape[0] == other.shape[1]:
                pairs.append(Factors(tensor, other))
                break
    return pairs


def align_factors(
    reference: Weights,
    wanted: Sequence[TensorInfo],
    suspect: Weights,
    theirs: Sequence[TensorInfo],
    above: Iterable[tuple[Floats, Floats]],
) -> tuple[Placement, ...]:
    """Bring the suspect's factors into the reference's coordinates; empty where the reference is no adapter.

    Args:
        reference: the unmarked reference.
        wanted: its tensors.
        suspect: any model.
        theirs: its tensors.
        above: each matrix of the base and the suspect's aligned to it, (outputs, inputs); read only where the suspect's
            own factors do not settle it.
    """
    pairs = factor_pairs(wanted)
    if not pairs:
        return ()
    found = _own_factors(reference, pairs, suspect, theirs)
    left = [pair for pair in pairs if not any(one.pair is pair for one in found)]
    if left:
        found += _merged(reference, left, above)
    return tuple(placement for one in found for placement in _placements(reference, one))


def _own_factors(
    reference: Weights, pairs: Sequence[Factors], suspect: Weights, theirs: Sequence[TensorInfo]
) -> list[_Found]:
    """Pairs for which the suspect has both factors, of one inner dimension, whatever their names and order."""
    downs = _nearest([_rows(reference, pair.down) for pair in pairs], suspect, theirs)
    ups = _nearest([_rows(reference, pair.up).T for pair in pairs], suspect, theirs)
    found = []
    for number, pair in enumerate(pairs):
        if number in downs and number in ups and downs[number][0] != ups[number][0]:
            down, up = (_seen(suspect, *one) for one in (downs[number], ups[number]))
            if len(down) == len(up):
                found.append(_Found(pair, *without_idle(up.T, down)))
    return found


def without_idle(up: Floats, down: Floats) -> tuple[Floats, Floats]:
    """The same product with no more inner dimensions than it needs: what is read and never written says nothing."""
    frame, core = np.linalg.qr(up.astype(np.float64))
    left, size, right = singular(core @ down.astype(np.float64))
    rank = int(np.count_nonzero(size > _EMPTY * max(float(size[0]), 1e-30)))
    if rank == len(down):
        return up, down
    return (frame @ left[:, :rank]).astype(np.float32), (size[:rank, None] * right[:rank]).astype(np.float32)


def _nearest(
    ours: Sequence[Floats], suspect: Weights, theirs: Sequence[TensorInfo]
) -> dict[int, tuple[TensorInfo, bool]]:
    """For each narrow matrix (rank, width) the suspect's that spans most of its space, and whether it is turned."""
    bases = [_orthonormal(one) for one in ours]
    widths = {one.shape[1] for one in ours}
    candidates: list[tuple[TensorInfo, bool]] = []
    tables: list[list[float]] = []
    for tensor in theirs:
        shape = (tensor.shape[0], tensor.count // tensor.shape[0])
        for is_turned in (False, True):
            rank, width = shape[::-1] if is_turned else shape
            if width not in widths or 2 * rank > min(widths):
                continue
            space = _orthonormal(_seen(suspect, tensor, is_turned))
            candidates.append((tensor, is_turned))
            tables.append([_in_common(base, space) if base.shape[1] == width else 0.0 for base in bases])
    if not candidates:
        return {}
    likeness = np.array(tables).T
    rows, columns = linear_sum_assignment(-likeness)
    return {
        int(row): candidates[column] for row, column in zip(rows, columns, strict=True) if likeness[row, column] > _LIKE
    }


def _merged(reference: Weights, pairs: Sequence[Factors], above: Iterable[tuple[Floats, Floats]]) -> list[_Found]:
    """Pairs whose product was added to a matrix of the base; each difference is taken apart when it is read."""
    spaces = [(_orthonormal(_rows(reference, pair.up).T), _orthonormal(_rows(reference, pair.down))) for pair in pairs]
    taken: list[dict[int, tuple[float, Floats, Floats]]] = []
    for base, merged in above:
        difference = _difference(base, merged)
        energy = float(np.square(difference, dtype=np.float64).sum())
        row: dict[int, tuple[float, Floats, Floats]] = {}
        for number, (ups, downs) in enumerate(spaces):
            if energy and difference.shape == (ups.shape[1], downs.shape[1]):
                core = ups.astype(np.float32) @ difference @ downs.T.astype(np.float32)
                share = float(np.square(core, dtype=np.float64).sum()) / energy
                if share > _LIKE:
                    row[number] = (share, *_taken_apart(difference, base, _rows(reference, pairs[number].down)))
        if row:
            taken.append(row)
    if not taken:
        return []
    likeness = np.array([[row[number][0] if number in row else 0.0 for number in range(len(pairs))] for row in taken])
    found = []
    for place, number in zip(*linear_sum_assignment(-likeness), strict=True):
        if number in taken[place]:
            _, up, down = taken[place][number]
            found.append(_Found(pairs[number], up, down))
    return found


def _difference(base: Floats, merged: Floats) -> Floats:
    """What was added to the base.

    The alignment fits the suspect to the base, row by row and column by column, and so shrinks a sum by the part that
    was added; the other way round, factors of the base that bring it nearest to the sum, nothing is shrunk.
    """
    rows, columns = fit_scales(merged, base)
    factors = rows[:, None] * columns
    difference: Floats = (merged / np.where(factors > 0, factors, np.float32(1)) - base).astype(np.float32)
    return difference


def _taken_apart(difference: Floats, base: Floats, down: Floats) -> tuple[Floats, Floats]:
    """Factors (outputs, rank) and (rank, inputs) of a difference that is their product, seen from a like factor.

    A slope has an error of chance: what of the base is left in a row, beside the factor's space, is taken out first.
    """
    inverse = _inverse(down).astype(np.float32)
    apart = base - (base @ inverse) @ down
    left = (difference * apart).sum(axis=1) / np.maximum(np.square(apart).sum(axis=1), 1e-30)
    difference = difference - left[:, None] * base
    up = difference @ inverse
    return up, (_inverse(up).astype(np.float32) @ difference)


def _placements(reference: Weights, found: _Found) -> Iterator[Placement]:
    up, down = _rows(reference, found.pair.up), _rows(reference, found.pair.down)
    fitted_up, fitted_down = unmixed(up, down, found.up, found.down)
    for tensor, ours, fitted in ((found.pair.down, down, fitted_down), (found.pair.up, up, fitted_up)):
        explained = explained_share(ours, fitted, len(down) ** 2 + 1)
        face = Face(tensor, None, 1, 0, tensor.shape[0])
        yield Placement(face, FACTORS, explained, True, partial(_given, fitted))


def _given(values: Floats) -> Floats:
    return values


def unmixed(up: Floats, down: Floats, their_up: Floats, their_down: Floats) -> tuple[Floats, Floats]:
    """The suspect's factors in the reference's inner coordinates, (outputs, rank) and (rank, inputs).

    With x = R w + noise for the down factors, R is found by least squares; the down factor is R^+ x and the up factor
    is the suspect's times R, to one factor that is fitted.
    """
    mix = their_down.astype(np.float64) @ _inverse(down)
    fitted_down = _inverse(mix) @ their_down.astype(np.float64)
    fitted_up = their_up.astype(np.float64) @ mix
    energy = float(np.square(fitted_up).sum())
    factor = float((fitted_up * up).sum()) / energy if energy else 1.0
    return (fitted_up * factor).astype(np.float32), fitted_down.astype(np.float32)


def _rows(weights: Weights, tensor: TensorInfo) -> Floats:
    return weights.matrix(tensor, None)


def _seen(weights: Weights, tensor: TensorInfo, is_turned: bool) -> Floats:
    matrix = weights.matrix(tensor, None)
    return matrix.T if is_turned else matrix


def _inverse(matrix: NDArray[np.floating]) -> Doubles:
    """Pseudo-inverse, without directions that are only rounding."""
    inverse: Doubles = np.linalg.pinv(matrix.astype(np.float64), rcond=_EMPTY)
    return inverse


def _orthonormal(matrix: Floats) -> Doubles:
    """An orthonormal basis of the row space of (rank, width), without empty directions."""
    _, size, directions = singular(matrix.astype(np.float64))
    kept: Doubles = directions[size > _EMPTY * max(float(size[0]), 1e-30)]
    return kept


def _in_common(ours: Doubles, theirs: Doubles) -> float:
    """Share of the space of `ours` that lies in that of `theirs`: 1 for the same, rank / width for unlike ones."""
    return float(np.square(ours @ theirs.T).sum()) / max(1, len(ours))
