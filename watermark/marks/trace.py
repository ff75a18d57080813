"""Whose copy: score every recipient's code from one pass over the suspect.

With the owner's chips taken out, each carrier shows its recipient chip and noise. The mixing is common to all copies,
so one scatter pass folds all carriers into y, (32768,), and T_r = y . c_r for every recipient: a million recipients
cost one pass over the weights. An innocent's code is independent of y, so exp(-T_r^2 / 2 sum y^2) bounds the chance
that it scores this high. Knows no names of recipients and no thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from watermark.evidence import KeyedTest
from watermark.marks.chips import CODE_UNIT, CODE_VALUES, unpack_chips
from watermark.marks.detect import DIFFERENCE, REGRESSION, residual
from watermark.marks.geometry import OWNER_ENERGY
from watermark.marks.spans import (
    Carrier,
    ChipSource,
    Floats,
    Sources,
    SpanValues,
    quantise,
    read_values,
)
from watermark.marks.survey import as_rows, deviations
from watermark.model.digest import Progress, Span, spans_of
from watermark.model.parallel import in_order_forked

RECIPIENT = "recipient code"
_CLIP_MEDIANS = 3 * 1.4826
#: y is cut to 31 bits, so that its product with a code is exact in 64.
_Y_BITS = 31
#: Blocks whose scale lies 2^20 under the best add nothing.
_EXPONENT_RANGE = 20


@dataclass(frozen=True)
class Scores:
    """The folded suspect: y in integers, and how many carriers went into it."""

    y: NDArray[np.int64]
    carriers: int

    def test(self, code: NDArray[np.int8]) -> KeyedTest:
        """The keyed test of one recipient's code."""
        return KeyedTest(RECIPIENT, int(self.y @ code.astype(np.int64)), self._energy, self.carriers)

    def best(self, codes: Iterable[tuple[str, NDArray[np.int8]]]) -> tuple[str, KeyedTest] | None:
        """The recipient whose code shows best, the first of equals, with its test; None of no codes.

        Holds one code at a time: those of a million recipients are 32 GB.
        Under 0.1 ms a recipient, without the making of its code.
        """
        found: tuple[str, KeyedTest] | None = None
        for name, code in codes:
            test = self.test(code)
            # The energy is common to all, so the largest total is the smallest p.
            if found is None or test.total > found[1].total:
                found = name, test
        return found

    @cached_property
    def _energy(self) -> int:
        """sum y^2 in the units of a total, common to all codes; it needs more than 64 bits."""
        values: list[int] = self.y.tolist()
        return sum(value * value for value in values) * CODE_UNIT * CODE_UNIT


def residual_for(statistic: str) -> str:
    """The residual in which to look for a recipient, given the statistic that showed the owner best."""
    return REGRESSION if statistic == REGRESSION else DIFFERENCE


def fold(
    sources: Sources,
    carriers: Sequence[Carrier],
    chips: ChipSource,
    share: int,
    statistic: str,
    *,
    every: int = 1,
    progress: Progress | None = None,
) -> Scores:
    """Fold a suspect into y under the residual of `statistic`; needs the reference.

    Args:
        sources: suspect and reference (and base).
        carriers: marked tensors and their partners.
        chips: derives owner chips and mixing.
        share: share of blocks that carry the recipient layer, in 65,536ths.
        statistic: which residual of the family to look at.
        every: use one chunk in `every`, chosen by place alone: a first look that usually suffices.
    """
    layers: dict[int, NDArray[np.float64]] = {}
    count = 0

    def look(task: tuple[Carrier, Span]) -> tuple[dict[int, NDArray[np.float64]], int, int]:
        carrier, span = task
        values = read_values(sources, carrier, span)
        folded, used = fold_span(values, carrier, span, chips, share, statistic)
        return folded, used, values.patterns.nbytes

    usable = [carrier for carrier in carriers if carrier.reference is not None]
    tasks = islice(((carrier, span) for carrier in usable for span in spans_of(carrier.suspect)), 0, None, every)
    size = sum(carrier.suspect.nbytes for carrier in usable) // every
    for folded, used, size_bytes in in_order_forked(look, tasks, size):
        for exponent, part in folded.items():
            layers[exponent] = layers[exponent] + part if exponent in layers else part
        count += used
        if progress is not None:
            progress(size_bytes)
    return Scores(join_layers(layers), count)


def fold_span(
    values: SpanValues, carrier: Carrier, span: Span, chips: ChipSource, share: int, statistic: str
) -> tuple[dict[int, NDArray[np.float64]], int]:
    """Scatter one span's carriers; gives y by scale exponent, and the number of carriers used."""
    layout = carrier.marked.layout
    shown = residual(statistic, values, layout)
    if shown is None or values.reference is None:
        return {}, 0
    unit = _recipient_unit(values, carrier)
    live = (unit > 0) & (shown != 0)
    in_units = np.where(live, shown / np.where(live, unit, np.float32(1)), np.float32(0)).astype(np.float32)
    folded: dict[int, NDArray[np.float64]] = {}
    used, block = 0, span.first
    for blocks, live_blocks in zip(as_rows(in_units, layout.per_block), as_rows(live, layout.per_block), strict=True):
        for row, is_live in zip(blocks, live_blocks, strict=True):
            keys = chips.keys(carrier.marked.first_block + block)
            block += 1
            if not keys.carries_recipient(share):
                continue
            owner = unpack_chips(keys.owner_bits(len(row)), np.empty(len(row), np.float32))
            left = np.where(is_live, row - np.float32(math.sqrt(OWNER_ENERGY / (1 - OWNER_ENERGY))) * owner, 0)
            f, scale = quantise(left.astype(np.float32).reshape(1, -1), _CLIP_MEDIANS)
            _scatter(folded, int(np.frexp(scale[0])[1]), f[0], keys.mixing(len(row)))
            used += int(is_live.sum())
    return folded, used


def _recipient_unit(values: SpanValues, carrier: Carrier) -> Floats:
    """Size of the recipient layer at each carrier: alpha sqrt(1/3) sigma_row of the reference (or of its delta)."""
    moved = values.marked
    assert moved is not None
    spread = [np.repeat(deviations(rows), rows.shape[1]) for rows in as_rows(moved, carrier.marked.layout.row)]
    scale = np.float32(carrier.marked.alpha * math.sqrt(1 - OWNER_ENERGY))
    return np.concatenate(spread) * scale


def _scatter(folded: dict[int, NDArray[np.float64]], exponent: int, f: Floats, draws: NDArray[np.uint16]) -> None:
    """y[h] += +-f for each of the 16 draws of each carrier; sums of integers, exact in float64."""
    weights = np.tile(f.astype(np.float64), len(draws))
    wide = np.bincount(draws.ravel(), weights=weights, minlength=2 * CODE_VALUES).astype(np.float64, copy=False)
    part = wide[:CODE_VALUES] - wide[CODE_VALUES:]
    if exponent in folded:
        folded[exponent] += part
    else:
        folded[exponent] = part


def join_layers(layers: dict[int, NDArray[np.float64]]) -> NDArray[np.int64]:
    """Weight each layer by its power of two (its scale: signal over noise), and cut y to 31 bits."""
    live = {exponent: layer for exponent, layer in layers.items() if layer.any()}
    if not live:
        return np.zeros(CODE_VALUES, np.int64)
    top = max(live)
    y = np.zeros(CODE_VALUES)
    for exponent, layer in sorted(live.items()):
        if exponent >= top - _EXPONENT_RANGE:
            y += layer * 2.0 ** (exponent - top + _EXPONENT_RANGE)
    largest = float(np.abs(y).max())
    shift = max(0, math.frexp(largest)[1] - _Y_BITS)
    return np.asarray(np.rint(np.ldexp(y, -shift)), np.int64)
