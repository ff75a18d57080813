"""Spans of a suspect beside the same spans of the reference, their chips, and their exact sums.

The common ground of every keyed test: read the values of a run of blocks, round a difference to integers block by
block, and sum it against the owner's chips. Knows no statistic by name, no releases and no thresholds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from watermark.marks import kernels
from watermark.marks.chips import BlockKeys, OwnerChips
from watermark.marks.geometry import MarkedTensor
from watermark.marks.secret import BlockSecrets
from watermark.marks.statistic import (
    BLIND_LIMIT,
    LIMIT,
    LineSums,
    blind_factors,
    floats_of,
)
from watermark.marks.survey import as_rows
from watermark.model.digest import BlockLayout, Span
from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]

_SAMPLE = 257
#: Lines with fewer non-zero values than this take the common noise of the lines beside them.
_FEW_LIVE = 32
#: Medians at more places than this are found by sorting.
_PLACES = 8
#: Where the median of |d| comes to lie: fine enough to round to, with room for five medians below 127.
_MEDIAN_UNITS = 24.0


@dataclass(frozen=True)
class Carrier:
    """One marked tensor, the suspect's tensor taken for it, and its reference and base values if they are at hand."""

    marked: MarkedTensor
    suspect: TensorInfo
    reference: TensorInfo | None = None
    base: TensorInfo | None = None


@dataclass(frozen=True)
class Sources:
    """Where values are read from."""

    suspect: Model
    reference: Model | None = None
    base: Model | None = None


@dataclass(frozen=True)
class ChipSource:
    """Derives the owner chips of any block: from all block secrets, or from those that a dispute opened."""

    secret_of: Callable[[int], bytes] = field(repr=False)
    stretched: bytes

    @classmethod
    def of(cls, secrets: BlockSecrets, stretched: bytes) -> ChipSource:
        """All blocks of a release."""
        return cls(secrets.secret, stretched)

    def keys(self, block: int) -> BlockKeys:
        """Stream keys of a block."""
        return BlockKeys(self.secret_of(block), self.stretched, block)


@dataclass(frozen=True)
class SpanValues:
    """The values of one span: suspect, and reference and base where known; float32, flat.

    The suspect's are held as bit patterns of bfloat16 or float32: the blind test needs them in no other form.
    """

    patterns: NDArray[np.unsignedinteger]
    reference: Floats | None
    base: Floats | None
    is_code: bool

    @functools.cached_property
    def suspect(self) -> Floats:
        """The suspect's values, with 0 for what is no number."""
        return floats_of(self.patterns)

    @functools.cached_property
    def marked(self) -> Floats | None:
        """What the mark is a share of: the reference, or its difference from the base; None without a reference."""
        return self.reference if self.reference is None or self.base is None else self.reference - self.base


def read_values(sources: Sources, carrier: Carrier, span: Span) -> SpanValues:
    """Read one span of the suspect and, block by block the same, of reference and base."""

    def read(model: Model | None, tensor: TensorInfo | None) -> Floats | None:
        if model is None or tensor is None:
            return None
        return floats_of(read_patterns(model, tensor, *span_bounds(carrier.marked.layout, span)))

    is_code = not carrier.suspect.dtype.is_float
    suspect = read_patterns(sources.suspect, carrier.suspect, *span_bounds(carrier.marked.layout, span))
    return SpanValues(suspect, read(sources.reference, carrier.reference), read(sources.base, carrier.base), is_code)


def read_patterns(model: Model, tensor: TensorInfo, start: int, stop: int) -> NDArray[np.unsignedinteger]:
    """Elements [start, stop) as bit patterns: of bfloat16 as they are stored, of all else as float32."""
    if tensor.dtype.name == "BF16":
        return np.frombuffer(model.read(tensor, 2 * start, 2 * stop), "<u2")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(model.values(tensor, start, stop), dtype=np.float32).view(np.uint32)


def span_bounds(layout: BlockLayout, span: Span) -> tuple[int, int]:
    """First element of a span and one past its last."""
    return layout.bounds(span.first)[0], layout.bounds(span.last - 1)[1]


def owner_chips(marked: MarkedTensor, span: Span, chips: ChipSource) -> OwnerChips:
    """Owner chips of a span."""
    layout = marked.layout
    keys = [chips.keys(marked.first_block + block) for block in range(span.first, span.last)]
    return OwnerChips(keys, [stop - start for start, stop in map(layout.bounds, range(span.first, span.last))])


def rows_together(values: SpanValues, row: int) -> Iterable[tuple[Floats, Floats, Floats | None]]:
    """Rows of suspect, reference and base (None where not known) side by side."""
    assert values.reference is not None
    suspect, reference = as_rows(values.suspect, row), as_rows(values.reference, row)
    if values.base is None:
        yield from ((x, w, None) for x, w in zip(suspect, reference, strict=True))
    else:
        yield from zip(suspect, reference, as_rows(values.base, row), strict=True)


def quantise(lines: Floats, clip_medians: float | None) -> tuple[Floats, Floats]:
    """Round a difference to integers with one scale a line; gives f, (lines, elements), and the scales, (lines,)."""
    scale, limit = quantisation(lines, clip_medians)
    f = lines * scale[:, None]
    np.rint(f, out=f)
    np.clip(f, -limit, limit, out=f)
    return f, scale


def quantisation(lines: Floats, clip_medians: float | None) -> tuple[Floats, np.float32]:
    """The scale of each line of a difference, (lines,), and where rounded values are clipped.

    With `clip_medians`, the scale brings the median of a sample of |d| != 0 to 24 and values are clipped at that many
    medians; without, it brings the largest |d| to 127 and nothing is clipped. A line of zeros has scale 0.
    """
    size = np.abs(lines)
    largest = size.max(axis=1)
    median = largest if clip_medians is None else median_of_live(size, largest)
    target = np.float32(LIMIT if clip_medians is None else _MEDIAN_UNITS)
    with np.errstate(divide="ignore", over="ignore"):
        scale = np.where(median > 0, target / median, np.float32(0)).astype(np.float32)
    scale[~np.isfinite(scale)] = 0
    return scale, np.float32(LIMIT if clip_medians is None else min(LIMIT, round(clip_medians * _MEDIAN_UNITS)))


def median_of_live(size: Floats, largest: Floats) -> Floats:
    """Median of the non-zero |d| among up to 257 evenly spaced ones of each line; the largest |d| where all are 0.

    A line with under 32 of them takes the median of the others' medians.
    """
    step = max(1, size.shape[1] // _SAMPLE)
    picked = size[:, ::step]
    live = np.count_nonzero(picked, axis=1)
    middle = np.minimum(picked.shape[1] - live + live // 2, picked.shape[1] - 1)
    # Mostly all are alive: one place for all lines, so nothing needs to be sorted whole.
    places = np.unique(middle)
    picked = np.partition(picked, places, axis=1) if len(places) <= _PLACES else np.sort(picked, axis=1)
    median = picked[np.arange(len(picked)), middle]
    found: Floats = np.where(live > 0, median, largest).astype(np.float32)
    few = (live > 0) & (live < _FEW_LIVE)
    if few.any():
        # After heavy pruning a line may keep one weight, whose own size says nothing: one that happens to be tiny would
        # outweigh all others (prune 90 %: 20 thousand bits in place of a million).
        many = found[live >= _FEW_LIVE]
        common = np.sort(many if many.size else found[live > 0])
        found[few] = common[len(common) // 2]
    return found


def score_difference(
    shown: Floats, stands_for: Floats, chips: OwnerChips, layout: BlockLayout, clip_medians: float | None
) -> LineSums:
    """Exact sums of a difference against the owner's chips, lines weighted by signal over noise; all flat.

    The mark is a fixed share of a row's deviation, so the median |w| of `stands_for` (what was marked; integer codes
    measure themselves) stands for the signal, and the scale of the difference for one over the noise.
    """
    scales, weights = [], []
    for d, w in zip(*(as_rows(flat, layout.line) for flat in (shown, stands_for)), strict=True):
        scale, limit = quantisation(d, clip_medians)
        size = np.abs(w)
        scales.append(scale)
        weights.append(median_of_live(size, size.max(axis=1)) * scale)
    totals, squares = _row_sums(shown.view(np.uint32), chips, np.concatenate(scales), limit, layout.line, layout)
    return LineSums(totals, squares, np.concatenate(weights), _trials(squares, layout.line, len(shown)))


def score_blind(patterns: NDArray[np.unsignedinteger], chips: OwnerChips, layout: BlockLayout) -> LineSums:
    """Exact sums of what a suspect shows by itself (`quantise_blind`), block by block, all of one weight; flat."""
    factors = np.concatenate([blind_factors(rows) for rows in as_rows(patterns, layout.row)])
    rows = _row_sums(patterns, chips, factors, BLIND_LIMIT, layout.row, layout)
    firsts = np.arange(0, len(factors), layout.per_block // layout.row)
    totals, squares = (np.add.reduceat(sums, firsts) for sums in rows)
    trials = _trials(squares, layout.per_block, len(patterns))
    return LineSums(totals, squares, np.ones(len(firsts), np.float32), trials)


def _row_sums(
    patterns: NDArray[np.unsignedinteger],
    chips: OwnerChips,
    factors: Floats,
    limit: np.float32,
    row: int,
    layout: BlockLayout,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    totals, squares = np.empty(len(factors), np.int64), np.empty(len(factors), np.int64)
    kernels.signed_row_sums(patterns, chips.packed, factors, limit, row, layout.per_block, totals, squares)
    return totals, squares


def _trials(squares: NDArray[np.int64], length: int, count: int) -> int:
    """Carriers of runs of `length`, the last one shorter if `count` demands it, in which anything is shown."""
    short = len(squares) * length - count
    return int(np.count_nonzero(squares)) * length - (short if squares[-1] else 0)
