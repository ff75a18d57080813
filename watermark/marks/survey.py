"""First pass over the reference: digest every tensor, decide what can carry a mark, and predict what it will show.

One reading serves the tensor digests, the block digests of the commitment, the grid, the finite check and the sums
from which the evidence is predicted. Rows in chunks, on all cores: memory grows neither with the model nor with its
largest tensor. Knows no keys; the order of the results depends on content alone, never on names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from watermark.errors import MarkError
from watermark.marks import kernels
from watermark.marks.carriers import CARRIER_TYPES, LOW_RANK, Grid, effective_rank, grid_of, reason_against
from watermark.marks.statistic import BLIND_LIMIT, median_magnitude, quantise_blind, scale_exponent
from watermark.model.digest import (
    Progress,
    Span,
    block_digests,
    canonical_digest,
    layout_of,
    read_span,
    spans_of,
    tensor_digest,
)
from watermark.model.directory import Model
from watermark.model.dtypes import decode
from watermark.model.packed.interface import PackedWeight
from watermark.model.parallel import in_order
from watermark.model.safetensors import TensorInfo

#: Rows of a chunk from which the evidence is predicted.
_PREDICTION_ROWS = 16
#: Chunks of a tensor from which the evidence is predicted: the first, and then every so many.
PREDICT_EVERY = 8
#: Rows shorter than this are not looked up for duplicates: their fingerprints would outgrow memory in huge tensors.
DUPLICATE_MIN_ROW = 64
LOW_RANK_MIN_ROWS = 16
_PRINT_WORDS = 8
_PRINT_MULTIPLIERS = np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 63, _PRINT_WORDS, np.uint64) * np.uint64(
    2
) + np.uint64(1)

Floats = NDArray[np.float32]
_Number = TypeVar("_Number", bound=np.number)

#: For each type that can carry: its bit patterns, that of infinity, and all bits but the sign's.
_PATTERNS: Mapping[str, tuple[str, np.unsignedinteger, np.unsignedinteger]] = {
    "BF16": ("<u2", np.uint16(0x7F80), np.uint16(0x7FFF)),
    "F16": ("<u2", np.uint16(0x7C00), np.uint16(0x7FFF)),
    "F32": ("<u4", np.uint32(0x7F800000), np.uint32(0x7FFFFFFF)),
    "F64": ("<u8", np.uint64(0x7FF << 52), np.uint64((1 << 63) - 1)),
}


@dataclass(frozen=True)
class TensorSurvey:
    """What one distinct tensor of the reference can carry; `reason` says why it carries nothing.

    `coded`, `codes` and `step` are those of `coded.py`: the packed weights behind it, their smallest and largest code
    in use, and the mean step between codes in row deviations.
    """

    tensor: TensorInfo
    names: tuple[str, ...]
    digest: bytes
    block_digests: tuple[bytes, ...]
    grid: Grid | None
    reason: str | None
    carriers: int
    duplicate_rows: NDArray[np.int64]
    signal: float
    energy: float
    low_rank: bool
    coded: tuple[PackedWeight, ...] = ()
    codes: tuple[int, int] = (0, 0)
    step: float = 0.0


@dataclass(frozen=True)
class Survey:
    """All distinct tensors of a reference in the order of their digests, and the canonical digest of the whole.

    `coded` are the weights that stored tensors make up together, which are none of `tensors`; `uneven` names stored
    codes that cannot be moved by equal steps.
    """

    tensors: tuple[TensorSurvey, ...]
    reference_digest: bytes
    coded: tuple[TensorSurvey, ...] = ()
    uneven: frozenset[str] = frozenset()

    @property
    def carriers(self) -> int:
        """Weights that can carry a mark."""
        return sum(t.carriers for t in self.tensors if t.reason is None)


def deviations(rows: NDArray[np.floating]) -> Floats:
    """Standard deviation of each row, rounded to 8 bits so that every machine finds the same one, (rows,)."""
    count, length = rows.shape
    total, square = np.empty(count), np.empty(count)
    kernels.moments(np.ascontiguousarray(rows).ravel(), total, square, length)
    mean = total / length
    spread = np.sqrt(np.maximum(square / length - mean * mean, 0.0))
    mantissa, exponent = np.frexp(spread)
    rounded: Floats = np.ldexp(np.rint(mantissa * 256) / 256, exponent).astype(np.float32)
    return rounded


def as_rows(values: NDArray[_Number], row: int) -> Iterator[NDArray[_Number]]:
    """Cut consecutive values into a matrix of whole rows and, where the tensor ends inside one, that short row."""
    whole = len(values) // row * row
    if whole:
        yield values[:whole].reshape(-1, row)
    if whole < len(values):
        yield values[whole:].reshape(1, -1)


@dataclass
class _Seen:
    """What one chunk of a tensor shows, or what its chunks so far add up to."""

    digests: list[bytes]
    size_bytes: int = 0
    low_bits: int = 0
    fits_half: bool = True
    non_finite: int = 0
    nan: int = 0
    carriers: int = 0
    predicted: int = 0
    signal: float = 0.0
    energy: float = 0.0
    row_prints: list[NDArray[np.uint64]] = field(default_factory=list)
    judged: bool = False
    reason: str | None = None
    low_rank: bool = False

    def add(self, chunk: _Seen) -> None:
        """Take in the next chunk; called in order, so that sums are the same on every run."""
        self.digests += chunk.digests
        self.size_bytes += chunk.size_bytes
        self.low_bits |= chunk.low_bits
        self.fits_half &= chunk.fits_half
        self.non_finite += chunk.non_finite
        self.nan += chunk.nan
        self.carriers += chunk.carriers
        self.predicted += chunk.predicted
        self.signal += chunk.signal
        self.energy += chunk.energy
        self.row_prints += chunk.row_prints
        if chunk.judged:
            self.judged, self.reason, self.low_rank = True, chunk.reason, chunk.low_rank


def survey(
    model: Model,
    *,
    base: Model | None = None,
    base_names: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Read the reference once and say what can carry a mark.

    With a `base`, only weights that differ from it are carriers, and strength is relative to the difference;
    `base_names` maps tensor names of the model to those of the base.

    Raises:
        MarkError: a weight tensor holds NaN or infinite values.
    """
    spans = [span for tensor in model.tensors.values() for span in spans_of(tensor)]
    middle = {name: middle_span(tensor) for name, tensor in model.tensors.items()}
    seen = {name: _Seen([]) for name in model.tensors}

    def look(span: Span) -> tuple[Span, _Seen]:
        below = read_base(base, base_names, span)
        place = span.first // max(1, span.last - span.first)
        is_middle = span.first == middle[span.tensor.name]
        return span, _look(span, read_span(model, span), below, predict=place % PREDICT_EVERY == 0, judge=is_middle)

    for span, chunk in in_order(look, spans):
        seen[span.tensor.name].add(chunk)
        if progress is not None:
            progress(chunk.size_bytes)
    based = set(base_names) if base_names is not None else None
    return _conclude(model, seen, based)


def read_base(base: Model | None, base_names: Mapping[str, str] | None, span: Span) -> NDArray[np.floating] | None:
    """The values of the base under a span of the model; None where the base has no such tensor."""
    if base is None or base_names is None or span.tensor.name not in base_names:
        return None
    twin = base.tensors[base_names[span.tensor.name]]
    return decode(read_span(base, Span(twin, span.first, span.last)), twin.dtype)


def middle_span(tensor: TensorInfo) -> int:
    """First block of the chunk in the middle: the first rows of an embedding are often unused tokens."""
    firsts = [span.first for span in spans_of(tensor)]
    return firsts[len(firsts) // 2] if firsts else 0


def can_carry(tensor: TensorInfo) -> bool:
    """Whether a tensor's type and shape allow a mark at all."""
    return tensor.dtype.name in CARRIER_TYPES and len(tensor.shape) >= 2 and math.prod(tensor.shape) > 1


def _look(span: Span, raw: bytes, below: NDArray[np.floating] | None, *, predict: bool, judge: bool) -> _Seen:
    tensor = span.tensor
    seen = _Seen(block_digests(raw, span), len(raw))
    if not can_carry(tensor):
        return seen
    kind, infinity, magnitude = _PATTERNS[tensor.dtype.name]
    found = kernels.scan(np.frombuffer(raw, kind), infinity, magnitude)
    low_bits, seen.non_finite, seen.nan, seen.carriers = (int(number) for number in found)
    if seen.non_finite:
        return seen
    if tensor.dtype.name in {"F32", "F64"}:
        seen.low_bits = low_bits
        seen.fits_half = low_bits & 0x1FFF == 0 and _fits_half(decode(raw, tensor.dtype))
    row = layout_of(tensor.shape).row
    if row >= DUPLICATE_MIN_ROW:
        seen.row_prints = [row_prints(raw, row * tensor.dtype.bits // 8)]
    if below is None and not predict and not judge:
        return seen
    values = decode(raw, tensor.dtype)
    difference = values if below is None else values - below
    seen.carriers = int(np.count_nonzero(difference))
    for rows, delta in zip(as_rows(values, row), as_rows(difference, row), strict=True) if predict else ():
        signal, energy = predict_blind(rows, delta)
        seen.predicted += rows.size
        seen.signal += signal
        seen.energy += energy
    if judge:
        sample = next(as_rows(values, row))[:256, :4096].astype(np.float32)
        seen.judged, seen.reason = True, reason_against(sample)
        seen.low_rank = min(sample.shape) >= LOW_RANK_MIN_ROWS and effective_rank(sample) < LOW_RANK
    return seen


def _fits_half(values: NDArray[np.floating]) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16) == values).all())


def predict_blind(
    rows: NDArray[np.floating], delta: NDArray[np.floating], carries: NDArray[np.bool_] | None = None
) -> tuple[float, float]:
    """Signal per unit of strength and energy of the blind statistic over these rows, from a few of them.

    `delta` is what the strength is a share of; where it is not zero a weight carries, or where `carries` says so.
    """
    step = max(1, len(rows) // _PREDICTION_ROWS)
    some, moved = rows[::step].astype(np.float32), delta[::step]
    f = quantise_blind(some)
    scale = np.ldexp(1.0, scale_exponent(median_magnitude(some.view(np.uint32))))
    live = (moved != 0 if carries is None else carries[::step]) & (np.abs(f) < BLIND_LIMIT)
    share = len(rows) / len(some)
    signal = float((live.sum(axis=1) * scale * deviations(moved)).sum()) * share
    return signal, float(np.square(f, dtype=np.float64).sum()) * share


def row_prints(raw: bytes, row_bytes: int) -> NDArray[np.uint64]:
    """A 64-bit print of each whole row from eight words of it, evenly spaced: equal rows have equal prints, (rows,).

    Rows that agree in all eight words and differ elsewhere are taken for equal too: they then carry no mark, which
    costs a few carriers and nothing else.
    """
    rows = len(raw) // row_bytes
    starts = np.linspace(0, row_bytes - 8, _PRINT_WORDS).astype(np.int64)
    lines = np.frombuffer(raw, np.uint8)[: rows * row_bytes].reshape(rows, row_bytes)
    picked = lines[:, (starts[:, None] + np.arange(8)).ravel()]
    words = np.ascontiguousarray(picked).view(np.uint64)
    prints: NDArray[np.uint64] = ((words ^ (words >> np.uint64(29))) * _PRINT_MULTIPLIERS).sum(axis=1, dtype=np.uint64)
    return prints


def duplicate_rows_of(prints: list[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """Rows whose bytes stand elsewhere in the tensor too: a mark there would show itself in the difference."""
    if not prints:
        return np.empty(0, np.int64)
    every = np.concatenate(prints)
    _, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[inverse] > 1)


def _conclude(model: Model, seen: Mapping[str, _Seen], based: set[str] | None) -> Survey:
    by_digest: dict[bytes, list[str]] = {}
    for name, tensor in model.tensors.items():
        digest = tensor_digest(tensor.dtype.name, tensor.shape, seen[name].digests)
        by_digest.setdefault(digest, []).append(name)
    counted = [digest for digest, names in by_digest.items() for _ in names]
    surveys = tuple(
        _conclude_tensor(model.tensors[names[0]], tuple(names), digest, seen[names[0]], based)
        for digest, names in sorted(by_digest.items())
    )
    return Survey(surveys, canonical_digest(counted))


def _conclude_tensor(
    tensor: TensorInfo, names: tuple[str, ...], digest: bytes, seen: _Seen, based: set[str] | None
) -> TensorSurvey:
    grid = None
    duplicates = np.empty(0, np.int64)
    reason = _reason(tensor, seen)
    if reason is None and based is not None and seen.carriers == 0:
        reason = "equal to the declared base"
    if reason is None:
        grid = grid_of(tensor.dtype, seen.low_bits, seen.fits_half)
        duplicates = duplicate_rows_of(seen.row_prints)
    low_rank = reason is None and seen.low_rank
    carriers = max(0, seen.carriers - len(duplicates) * layout_of(tensor.shape).row) if reason is None else 0
    share = math.prod(tensor.shape) / seen.predicted if seen.predicted else 0.0
    return TensorSurvey(
        tensor,
        names,
        digest,
        tuple(seen.digests),
        grid,
        reason,
        carriers,
        duplicates,
        seen.signal * share,
        seen.energy * share,
        low_rank,
    )


def _reason(tensor: TensorInfo, seen: _Seen) -> str | None:
    if len(tensor.shape) < 2:
        return "one dimension"
    if tensor.dtype.name not in CARRIER_TYPES:
        return f"type {tensor.dtype.name}: integers and 8-bit floats are carried unchanged"
    if not can_carry(tensor):
        return "empty"
    if seen.nan or 0 < seen.non_finite < math.prod(tensor.shape) // 4:
        kind = "NaN" if seen.nan else "infinite"
        raise MarkError(
            f"tensor {tensor.name!r} holds {seen.nan or seen.non_finite} {kind} values",
            hint="a model with such weights computes nothing; mend the tensor, or release with --no-mark",
        )
    if seen.non_finite:
        return "a mask of infinite values"
    return seen.reason if seen.judged else "empty"
