"""The layout of compressed-tensors: codes in words along the inputs, or 8-bit numbers, beside scales of their own.

Also the plain forms that other tools share with it: 8-bit floats with a scale for each tensor, output or square of
128 x 128 (`weight_scale_inv`), and the 8-bit integers of bitsandbytes (`SCB`).

Sources: compressed-tensors ("pack-quantized", "int-quantized", "float-quantized"), the fp8 layout of DeepSeek-V3,
bitsandbytes (LLM.int8()).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from watermark.model.directory import Model
from watermark.model.packed.bits import (
    REAL,
    WIDTHS,
    WORD,
    Codes,
    as_words,
    group_of,
    matrix,
    rows_of,
    unpack_words,
    words_moved,
)
from watermark.model.packed.interface import CodeGrid, Floats, PackedWeight
from watermark.model.packed.moves import Moves
from watermark.model.safetensors import TensorInfo

_PACKED, _SCALE, _ZERO, _SHAPE, _GROUPS = "_packed", "_scale", "_zero_point", "_shape", "_g_idx"
_SCALES_OF_8_BITS = ("_scale", "_scale_inv", ".SCB")
_EIGHT_BITS = ("I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_BLOCK = 128
_INT8_LARGEST = 127.0

#: The numbers that 8-bit integers or floats stand for in the rows from the first number to the second.
_Values: TypeAlias = Callable[[Codes | Floats, int, int], Floats]


def find_compressed(model: Model) -> Iterator[PackedWeight]:
    """Weights in these layouts."""
    for name in model.tensors:
        found = _words(model, name.removesuffix(_PACKED)) if name.endswith(_PACKED) else _eight_bits(model, name)
        if found is not None:
            yield found


def _words(model: Model, stem: str) -> PackedWeight | None:
    """Codes of 2 to 8 bits along the inputs, (outputs, words), offset by half their range."""
    codes, scales = matrix(model, stem + _PACKED, WORD), matrix(model, stem + _SCALE, REAL)
    shape = model.tensors.get(stem + _SHAPE)
    if codes is None or scales is None or shape is None or shape.count != 2 or shape.dtype.is_float:
        return None
    outputs, inputs = (int(size) for size in model.values(shape, 0, 2))
    if inputs < 1 or outputs != codes.shape[0] or scales.shape[0] not in (1, outputs) or scales.shape[1] > inputs:
        return None
    widths = [bits for bits in WIDTHS if -(-inputs * bits // 32) == codes.shape[1]]
    groups, zeros = model.tensors.get(stem + _GROUPS), model.tensors.get(stem + _ZERO)
    bits = widths[0] if widths else 0
    if not widths or not _fits(zeros, (-(-outputs * bits // 32), scales.shape[1])):
        return None
    group = group_of(model, groups, inputs, scales.shape[1])

    def read(start: int, stop: int) -> Codes:
        return unpack_words(as_words(rows_of(model, codes, start, stop)), bits)[:, :inputs]

    def values(found: Codes, start: int, stop: int) -> Floats:
        offset = np.full((stop - start, scales.shape[1]), 1 << (bits - 1), np.int32)
        if zeros is not None:  # packed along the outputs
            words = as_words(model.values(zeros, 0, zeros.count).reshape(zeros.shape))
            offset = unpack_words(np.ascontiguousarray(words.T), bits).T[start:stop]
        kept = rows_of(model, scales, start, stop) if scales.shape[0] == outputs else rows_of(model, scales, 0, 1)
        weights: Floats = (found - offset[:, group]).astype(np.float32) * kept.astype(np.float32)[:, group]
        return weights

    def write(start: int, stop: int, moves: Moves) -> bytes:
        width = codes.shape[1]
        first, last = start // width, -(-stop // width)
        moved = words_moved(as_words(rows_of(model, codes, first, last)), bits, moves.rows(first, last))
        return moved.reshape(-1)[start - first * width : stop - first * width].astype("<u4").tobytes()

    # Few inputs fit words of several widths: enough to look at, not to write.
    grid = CodeGrid(codes, (scales.name,), read, values, write) if len(widths) == 1 else None
    names = [part.name for part in (codes, shape, zeros, groups) if part is not None]
    shape_there = (outputs, inputs)
    return PackedWeight(stem, shape_there, tuple(names), lambda a, b: values(read(a, b), a, b), grid=grid)


def _fits(zeros: TensorInfo | None, shape: tuple[int, int]) -> bool:
    return zeros is None or (zeros.dtype.name in WORD and zeros.shape == shape)


def _eight_bits(model: Model, name: str) -> PackedWeight | None:
    """8-bit integers or floats with a scale for each tensor, output, group of inputs, or square."""
    codes = matrix(model, name, _EIGHT_BITS)
    if codes is None:
        return None
    for suffix in _SCALES_OF_8_BITS:
        place = (name.removesuffix(".weight") if suffix == ".SCB" else name) + suffix
        scales = model.tensors.get(place)
        if scales is not None and scales.dtype.name in REAL:
            unit = 1 / _INT8_LARGEST if suffix == ".SCB" else 1.0
            zeros = model.tensors.get(name + _ZERO)
            values = _scaled(model, codes, scales, unit, zeros)
            if values is not None:
                parts = [part.name for part in (codes, zeros) if part is not None]
                # Under the name of its codes: what a loader calls the weight.
                return _of_eight_bits(model, codes, scales, tuple(parts), values)
    return None


def _of_eight_bits(
    model: Model, codes: TensorInfo, scales: TensorInfo, parts: tuple[str, ...], values: _Values
) -> PackedWeight:
    def read(start: int, stop: int) -> Codes:
        return rows_of(model, codes, start, stop).astype(np.int32)

    def write(start: int, stop: int, moves: Moves) -> bytes:
        return (model.values(codes, start, stop) + moves.elements(start, stop)).astype(np.int8).tobytes()

    def rows(start: int, stop: int) -> Floats:
        return values(rows_of(model, codes, start, stop), start, stop)

    grid = None if codes.dtype.is_float else CodeGrid(codes, (scales.name,), read, values, write)
    return PackedWeight(codes.name, codes.shape, parts, rows, grid=grid)


def _scaled(
    model: Model, codes: TensorInfo, scales: TensorInfo, unit: float, zeros: TensorInfo | None
) -> _Values | None:
    outputs, inputs = codes.shape
    shape = scales.shape if len(scales.shape) == 2 else (scales.count, 1)
    high = _run(outputs, shape[0])
    wide = _run(inputs, shape[1])
    if high is None or wide is None or (zeros is not None and zeros.count != scales.count):
        return None

    def spread(tensor: TensorInfo, start: int, stop: int) -> Floats:
        """One number for each code of some rows."""
        table = model.values(tensor, 0, tensor.count).astype(np.float32).reshape(shape)
        spread_out: Floats = table[np.arange(start, stop) // high][:, np.arange(inputs) // wide]
        return spread_out

    def values(found: Codes | Floats, start: int, stop: int) -> Floats:
        numbers: Floats = found.astype(np.float32)
        if zeros is not None:
            numbers = numbers - spread(zeros, start, stop)
        return numbers * spread(scales, start, stop) * np.float32(unit)

    return values


def _run(size: int, scales: int) -> int | None:
    """How many neighbours have one scale; None where so many scales do not fit."""
    if scales == -(-size // _BLOCK):
        return _BLOCK if scales > 1 else size
    return size // scales if scales and size % scales == 0 else None
