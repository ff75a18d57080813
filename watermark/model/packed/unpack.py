"""Write what packed weights stand for into a nameless file, and let a model offer these numbers in their place.

Float32, so that a number is exactly what the layout says: a reader that multiplies a half by a small integer must not
round it. Memory is a few rows; the disk has to hold the unpacked weights. Knows no layout.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from typing import Final

import numpy as np

from watermark.model.directory import Model
from watermark.model.dtypes import dtype, encode
from watermark.model.nameless import nameless_file, write_at
from watermark.model.packed.interface import PackedWeight
from watermark.model.safetensors import TensorInfo

UNPACKED_SHARD: Final = "unpacked weights"
_PIECE_ELEMENTS: Final = 1 << 22


def unpack(model: Model, packed: Iterable[PackedWeight]) -> None:
    """Unpack weights and put them in `model.weights` in place of their parts.

    Raises:
        InputError: there is no room for them.
    """
    descriptor = -1
    weights: dict[str, TensorInfo] = {}
    parts: dict[str, None] = {}
    place = 0
    try:
        for weight in packed:
            if descriptor < 0:
                descriptor = nameless_file()
            begin = place
            for data in _pieces(weight):
                place += write_at(descriptor, data, place)
            parts |= dict.fromkeys(weight.parts)
            name = _free_name(weight, model, weights)
            weights[name] = TensorInfo(name, dtype("F32"), weight.shape, UNPACKED_SHARD, begin, place - begin)
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        raise
    if weights:
        model.add_unpacked(descriptor, weights.values(), parts)


def _free_name(weight: PackedWeight, model: Model, unpacked: Collection[str]) -> str:
    """Its name; where a tensor that is none of its parts, or another weight, has that already, one of its own."""
    name = weight.name
    if name in model.tensors and name not in weight.parts:
        name = f"{name} (unpacked)"
    while name in unpacked:
        name = f"{name} (again)"
    return name


def _pieces(weight: PackedWeight) -> Iterable[bytes]:
    row = math.prod(weight.shape[1:])
    step = max(1, _PIECE_ELEMENTS // max(1, row) // weight.row_step) * weight.row_step
    for start in range(0, weight.shape[0], step):
        stop = min(weight.shape[0], start + step)
        with np.errstate(all="ignore"):  # a hostile scale may be no number; readers of values know such
            values = weight.rows(start, stop)
        assert values.size == (stop - start) * row
        yield encode(values, dtype("F32"))
