"""Write what packed weights stand for into a nameless file, and let a model offer these numbers in their place.

Float32, so that a number is exactly what the layout says: a reader that multiplies a half by a small integer must not
round it. Memory is a few rows; the disk has to hold the unpacked weights. Knows no layout.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
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
    weights: list[TensorInfo] = []
    parts: dict[str, None] = {}
    place = 0
    try:
        for weight in packed:
            if descriptor < 0:
                descriptor = nameless_file()
            begin = place
            for data in _pieces(weight):
                place += write_at(descriptor, data, place)
            kind = dtype("F32")
            parts |= dict.fromkeys(weight.parts)
            weights.append(
                TensorInfo(_free_name(weight, model), kind, weight.shape, UNPACKED_SHARD, begin, place - begin)
            )
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        raise
    if weights:
        model.add_unpacked(descriptor, weights, parts)


def _free_name(weight: PackedWeight, model: Model) -> str:
    """Its name; where a tensor that is none of its parts has that already, one that says what it is."""
    is_free = weight.name not in model.tensors or weight.name in weight.parts
    return weight.name if is_free else f"{weight.name} (unpacked)"


def _pieces(weight: PackedWeight) -> Iterable[bytes]:
    row = math.prod(weight.shape[1:])
    step = max(1, _PIECE_ELEMENTS // max(1, row) // weight.row_step) * weight.row_step
    for start in range(0, weight.shape[0], step):
        stop = min(weight.shape[0], start + step)
        with np.errstate(all="ignore"):  # a hostile scale may be no number; readers of values know such
            values = weight.rows(start, stop)
        assert values.size == (stop - start) * row
        yield encode(values, dtype("F32"))
