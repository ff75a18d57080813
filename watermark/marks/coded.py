"""Marks in weights that are stored as integer codes: what they can carry, and by how many steps each code moves.

Such a weight lies on the grid scale * (code - zero). The mark moves it on that very grid: by one step at most, with the
probability that makes the mean move what the chips say, so that codes show nothing of them to whoever has no reference.
Scales and zero points stay. Codes of the value zero stay as pruned weights do, and so do the smallest and the largest
code in use: a group that misses its end would show which code was moved from there.

A coded weight is known by the digest of the numbers it stands for, under a type that no stored tensor has. Knows no
layout and no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from watermark.marks.carriers import LOW_RANK, effective_rank, reason_against
from watermark.marks.survey import (
    DUPLICATE_MIN_ROW,
    LOW_RANK_MIN_ROWS,
    PREDICT_EVERY,
    Survey,
    TensorSurvey,
    as_rows,
    deviations,
    duplicate_rows_of,
    middle_span,
    predict_blind,
    row_prints,
    survey,
)
from watermark.marks.weights import Embedder
from watermark.model.digest import BlockLayout, Progress, Span, block_digests, layout_of, read_span, spans_of
from watermark.model.digest import tensor_digest as digest_of
from watermark.model.directory import Model
from watermark.model.dtypes import dtype
from watermark.model.packed.bits import Codes
from watermark.model.packed.interface import CodeGrid, PackedWeight
from watermark.model.packed.moves import Moves, Steps
from watermark.model.packed.unpack import UNPACKED_SHARD
from watermark.model.parallel import in_order, in_order_forked
from watermark.model.safetensors import TensorInfo
from watermark.model.suspect import find_packed

#: In a digest, in place of the type: numbers that codes stand for are no tensor of the file.
_DIGEST_TYPE = "F32 of codes"
#: Codes are 0 to 255 or -128 to 127.
_LOWEST, _CODES = -128, 384
#: Stored elements that are written in one go: a word of 2-bit codes unpacks to sixteen times its size.
_ELEMENTS_TOGETHER = 1 << 17

Floats = NDArray[np.float32]


@dataclass
class _Seen:
    """What one span of a weight shows, or what its spans so far add up to."""

    digests: list[bytes]
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_CODES, np.int64))
    zeros: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_CODES, np.int64))
    is_finite: bool = True
    row_prints: list[NDArray[np.uint64]] = field(default_factory=list)
    predicted: int = 0
    signal: float = 0.0
    energy: float = 0.0
    stepping: int = 0
    steps: float = 0.0
    reason: str | None = None
    low_rank: bool = False

    def add(self, span: _Seen) -> None:
        """Take in the next span."""
        self.digests += span.digests
        self.counts += span.counts
        self.zeros += span.zeros
        self.is_finite &= span.is_finite
        self.row_prints += span.row_prints
        self.predicted += span.predicted
        self.signal += span.signal
        self.energy += span.energy
        self.stepping += span.stepping
        self.steps += span.steps
        self.reason = self.reason or span.reason
        self.low_rank |= span.low_rank

    def inner(self) -> tuple[tuple[int, int], int]:
        """The smallest and the largest code in use, and how many codes between them do not stand for zero."""
        used = np.flatnonzero(self.counts)
        if not len(used):
            return (0, 0), 0
        between = slice(used[0] + 1, used[-1])
        return (int(used[0]) + _LOWEST, int(used[-1]) + _LOWEST), int((self.counts - self.zeros)[between].sum())


def can_move(weight: PackedWeight) -> bool:
    """Whether the codes of a packed weight can be written back, and are enough to speak of."""
    return weight.grid is not None and len(weight.shape) == 2 and min(weight.shape) > 1


def survey_with_codes(model: Model, progress: Progress | None = None) -> Survey:
    """Survey a reference, the weights that it stores as codes among the rest."""
    packed = list(find_packed(model))
    uneven = frozenset(part for weight in packed if not can_move(weight) for part in weight.parts)
    coded = survey_coded([weight for weight in packed if can_move(weight)])
    return replace(survey(model, progress=progress), coded=coded, uneven=uneven)


def survey_coded(weights: Sequence[PackedWeight]) -> tuple[TensorSurvey, ...]:
    """Say what weights that are stored as codes can carry; the distinct ones, in the order of their digests."""
    # Two weights from the same codes would each move them.
    sources = [weight.grid.stored.name for weight in weights if weight.grid is not None]
    weights = [weight for weight in weights if weight.grid is not None and sources.count(weight.grid.stored.name) == 1]
    tensors = [_as_tensor(weight) for weight in weights]
    seen = [_Seen([]) for _ in weights]
    middle = [middle_span(tensor) for tensor in tensors]

    def look(task: tuple[int, Span]) -> tuple[int, _Seen]:
        number, span = task
        place = span.first // max(1, span.last - span.first)
        is_predicted, is_middle = place % PREDICT_EVERY == 0, span.first == middle[number]
        return number, _look(weights[number], span, is_predicted=is_predicted, is_judged=is_middle)

    for number, found in in_order(look, ((n, span) for n, one in enumerate(tensors) for span in spans_of(one))):
        seen[number].add(found)
    by_digest: dict[bytes, list[int]] = {}
    for number, tensor in enumerate(tensors):
        by_digest.setdefault(digest_of(_DIGEST_TYPE, tensor.shape, seen[number].digests), []).append(number)
    return tuple(
        _conclude(digest, [weights[number] for number in numbers], tensors[numbers[0]], seen[numbers[0]])
        for digest, numbers in sorted(by_digest.items())
    )


def _as_tensor(weight: PackedWeight) -> TensorInfo:
    """What a weight stands for, as a tensor that lies nowhere."""
    return TensorInfo(weight.name, dtype("F32"), weight.shape, "", 0, 4 * weight.shape[0] * weight.shape[1])


def _read(weight: PackedWeight, layout: BlockLayout, span: Span) -> tuple[CodeGrid, Codes, Floats, Floats]:
    """Codes of a span, the numbers that they stand for, and the step from each to the next one; flat."""
    assert weight.grid is not None
    width = weight.shape[1]
    start, stop = layout.bounds(span.first)[0], layout.bounds(span.last - 1)[1]
    first, last = start // width, -(-stop // width)
    codes = weight.grid.read(first, last)
    with np.errstate(all="ignore"):  # a scale may be no number: such a weight carries nothing
        values = weight.grid.values(codes, first, last)
        steps = weight.grid.values(codes + 1, first, last) - values
    inside = slice(start - first * width, stop - first * width)
    values, steps = (np.ascontiguousarray(part).reshape(-1)[inside] for part in (values, steps))
    return weight.grid, codes.reshape(-1)[inside], values, steps


def _look(weight: PackedWeight, span: Span, *, is_predicted: bool, is_judged: bool) -> _Seen:
    layout = layout_of(weight.shape)
    _, codes, values, steps = _read(weight, layout, span)
    seen = _Seen(block_digests(values.tobytes(), span))
    seen.counts = np.bincount(codes - _LOWEST, minlength=_CODES)
    seen.zeros = np.bincount(codes[values == 0] - _LOWEST, minlength=_CODES)
    seen.is_finite = bool(np.isfinite(values).all())
    if not seen.is_finite:
        return seen
    if layout.row >= DUPLICATE_MIN_ROW:
        seen.row_prints = [row_prints(values.tobytes(), 4 * layout.row)]
    carries = (values != 0) & (codes > codes.min()) & (codes < codes.max())
    for rows, live, gaps in zip(*(as_rows(part, layout.row) for part in (values, carries, steps)), strict=True):
        if not is_predicted:
            break
        signal, energy = predict_blind(rows, rows, live)
        seen.predicted += rows.size
        seen.signal += signal
        seen.energy += energy
        spread = deviations(rows)
        moving = spread > 0
        relative = np.abs(gaps[moving]).astype(np.float64) / spread[moving, None]
        seen.stepping += int(live[moving].sum())
        seen.steps += float((relative * live[moving]).sum())
    if is_judged:
        sample = next(as_rows(values, layout.row))[:256, :4096]
        seen.reason = reason_against(sample, has_codes=True)
        seen.low_rank = min(sample.shape) >= LOW_RANK_MIN_ROWS and effective_rank(sample) < LOW_RANK
    return seen


def _conclude(digest: bytes, weights: list[PackedWeight], tensor: TensorInfo, seen: _Seen) -> TensorSurvey:
    (lowest, highest), carriers = seen.inner()
    duplicates = duplicate_rows_of(seen.row_prints)
    # 6 bits, so that machines that add in another order find the same one.
    mantissa, exponent = np.frexp(seen.steps / max(1, seen.stepping))
    step = float(np.ldexp(np.rint(mantissa * 64) / 64, exponent))
    reason = seen.reason if seen.is_finite else "scales that are no numbers"
    if reason is None and step <= 0:
        reason = "few distinct values: no code has a neighbour"
    share = tensor.count / seen.predicted if seen.predicted else 0.0
    return TensorSurvey(
        tensor,
        tuple(weight.name for weight in weights),
        digest,
        tuple(seen.digests),
        None,
        reason,
        max(0, carriers - len(duplicates) * layout_of(tensor.shape).row) if reason is None else 0,
        duplicates,
        seen.signal * share,
        seen.energy * share,
        reason is None and seen.low_rank,
        tuple(weights),
        (lowest, highest),
        step,
    )


def coded_tensors(model: Model) -> dict[str, TensorInfo]:
    """The unpacked weights of a model by the digests under which a mark knows them."""
    tensors = [tensor for tensor in model.weights.values() if tensor.shard == UNPACKED_SHARD]
    spans = [(number, span) for number, tensor in enumerate(tensors) for span in spans_of(tensor)]
    digests: list[list[bytes]] = [[] for _ in tensors]
    for number, found in in_order(lambda task: (task[0], block_digests(read_span(model, task[1]), task[1])), spans):
        digests[number] += found
    named = zip(tensors, digests, strict=True)
    return {digest_of(_DIGEST_TYPE, tensor.shape, found).hex(): tensor for tensor, found in named}


@dataclass(frozen=True)
class MovedWeight:
    """A packed weight and the moves of its codes, one item a copy."""

    grid: CodeGrid
    copies: tuple[Moves, ...]

    def stored_bytes(self, span: Span) -> tuple[bytes, ...]:
        """The bytes of a span of the stored tensor in each copy."""
        layout = layout_of(self.grid.stored.shape)
        start, stop = layout.bounds(span.first)[0], layout.bounds(span.last - 1)[1]
        pieces = [(first, min(stop, first + _ELEMENTS_TOGETHER)) for first in range(start, stop, _ELEMENTS_TOGETHER)]
        return tuple(b"".join(self.grid.write(*piece, moves) for piece in pieces) for moves in self.copies)


@contextmanager
def moved_weights(embedder: Embedder, shard: str) -> Iterator[tuple[Mapping[str, MovedWeight], float]]:
    """Work out the moves of all codes that one weight file stores, by the name of the tensor that holds them.

    Gives also the largest change of a weight. The moves take one byte a weight and copy in TMPDIR for that long.
    """
    surveys = [embedder.plan.surveys[tensor.digest] for tensor in embedder.plan.geometry.marked]
    weights = [
        (weight, survey, weight.grid)
        for survey in surveys
        for weight in survey.coded
        if weight.grid is not None and weight.grid.stored.shard == shard
    ]
    with ExitStack() as stack:
        moved: dict[str, MovedWeight] = {}
        for _, survey, grid in weights:
            shape = (survey.tensor.shape[0], survey.tensor.shape[1])
            copies = tuple(Moves(shape) for _ in range(embedder.copies))
            for moves in copies:
                stack.callback(moves.close)
            moved[grid.stored.name] = MovedWeight(grid, copies)

        def work(task: tuple[PackedWeight, TensorSurvey, Span]) -> float:
            weight, survey, span = task
            grid, codes, values, steps = _read(weight, layout_of(weight.shape), span)
            first = layout_of(weight.shape).bounds(span.first)[0]
            largest = 0.0
            wanted = embedder.wanted(survey, span, values)
            random = embedder.fine_rounding(survey, span)
            stays = (values == 0) | (codes <= survey.codes[0]) | (codes >= survey.codes[1]) | (steps == 0)
            for moves, change in zip(moved[grid.stored.name].copies, wanted, strict=True):
                by = code_steps(change, steps, stays, random)
                moves.put(first, by)
                largest = max(largest, float(np.abs(steps * by).max(initial=0)))
            return largest

        tasks = [(weight, survey, span) for weight, survey, _ in weights for span in spans_of(survey.tensor)]
        size_bytes = sum(survey.tensor.nbytes for _, survey, _ in weights)
        yield moved, max(in_order_forked(work, tasks, size_bytes), default=0.0)


def code_steps(change: Floats, steps: Floats, stays: NDArray[np.bool_], random: NDArray[np.uint16]) -> Steps:
    """By how many codes each weight moves: -1, 0 or 1, with the probability that makes `change` the mean.

    Args:
        change: how far each weight should move, in the mean.
        steps: how far it moves from its code to the next one.
        stays: which ones do not move.
        random: two random bytes a weight, keyed.
    """
    codes = np.divide(change, steps, out=np.zeros_like(change), where=~stays)
    chance = np.minimum(np.abs(codes), np.float32(1)) * np.float32(65536)
    moved = random.astype(np.float32) + np.float32(0.5) < chance
    return (np.sign(codes) * moved).astype(np.int8)
