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
    unpack_chips,
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
        wide = values.astype(np.float64 if span.tensor.dtype.name == "F64" else np.float32, copy=False)
        amplitude = _amplitudes(wide, below, tensor, survey, span)
        chips = self._chips(tensor, span, len(wide))
        copies, largest = [], 0.0
        for copy_chips in chips:
            target = wide + amplitude * copy_chips
            rounded = self._round(target, tensor, span, survey.grid)
            moved = np.where(amplitude != 0, rounded, wide)
            largest = max(largest, float(np.abs(moved - wide).max(initial=0.0)))
            copies.append(encode(moved, span.tensor.dtype))
        return MarkedChunk(tuple(copies), largest)

    def _chips(self, tensor: MarkedTensor, span: Span, count: int) -> list[NDArray[np.float32]]:
        """Both layers' chips of a span, joined at their shares of the energy, one array a copy."""
        owner = np.empty(count, np.float32)
        recipients = [np.zeros(count, np.float32) if table is not None else None for table in self._tables]
        layout = tensor.layout
        base = layout.bounds(span.first)[0]
        for block in range(span.first, span.last):
            start, stop = (bound - base for bound in layout.bounds(block))
            keys = self._keys(tensor, block)
            owner[start:stop] = unpack_chips(keys.owner_bits(stop - start), stop - start)
            if any(table is not None for table in self._tables) and keys.carries_recipient(
                self.plan.geometry.recipient_share
            ):
                draws = keys.mixing(stop - start)
                for table, chips in zip(self._tables, recipients, strict=True):
                    if table is not None and chips is not None:
                        chips[start:stop] = recipient_chips(draws, table)
        owner *= np.float32(2 * math.sqrt(OWNER_ENERGY))
        owner -= np.float32(math.sqrt(OWNER_ENERGY))
        share = np.float32(math.sqrt(1 - OWNER_ENERGY) / RECIPIENT_CHIP_UNIT)
        return [owner if chips is None else owner + share * chips for chips in recipients]

    def _keys(self, tensor: MarkedTensor, block: int) -> BlockKeys:
        number = tensor.first_block + block
        return BlockKeys(self._secrets.secret(number), self.stretched, number)

    def _round(self, target: Floats, tensor: MarkedTensor, span: Span, grid: Grid | None) -> Floats:
        """Round onto the release's grid by the blocks' own random numbers."""
        if grid is None or (grid.name == span.tensor.dtype.name and grid.name in {"F32", "F64"}):
            return target
        layout = tensor.layout
        random = np.concatenate(
            [
                self._keys(tensor, block).rounding(stop - start)
                for block in range(span.first, span.last)
                for start, stop in [layout.bounds(block)]
            ]
        )
        return round_to_grid(target, grid, random)


def _amplitudes(values: Floats, below: Floats | None, tensor: MarkedTensor, survey: TensorSurvey, span: Span) -> Floats:
    """alpha * sigma_row for every carrier, and 0 for what must not move."""
    layout = tensor.layout
    difference = values if below is None else values - below.astype(values.dtype)
    spread = np.concatenate([np.repeat(deviations(rows), rows.shape[1]) for rows in as_rows(difference, layout.row)])
    amplitude = (np.float32(tensor.alpha) * spread).astype(values.dtype)
    amplitude[difference == 0] = 0
    amplitude[values == 0] = 0
    if len(survey.duplicate_rows):
        first = layout.bounds(span.first)[0] // layout.row
        inside = survey.duplicate_rows - first
        for row in inside[(inside >= 0) & (inside * layout.row < len(values))]:
            amplitude[row * layout.row : (row + 1) * layout.row] = 0
    return amplitude


def round_to_grid(target: Floats, grid: Grid, random: NDArray[np.uint32]) -> Floats:
    """Round stochastically: up with the probability of the distance, so that the mean stays where it was.

    Args:
        target: where each weight should lie, float32 or float64.
        grid: the grid of the reference.
        random: one 32-bit random number a weight, keyed.
    """
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.ascontiguousarray(target, dtype=np.float32)
    if grid.name == "F32":
        return narrow
    dropped = 23 - grid.mantissa_bits
    bits = narrow.view(np.uint32)
    up = random >> np.uint32(32 - dropped)
    rounded = ((bits + up) & np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)).view(np.float32)
    if grid.name == "F16":
        steps = np.abs(narrow) * np.float32(2.0**24) + (random >> np.uint32(8)) * np.float32(2.0**-24)
        small = np.copysign(np.floor(steps) * np.float32(2.0**-24), narrow)
        rounded = np.where(np.abs(narrow) < _HALF_NORMAL, small, np.clip(rounded, -_HALF_MAX, _HALF_MAX))
    return np.where(np.isfinite(rounded), rounded, narrow)
