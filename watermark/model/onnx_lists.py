"""Turn tensors that an ONNX file holds as lists of numbers of variable length into bytes that can be read by position.

Some writers put small tensors into the file so, and whoever wants can do so with all of them. Goes through a megabyte
at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from watermark.errors import ModelFormatError
from watermark.model.safetensors import TensorInfo

_READ_BYTES: Final = 1 << 20
_MAX_VARINT_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class ListedTensor:
    """A tensor in pieces of its file.

    Attributes:
        tensor: `begin` is where its bytes are to lie in the file without a name that is its shard.
        pieces: first byte and one past the last, in the order of the numbers.
        item_bytes: bytes that each number of variable length becomes; 0 where the pieces are the bytes themselves.
    """

    tensor: TensorInfo
    pieces: tuple[tuple[int, int], ...]
    item_bytes: int


def listed_bytes(listed: ListedTensor, read: Callable[[int, int], bytes], what: str) -> Iterator[bytes]:
    """The bytes of a tensor, a piece at a time.

    Raises:
        ModelFormatError: there are fewer or more of them than its shape asks for, or a number is none.
    """
    total = 0
    for begin, end in listed.pieces:
        pieces = _windows(read, begin, end)
        for piece in _numbers(pieces, listed.item_bytes, what) if listed.item_bytes else pieces:
            total += len(piece)
            if total <= listed.tensor.nbytes:
                yield piece
    if total != listed.tensor.nbytes:
        tensor = listed.tensor
        raise ModelFormatError(
            f"{what} has the tensor {tensor.name[:200]!a} of the shape {list(tensor.shape)} "
            f"with numbers for {total} bytes, not {tensor.nbytes}"
        )


def _windows(read: Callable[[int, int], bytes], begin: int, end: int) -> Iterator[bytes]:
    for start in range(begin, end, _READ_BYTES):
        yield read(start, min(end, start + _READ_BYTES))


def _numbers(windows: Iterator[bytes], item_bytes: int, what: str) -> Iterator[bytes]:
    """Numbers of variable length as numbers of `item_bytes`, whatever their sign."""
    rest = b""
    for window in windows:
        raw = np.frombuffer(rest + window, np.uint8)
        ends = np.flatnonzero(raw < 0x80) + 1
        whole = int(ends[-1]) if len(ends) else 0
        rest = raw[whole:].tobytes()
        if len(rest) > _MAX_VARINT_BYTES:
            raise _endless(what)
        yield _decoded(raw[:whole], ends, what).astype(f"<u{item_bytes}").tobytes()
    if rest:
        raise ModelFormatError(f"{what} has a list that ends within a number")


def _decoded(raw: NDArray[np.uint8], ends: NDArray[np.intp], what: str) -> NDArray[np.uint64]:
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    lengths = ends - starts
    longest = int(lengths.max(initial=0))
    if longest > _MAX_VARINT_BYTES:
        raise _endless(what)
    values = np.zeros(len(ends), np.uint64)
    for place in range(longest):
        has = lengths > place
        values[has] |= (raw[starts[has] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
    return values


def _endless(what: str) -> ModelFormatError:
    return ModelFormatError(f"{what} has a number of more than {_MAX_VARINT_BYTES} bytes")
