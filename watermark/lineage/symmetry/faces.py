"""The matrices of a model as the residual stream sees them: every one has a private axis and a residual one.

A transformer is a bag of matrices that read from one stream of numbers or write to it. Which axis of a tensor is the
stream's shows in its size alone, so neither names nor a configuration are needed; a square matrix is offered both ways,
a stack of experts entry by entry, and a fused projection in parts. Knows no keys and nothing of what is matched.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]

#: A stream of fewer numbers than this is none.
MIN_WIDTH = 16
#: Matrices up to so many bytes together are kept in memory between rounds; what lies beyond is read again.
CACHE_BYTES = 1 << 30


def is_readable(tensor: TensorInfo) -> bool:
    """Whether a tensor can be a matrix here: two or more dimensions, numbers, not empty."""
    return (
        len(tensor.shape) >= 2 and tensor.dtype.is_decodable and tensor.dtype.name != "BOOL" and min(tensor.shape) > 0
    )


@dataclass(frozen=True, slots=True)
class Face:
    """One matrix seen from the stream.

    Attributes:
        tensor: where it is stored.
        entry: which entry of a stack it is; None for a tensor that is one matrix.
        axis: the axis of the matrix, 0 or 1, that is the stream's.
        start: first row of the private axis.
        stop: one past the last.
    """

    tensor: TensorInfo
    entry: int | None
    axis: int
    start: int
    stop: int

    @property
    def private(self) -> int:
        """Length of the private axis."""
        return self.stop - self.start

    @property
    def width(self) -> int:
        """Length of the stream's axis."""
        shape = self.tensor.shape if self.entry is None else self.tensor.shape[1:]
        return shape[0] if self.axis == 0 else math.prod(shape[1:])

    @property
    def slot(self) -> tuple[str, int | None, int]:
        """What can be taken only once: this part of this matrix, whichever way it is seen."""
        return self.tensor.name, self.entry, self.start

    def part(self, start: int, stop: int) -> Face:
        """The private rows from `start` to `stop` of this face."""
        return replace(self, start=self.start + start, stop=self.start + stop)


class Weights:
    """Reads the matrices of an open model as float32, and keeps them as long as there is room."""

    def __init__(self, model: Model, cache_bytes: int = CACHE_BYTES) -> None:
        """Read from `model`, which must stay open."""
        self.model = model
        self._left = cache_bytes
        self._kept: dict[tuple[str, int | None], Floats] = {}

    def matrix(self, tensor: TensorInfo, entry: int | None) -> Floats:
        """A tensor, or one entry of a stack, as (first axis, all others); what is no number is 0."""
        key = (tensor.name, entry)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        shape = tensor.shape if entry is None else tensor.shape[1:]
        count = math.prod(shape)
        first = 0 if entry is None else entry * count
        with np.errstate(over="ignore"):
            values = self.model.values(tensor, first, first + count).astype(np.float32, copy=False)
        good = np.isfinite(values)
        matrix: Floats = (values if good.all() else np.where(good, values, np.float32(0))).reshape(shape[0], -1)
        if matrix.nbytes <= self._left:
            self._left -= matrix.nbytes
            self._kept[key] = matrix
        return matrix

    def face(self, face: Face) -> Floats:
        """A face as (private, width), contiguous."""
        matrix = self.matrix(face.tensor, face.entry)
        seen = matrix if face.axis == 1 else matrix.T
        return np.ascontiguousarray(seen[face.start : face.stop])


def faces_of(tensor: TensorInfo, width: int) -> list[Face]:
    """Every way in which a tensor can be seen from a stream of `width` numbers."""
    if not is_readable(tensor):
        return []
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    faces = []
    if columns == width:
        faces.append(Face(tensor, None, 1, 0, rows))
    if rows == width:
        faces.append(Face(tensor, None, 0, 0, columns))
    if len(tensor.shape) == 3 and not faces:
        for axis in (1, 0):
            if tensor.shape[1 + axis] == width:
                private = tensor.shape[2 - axis]
                faces += [Face(tensor, entry, axis, 0, private) for entry in range(tensor.shape[0])]
                break
    return faces


def stream_width(tensors: Iterable[TensorInfo]) -> int | None:
    """The size that most weights have on one of their axes; None where no size is on most of them."""
    weight: Counter[int] = Counter()
    total = 0
    for tensor in tensors:
        if is_readable(tensor):
            count = math.prod(tensor.shape)
            total += count
            for size in {*tensor.shape[:3], count // tensor.shape[0]}:
                weight[size] += count
    likely = [(found, size) for size, found in weight.items() if size >= MIN_WIDTH]
    if not likely:
        return None
    found, width = max(likely)
    return width if found > total / 2 else None
