"""Open few blocks of a mark before strangers: which ones, and what they show.

The blocks are not chosen: they are the first k of an order drawn from R, the suspect's canonical digest, the logged
case entry and randomness that came later than that entry. Each opening is bound to R; the suspect's tensors are found
from the opened reference values alone; secret, reference and suspect then give exact sums that anyone can recompute.
Everything else of the mark stays secret and unspent.

Knows no log, no signature and no file format.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.errors import InputError, KeyMismatchError
from watermark.evidence import KeyedTest
from watermark.marks import detect, subspace, trace
from watermark.marks.chips import recipient_code
from watermark.marks.commitment import BlockOpening
from watermark.marks.geometry import Geometry, MarkedTensor
from watermark.marks.secret import copy_commitment
from watermark.marks.spans import Carrier, ChipSource, Sources, SpanValues, read_patterns
from watermark.marks.statistic import LineSums
from watermark.model.digest import Span
from watermark.model.directory import Model
from watermark.model.dtypes import decode, dtype
from watermark.model.safetensors import TensorInfo

#: Statistics that a dispute can use: those that need nothing but the opened blocks and the suspect.
DISPUTABLE = (detect.BLIND, detect.DIFFERENCE, detect.UNCLIPPED, detect.REGRESSION, *subspace.SUBSPACES)
OWNER_BLOCKS = 2
RECIPIENT_BLOCKS = 4


def draw_blocks(
    root: bytes, suspect_digest: bytes, case_entry: bytes, randomness: bytes, eligible: Iterable[int], count: int
) -> tuple[int, ...]:
    """The first `count` of the eligible blocks in the order that the case and the later randomness fix.

    Raises:
        InputError: fewer than `count` blocks are left.
    """
    seed = hashlib.sha256(
        b"weightmark draw v1\x00" + root + suspect_digest + hashlib.sha256(case_entry).digest() + randomness
    ).digest()
    order = sorted((hashlib.sha256(seed + block.to_bytes(8, "big")).digest(), block) for block in eligible)
    if len(order) < count:
        raise InputError(
            f"{count} blocks are asked for and {len(order)} are unspent and in the suspect",
            hint="the mark of this release is spent; release a new reference",
        )
    return tuple(block for _, block in order[:count])


def draw_choices(blocks: int, spent: int, count: int) -> int:
    """In how many ways a claimant could have made a draw of `count` of `blocks` blocks his own by spending `spent`.

    Nobody can tell which blocks earlier cases had to spend: whoever keeps his own log spends those that speak against
    him, one at a time, for a few tries each. Then what is left is drawn, and every bit is chance (191 bits on an
    innocent model of 704 blocks, measured). The blocks that were opened are one of C(blocks, count) choices, and those
    that were spent one of C(blocks, spent): paying for the fewer of them holds whatever he did.
    """
    return math.comb(blocks, min(count, blocks - count, spent, blocks - spent)) if spent else 1


def absent_tensors(geometry: Geometry, suspect: Model) -> list[int]:
    """Places in the geometry of the marked tensors whose shape no weight of the suspect has."""
    shapes = {tensor.shape for tensor in suspect.weights.values() if tensor.dtype.is_decodable}
    return [number for number, tensor in enumerate(geometry.marked) if tensor.shape not in shapes]


def present_blocks(geometry: Geometry, absent: Collection[object]) -> list[int]:
    """Blocks of all marked tensors but those at the `absent` places: what a draw chooses from, spent ones included."""
    return [
        block
        for number, tensor in enumerate(geometry.marked)
        if number not in absent
        for block in range(tensor.first_block, tensor.first_block + tensor.layout.blocks)
    ]


@dataclass(frozen=True)
class OpenedBlock:
    """An opening that leads to R, its place in its tensor, and the suspect's tensor taken for it."""

    opening: BlockOpening
    marked: MarkedTensor
    suspect: TensorInfo | None
    reference: NDArray[np.float32]

    @property
    def span(self) -> Span | None:
        """The block as a span of the suspect's tensor; None where the suspect has no such tensor."""
        if self.suspect is None:
            return None
        place = self.opening.block - self.marked.first_block
        return Span(self.suspect, place, place + 1)


def verify_openings(
    openings: Sequence[BlockOpening], geometry: Geometry, root: bytes, suspect: Model | None
) -> tuple[OpenedBlock, ...]:
    """Check every opening against R and find its tensor in the suspect, from the opened reference values alone.

    Raises:
        KeyMismatchError: an opening does not lead to R, or a block or a secret is opened twice.
    """
    if len({opening.block for opening in openings}) != len(openings):
        raise KeyMismatchError("a block is opened twice: its carriers would be counted twice")
    if len({opening.secret for opening in openings}) != len(openings):
        raise KeyMismatchError("two blocks have one secret: their chips would not be independent")
    digest = geometry.digest()
    opened: list[OpenedBlock] = []
    for opening in openings:
        opening.verify(geometry.blocks, digest, root)
        marked = geometry.tensor_of_block(opening.block)
        values = decode(opening.reference, dtype(marked.dtype)).astype(np.float32)
        values = np.where(np.isfinite(values), values, np.float32(0))  # as `check` reads a reference
        start, stop = marked.layout.bounds(opening.block - marked.first_block)
        if len(values) != stop - start:
            raise KeyMismatchError(f"block {opening.block} holds {len(values)} values, not {stop - start}")
        tensor = find_tensor(values, marked, opening.block, suspect) if suspect is not None else None
        if tensor is not None and any(o.suspect == tensor and o.marked.digest != marked.digest for o in opened):
            tensor = None  # two tensors of the reference for one of the suspect: its weights would be scored twice
        opened.append(OpenedBlock(opening, marked, tensor, values))
    return tuple(opened)


def find_tensor(values: NDArray[np.float32], marked: MarkedTensor, block: int, suspect: Model) -> TensorInfo | None:
    """The suspect's tensor of the same shape whose same block points most in the direction of the reference's."""
    start, stop = marked.layout.bounds(block - marked.first_block)
    best: tuple[float, TensorInfo] | None = None
    for tensor in suspect.weights.values():
        if tensor.shape != marked.shape or not tensor.dtype.is_decodable:
            continue
        theirs = suspect.values(tensor, start, stop).astype(np.float64)
        theirs = np.where(np.isfinite(theirs), theirs, 0.0)
        length = float(np.linalg.norm(theirs))
        cosine = float(theirs @ values.astype(np.float64)) / length if length else 0.0
        if best is None or cosine > best[0]:
            best = (cosine, tensor)
    return best[1] if best is not None else None


def _values(block: OpenedBlock, suspect: Model) -> tuple[SpanValues, Carrier, Span] | None:
    if block.suspect is None or block.span is None:
        return None
    start, stop = block.marked.layout.bounds(block.span.first)
    theirs = read_patterns(suspect, block.suspect, start, stop)
    is_code = not block.suspect.dtype.is_float
    return SpanValues(theirs, block.reference, None, is_code), Carrier(block.marked, block.suspect), block.span


def opened_chips(blocks: Sequence[OpenedBlock], stretched: bytes) -> ChipSource:
    """Chips of the opened blocks, and of no other."""
    secrets: Mapping[int, bytes] = {block.opening.block: block.opening.secret for block in blocks}
    return ChipSource(secrets.__getitem__, stretched)


def score_owner(
    blocks: Sequence[OpenedBlock], suspect: Model, statistic: str, stretched: bytes
) -> tuple[KeyedTest, tuple[tuple[int, int], ...]]:
    """The owner's keyed test over the opened blocks, and T and energy of each block by itself.

    Raises:
        InputError: the statistic is not one that opened blocks allow.
    """
    if statistic not in DISPUTABLE:
        raise InputError(f"the statistic {statistic!r} cannot be recomputed from opened blocks")
    chips = opened_chips(blocks, stretched)
    parts: list[LineSums] = []
    each: list[tuple[int, int]] = []
    for block in blocks:
        found = _values(block, suspect)
        sums = _score(found, statistic, chips, suspect) if found is not None else None
        if sums is None:
            each.append((0, 0))
            continue
        parts.append(sums)
        alone = detect.join(statistic, [sums])
        each.append((alone.total, alone.energy))
    return detect.join(statistic, parts), tuple(each)


def _score(
    found: tuple[SpanValues, Carrier, Span], statistic: str, chips: ChipSource, suspect: Model
) -> LineSums | None:
    values, carrier, span = found
    if statistic not in subspace.SUBSPACES:
        return detect.score_span(values, carrier, span, chips, [statistic])[statistic]
    directions = subspace.decompose(Sources(suspect), carrier)
    if directions is None:
        return None
    return subspace.score_span(values, carrier, span, chips, directions, [statistic])[statistic]


def score_recipient(
    blocks: Sequence[OpenedBlock],
    suspect: Model,
    statistic: str,
    stretched: bytes,
    geometry: Geometry,
    copy: tuple[bytes, bytes, str],
    root: bytes,
) -> KeyedTest:
    """The test of one opened copy (copy key, salt, recipient) over the opened blocks."""
    chips = opened_chips(blocks, stretched)
    layers: dict[int, NDArray[np.float64]] = {}
    used = 0
    for block in blocks:
        found = _values(block, suspect)
        if found is None:
            continue
        folded, count = trace.fold_span(*found, chips, geometry.recipient_share, trace.residual_for(statistic))
        used += count
        for exponent, part in folded.items():
            layers[exponent] = layers[exponent] + part if exponent in layers else part
    code = recipient_code(copy[0], stretched, copy_commitment(root, *copy))
    return trace.Scores(trace.join_layers(layers), used).test(code)


def blocks_needed(bits: float, blocks: int, *, wanted_bits: float, at_least: int) -> int:
    """How many blocks to ask for, so that their share of `bits` shown by all `blocks` is three times what is wanted."""
    if bits <= 0:
        return at_least
    return min(blocks, max(at_least, math.ceil(3 * wanted_bits * blocks / bits)))
