"""Bring one matrix of a suspect onto the reference's: rows in place, mixes inside heads undone, scales fitted.

A handful of explanations is tried, from plain to free: rows where they are, rows reordered, heads reordered and each
pair of rotary rows mixed, heads reordered and mixed freely. The plainest that leaves no more unexplained than the best
(each charged for the numbers it fits) is taken; all this sees the unmarked reference and never a key, so choosing is
free. What a fit absorbs of the mark is its share of fitted numbers, small where the plain explanation holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.symmetry.units import even_columns, in_common, match_blocks, match_rows

Floats = NDArray[np.float32]
Index = NDArray[np.int64]

IN_PLACE, REORDERED, PAIRS, MIXED = "in place", "reordered", "pairs", "mixed"
#: Head sizes in use, and the smallest and largest that are tried.
_USUAL_HEADS = (64, 128, 32, 96, 80, 16)
_MIN_HEAD, _MAX_HEAD = 8, 256
_ROUNDS = 3
_MIX_ROUNDS = 6
_TOLERANCE = 1.05
#: Heads that were really mixed leave far less than their rows do; where rows are only noisy, mixing smooths the noise,
#: leaves a fifth less or so, and takes much of the mark with it.
_MUCH_LESS = 0.6
#: Rounding and unfinished iteration leave so much where nothing else is left: far below any mark.
_ALMOST_NOTHING = 1e-5
_WELL_EXPLAINED = 0.03
#: More rows than this (a vocabulary) are not compared all with all unless they are plainly not in place.
_MANY_ROWS = 1 << 15


@dataclass(frozen=True)
class Fit:
    """How a suspect's face becomes the reference's: rows gathered, mixed in groups, rows and columns scaled.

    Attributes:
        kind: which explanation this is.
        index: for each row of the reference the suspect's row, -1 for none.
        order: the rows of the reference in the order in which groups of `mix` run over them; None without a mix.
        mix: (groups, size, size); None where rows are only scaled.
        rows: factor of each row.
        columns: factor of each column of the stream.
        explained: share of the reference's energy that is explained, less what chance explains by fitting.
        head: size of the heads that were matched; 0 without.
    """

    kind: str
    index: Index
    order: Index | None
    mix: NDArray[np.float64] | None
    rows: Floats
    columns: Floats
    explained: float
    head: int = 0

    @property
    def unexplained(self) -> float:
        """The rest: 1 - explained."""
        return 1 - self.explained

    def private(self, theirs: Floats) -> Floats:
        """Undo what happened on the private axis; `theirs` is (suspect's rows, any width)."""
        gathered = gather(theirs, self.index)
        if self.mix is not None and self.order is not None:
            gathered = _mixed(gathered, self.order, self.mix)
        return gathered * self.rows[:, None]

    def apply(self, theirs: Floats) -> Floats:
        """The suspect's face, its stream in the reference's coordinates already, as the reference's."""
        return self.private(theirs) * self.columns[None, :]

    @property
    def is_identity(self) -> bool:
        """Whether every row stayed where it was."""
        return self.mix is None and bool((self.index == np.arange(len(self.index))).all())


def gather(theirs: Floats, index: Index) -> Floats:
    """Rows of `theirs` by index; zeros for -1."""
    taken: Floats = theirs[np.maximum(index, 0)]
    missing = index < 0
    if missing.any():
        taken[missing] = 0
    return taken


def fit_rows(ours: Floats, theirs: Floats) -> Fit:
    """Explain a face of the reference by the suspect's rows, in place or reordered; both (rows, width)."""
    in_place = None
    if len(ours) == len(theirs):
        in_place = _scaled(IN_PLACE, ours, theirs, np.arange(len(ours)))
        if in_place.unexplained < _WELL_EXPLAINED or len(ours) > _MANY_ROWS:
            return in_place
    left, right = in_common(even_columns(ours), even_columns(theirs))
    reordered = _scaled(REORDERED, ours, theirs, match_rows(left, right)[0])
    if in_place is not None and in_place.unexplained <= _TOLERANCE * reordered.unexplained + _ALMOST_NOTHING:
        return in_place
    return reordered


def fit_heads(ours: Floats, theirs: Floats, plain: Fit, *, enough: float, likely: Sequence[int] = ()) -> Fit:
    """Explain it by heads instead, where that leaves much less unexplained than `plain`.

    Args:
        ours: a face of the reference.
        theirs: the suspect's.
        plain: the best explanation by rows.
        enough: what may stay unexplained; a head size that leaves no more is taken, and no other tried.
        likely: head sizes to try first.
    """
    best = plain
    for size in head_sizes(len(ours), len(theirs), ours.shape[1], likely):
        found = _by_heads(ours, theirs, size)
        if _TOLERANCE * found.unexplained < best.unexplained:
            best = found
        if best.unexplained <= enough:
            break
    if best is plain or best.unexplained > _MUCH_LESS * plain.unexplained:
        return plain
    return _fewer_numbers(ours, theirs, best)


def _by_heads(ours: Floats, theirs: Floats, size: int) -> Fit:
    """Heads of one size, each mixed freely."""
    index = _head_rows(ours, theirs, size)
    return _mixing(MIXED, ours, theirs, index, np.arange(len(ours)), size, size)


def _head_rows(ours: Floats, theirs: Floats, size: int) -> Index:
    """The suspect's row for each of ours, whole heads at a time."""
    blocks = match_blocks(even_columns(ours), even_columns(theirs), size)
    return np.where(blocks[:, None] >= 0, blocks[:, None] * size + np.arange(size), -1).reshape(-1)


def head_sizes(ours: int, theirs: int, width: int, likely: Sequence[int] = ()) -> list[int]:
    """Sizes of heads that both matrices can be cut into, likely ones first, then those in use, then the rest."""
    largest = min(_MAX_HEAD, width // 2, ours // 2)
    every = [size for size in range(_MIN_HEAD, largest + 1, 4) if ours % size == 0 and theirs % size == 0]
    order = [*likely, *_USUAL_HEADS]
    return sorted(every, key=lambda size: (order.index(size) if size in order else len(order), size))


def _fewer_numbers(ours: Floats, theirs: Floats, mixed: Fit) -> Fit:
    """Smaller heads, or rotary pairs mixed only (halves or neighbours), where that explains as much."""
    while mixed.head % 2 == 0 and mixed.head >= 2 * _MIN_HEAD:
        half = _by_heads(ours, theirs, mixed.head // 2)
        if half.unexplained > _TOLERANCE * mixed.unexplained + _ALMOST_NOTHING:
            break
        mixed = half
    runs = np.arange(len(ours)).reshape(-1, mixed.head)
    for order in (runs.reshape(-1, 2, mixed.head // 2).transpose(0, 2, 1), runs):
        pairs = _mixing(PAIRS, ours, theirs, mixed.index, order.reshape(-1), 2, mixed.head)
        if pairs.unexplained <= _TOLERANCE * mixed.unexplained + _ALMOST_NOTHING:
            return pairs
    return mixed


def fit_again(ours: Floats, theirs: Floats, known: Fit) -> Fit:
    """Fit the explanation that was found before, once more from better coordinates."""
    rows = fit_rows(ours, theirs)
    if known.mix is None or known.order is None:
        return rows
    index = _head_rows(ours, theirs, known.head)
    mixed = _mixing(known.kind, ours, theirs, index, known.order, known.mix.shape[1], known.head)
    return rows if _MUCH_LESS * rows.unexplained <= mixed.unexplained + _ALMOST_NOTHING else mixed


def fit_scales_again(ours: Floats, theirs: Floats, known: Fit) -> Fit:
    """Rows and mixes as they were found, scales (and what is mixed) fitted once more."""
    if known.mix is None or known.order is None:
        return _scaled(known.kind, ours, theirs, known.index)
    return _mixing(known.kind, ours, theirs, known.index, known.order, known.mix.shape[1], known.head)


def _scaled(kind: str, ours: Floats, theirs: Floats, index: Index) -> Fit:
    """Rows by index with the fewest factors that explain as much: one in all, one a row or a column, or both."""
    taken = gather(theirs, index)
    live = index >= 0
    squares, products = np.square(taken), taken * ours
    every_row, every_column = np.ones(len(ours), np.float32), np.ones(ours.shape[1], np.float32)
    common = _ratio(products.sum(keepdims=True).ravel(), squares.sum(keepdims=True).ravel())[0]
    ways = [
        (every_row * common, every_column, 1),
        (_ratio(products.sum(axis=1), squares.sum(axis=1)), every_column, int(live.sum())),
        (every_row, _ratio(products.sum(axis=0), squares.sum(axis=0)), ours.shape[1]),
        (*scales_from(squares, products, _ratio(_lengths(ours), _lengths(taken))), int(live.sum()) + ours.shape[1]),
    ]
    fits = []
    for rows, columns, numbers in ways:
        fitted = taken * rows[:, None] * columns[None, :]
        explained = explained_share(ours[live], fitted[live], numbers)
        fits.append(Fit(kind, index, None, None, rows, columns, explained))
    least = _TOLERANCE * min(fit.unexplained for fit in fits) + _ALMOST_NOTHING
    return next(fit for fit in fits if fit.unexplained <= least)


def plainest_columns(ours: Floats, theirs: Floats) -> tuple[Floats, Floats, int]:
    """One factor in all, or one a column where that explains more: factors of rows and columns, and their number."""
    common = _ratio((theirs * ours).sum(keepdims=True).ravel(), np.square(theirs).sum(keepdims=True).ravel())
    rows, columns = np.repeat(common, len(ours)), np.ones(ours.shape[1], np.float32)
    fitted = _ratio((theirs * ours).sum(axis=0), np.square(theirs).sum(axis=0))
    plain = 1 - explained_share(ours, theirs * common, 1)
    if plain <= _TOLERANCE * (1 - explained_share(ours, theirs * fitted, ours.shape[1])) + _ALMOST_NOTHING:
        return rows, columns, 1
    return np.ones_like(rows), fitted, ours.shape[1]


def fit_scales(ours: Floats, theirs: Floats) -> tuple[Floats, Floats]:
    """Factors b of rows and c of columns that bring b x c nearest to `ours` (least squares in turns)."""
    return scales_from(np.square(theirs), theirs * ours, _ratio(_lengths(ours), _lengths(theirs)))


def scales_from(squares: Floats, products: Floats, columns: Floats, rounds: int = _ROUNDS) -> tuple[Floats, Floats]:
    """The same from x^2 and x w, each summed over what shares a row and a column, and a first guess of c."""
    rows: Floats = np.ones(len(squares), np.float32)
    for _ in range(rounds):
        rows = _ratio(products @ columns, squares @ (columns * columns))
        weight: Floats = rows * rows
        columns = _ratio(rows @ products, weight @ squares)
    # Which of the two holds the common size is free: let the columns be 1 on average.
    middle = np.float32(np.median(np.abs(columns[columns != 0]))) if columns.any() else np.float32(1)
    return rows * middle, columns / middle


def _mixing(kind: str, ours: Floats, theirs: Floats, index: Index, order: Index, size: int, head: int) -> Fit:
    """Heads by index with the best matrix for each group of rows, and the best factor for each column."""
    taken = gather(theirs, index)[order].reshape(-1, size, theirs.shape[1])
    target = ours[order].reshape(-1, size, ours.shape[1])
    columns = _ratio(_lengths(ours), _lengths(theirs))
    mix = np.zeros((len(taken), size, size))
    turned = taken
    for _ in range(_MIX_ROUNDS):
        scaled = taken * columns
        grams = (scaled @ scaled.transpose(0, 2, 1)).astype(np.float64)
        ridge = 1e-7 * np.trace(grams, axis1=1, axis2=2)[:, None, None] / size + 1e-30
        cross = (scaled @ target.transpose(0, 2, 1)).astype(np.float64)
        mix = np.linalg.solve(grams + ridge * np.eye(size), cross).transpose(0, 2, 1)
        turned = mix.astype(np.float32) @ taken
        flat, wanted = turned.reshape(-1, turned.shape[2]), target.reshape(-1, target.shape[2])
        columns = _ratio((flat * wanted).sum(axis=0), np.square(flat).sum(axis=0))
    fitted = (turned * columns).reshape(-1, turned.shape[2])
    live = (index >= 0)[order]
    numbers = int(live.sum()) * size + ours.shape[1]
    explained = explained_share(ours[order][live], fitted[live], numbers)
    return Fit(kind, index, order, mix, np.ones(len(ours), np.float32), columns, explained, head)


def _mixed(gathered: Floats, order: Index, mix: NDArray[np.float64]) -> Floats:
    groups = gathered[order].reshape(len(mix), mix.shape[1], -1)
    turned = np.empty_like(gathered)
    turned[order] = (mix.astype(np.float32) @ groups).reshape(len(gathered), -1)
    return turned


def _lengths(matrix: Floats) -> Floats:
    """Length of each column."""
    lengths: Floats = np.linalg.norm(matrix, axis=0).astype(np.float32)
    return lengths


def _ratio(top: Floats, bottom: Floats) -> Floats:
    usable = bottom > 1e-30
    ratio: Floats = np.where(usable, top / np.where(usable, bottom, 1), np.float32(0)).astype(np.float32)
    return ratio


def explained_share(ours: Floats, fitted: Floats, numbers: int) -> float:
    """Share of the energy of `ours` that `fitted` explains, charged for the numbers that were fitted."""
    energy = float(np.square(ours, dtype=np.float64).sum())
    if energy == 0 or ours.size <= numbers:
        return 0.0
    left = float(np.square(ours - fitted, dtype=np.float64).sum()) / energy
    return 1 - left / (1 - numbers / ours.size)
