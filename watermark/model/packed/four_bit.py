"""Four-bit numbers from a table, two in a byte, with a scale for each block: bitsandbytes, MXFP4 and NVFP4.

Sources: bitsandbytes (`functional.QuantState`, NF4 and FP4, nested absmax), Dettmers et al., QLoRA (2023); OCP
Microscaling Formats 1.0, 5.3.3 (MXFP4), as the gpt-oss checkpoints and compressed-tensors lay it out; NVFP4 of
compressed-tensors ("nvfp4-pack-quantized") and of NVIDIA's ModelOpt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from watermark.model.directory import Model
from watermark.model.dtypes import Values
from watermark.model.packed.bits import E2M1, REAL, matrix, rows_of
from watermark.model.packed.interface import Floats, PackedWeight
from watermark.model.safetensors import TensorInfo

_STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
_MAX_STATE_BYTES = 4_096
_BLOCKS, _SCALES = "_blocks", "_scales"
_PACKED, _SCALE, _DIVISOR, _FACTOR = "_packed", "_scale", "_global_scale", "_scale_2"
_BLOCK_SCALES = ("U8", "F8_E8M0", "F8_E4M3")


def find_four_bit(model: Model) -> Iterator[PackedWeight]:
    """Weights in the layout of bitsandbytes, of MXFP4 or of NVFP4."""
    for name, tensor in model.tensors.items():
        if tensor.dtype.name != "U8":
            continue
        found = _bitsandbytes(model, name, tensor) or _blocks(model, name, tensor) or _matrix(model, name, tensor)
        if found is not None:
            yield found


def _bitsandbytes(model: Model, name: str, codes: TensorInfo) -> PackedWeight | None:
    """Two numbers a byte, the first in the upper half; the shape stands in a JSON text beside them."""
    of_state = next((model.tensors[name + suffix] for suffix in _STATES if name + suffix in model.tensors), None)
    table, absmax = model.tensors.get(name + ".quant_map"), model.tensors.get(name + ".absmax")
    if of_state is None or table is None or table.count != 16 or absmax is None:
        return None
    state = _state(model, of_state)
    shape, block = state.get("shape"), state.get("blocksize")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size > 0 for size in shape):
        return None
    count = math.prod(shape)
    if type(block) is not int or block < 1 or -(-count // 2) != codes.count or -(-count // block) != absmax.count:
        return None
    nested = [model.tensors.get(name + suffix) for suffix in (".nested_absmax", ".nested_quant_map")]
    scales = _absmax(model, absmax, nested, state)
    if scales is None:
        return None
    values = model.values(table, 0, 16).astype(np.float32)
    row = count // shape[0]

    def rows(start: int, stop: int) -> Floats:
        first, last = start * row, stop * row
        packed = model.values(codes, first // 2, -(-last // 2))
        both = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[first % 2 :][: last - first]
        weights: Floats = values[both] * scales[np.arange(first, last) // block]
        return weights.reshape(stop - start, row)

    parts = [part.name for part in (codes, of_state, absmax) if not part.dtype.is_float]
    return PackedWeight(name, tuple(shape), tuple(parts), rows)


def _state(model: Model, tensor: TensorInfo) -> dict[str, object]:
    if tensor.dtype.name != "U8" or tensor.count > _MAX_STATE_BYTES:
        return {}
    try:
        state = json.loads(model.values(tensor, 0, tensor.count).tobytes())
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _absmax(
    model: Model, absmax: TensorInfo, nested: list[TensorInfo | None], state: dict[str, object]
) -> Floats | None:
    """The scale of each block; where it is quantised itself, from its codes, their table and their scales."""
    stored = model.values(absmax, 0, absmax.count)
    if absmax.dtype.is_float:
        return stored.astype(np.float32)
    outer, table = nested
    block, offset = state.get("nested_blocksize"), state.get("nested_offset")
    if outer is None or table is None or table.count != 256 or type(block) is not int or block < 1:
        return None
    if not isinstance(offset, float | int) or -(-absmax.count // block) != outer.count or absmax.dtype.name != "U8":
        return None
    scales = model.values(outer, 0, outer.count).astype(np.float32)
    values: NDArray[np.float32] = model.values(table, 0, 256).astype(np.float32)[stored]
    return values * scales[np.arange(absmax.count) // block] + np.float32(offset)


def _blocks(model: Model, name: str, codes: TensorInfo) -> PackedWeight | None:
    """MXFP4 of gpt-oss: blocks of 32 numbers in 16 bytes, the first in the lower half, and a power of two for each."""
    stem = name.removesuffix(_BLOCKS)
    exponents = model.tensors.get(stem + _SCALES)
    if stem == name or exponents is None or exponents.dtype.name != "U8":
        return None
    if len(codes.shape) < 3 or codes.shape[-1] != 16 or codes.shape[:-1] != exponents.shape or not codes.count:
        return None
    shape = (*codes.shape[:-2], codes.shape[-2] * 32)
    blocks = math.prod(exponents.shape[1:])

    def rows(start: int, stop: int) -> Floats:
        packed = model.values(codes, start * blocks * 16, stop * blocks * 16)
        values = _numbers(packed).reshape(-1, 32)
        power = model.values(exponents, start * blocks, stop * blocks).astype(np.int32) - 127
        return np.ldexp(values, power[:, None]).astype(np.float32).reshape(stop - start, -1)

    return PackedWeight(stem, shape, (codes.name, exponents.name), rows)


def _matrix(model: Model, name: str, codes: TensorInfo) -> PackedWeight | None:
    """MXFP4 or NVFP4 of a linear layer: (outputs, inputs / 2), a scale for each run of inputs, one for all of NVFP4."""
    stem = name.removesuffix(_PACKED)
    scales = matrix(model, stem + _SCALE, _BLOCK_SCALES)
    if scales is None or len(codes.shape) != 2 or not codes.count or scales.shape[0] != codes.shape[0]:
        return None
    outputs, inputs = codes.shape[0], 2 * codes.shape[1]
    if inputs % scales.shape[1]:
        return None
    run = inputs // scales.shape[1]
    common = _common_factor(model, stem)

    def rows(start: int, stop: int) -> Floats:
        stored = rows_of(model, scales, start, stop)
        factors = np.ldexp(1.0, stored.astype(np.int32) - 127) if scales.dtype.name == "U8" else stored
        numbers = _numbers(rows_of(model, codes, start, stop)).reshape(stop - start, inputs)
        return (numbers * np.repeat(factors * common, run, axis=1)).astype(np.float32)

    parts = [part.name for part in (codes, scales) if part.dtype.name in ("U8", "F8_E8M0")]
    return PackedWeight(stem, (outputs, inputs), tuple(parts), rows)


def _common_factor(model: Model, stem: str) -> float:
    """The factor of a whole weight: compressed-tensors stores what to divide by, ModelOpt what to multiply by."""
    for suffix in (_DIVISOR, _FACTOR):
        tensor = model.tensors.get(stem + suffix)
        if tensor is not None and tensor.count == 1 and tensor.dtype.name in REAL:
            value = float(model.values(tensor, 0, 1)[0])
            return (1 / value if value else 1.0) if suffix == _DIVISOR else value
    return 1.0


def _numbers(packed: Values) -> Floats:
    """FP4 numbers of bytes, the one in the lower half first."""
    numbers: Floats = E2M1[np.stack([packed & 15, packed >> 4], axis=-1)]
    return numbers
