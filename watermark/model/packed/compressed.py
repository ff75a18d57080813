"""The layout of compressed-tensors: codes in words along the inputs, or 8-bit numbers, beside scales of their own.

Also the plain forms that other tools share with it: 8-bit floats with a scale for each tensor, output or square of
128 x 128 (`weight_scale_inv`), and the 8-bit integers of bitsandbytes (`SCB`).

Sources: compressed-tensors ("pack-quantized", "int-quantized", "float-quantized"), the fp8 layout of DeepSeek-V3,
bitsandbytes (LLM.int8()).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from watermark.model.directory import Model
from watermark.model.packed.bits import REAL, WIDTHS, WORD, as_words, group_of, matrix, rows_of, unpack_words
from watermark.model.packed.interface import Floats, PackedWeight, Rows
from watermark.model.safetensors import TensorInfo

_PACKED, _SCALE, _ZERO, _SHAPE, _GROUPS = "_packed", "_scale", "_zero_point", "_shape", "_g_idx"
_SCALES_OF_8_BITS = ("_scale", "_scale_inv", ".SCB")
_EIGHT_BITS = ("I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_BLOCK = 128
_INT8_LARGEST = 127.0


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
    bits = next((bits for bits in WIDTHS if -(-inputs * bits // 32) == codes.shape[1]), None)
    groups, zeros = model.tensors.get(stem + _GROUPS), model.tensors.get(stem + _ZERO)
    if bits is None or not _fits(zeros, (-(-outputs * bits // 32), scales.shape[1])):
        return None
    group = group_of(model, groups, inputs, scales.shape[1])

    def rows(start: int, stop: int) -> Floats:
        found = unpack_words(as_words(rows_of(model, codes, start, stop)), bits)[:, :inputs]
        offset = np.full((stop - start, scales.shape[1]), 1 << (bits - 1), np.int32)
        if zeros is not None:  # packed along the outputs
            words = as_words(model.values(zeros, 0, zeros.count).reshape(zeros.shape))
            offset = unpack_words(np.ascontiguousarray(words.T), bits).T[start:stop]
        kept = rows_of(model, scales, start, stop) if scales.shape[0] == outputs else rows_of(model, scales, 0, 1)
        weights: Floats = (found - offset[:, group]).astype(np.float32) * kept.astype(np.float32)[:, group]
        return weights

    names = [part.name for part in (codes, shape, zeros, groups) if part is not None]
    return PackedWeight(stem, (outputs, inputs), tuple(names), rows)


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
            rows = _scaled(model, codes, scales, unit, zeros)
            if rows is not None:
                parts = [part.name for part in (codes, zeros) if part is not None]
                # Under the name of its codes: what a loader calls the weight.
                return PackedWeight(name, codes.shape, tuple(parts), rows)
    return None


def _scaled(model: Model, codes: TensorInfo, scales: TensorInfo, unit: float, zeros: TensorInfo | None) -> Rows | None:
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

    def rows(start: int, stop: int) -> Floats:
        found: Floats = rows_of(model, codes, start, stop).astype(np.float32)
        if zeros is not None:
            found = found - spread(zeros, start, stop)
        return found * spread(scales, start, stop) * np.float32(unit)

    return rows


def _run(size: int, scales: int) -> int | None:
    """How many neighbours have one scale; None where so many scales do not fit."""
    if scales == -(-size // _BLOCK):
        return _BLOCK if scales > 1 else size
    return size // scales if scales and size % scales == 0 else None
