"""The fingerprint's second form: a sketch of a few kB that finds which release a disguised model may come from.

Taken from the weights that ship, so it tells nothing that they do not, and it can be published. It survives training,
pruning, rounding, noise and whatever leaves the function unchanged, and is compared by its cosine. It orders what to
test and names candidates. It is NEVER evidence: models that learned alike have alike sketches, and no p-value is drawn
from likeness. Knows no keys and no registry.

    sketch v1 = "wms1", form (1 byte), numbers of a part (1 byte), parts (2 bytes, little-endian),
                1,280 x int8 for the whole model, then each part's int8 numbers; at most 4,096 bytes
"""

from __future__ import annotations

import struct
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from watermark.errors import DocumentError
from watermark.lineage.anchors import (
    ANCHORS,
    as_bytes,
    projected,
    public_signs,
    unit,
    unit_rows,
    without_common,
)
from watermark.lineage.chain import chain_of
from watermark.lineage.chain_sketch import chain_grams
from watermark.lineage.stream_sketch import has_layers, matrix_rows, stream_grams
from watermark.lineage.symmetry.faces import is_readable
from watermark.model.directory import Model
from watermark.model.safetensors import TensorInfo

Doubles = NDArray[np.float64]
Bytes8 = NDArray[np.int8]
Progress = Callable[[int], None]

MAX_SKETCH_BYTES: Final = 4_096
WHOLE: Final = 1_280
_HEAD: Final = struct.Struct("<4sBBH")
_MAGIC: Final = b"wms1"
_ROOM: Final = MAX_SKETCH_BYTES - _HEAD.size - WHOLE
_LEAST, _MOST = 16, 64


class Form(IntEnum):
    """What kind of network a sketch was taken of, and so what it survives; sketches of two forms are never alike."""

    STREAM = 1
    """Layers around one residual stream: every reordering, rotation and scaling."""
    CHAIN = 2
    """Plain layers one after another: reordered and scaled units."""
    PLAIN = 3
    """Anything else: matrices as they are stored, reordered outputs only."""

    @property
    def word(self) -> str:
        """The form as reports and documents call it."""
        return self.name.lower()


@dataclass(frozen=True)
class Sketch:
    """A model in a few kB.

    Attributes:
        form: what kind of network it is of.
        whole: 1,280 numbers for the model; their scale means nothing.
        parts: (parts, numbers) for its largest matrices or layers, in no order that means anything.
    """

    form: Form
    whole: Bytes8
    parts: Bytes8

    def to_bytes(self) -> bytes:
        """The sketch as it is signed and stored."""
        count, numbers = self.parts.shape
        return _HEAD.pack(_MAGIC, self.form, numbers, count) + self.whole.tobytes() + self.parts.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Sketch:
        """Read a sketch; DocumentError for anything but its exact form."""
        if len(data) < _HEAD.size + WHOLE or len(data) > MAX_SKETCH_BYTES:
            raise DocumentError(f"a sketch has no {len(data)} bytes", hint="take it from the release's claims")
        magic, form, numbers, count = _HEAD.unpack_from(data)
        if magic != _MAGIC or form not in set(Form) or len(data) != _HEAD.size + WHOLE + numbers * count:
            raise DocumentError("this is no sketch of version 1", hint="use a newer weightmark")
        whole = np.frombuffer(data, np.int8, WHOLE, _HEAD.size)
        parts = np.frombuffer(data, np.int8, numbers * count, _HEAD.size + WHOLE).reshape(count, numbers)
        return cls(Form(form), whole, parts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found to sketch: such a one is like no other."""
        return not self.whole.any()


def sketch_model(
    model: Model, progress: Progress | None = None, pieces: MutableMapping[str, bytes] | None = None
) -> Sketch:
    """Sketch an open model: about 100 operations a weight, memory for one layer of a chain or a piece of a stream.

    The same machine gives the same bytes; another may round a few of the numbers the other way. `pieces` holds what an
    earlier run on the same tensors had done, and is added to: only streams take long enough for that.
    """
    tensors = [tensor for tensor in model.weights.values() if is_readable(tensor)]
    is_stream = not _is_mostly_kernels(tensors) and has_layers(tensors)
    grams = stream_grams(model, tensors, progress, pieces) if is_stream else None
    if grams is not None:
        return _sketch(Form.STREAM, projected(grams.whole, WHOLE), grams.parts)
    chain = None if is_stream else chain_of(model, tensors)
    if chain is not None:
        layers = chain_grams(model, chain, progress)
        # A first layer of few inputs holds few numbers, much alike in all that learned to see.
        weights = [min(1.0, chain[0].inputs * chain[0].taps / ANCHORS), *(1.0 for _ in layers[1:])]
        mixed = [
            projected(weight**0.5 * unit(layer), WHOLE, stream)
            for stream, (weight, layer) in enumerate(zip(weights, layers, strict=True))
        ]
        return _sketch(Form.CHAIN, np.sum(mixed, axis=0), layers)
    plain = [_plain_gram(model, tensor, progress) for tensor in tensors if tensor.dtype.is_float]
    whole = projected(np.sum([unit(gram) for gram in plain], axis=0), WHOLE) if plain else np.zeros(WHOLE)
    return _sketch(Form.PLAIN, whole, plain)


def _is_mostly_kernels(tensors: Sequence[TensorInfo]) -> bool:
    kernels = sum(tensor.nbytes for tensor in tensors if len(tensor.shape) == 4)
    return 2 * kernels > sum(tensor.nbytes for tensor in tensors)


def _sketch(form: Form, whole: Doubles, grams: Sequence[Doubles]) -> Sketch:
    """Keep the parts that stand out most, in as many numbers each as there is room for."""
    kept = sorted(grams, key=lambda gram: -float(gram @ gram))[: _ROOM // _LEAST]
    numbers = min(_MOST, _ROOM // max(1, len(kept)))
    if not kept:
        return Sketch(form, as_bytes(whole), np.zeros((0, numbers), np.int8))
    parts = [as_bytes(part) for part in projected(np.stack(kept), numbers)]
    return Sketch(form, as_bytes(whole), np.stack(parts))


def _plain_gram(model: Model, tensor: TensorInfo, progress: Progress | None) -> Doubles:
    """How a tensor's rows go together by the places of its columns, whatever their order and scale; (2080,)."""
    gram = np.zeros((ANCHORS, ANCHORS))
    signs = None
    for _, rows in matrix_rows(model, tensor, progress=progress):
        signs = signs if signs is not None else public_signs(0, rows.shape[1])
        seen = unit_rows(rows) @ signs
        gram += (seen.T @ seen).astype(np.float64)
    common = np.eye(ANCHORS) if signs is None else (signs.T @ signs).astype(np.float64)
    return without_common(gram, common)
