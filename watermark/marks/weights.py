"""Second pass: move every carrier by its chips, on the reference's own grid.

w' = w + alpha * sigma_row * (sqrt(2/3) s + sqrt(1/3) g), with s the owner's chip and g the recipient's. Rounding is
keyed and stochastic wherever the grid is coarser than the type: else the low bits would show the chips, and dropping
them would erase the mark exactly. Exact zeros and duplicate rows stay as they are. Several copies are made from one
reading. Knows no files, signatures or statistics.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from watermark.marks import kernels
from watermark.marks.carriers import Grid
from watermark.marks.chips import (
    RECIPIENT_CHIP_UNIT,
    BlockKeys,
    OwnerChips,
    recipient_chips,
    recipient_code,
    signed_code,
)
from watermark.marks.geometry import CODES, OWNER_ENERGY, MarkedTensor
from watermark.marks.plan import MarkPlan
from watermark.marks.secret import CopyKey, stretch_root
from watermark.marks.survey import TensorSurvey, as_rows, deviations
from watermark.model.digest import BlockLayout, Span
from watermark.model.dtypes import DType, decode, encode
from watermark.model.rewrite import NewBytes

Floats = NDArray[np.floating]

_NONE_STILL = np.zeros(0, np.bool_)
_HALF_MAX = np.float32(65504.0)
_HALF_NORMAL = np.float32(2.0**-14)


class Embedder:
    """Embeds one plan for some recipients; costs one scrypt when made, then works span by span on any thread."""

    def __init__(self, plan: MarkPlan, copies: Sequence[CopyKey | None], stretched: bytes | None = None) -> None:
        """`copies` holds None for the copy without a recipient; `stretched` is scrypt(R) where it need not be found."""
        self.plan = plan
        self.stretched = stretch_root(plan.root) if stretched is None else stretched
        self._secrets = plan.key.block_secrets()
        self._tables = [
            None if key is None else signed_code(recipient_code(key.key, self.stretched, key.commitment(plan.root)))
            for key in copies
        ]
        self._tensors: Mapping[str, tuple[MarkedTensor, TensorSurvey]] = {
            name: (tensor, plan.surveys[tensor.digest])
            for tensor in plan.geometry.marked
            for name in plan.surveys[tensor.digest].names
            if tensor.grid != CODES
        }
        self._coded = {tensor.digest: tensor for tensor in plan.geometry.marked if tensor.grid == CODES}

    @property
    def copies(self) -> int:
        """How many copies are made."""
        return len(self._tables)

    def at(self, strengths: Mapping[str, float]) -> Embedder:
        """The same chips at these strengths by digest, for trials of what a mark costs.

        A tensor without one stays as it is, and a negative one moves every weight the other way.
        """
        other = copy.copy(self)
        other._tensors = {
            name: (replace(tensor, strength_ppm=round(strengths[tensor.digest] * 1e6)), survey)
            for name, (tensor, survey) in self._tensors.items()
            if tensor.digest in strengths
        }
        return other

    def mark(self, span: Span, raw: bytes, below: Floats | None) -> NewBytes:
        """Mark the blocks of a span; a tensor that carries nothing comes back unchanged.

        Args:
            span: which blocks.
            raw: their bytes in the reference.
            below: the values of the declared base there, or None.
        """
        found = self._tensors.get(span.tensor.name)
        if found is None:
            return NewBytes((raw,) * len(self._tables))
        tensor, survey = found
        values = decode(raw, span.tensor.dtype)
        assert survey.grid is not None
        wide: Floats = values.astype(np.float64 if span.tensor.dtype.name == "F64" else np.float32, copy=False)
        still = wide == below if below is not None else _NONE_STILL
        sizes = np.concatenate(_amplitudes(wide, below, tensor, survey, span)).astype(wide.dtype, copy=False)
        keys, counts = self._keys_of(tensor, span)
        owner = OwnerChips(keys, counts).packed
        is_dense = survey.grid.name == span.tensor.dtype.name and survey.grid.name in {"F32", "F64"}
        random = None if is_dense else _rounding(keys, counts)
        copies, largest = [], 0.0
        for recipient in self._recipient_chips(keys, counts):
            moved, change = _moved(wide, owner, recipient, sizes, still, tensor.layout)
            largest = max(largest, change)
            copies.append(_encode_on_grid(moved, span.tensor.dtype, survey.grid, random))
        return NewBytes(tuple(copies), largest)

    def wanted(self, survey: TensorSurvey, span: Span, values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """How far each weight of a span should move in the mean, in each copy: of a weight that is stored as codes."""
        tensor = self._coded[survey.digest.hex()]
        keys, counts = self._keys_of(tensor, span)
        owner = OwnerChips(keys, counts).signs * np.float32(math.sqrt(OWNER_ENERGY))
        rows = _amplitudes(values, None, tensor, survey, span)
        sizes = np.repeat(np.concatenate(rows), tensor.layout.row)[: len(values)].astype(np.float32)
        share = np.float32(math.sqrt(1 - OWNER_ENERGY) / RECIPIENT_CHIP_UNIT)
        for chips in self._recipient_chips(keys, counts):
            yield sizes * (owner + chips * share if len(chips) else owner)

    def fine_rounding(self, survey: TensorSurvey, span: Span) -> NDArray[np.uint16]:
        """Two random bytes for each weight of a span, common to all copies."""
        keys, counts = self._keys_of(self._coded[survey.digest.hex()], span)
        return np.concatenate([key.fine_rounding(count) for key, count in zip(keys, counts, strict=True)])

    def _keys_of(self, tensor: MarkedTensor, span: Span) -> tuple[list[BlockKeys], list[int]]:
        """Keys and carriers of each block of a span."""
        blocks = range(span.first, span.last)
        counts = [stop - start for start, stop in map(tensor.layout.bounds, blocks)]
        return [self._keys(tensor, block) for block in blocks], counts

    def _recipient_chips(self, keys: Sequence[BlockKeys], counts: Sequence[int]) -> list[NDArray[np.int16]]:
        """Each copy's own chips over consecutive blocks, in units of 1/128; none for the copy without a recipient."""
        found = [np.zeros(0 if table is None else sum(counts), np.int16) for table in self._tables]
        if any(table is not None for table in self._tables):
            start = 0
            for key, count in zip(keys, counts, strict=True):
                if key.carries_recipient(self.plan.geometry.recipient_share):
                    draws = key.mixing(count)
                    for table, chips in zip(self._tables, found, strict=True):
                        if table is not None:
                            chips[start : start + count] = recipient_chips(draws, table)
                start += count
        return found

    def _keys(self, tensor: MarkedTensor, block: int) -> BlockKeys:
        number = tensor.first_block + block
        return BlockKeys(self._secrets.secret(number), self.stretched, number)


def _rounding(keys: Sequence[BlockKeys], counts: Sequence[int]) -> NDArray[np.uint8]:
    """The blocks' own random bytes, one a carrier."""
    return np.frombuffer(b"".join(key.rounding(count) for key, count in zip(keys, counts, strict=True)), np.uint8)


def _moved(
    values: Floats,
    owner: NDArray[np.uint8],
    recipient: NDArray[np.int16],
    sizes: Floats,
    still: NDArray[np.bool_],
    layout: BlockLayout,
) -> tuple[Floats, float]:
    """Weights moved by both layers at their shares of the energy, and the largest change."""
    moved = np.empty_like(values)
    patterns = moved.view(f"i{values.itemsize}")
    largest = kernels.move(
        values,
        owner,
        np.float32(math.sqrt(OWNER_ENERGY)),
        recipient,
        np.float32(math.sqrt(1 - OWNER_ENERGY) / RECIPIENT_CHIP_UNIT),
        sizes,
        still,
        layout.row,
        layout.per_block,
        moved,
        patterns,
        np.iinfo(patterns.dtype).max,
    )
    return moved, float(patterns.dtype.type(largest).view(values.dtype))


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


def _encode_on_grid(target: Floats, dtype: DType, grid: Grid, random: NDArray[np.uint8] | None) -> bytes:
    """The bytes of weights that lie, or with `random` are brought to lie, on the grid of the reference."""
    if random is None:
        return encode(target, dtype)
    if dtype.name == grid.name == "BF16":
        # A bfloat16 is the upper half of a float32, so rounding and writing are one addition and one cut.
        cut = np.empty(len(target), np.uint16)
        kernels.cut_to_bfloat16(target, random, cut)
        return cut.astype("<u2", copy=False).tobytes()
    return encode(round_to_grid(target, grid, random), dtype)


def _round_up(narrow: Floats, grid: Grid, random: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Bits of float32 values, moved up by the random share of a step (in 1/256, and half of that): cut them next."""
    dropped = 23 - grid.mantissa_bits
    up = random.astype(np.uint32)
    if dropped > 8:
        up <<= np.uint32(dropped - 8)
        up += np.uint32(1 << (dropped - 9))
    else:
        up >>= np.uint32(8 - dropped)
    up += narrow.view(np.uint32)
    return up


def round_to_grid(target: Floats, grid: Grid, random: NDArray[np.uint8]) -> Floats:
    """Round stochastically: up with the probability of the distance, so that the mean stays where it was.

    What lies on the grid already stays where it is.

    Args:
        target: where each weight should lie, float32 or float64.
        grid: the grid of the reference.
        random: one random byte a weight, keyed.
    """
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.ascontiguousarray(target, dtype=np.float32)
    if grid.name == "F32":
        return narrow
    up = _round_up(narrow, grid, random)
    up &= np.uint32(0xFFFFFFFF << (23 - grid.mantissa_bits) & 0xFFFFFFFF)
    rounded = up.view(np.float32)
    if grid.name == "F16":
        steps = np.abs(narrow) * np.float32(2.0**24) + (random + np.float32(0.5)) * np.float32(2.0**-8)
        small = np.copysign(np.floor(steps) * np.float32(2.0**-24), narrow)
        rounded = np.where(np.abs(narrow) < _HALF_NORMAL, small, np.clip(rounded, -_HALF_MAX, _HALF_MAX))
    return rounded
