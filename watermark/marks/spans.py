"""Spans of a suspect beside the same spans of the reference, their chips, and their exact sums.

The common ground of every keyed test: read the values of a run of blocks, round a difference to integers block by
block, and sum it against the owner's chips. Knows no statistic by name, no releases and no thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from watermark.marks.chips import BlockKeys, unpack_chips
from watermark.marks.geometry import MarkedTensor
from watermark.marks.secret import BlockSecrets
from watermark.marks.statistic import LIMIT, BlockSums, energies, signed_totals
from watermark.marks.survey import as_rows
from watermark.model.digest import BlockLayout, Span
from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]

_SAMPLE = 257


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
    """The values of one span: suspect, and reference and base where known; float32, flat."""

    suspect: Floats
    reference: Floats | None
    base: Floats | None
    is_code: bool


def read_values(sources: Sources, carrier: Carrier, span: Span) -> SpanValues:
    """Read one span of the suspect and, block by block the same, of reference and base."""

    def read(model: Model | None, tensor: TensorInfo | None) -> Floats | None:
        if model is None or tensor is None:
            return None
        start, stop = span_bounds(carrier.marked.layout, span)
        return finite(model.values(tensor, start, stop))

    suspect = read(sources.suspect, carrier.suspect)
    assert suspect is not None
    is_code = not carrier.suspect.dtype.is_float
    return SpanValues(suspect, read(sources.reference, carrier.reference), read(sources.base, carrier.base), is_code)


def finite(values: NDArray[Any]) -> Floats:
    """Values as float32, with 0 for what is no number: an infinite weight of a suspect is no evidence either way."""
    with np.errstate(over="ignore"):
        narrow: Floats = values.astype(np.float32, copy=False)
    good = np.isfinite(narrow)
    return narrow if good.all() else np.where(good, narrow, np.float32(0))


def span_bounds(layout: BlockLayout, span: Span) -> tuple[int, int]:
    """First element of a span and one past its last."""
    return layout.bounds(span.first)[0], layout.bounds(span.last - 1)[1]


def owner_chips(marked: MarkedTensor, span: Span, chips: ChipSource) -> Floats:
    """Owner chips of a span as +-1, flat."""
    layout = marked.layout
    pieces = []
    for block in range(span.first, span.last):
        start, stop = layout.bounds(block)
        keys = chips.keys(marked.first_block + block)
        pieces.append(unpack_chips(keys.owner_bits(stop - start), stop - start))
    return np.concatenate(pieces)


def rows_together(values: SpanValues, row: int) -> Iterable[tuple[Floats, Floats, Floats | None]]:
    """Rows of suspect, reference and base (None where not known) side by side."""
    assert values.reference is not None
    suspect, reference = as_rows(values.suspect, row), as_rows(values.reference, row)
    if values.base is None:
        yield from ((x, w, None) for x, w in zip(suspect, reference, strict=True))
    else:
        yield from zip(suspect, reference, as_rows(values.base, row), strict=True)


def quantise_blocks(d: Floats, layout: BlockLayout, clip_medians: float | None) -> tuple[Floats, NDArray[np.int64]]:
    """Round a difference to integers with one power-of-two scale a block.

    With `clip_medians`, the scale comes from the median of a sample of |d| != 0 and values are clipped at that many
    medians; without, from the largest |d| and nothing is clipped. Gives f (flat) and the scale exponent of each block.
    """
    parts, exponents = [], []
    for blocks in as_blocks(d, layout):
        size = np.abs(blocks)
        if clip_medians is None:
            size_of = size.max(axis=1)
            exponent = np.where(size_of > 0, 7 - np.frexp(size_of)[1], 0)
            limit = np.full(len(blocks), LIMIT, np.float32)
        else:
            size_of = _median_of_live(size)
            exponent = np.where(size_of > 0, 5 - np.frexp(size_of)[1], 0)
            scaled = np.rint(np.float32(clip_medians) * np.ldexp(size_of, exponent))
            limit = np.where(size_of > 0, np.minimum(scaled, LIMIT), LIMIT).astype(np.float32)
        exponent = np.clip(exponent, -120, 120)
        f = blocks * np.ldexp(np.float32(1), exponent).astype(np.float32)[:, None]
        np.rint(f, out=f)
        np.clip(f, -limit[:, None], limit[:, None], out=f)
        parts.append(f.ravel())
        exponents.append(exponent.astype(np.int64))
    return np.concatenate(parts), np.concatenate(exponents)


def as_blocks(values: NDArray[Any], layout: BlockLayout) -> Iterable[NDArray[Any]]:
    """Cut the values of a span into a matrix of whole blocks and, at the tensor's end, the short one."""
    return as_rows(values, layout.per_block)


def _median_of_live(size: Floats) -> Floats:
    """Median of the non-zero |d| among up to 257 evenly spaced ones of each block; the largest |d| where all are 0."""
    step = max(1, size.shape[1] // _SAMPLE)
    picked = np.sort(size[:, ::step], axis=1)
    live = np.count_nonzero(picked, axis=1)
    middle = picked.shape[1] - live + live // 2
    median = picked[np.arange(len(picked)), np.minimum(middle, picked.shape[1] - 1)]
    found: Floats = np.where(live > 0, median, size.max(axis=1)).astype(np.float32)
    return found


def signal_exponents(values: SpanValues, layout: BlockLayout, *, in_suspect_unit: bool = False) -> NDArray[np.int64]:
    """Power of two of the mark's size in each block: weights blocks by signal over noise.

    The mark is a fixed share of a row's deviation, so the median |w| stands for it; integer codes measure the
    regression in their own unit (`in_suspect_unit`).
    """
    assert values.reference is not None
    stands_for = values.suspect if in_suspect_unit else values.reference
    exponents = [np.frexp(_median_of_live(np.abs(blocks)))[1] for blocks in as_blocks(stands_for, layout)]
    return np.concatenate(exponents).astype(np.int64)


def sum_blocks(f: Floats, exponents: NDArray[np.int64], signs: Floats, layout: BlockLayout) -> BlockSums:
    """Exact T and energy of each block of a span for quantised values `f` and chips `signs`, both flat.

    Trials are the carriers of blocks that show anything at all.
    """
    totals, squares, trials = [], [], 0
    for blocks, chips in zip(as_blocks(f, layout), as_blocks(signs, layout), strict=True):
        totals.append(signed_totals(blocks, chips))
        squares.append(energies(blocks))
        trials += int(np.count_nonzero(squares[-1])) * blocks.shape[1]
    return BlockSums(np.concatenate(totals), np.concatenate(squares), exponents, trials)
