"""Align models without a common stream: multilayer perceptrons, convolutional and recurrent networks.

Inputs keep their order, so the first layer's outputs can be matched; what was found for them is how the next layer's
inputs lie, and so on, from the inputs on and from the outputs back. Which tensor comes next is tried, not read from a
name: of all pairs of tensors of one shape and all orders known so far, the one that agrees best is placed. Afterwards
each order is matched again from all tensors that share it. Scales per channel, folded batch norms among them, are
fitted on both sides. Sees the unmarked reference and the suspect, never a key.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from watermark.lineage.symmetry.alignment import Placement
from watermark.lineage.symmetry.faces import Face, Weights
from watermark.lineage.symmetry.fits import IN_PLACE, REORDERED, explained_share, gather, scales_from
from watermark.lineage.symmetry.units import Index, match_rows, unit_rows
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]

#: Larger bags of tensors, and wider layers, are no chain that could be tried pair by pair.
MAX_TENSORS = 96
MAX_UNITS = 8_192
MAX_PRODUCTS = 2_000_000_000
#: How much better than the second best a match has to be, on average, to be believed.
_CLEAR = 0.25
#: A tensor that explains less is noise.
WORTH = 0.15
_SWEEPS = 2


@dataclass(frozen=True, eq=False)
class Order:
    """Where the units of one layer are in the suspect, and the factor that undoes their scale for their readers."""

    index: Index
    factor: Floats
    is_given: bool = False

    def spread(self, size: int) -> Order | None:
        """The same for a layer that reads each unit's map flattened, `size` numbers in all; None where it cannot."""
        count = len(self.index)
        if count == size:
            return self
        if size % count or self.is_given:
            return None
        pixels = size // count
        index = self.index[:, None] * pixels + np.arange(pixels)
        index[self.index < 0] = -1
        return Order(index.reshape(-1), np.repeat(self.factor, pixels))


@dataclass(frozen=True)
class _Link:
    """A tensor of the reference with its partner, and the orders of both its axes; `known` is the axis that was."""

    ours: TensorInfo
    theirs: TensorInfo
    is_transposed: bool
    orders: tuple[Order, Order]
    sources: tuple[Order | None, Order | None]
    clarity: float


def align_chain(
    reference: Weights, wanted: Sequence[TensorInfo], suspect: Weights, theirs: Sequence[TensorInfo]
) -> tuple[Placement, ...]:
    """Align layer by layer; empty where nothing agrees or there is too much to try."""
    ours = [tensor for tensor in wanted if max(_outer(tensor)) <= MAX_UNITS]
    theirs = [tensor for tensor in theirs if max(_outer(tensor)) <= MAX_UNITS]
    if not ours or not theirs or max(len(ours), len(theirs)) > MAX_TENSORS or _work(ours, theirs) > MAX_PRODUCTS:
        return ()
    links = _linked(reference, ours, suspect, theirs)
    for _ in range(_SWEEPS):
        links = _matched_again(reference, suspect, links)
    placed = (_placement(reference, suspect, link) for link in links)
    return tuple(placement for placement in placed if placement.explained > WORTH)


def _outer(tensor: TensorInfo) -> tuple[int, int]:
    return tensor.shape[0], tensor.shape[1]


def _work(ours: Sequence[TensorInfo], theirs: Sequence[TensorInfo]) -> int:
    """Products that one look at every pair of tensors takes."""
    sizes = Counter(math.prod(tensor.shape) for tensor in theirs)
    return sum(2 * sum(_outer(tensor)) * math.prod(tensor.shape) * sizes[math.prod(tensor.shape)] for tensor in ours)


def cube(weights: Weights, tensor: TensorInfo) -> Floats:
    """A tensor as (outputs, inputs, the rest)."""
    return weights.matrix(tensor, None).reshape(*tensor.shape[:2], -1)


def _linked(
    reference: Weights, ours: Sequence[TensorInfo], suspect: Weights, theirs: Sequence[TensorInfo]
) -> list[_Link]:
    """Place the clearest pair, learn the order of its other axis, and go on until nothing is clear any more."""
    sizes = {size for tensor in ours for size in _outer(tensor)}
    orders = [Order(np.arange(size), np.ones(size, np.float32), True) for size in sorted(sizes)]
    links: list[_Link] = []
    left, right = list(ours), list(theirs)
    tried: list[_Link] = []
    fresh = orders
    while left and right:
        for ours_one in left:
            for theirs_one in right:
                tried += _tries(reference, ours_one, suspect, theirs_one, fresh)
        best = max(tried, key=lambda link: link.clarity, default=None)
        if best is None or best.clarity < _CLEAR:
            break
        links.append(best)
        left.remove(best.ours)
        right.remove(best.theirs)
        tried = [link for link in tried if link.ours is not best.ours and link.theirs is not best.theirs]
        fresh = _learned(best)
    return links


def _learned(link: _Link) -> list[Order]:
    """The orders that a link adds: of the axis that was not known, with and without its scale handed on."""
    found = []
    for order, source in zip(link.orders, link.sources, strict=True):
        if source is None:
            is_plain = np.allclose(order.factor, 1, atol=0.02)
            if not is_plain or (order.index != np.arange(len(order.index))).any():
                found.append(order)
            if not is_plain:
                found.append(replace(order, factor=np.ones_like(order.factor)))
    return found


def _tries(
    reference: Weights, ours: TensorInfo, suspect: Weights, theirs: TensorInfo, orders: Sequence[Order]
) -> Iterator[_Link]:
    """Every way to see one tensor in the other with one axis in a known order."""
    for is_transposed in (False, True):
        if is_transposed and (len(ours.shape) != 2 or len(theirs.shape) != 2):
            continue
        w, x = cube(reference, ours), cube(suspect, theirs)
        x = x.transpose(1, 0, 2) if is_transposed else x
        if w.shape[2] != x.shape[2]:
            continue
        for source in orders:
            for axis in (0, 1):
                known = source.spread(w.shape[axis])
                if known is not None and int(known.index.max()) < x.shape[axis]:
                    link = _try(ours, theirs, is_transposed, (w, x), axis, source, known)
                    if link is not None:
                        yield link


def _try(
    ours: TensorInfo,
    theirs: TensorInfo,
    is_transposed: bool,
    values: tuple[Floats, Floats],
    axis: int,
    source: Order,
    known: Order,
) -> _Link | None:
    """Match the other axis when this one is in a known order."""
    w, x = (one if axis == 1 else one.transpose(1, 0, 2) for one in values)
    x = np.take(x, np.maximum(known.index, 0), axis=1) * known.factor[:, None]
    x[:, known.index < 0] = 0
    flat_w, flat_x = w.reshape(len(w), -1), x.reshape(len(x), -1)
    if flat_w.shape[1] < 2:
        return None
    rows_w, rows_x = unit_rows(flat_w), unit_rows(flat_x)
    index, _ = match_rows(rows_w, rows_x)
    found = Order(index, _factor(flat_w, gather(flat_x, index)))
    clarity = _clarity(rows_w, rows_x, index)
    pair, sources = ((found, known), (None, source)) if axis == 1 else ((known, found), (source, None))
    return _Link(ours, theirs, is_transposed, pair, sources, clarity)


def _factor(ours: Floats, theirs: Floats) -> Floats:
    """1 / b for b x = w by least squares, row by row; 1 where nothing is known. Readers' inputs are scaled by it."""
    products, energy = (ours * theirs).sum(axis=1), np.square(ours).sum(axis=1)
    factor: Floats = np.where(np.abs(products) > 1e-12, products / np.maximum(energy, 1e-30), np.float32(1))
    return factor.astype(np.float32)


def _clarity(ours: Floats, theirs: Floats, index: Index) -> float:
    """How far the chosen partners agree beyond the next best: 0 as by chance, 1 exactly; rows of length 1."""
    table = np.abs(ours @ theirs.T)
    live = index >= 0
    rows = np.flatnonzero(live)
    if not len(rows):
        return 0.0
    chosen = table[rows, index[rows]]
    table[rows, index[rows]] = 0
    chance = np.minimum(table.max(axis=1)[rows], 0.98) if table.shape[1] > 1 else np.full(len(rows), 0.5)
    return float(((chosen - chance) / (1 - chance)).mean() * live.mean())


def _matched_again(reference: Weights, suspect: Weights, links: Sequence[_Link]) -> list[_Link]:
    """Match every order once more, from all tensors that have it on one of their axes."""
    links = list(links)
    for number, link in enumerate(links):
        axis = next((axis for axis in (0, 1) if link.sources[axis] is None), None)
        if axis is None:
            continue
        order = link.orders[axis]
        sharing = [(link, axis)] + [
            (other, where)
            for other in links
            for where in (0, 1)
            if other is not link and _is_same(other.sources[where], order)
        ]
        tables = [_table(reference, suspect, *one, len(order.index)) for one in sharing]
        table = sum(one for one in tables if one.shape == tables[0].shape)
        rows, columns = linear_sum_assignment(-np.asarray(table))
        index = np.full(len(order.index), -1, np.int64)
        index[rows] = columns
        if (index == order.index).all():
            continue
        better = replace(order, index=index)
        for place, other in enumerate(links):
            links[place] = _with_order(other, order, better)
        links[number] = _with_order(links[number], order, better)
    return links


def _is_same(source: Order | None, order: Order) -> bool:
    return source is not None and len(source.index) == len(order.index) and bool((source.index == order.index).all())


def _with_order(link: _Link, old: Order, new: Order) -> _Link:
    """A link whose axes in the order `old` are in the order `new`."""
    orders, sources = list(link.orders), list(link.sources)
    for axis in (0, 1):
        if sources[axis] is None and orders[axis] is old:
            orders[axis] = new
        elif sources[axis] is not None and _is_same(sources[axis], old):
            kept = replace(new, factor=sources[axis].factor)  # type: ignore[union-attr]
            spread = kept.spread(len(orders[axis].index))
            if spread is not None:
                sources[axis], orders[axis] = kept, spread
    return replace(link, orders=(orders[0], orders[1]), sources=(sources[0], sources[1]))


def _table(reference: Weights, suspect: Weights, link: _Link, axis: int, units: int) -> NDArray[np.float64]:
    """How well each unit of the reference agrees with each of the suspect's in one tensor that has them on an axis."""
    w, x = cube(reference, link.ours), _seen(suspect, link)
    other = link.orders[1 - axis]
    x = np.take(x, np.maximum(other.index, 0), axis=1 - axis)
    factor = other.factor[None, :, None] if axis == 0 else other.factor[:, None, None]
    x = x * factor
    w, x = (one if axis == 0 else one.transpose(1, 0, 2) for one in (w, x))
    w, x = w.reshape(units, -1), x.reshape(len(x) * units // len(w), -1)
    table: NDArray[np.float64] = np.abs(unit_rows(w) @ unit_rows(x).T).astype(np.float64) * math.sqrt(w.shape[1])
    return table


def _seen(suspect: Weights, link: _Link) -> Floats:
    x = cube(suspect, link.theirs)
    return x.transpose(1, 0, 2) if link.is_transposed else x


def _placement(reference: Weights, suspect: Weights, link: _Link) -> Placement:
    face = Face(link.ours, None, 1, 0, link.ours.shape[0])
    w = cube(reference, link.ours)
    fitted = _fitted(reference, suspect, link)
    explained = explained_share(w.reshape(len(w), -1), fitted, w.shape[0] + w.shape[1])
    moved = any((order.index != np.arange(len(order.index))).any() for order in link.orders)
    return Placement(
        face, REORDERED if moved else IN_PLACE, explained, moved, partial(_fitted, reference, suspect, link)
    )


def _fitted(reference: Weights, suspect: Weights, link: _Link) -> Floats:
    """The suspect's tensor in the reference's order, with a factor for each output and each input."""
    w, x = cube(reference, link.ours), _seen(suspect, link)
    out, into = link.orders
    x = x[np.maximum(out.index, 0)][:, np.maximum(into.index, 0)]
    x[out.index < 0] = 0
    x[:, into.index < 0] = 0
    x = x * into.factor[:, None]
    rows, columns = scales_from(np.square(x).sum(axis=2), (x * w).sum(axis=2), np.ones(x.shape[1], np.float32))
    return (x * rows[:, None, None] * columns[None, :, None]).reshape(len(x), -1)
