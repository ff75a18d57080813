"""Put the matrices of a plain network in order: a chain in which each one reads what the one before it writes.

Multilayer perceptrons and convolutional networks without side paths. The order shows in the shapes; where shapes leave
it open, in the sizes of what one layer writes and the next reads. Names and the order of storage are not looked at, and
a matrix may be stored either way round. Knows no keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.lineage.anchors import sane
from watermark.lineage.symmetry.faces import is_readable
from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

#: Longer chains are not looked for: what is longer has side paths.
_MOST_LAYERS = 64
_MOST_STEPS = 20_000
#: Tensors beyond this are not taken into memory: a chain holds one layer at a time.
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True, slots=True)
class Link:
    """One layer, seen as (outputs, inputs, taps): taps are the places of a kernel, or of an image that is flattened."""

    tensor: TensorInfo
    is_transposed: bool
    outputs: int
    inputs: int
    taps: int

    def read(self, model: Model) -> Floats:
        """The layer as (outputs, inputs, taps); what is no number is 0."""
        with np.errstate(over="ignore"):
            values = model.values(self.tensor, 0, math.prod(self.tensor.shape)).astype(np.float32, copy=False)
        whole = sane(values).reshape(self.tensor.shape)
        turned = whole.T if self.is_transposed else whole
        return np.ascontiguousarray(turned).reshape(self.outputs, self.inputs, self.taps)


def chain_of(model: Model, tensors: Sequence[TensorInfo]) -> tuple[Link, ...] | None:
    """The layers from input to output, every matrix used once; None where they are not one chain."""
    matrices = [tensor for tensor in tensors if is_readable(tensor) and tensor.dtype.is_float]
    if not 1 <= len(matrices) <= _MOST_LAYERS or any(math.prod(t.shape) > MAX_ELEMENTS for t in matrices):
        return None
    ends = {tensor.name: _energies(model, tensor) for tensor in matrices}
    search = _Search(matrices, ends)
    starts = [link for tensor in matrices for link in _ways(tensor)]
    for start in sorted(starts, key=lambda link: (len(link.tensor.shape) == 2, -link.inputs, -link.outputs)):
        found = search.extend((start,), frozenset({start.tensor.name}))
        if found is not None:
            return found
    return None


def _ways(tensor: TensorInfo) -> list[Link]:
    """How a tensor may be read: a kernel one way, a matrix both ways."""
    shape = tensor.shape
    if len(shape) > 2:
        return [Link(tensor, False, shape[0], shape[1], math.prod(shape[2:]))]
    return [Link(tensor, False, shape[0], shape[1], 1), Link(tensor, True, shape[1], shape[0], 1)]


def _joined(before: Link, after: Link) -> Link | None:
    """`after` as it reads what `before` writes, channels flattened with their places where need be."""
    if after.inputs == before.outputs:
        return after
    if after.taps == 1 and before.taps > 1 and after.inputs % before.outputs == 0:
        return Link(after.tensor, after.is_transposed, after.outputs, before.outputs, after.inputs // before.outputs)
    return None


class _Search:
    """Depth first, likelier neighbours first, a bounded number of steps."""

    def __init__(self, matrices: Sequence[TensorInfo], ends: dict[str, tuple[Doubles, Doubles]]) -> None:
        self._matrices = matrices
        self._ends = ends
        self._steps = 0

    def extend(self, path: tuple[Link, ...], used: frozenset[str]) -> tuple[Link, ...] | None:
        """The path with all other matrices behind it, or None."""
        if len(path) == len(self._matrices):
            return path
        self._steps += 1
        if self._steps > _MOST_STEPS:
            return None
        ways = [way for tensor in self._matrices if tensor.name not in used for way in _ways(tensor)]
        joined = [link for way in ways if (link := _joined(path[-1], way)) is not None]
        for link in sorted(joined, key=lambda link: -self._likeness(path[-1], link)):
            found = self.extend((*path, link), used | {link.tensor.name})
            if found is not None:
                return found
        return None

    def _likeness(self, before: Link, after: Link) -> float:
        """How far the sizes of what is written and of what is read go together, whichever way."""
        written = self._side(before, outputs=True)
        read = self._side(after, outputs=False).reshape(after.inputs, -1).sum(axis=1)
        if len(written) < 3 or len(written) != len(read):
            return 0.0
        left, right = np.log(written + 1e-30), np.log(read + 1e-30)
        left, right = left - left.mean(), right - right.mean()
        size = float(np.linalg.norm(left) * np.linalg.norm(right))
        return abs(float(left @ right)) / size if size > 0 else 0.0

    def _side(self, link: Link, *, outputs: bool) -> Doubles:
        first, second = self._ends[link.tensor.name]
        return first if outputs != link.is_transposed else second


def _energies(model: Model, tensor: TensorInfo) -> tuple[Doubles, Doubles]:
    """Sums of squares over the first axis' entries and over the second's."""
    with np.errstate(over="ignore"):
        values = model.values(tensor, 0, math.prod(tensor.shape)).astype(np.float32, copy=False)
    squares = np.square(sane(values), dtype=np.float64)
    squares = squares.reshape(tensor.shape[0], tensor.shape[1], -1).sum(axis=2)
    return squares.sum(axis=1), squares.sum(axis=0)
