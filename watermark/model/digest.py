"""Digests of a model's files and tensors in one pass over the bytes.

A tensor digest names a tensor's content: data type, shape and bytes, free of container, shard and name. It is built
from the digests of the tensor's blocks, which the mark's commitment uses again, so that one reading serves both and
the blocks of one huge tensor are hashed on all cores:

    tensor digest    = SHA-256("weightmark tensor v1" 0x00, dtype 0x00, shape as "d0,d1,..." 0x00, block digests)
    canonical digest = SHA-256("weightmark tensors v1" 0x00, the tensor digests of the model, sorted)

Does not know what a mark is. SHA-256 throughout (FIPS 180-4).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from watermark.model.directory import Model
from watermark.model.parallel import in_order
from watermark.model.safetensors import TensorInfo

Progress = Callable[[int], None]

#: Carriers of one block at most: small enough to open in a dispute, large enough that its key costs nothing.
BLOCK_ELEMENTS = 16_384
#: Rows shorter than this are taken together: the deviation of fewer numbers says little.
MIN_ROW_ELEMENTS = 32
#: Fewer elements than this do not tell how large the thief's noise is.
MIN_LINE_ELEMENTS = 256
#: Elements of one piece of work: few enough that its arrays stay in a core's cache.
_CHUNK_ELEMENTS = 1 << 19
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class BlockLayout:
    """How a tensor's elements, in C order, fall into rows (one strength each), lines (one noise each) and blocks.

    A line is whole rows, a block is whole lines.
    """

    count: int
    row: int
    line: int
    per_block: int

    @property
    def blocks(self) -> int:
        """Number of blocks; the last one may be short."""
        return -(-self.count // self.per_block) if self.count else 0

    def bounds(self, block: int) -> tuple[int, int]:
        """First element of `block` and one past its last."""
        return block * self.per_block, min(self.count, (block + 1) * self.per_block)


def layout_of(shape: Sequence[int]) -> BlockLayout:
    """Cut a tensor of `shape` into blocks of whole rows, at most 16,384 elements each; longer rows are cut."""
    count = math.prod(shape)
    row = math.prod(shape[1:]) if len(shape) >= 2 else count
    row = max(1, row)
    if row < MIN_ROW_ELEMENTS:
        row *= -(-MIN_ROW_ELEMENTS // row)
    if row > BLOCK_ELEMENTS:
        row = BLOCK_ELEMENTS
    line = row * -(-MIN_LINE_ELEMENTS // row)
    return BlockLayout(count, row, line, BLOCK_ELEMENTS // line * line)


@dataclass(frozen=True)
class Span:
    """A run of whole blocks of one tensor that is read in one piece: blocks [first, last)."""

    tensor: TensorInfo
    first: int
    last: int


def spans_of(tensor: TensorInfo, elements: int = _CHUNK_ELEMENTS) -> Iterator[Span]:
    """Cut a tensor into runs of blocks of about so many elements, in order."""
    layout = layout_of(tensor.shape)
    step = max(1, elements // layout.per_block)
    for first in range(0, layout.blocks, step):
        yield Span(tensor, first, min(layout.blocks, first + step))


def read_span(model: Model, span: Span) -> bytes:
    """Read the raw bytes of a span."""
    return model.read(span.tensor, *span_bytes(span))


def span_bytes(span: Span) -> tuple[int, int]:
    """First byte of a span within its tensor, and one past its last."""
    layout = layout_of(span.tensor.shape)
    return span.tensor.dtype.byte_range(layout.bounds(span.first)[0], layout.bounds(span.last - 1)[1])


def block_digests(raw: bytes | memoryview, span: Span) -> list[bytes]:
    """SHA-256 of each block of a span."""
    layout, kind = layout_of(span.tensor.shape), span.tensor.dtype
    base = layout.bounds(span.first)[0]
    view = memoryview(raw)
    digests = []
    for block in range(span.first, span.last):
        start, stop = layout.bounds(block)
        first, last = kind.byte_range(start - base, stop - base)
        digests.append(hashlib.sha256(view[first:last]).digest())
    return digests


def tensor_digest(dtype_name: str, shape: Sequence[int], digests: Iterable[bytes]) -> bytes:
    """Name a tensor's content by its type, shape and block digests."""
    state = hashlib.sha256(b"weightmark tensor v1\x00")
    state.update(dtype_name.encode() + b"\x00" + ",".join(map(str, shape)).encode() + b"\x00")
    for digest in digests:
        state.update(digest)
    return state.digest()


def canonical_digest(tensor_digests: Iterable[bytes]) -> bytes:
    """Name a model's weights whatever their names, order and container."""
    return hashlib.sha256(b"weightmark tensors v1\x00" + b"".join(sorted(tensor_digests))).digest()


@dataclass(frozen=True)
class ModelDigest:
    """Digests of a model: every file by path, every tensor by name, and the canonical digest of its weights."""

    files: dict[str, bytes]
    tensors: dict[str, bytes]
    canonical: bytes


def digest_tensors(model: Model, progress: Progress | None = None) -> dict[str, bytes]:
    """Tensor digest of every tensor, by name, on all cores; memory is a few MiB."""
    spans = (span for tensor in model.tensors.values() for span in spans_of(tensor))
    collected: dict[str, list[bytes]] = {name: [] for name in model.tensors}

    def digest_span(span: Span) -> tuple[str, list[bytes], int]:
        raw = read_span(model, span)
        return span.tensor.name, block_digests(raw, span), len(raw)

    whole = sum(tensor.nbytes for tensor in model.tensors.values())
    for name, digests, size_bytes in in_order(digest_span, spans, size_bytes=whole):
        collected[name].extend(digests)
        if progress is not None:
            progress(size_bytes)
    return {name: tensor_digest(t.dtype.name, t.shape, collected[name]) for name, t in model.tensors.items()}


def digest_file(model: Model, path: str, progress: Progress | None = None) -> bytes:
    """SHA-256 of one file of the model."""
    state = hashlib.sha256()
    with model.open_file(path) as stream:
        while chunk := stream.read(_READ_BYTES):
            state.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return state.digest()


def digest_model(model: Model, progress: Progress | None = None) -> ModelDigest:
    """File digests and tensor digests of a model; every file is read through the handle that was checked."""
    tensors = digest_tensors(model, progress)
    order = sorted(model.files, key=lambda entry: -entry.size_bytes)
    digests = in_order(lambda entry: (entry.path, digest_file(model, entry.path)), order)
    files = dict(sorted(digests))
    model.verify_unchanged()
    return ModelDigest(files, tensors, canonical_digest(tensors.values()))
