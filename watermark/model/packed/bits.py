"""Small unsigned integers packed into 32-bit words, and parts of the tensors that hold them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from watermark.model.directory import Model
from watermark.model.dtypes import Values
from watermark.model.safetensors import TensorInfo

#: Values of FP4 (E2M1) by code (OCP Microscaling Formats 1.0, 5.3.3).
E2M1: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)

Words = NDArray[np.uint32]
Codes = NDArray[np.int32]

#: Widths that are packed so.
WIDTHS: Final = range(2, 9)
#: Dtypes of such words, and of scales.
WORD: Final = ("I32", "U32")
REAL: Final = ("F16", "BF16", "F32")


def unpack_words(words: Words, bits: int) -> Codes:
    """Take the words of each row as one stream of bits, lowest first, and cut it into numbers of `bits`.

    Args:
        words: (rows, words of a row).
        bits: width of a number.

    Returns:
        (rows, 32 * words of a row // bits).
    """
    count = words.shape[1] * 32 // bits
    at = np.arange(count) * bits
    low, shift = at // 32, (at % 32).astype(np.uint32)
    found = words[:, low] >> shift
    crossing = shift + bits > 32
    if crossing.any():  # three bits, for one, do not divide 32: such a number goes on in the next word
        found[:, crossing] |= words[:, low[crossing] + 1] << (np.uint32(32) - shift[crossing])
    return (found & np.uint32((1 << bits) - 1)).astype(np.int32)


def pack_words(codes: Codes, bits: int, words: int) -> Words:
    """The inverse of `unpack_words`: rows of numbers of `bits` to rows of so many words, zeros behind them."""
    # So many numbers fill whole words, and lie in them like those before them.
    per, step = 32 // math.gcd(32, bits), bits // math.gcd(32, bits)
    rows, count = codes.shape
    whole = np.zeros((rows, -(-max(count, 1) // per) * per), np.uint32)
    whole[:, :count] = codes
    packed = np.zeros((rows, whole.shape[1] // per * step), np.uint32)
    for place in range(per):
        low, shift = divmod(place * bits, 32)
        packed[:, low::step] |= whole[:, place::per] << np.uint32(shift)
        if shift + bits > 32:
            packed[:, low + 1 :: step] |= whole[:, place::per] >> np.uint32(32 - shift)
    return packed[:, :words]


def words_moved(words: Words, bits: int, moves: NDArray[np.int8]) -> Words:
    """Words whose codes are moved, a row of moves for each row of words; all bits behind the codes stay as they are."""
    codes = unpack_words(words, bits)[:, : moves.shape[1]]
    return words ^ pack_words(codes ^ (codes + moves), bits, words.shape[1])


def group_of(model: Model, stated: TensorInfo | None, inputs: int, groups: int) -> NDArray[np.int64]:
    """The group of each input: as stated, where that is a list of groups that there are, else runs of equal length."""
    if stated is not None and stated.shape == (inputs,):
        found: NDArray[np.int64] = model.values(stated, 0, inputs).astype(np.int64)
        if found.min() >= 0 and found.max() < groups:
            return found
    return np.arange(inputs) // -(-inputs // groups)


def rows_of(model: Model, tensor: TensorInfo, start: int, stop: int) -> Values:
    """Rows of a tensor as they are stored, (rows, the rest)."""
    width = tensor.count // tensor.shape[0]
    return model.values(tensor, start * width, stop * width).reshape(stop - start, width)


def columns_of(model: Model, tensor: TensorInfo, start: int, stop: int) -> Values:
    """Columns of a matrix as they are stored, (all rows, columns); no more than these is read."""
    rows, width = tensor.shape
    return np.stack([model.values(tensor, row * width + start, row * width + stop) for row in range(rows)])


def as_words(values: Values) -> Words:
    """Signed or unsigned 32-bit integers as bit patterns."""
    return np.ascontiguousarray(values).view(np.uint32)


def matrix(model: Model, name: str, kinds: Collection[str]) -> TensorInfo | None:
    """The tensor of this name if it has two dimensions, neither of them empty, and one of these dtypes."""
    tensor = model.tensors.get(name)
    fits = tensor is not None and len(tensor.shape) == 2 and min(tensor.shape) > 0 and tensor.dtype.name in kinds
    return tensor if fits else None
