"""Second pass: move every carrier by its chips, on the reference's own grid.

w' = w + alpha * sigma_row * (sqrt(2/3) s + sqrt(1/3) g), with s the owner's chip and g the recipient's. Rounding is
keyed and stochastic wherever the grid is coarser than the type: else the low bits would show the chips, and dropping
them would erase the mark exactly. Exact zeros and duplicate rows stay as they are. Several copies are made from one
reading. Knows no files, signatures or statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.marks.carriers import Grid
from watermark.marks.chips import (
    RECIPIENT_CHIP_UNIT,
    BlockKeys,
    recipient_chips,
    recipient_code,
    signed_code,
    unpack_blocks,
)
from watermark.marks.geometry import OWNER_ENERGY, MarkedTensor
from watermark.marks.plan import MarkPlan
from watermark.marks.secret import CopyKey, stretch_root
from watermark.marks.survey import TensorSurvey, as_rows, deviations
from watermark.model.digest import Span
from watermark.model.dtypes import decode, encode

Floats = NDArray[np.floating]

_HALF_MAX = np.float32(65504.0)
_HALF_NORMAL = np.float32(2.0**-14)


@dataclass(frozen=True)
class MarkedChunk:
    """The new bytes of a span, one item a copy, and how far the farthest weight moved."""

    copies: tuple[bytes, ...]
    largest_change: float


class Embedder:
    """Embeds one plan for some recipients; costs one scrypt when made, then works span by span on any thread."""

    def __init__(self, plan: MarkPlan, copies: Sequence[CopyKey | None]) -> None:
        """`copies` holds None for the copy without a recipient."""
        self.plan = plan
        self.stretched = stretch_root(plan.root)
        self._secrets = plan.key.block_secrets()
        self._tables = [
            None if copy is None else signed_code(recipient_code(copy.key, self.stretched, copy.commitment(plan.root)))
            for copy in copies
        ]
        self._tensors: Mapping[str, tuple[MarkedTensor, TensorSurvey]] = {
            name: (tensor, plan.surveys[tensor.digest])
            for tensor in plan.geometry.marked
            for name in plan.surveys[tensor.digest].names
        }

    def mark(self, span: Span, raw: bytes, below: Floats | None) -> MarkedChunk:
        """Mark the blocks of a span; a tensor that carries nothing comes back unchanged.

        Args:
            span: which blocks.
            raw: their bytes in the reference.
            below: the values of the declared base there, or None.
        """
        found = self._tensors.get(span.tensor.name)
        if found is None:
            return MarkedChunk((raw,) * len(self._tables), 0.0)
        tensor, survey = found
        values = decode(raw, span.tensor.dtype)
        assert survey.grid is not None
        wide: Floats = values.astype(np.float64 if span.tensor.dtype.name == "F64" else np.float32, copy=False)
        still = _still(wide, below)
        amplitude = _amplitudes(wide, below, tensor, survey, span)
        random = self._rounding(tensor, span, survey.grid)
        copies, largest = [], 0.0
        for moves in self._chips(tensor, span, len(wide)):
            change = moves.astype(wide.dtype, copy=False)
            for rows, size in zip(as_rows(change, tensor.layout.row), amplitude, strict=True):
                rows *= size[:, None]  # views of `change`
            if still is not None:
                change[still] = 0
            largest = max(largest, float(change.max()), -float(change.min()))
            change += wide
            target = change if random is None else round_to_grid(change, survey.grid, random)
            copies.append(encode(target, span.tensor.dtype))
        return MarkedChunk(tuple(copies), largest)

    def _chips(self, tensor: MarkedTensor, span: Span, count: int) -> list[NDArray[np.float32]]:
        """Both layers' chips of a span, joined at their shares of the energy: a new array for each copy."""
        layout = tensor.layout
        blocks = range(span.first, span.last)
        keys = [self._keys(tensor, block) for block in blocks]
        owner = unpack_blocks(keys, [stop - start for start, stop in map(layout.bounds, blocks)])
        recipients = [np.zeros(count, np.float32) if table is not None else None for table in self._tables]
        base = layout.bounds(span.first)[0]
        if any(table is not None for table in self._tables):
            for key, (start, stop) in zip(keys, map(layout.bounds, blocks), strict=True):
                if not key.carries_recipient(self.plan.geometry.recipient_share):
                    continue
                draws = key.mixing(stop - start)
                for table, chips in zip(self._tables, recipients, strict=True):
                    if table is not None and chips is not None:
                        chips[start - base : stop - base] = recipient_chips(draws, table)
        owner *= np.float32(math.sqrt(OWNER_ENERGY))
        share = np.float32(math.sqrt(1 - OWNER_ENERGY) / RECIPIENT_CHIP_UNIT)
        for chips in recipients:
            if chips is not None:
                chips *= share
                chips += owner
        return [owner.copy() if chips is None else chips for chips in recipients]

    def _keys(self, tensor: MarkedTensor, block: int) -> BlockKeys:
        number = tensor.first_block + block
        return BlockKeys(self._secrets.secret(number), self.stretched, number)

    def _rounding(self, tensor: MarkedTensor, span: Span, grid: Grid) -> NDArray[np.uint16] | None:
        """The blocks' own random numbers for a span; None where every value of the type is on the grid."""
        if grid.name == span.tensor.dtype.name and grid.name in {"F32", "F64"}:
            return None
        layout = tensor.layout
        return np.concatenate(
            [
                self._keys(tensor, block).rounding(stop - start)
                for block in range(span.first, span.last)
                for start, stop in [layout.bounds(block)]
            ]
        )


def _still(values: Floats, below: Floats | None) -> NDArray[np.bool_] | None:
    """Weights that must not move: exact zeros, and what equals the base; None where there are none."""
    still = values == 0
    if below is not None:
        still |= values == below
    return still if still.any() else None


def _amplitudes(
    values: Floats, below: Floats | None, tensor: MarkedTensor, survey: TensorSurvey, span: Span
) -> list[Floats]:
    """alpha * sigma_row of each row of a span, 0 for duplicate rows; one array for each matrix of `as_rows`."""
    layout = tensor.layout
    difference = values if below is None else values - below.astype(values.dtype)
    sizes = [np.float32(tensor.alpha) * deviations(rows) for rows in as_rows(difference, layout.row)]
    if len(survey.duplicate_rows):
        first = layout.bounds(span.first)[0] // layout.row
        inside = survey.duplicate_rows - first
        sizes[0][inside[(inside >= 0) & (inside < len(sizes[0]))]] = 0
    return sizes


def round_to_grid(target: Floats, grid: Grid, random: NDArray[np.uint16]) -> Floats:
    """Round stochastically: up with the probability of the distance, so that the mean stays where it was.

    What lies on the grid already stays where it is.

    Args:
        target: where each weight should lie, float32 or float64.
        grid: the grid of the reference.
        random: one 16-bit random number a weight, keyed.
    """
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.ascontiguousarray(target, dtype=np.float32)
    if grid.name == "F32":
        return narrow
    dropped = 23 - grid.mantissa_bits
    up = random.astype(np.uint32)
    if dropped > 16:
        up <<= np.uint32(dropped - 16)
    elif dropped < 16:
        up >>= np.uint32(16 - dropped)
    up += narrow.view(np.uint32)
    up &= np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    rounded = up.view(np.float32)
    if grid.name == "F16":
        steps = np.abs(narrow) * np.float32(2.0**24) + random * np.float32(2.0**-16)
        small = np.copysign(np.floor(steps) * np.float32(2.0**-24), narrow)
        rounded = np.where(np.abs(narrow) < _HALF_NORMAL, small, np.clip(rounded, -_HALF_MAX, _HALF_MAX))
    return rounded
