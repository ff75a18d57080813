"""Quantised weights of ONNX models: integer codes, whose scales and zero points the graph says.

The operation that reads the codes names what they are read with, so that nothing rests on names: a constant that such
an operation takes as codes is a weight, (code - zero point) * scale. Weights keep the orientation in which they are
stored. Codes whose operation is unknown, or does not fit them, stay as they are.

Sources: the ONNX operators (DequantizeLinear, QLinearMatMul, QLinearConv, MatMulInteger, ConvInteger) and ONNX
Runtime's ContribOperators.md (the others).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from watermark.model.directory import Model
from watermark.model.dtypes import Values
from watermark.model.onnx_tensors import U2, U4
from watermark.model.onnxfile import OnnxNode
from watermark.model.packed.bits import E2M1
from watermark.model.packed.interface import Floats, PackedWeight
from watermark.model.safetensors import TensorInfo

#: Where codes, scale and zero point stand among the inputs, and along which axis a list of scales goes.
_PLACES: Final[Mapping[str, tuple[tuple[int, int, int, int], ...]]] = {
    "QLinearMatMul": ((3, 4, 5, -1), (0, 1, 2, -2)),
    "QLinearConv": ((3, 4, 5, 0), (0, 1, 2, 0)),
    "QGemm": ((3, 4, 5, -1), (0, 1, 2, -2)),
    "MatMulIntegerToFloat": ((1, 3, 5, -1), (0, 2, 4, -2)),
    "DynamicQuantizeMatMul": ((1, 2, 3, -1),),
    "QAttention": ((1, 4, 7, -1),),
    "QEmbedLayerNormalization": ((2, 8, 13, 0), (3, 9, 14, 0), (4, 10, 15, 0)),
}
#: Operations whose scales come in a later multiplication by the product of both: the axis of a list of scales.
_SCALED_LATER: Final = {"MatMulInteger": -1, "ConvInteger": 0}
_LOOKED_THROUGH: Final = frozenset({"Gather", "Identity"})
_MAX_STEPS: Final = 8

_SMALL: Final = {"U2": False, "I2": True, "U4": False, "I4": True}
_UNSIGNED: Final = {2: U2, 4: U4}
_BITS: Final = frozenset({2, 4, 8})


def find_onnx_quantised(model: Model) -> Iterator[PackedWeight]:
    """Find the quantised weights of an ONNX model; each constant of codes once, as its first operation reads it."""
    graph = _Graph(model)
    found: set[str] = set()
    for node in model.nodes:
        for weight in graph.weights(node):
            if weight.name not in found:
                found.add(weight.name)
                yield weight


@dataclass(frozen=True)
class _Codes:
    """A weight as codes: scale and zero point are one number, a list along `axis`, or one for each run along it."""

    codes: TensorInfo
    scale: TensorInfo
    zero: TensorInfo | None
    axis: int
    run: int = 1
    zero_value: int = 0


class _Graph:
    """The kept operations of a model, and what they say about its tensors."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._sources: dict[str, str] = {}
        self._readers: defaultdict[str, list[OnnxNode]] = defaultdict(list)
        self._makers: dict[str, OnnxNode] = {}
        for node in model.nodes:
            for name in node.inputs:
                self._readers[name].append(node)
            for name in node.outputs:
                self._makers[name] = node
            if node.operation in _LOOKED_THROUGH and node.inputs:
                self._sources.update((name, node.inputs[0]) for name in node.outputs)

    def weights(self, node: OnnxNode) -> Iterator[PackedWeight]:
        """The weights that one operation reads from codes."""
        if node.operation == "MatMulNBits":
            yield from self._bits_matrix(node)
        elif node.operation == "GatherBlockQuantized":
            yield from self._bits_table(node)
        elif node.operation == "DequantizeLinear":
            yield from self._dequantised(node)
        elif node.operation in _SCALED_LATER:
            scales = self._later_scales(node)
            if scales:
                yield from self._packed(node, 1, scales[-1], self._tensor(node, 3), _SCALED_LATER[node.operation])
            if len(scales) > 1:
                yield from self._packed(node, 0, scales[0], self._tensor(node, 2), -2)
        for codes, scale, zero, axis in _PLACES.get(node.operation, ()):
            if codes == 3 and node.operation == "QGemm" and node.settings.get("transB"):
                axis = 0
            yield from self._packed(node, codes, self._tensor(node, scale), self._tensor(node, zero), axis)

    def _dequantised(self, node: OnnxNode) -> Iterator[PackedWeight]:
        codes, scale, zero = (self._tensor(node, at) for at in (0, 1, 2))
        axis, run = node.settings.get("axis", 1), node.settings.get("block_size", 0)
        if run <= 0:
            yield from self._packed(node, 0, scale, zero, axis)
        elif codes is not None and scale is not None:
            yield from self._blocked(codes, scale, zero, axis, run, 0)

    def _bits_matrix(self, node: OnnxNode) -> Iterator[PackedWeight]:
        """MatMulNBits: (outputs, runs, bytes of a run), rows of the weight padded to whole runs."""
        stored, scale, zero = (self._tensor(node, at) for at in (1, 2, 3))
        columns, rows, run, bits = (node.settings.get(name, 0) for name in ("K", "N", "block_size", "bits"))
        bits = bits or 4
        if stored is None or scale is None or stored.dtype.name != "U8" or bits not in _BITS or run * bits % 8:
            return
        if min(columns, rows, run) <= 0 or (len(node.inputs) > 4 and node.inputs[4]):
            return  # columns in an order of their own
        runs = -(-columns // run)
        codes = _unsigned(stored, bits, (rows, runs * run))
        if codes is None or scale.count != rows * runs:
            return
        scale = replace(scale, shape=(rows, runs))
        if len(node.inputs) > 3 and node.inputs[3]:
            if zero is None:
                return
            is_float = zero.dtype.is_float
            per_byte = 8 // bits
            padded = runs if is_float else -(-runs // per_byte) * per_byte
            zero = replace(zero, shape=(rows, runs)) if is_float else _unsigned(zero, bits, (rows, padded))
            if zero is None or zero.count != rows * padded:
                return
        yield from self._built(_Codes(codes, scale, zero, 1, run, 1 << (bits - 1)), stored.name, (rows, columns))

    def _bits_table(self, node: OnnxNode) -> Iterator[PackedWeight]:
        """GatherBlockQuantized: a table whose rows are looked up, quantised in runs along one axis."""
        stored, scale, zero = (self._tensor(node, at) for at in (0, 2, 3))
        run, bits = node.settings.get("block_size", 128), node.settings.get("bits", 4)
        if stored is None or scale is None or run <= 0 or (len(node.inputs) > 3 and node.inputs[3] and zero is None):
            return
        middle = 0
        codes: TensorInfo | None = stored
        if stored.dtype.name == "U8":
            if bits not in _BITS or not stored.shape:
                return
            per_byte, middle = 8 // bits, 1 << (bits - 1)
            codes = _unsigned(stored, bits, (*stored.shape[:-1], stored.shape[-1] * per_byte))
            if zero is not None:
                zero = _unsigned(zero, bits, (*zero.shape[:-1], zero.shape[-1] * per_byte) if zero.shape else ())
        if codes is not None:
            yield from self._blocked(codes, scale, zero, node.settings.get("quantize_axis", 1), run, middle)

    def _blocked(
        self, codes: TensorInfo, scale: TensorInfo, zero: TensorInfo | None, axis: int, run: int, middle: int
    ) -> Iterator[PackedWeight]:
        axis += len(codes.shape) * (axis < 0)
        if not 0 <= axis < len(codes.shape):
            return
        runs = (*codes.shape[:axis], -(-codes.shape[axis] // run), *codes.shape[axis + 1 :])
        if zero is not None and zero.shape != runs:
            # Zero points of less than a byte fill whole bytes at the end of a row.
            is_padded = axis == len(runs) - 1 and zero.shape[:-1] == runs[:-1] and 0 <= zero.shape[-1] - runs[-1] < 4
            if not is_padded:
                return
        if scale.shape == runs:
            yield from self._built(_Codes(codes, scale, zero, axis, run, middle), codes.name, codes.shape)

    def _packed(
        self, node: OnnxNode, at: int, scale: TensorInfo | None, zero: TensorInfo | None, axis: int
    ) -> Iterator[PackedWeight]:
        """Codes with one scale, or with a list of them along an axis."""
        codes = self._tensor(node, at)
        if scale is None:
            return
        if codes is None and scale.count == 1 and at < len(node.inputs):
            # A table is quantised as a whole, and what was looked up in it goes on as codes.
            codes = self._model.tensors.get(self._source(node.inputs[at]))
        if codes is None or not codes.shape:
            return
        if scale.count == 1 and (zero is None or zero.count == 1):
            axis = 0
        axis += len(codes.shape) * (axis < 0)
        if not 0 <= axis < len(codes.shape):
            return
        if all(one is None or one.count in (1, codes.shape[axis]) for one in (scale, zero)):
            yield from self._built(_Codes(codes, scale, zero, axis), codes.name, codes.shape)

    def _built(self, packed: _Codes, name: str, shape: tuple[int, ...]) -> Iterator[PackedWeight]:
        parts = [one for one in (packed.codes, packed.scale, packed.zero) if one is not None]
        if not packed.scale.dtype.is_float or not all(_is_readable(one) and one.count for one in parts):
            return
        width = packed.codes.shape[1:]
        is_cut = shape != packed.codes.shape

        def rows(start: int, stop: int) -> Floats:
            values = _values(self._model, packed, start, stop).reshape(stop - start, *width)
            return values[:, : shape[1]] if is_cut else values

        step = packed.run if packed.axis == 0 else 1
        yield PackedWeight(name, shape, tuple(part.name for part in parts), rows, step)

    def _later_scales(self, node: OnnxNode) -> list[TensorInfo]:
        """The constants in the product of scales that a product of integers meets; the last is of the second factor."""
        output = next(iter(node.outputs), "")
        for _ in range(_MAX_STEPS):
            readers = self._readers.get(output, [])
            if len(readers) != 1 or not readers[0].outputs:
                break
            reader = readers[0]
            if reader.operation == "Mul":
                other = next((name for name in reader.inputs if name != output), "")
                maker = self._makers.get(other)
                inputs = maker.inputs if maker is not None and maker.operation == "Mul" else ()
                return [self._model.tensors[one] for one in (other, *inputs) if one in self._model.tensors]
            if reader.operation not in ("Cast", "Identity"):
                break
            output = reader.outputs[0]
        return []

    def _source(self, name: str) -> str:
        for _ in range(_MAX_STEPS):
            if name not in self._sources:
                break
            name = self._sources[name]
        return name

    def _tensor(self, node: OnnxNode, at: int) -> TensorInfo | None:
        return self._model.tensors.get(node.inputs[at]) if at < len(node.inputs) else None


def _unsigned(stored: TensorInfo, bits: int, shape: tuple[int, ...]) -> TensorInfo | None:
    """Bytes as the unsigned codes that they hold; None where they hold another number of them."""
    if stored.dtype.name != "U8" or math.prod(shape) * bits != stored.nbytes * 8:
        return None
    return replace(stored, dtype=_UNSIGNED.get(bits, stored.dtype), shape=shape)


def _is_readable(tensor: TensorInfo) -> bool:
    return tensor.dtype.is_decodable or tensor.dtype.name in (*_SMALL, "F4")


def _values(model: Model, packed: _Codes, start: int, stop: int) -> Floats:
    """Numbers of the rows from `start` to `stop`, as (rows, the rest)."""
    shape = (stop - start, *packed.codes.shape[1:])
    codes = _read(model, packed.codes, start * math.prod(shape[1:]), stop * math.prod(shape[1:])).reshape(shape)
    zero = packed.zero_value if packed.zero is None else _spread(model, packed, packed.zero, start, stop)
    # A hostile scale may be infinite: what comes of it is no number, and readers of values know those.
    with np.errstate(all="ignore"):
        values: Floats = (codes.astype(np.float32) - zero) * _spread(model, packed, packed.scale, start, stop)
    return values


def _spread(model: Model, packed: _Codes, of: TensorInfo, start: int, stop: int) -> Floats:
    """Scales or zero points of those rows, in a shape that goes with their codes."""
    axis, shape = packed.axis, packed.codes.shape
    if of.count == 1:
        return _read(model, of, 0, 1).astype(np.float32)
    if packed.run == 1 and of.count == shape[axis]:
        first, last = (start, stop) if axis == 0 else (0, of.count)
        listed = _read(model, of, first, last).astype(np.float32)
        return listed.reshape([-1 if at == axis else 1 for at in range(len(shape))])
    run = packed.run
    first, last = (start // run, -(-stop // run)) if axis == 0 else (start, stop)
    row = math.prod(of.shape[1:])
    runs = _read(model, of, first * row, last * row).astype(np.float32).reshape(last - first, *of.shape[1:])
    spread: Floats = np.repeat(runs, run, axis=axis)
    begin = start - first * run if axis == 0 else 0
    length = stop - start if axis == 0 else shape[axis]
    return spread[(slice(None),) * axis + (slice(begin, begin + length),)]


def _read(model: Model, tensor: TensorInfo, start: int, stop: int) -> Values:
    """Elements of a tensor, those of less than a byte among them: the lowest bits of a byte come first."""
    kind = tensor.dtype
    if kind.is_decodable:
        return model.values(tensor, start, stop)
    first, last = kind.byte_range(start, stop)
    raw = np.frombuffer(model.read(tensor, first, last), np.uint8)
    per_byte = 8 // kind.bits
    places = np.arange(per_byte, dtype=np.uint8) * np.uint8(kind.bits)
    codes: Values = ((raw[:, None] >> places) & np.uint8((1 << kind.bits) - 1)).reshape(-1)
    codes = codes[start - first * per_byte : stop - first * per_byte]
    if kind.name == "F4":
        return E2M1[codes]
    if not _SMALL[kind.name]:
        return codes
    half = np.int8(1 << (kind.bits - 1))
    codes = codes.astype(np.int8) ^ half
    codes -= half
    return codes
