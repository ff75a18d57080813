"""Read the header of a GGUF file: where every tensor lies, and what the file says of itself.

Reads by position and a little at a time; nothing is mapped. The reader of ggml's own package takes seconds for a large
vocabulary and maps the file, so that one that is cut meanwhile would kill us. Every count, length and offset is held
against the size of the file before it is believed. Knows nothing of what tensors mean.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Final

from watermark.errors import LimitError, ModelFormatError
from watermark.model.ggml import ggml_type
from watermark.model.safetensors import TensorInfo
from watermark.model.strict_json import MAX_INTEGER

MAGIC: Final = b"GGUF"
#: A vocabulary of half a million words with its merges takes about 30 MB.
MAX_GGUF_HEADER_BYTES: Final = 128 * 1024 * 1024

_VERSIONS: Final = (2, 3)
_MAX_DIMENSIONS: Final = 4
_MAX_KEY_BYTES: Final = 65_535
_MAX_NAME_BYTES: Final = 1_024
_MAX_DEPTH: Final = 4
_DEFAULT_ALIGNMENT: Final = 32
_MAX_ALIGNMENT: Final = 1 << 16
_WINDOW_BYTES: Final = 1 << 20
#: Longer texts (templates, licences) say nothing that is asked for here.
_MAX_KEPT_BYTES: Final = 256

#: Types of values: bytes of a plain one, and the numbers of text and array.
_PLAIN_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UNSIGNED: Final = (0, 2, 4, 10)
_TEXT, _ARRAY = 8, 9

#: Gives the bytes of the file from the first number to the second.
Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the first tensor: the tensors in the order of their bytes, short values, and where it ends."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    end: int


def read_gguf_header(read: Read, file_size: int, shard: str, *, limit: int = MAX_GGUF_HEADER_BYTES) -> GgufHeader:
    """Read the header of a GGUF file.

    Args:
        read: gives bytes of the file by position, exactly as many as are asked for.
        file_size: in bytes; no tensor lies beyond it.
        shard: the path of the file, for errors and for the tensors.
        limit: bytes that the header may have.

    Raises:
        ModelFormatError: the header is not exactly the format, or does not fit the file.
        LimitError: the header is over `limit` bytes.
    """
    cursor = _Cursor(read, file_size, f"{shard!a}", limit)
    if cursor.take(4) != MAGIC:
        raise cursor.broken("does not begin as a GGUF file")
    version = cursor.number(4)
    if version not in _VERSIONS:
        is_swapped = int.from_bytes(version.to_bytes(4, "big"), "little") in _VERSIONS
        what = "a big-endian GGUF file" if is_swapped else f"GGUF of version {version}"
        raise cursor.broken(
            f"is {what}; versions 2 and 3, little-endian, are read", "convert it anew with a current tool"
        )
    tensors, values = cursor.number(8), cursor.number(8)
    metadata: dict[str, str] = {}
    for _ in range(values):
        _read_value(cursor, metadata)
    alignment = _alignment(cursor, metadata)
    entries = [_read_entry(cursor, shard) for _ in range(tensors)]
    end = -(-cursor.place // alignment) * alignment
    placed = tuple(sorted((_placed(entry, end, alignment, cursor) for entry in entries), key=_place))
    _check_places(placed, cursor)
    return GgufHeader(placed, {key: value for key, value in metadata.items() if value}, end)


class _Cursor:
    """Reads a header from front to back through a window of a megabyte."""

    def __init__(self, read: Read, file_size: int, what: str, limit: int) -> None:
        self._read, self.file_size, self.what, self._limit = read, file_size, what, limit
        self._window, self._begin = b"", 0
        self.place = 0

    def broken(self, how: str, hint: str | None = None) -> ModelFormatError:
        """Say that the file is not what it should be."""
        return ModelFormatError(f"{self.what} {how}", hint=hint)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.skip(count)
        start = self.place - count
        if not self._begin <= start <= self.place <= self._begin + len(self._window):
            self._begin = start
            self._window = self._read(start, min(self.file_size, start + max(count, _WINDOW_BYTES)))
        at = start - self._begin
        return self._window[at : at + count]

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        if count > self.file_size - self.place:
            raise self.broken(f"is cut within its header, at byte {self.file_size}")
        self.place += count
        if self.place > self._limit:
            raise LimitError(f"{self.what}: the header is over {self._limit} bytes")

    def number(self, count: int) -> int:
        """The next unsigned number of `count` bytes."""
        return int.from_bytes(self.take(count), "little")

    def text(self, limit: int, what: str) -> str:
        """The next text, UTF-8 with its length before it."""
        length = self.number(8)
        if length > limit:
            raise self.broken(f"has {what} of {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"has {what} that is not UTF-8") from error


def _read_value(cursor: _Cursor, metadata: dict[str, str]) -> None:
    key = cursor.text(_MAX_KEY_BYTES, "a key")
    if key in metadata:
        raise cursor.broken(f"has the key {key[:100]!a} twice")
    kind = cursor.number(4)
    metadata[key] = _value(cursor, kind, key, _MAX_DEPTH)


def _value(cursor: _Cursor, kind: int, key: str, depth: int) -> str:
    """Read a value and give it as text if it is short, else give nothing."""
    if kind in _PLAIN_BYTES:
        number = cursor.number(_PLAIN_BYTES[kind])
        return str(number) if kind in _UNSIGNED else ""
    if kind == _TEXT:
        length = cursor.number(8)
        if length > _MAX_KEPT_BYTES:
            cursor.skip(length)
            return ""
        return cursor.take(length).decode(errors="replace")
    if kind != _ARRAY or depth == 0:
        raise cursor.broken(f"has a value of an unknown type {kind} under {key[:100]!a}")
    inner, count = cursor.number(4), cursor.number(8)
    if inner in _PLAIN_BYTES:
        cursor.skip(_PLAIN_BYTES[inner] * count)
    elif inner == _TEXT:
        for _ in range(count):
            cursor.skip(cursor.number(8))
    else:
        for _ in range(count):
            _value(cursor, inner, key, depth - 1)
    return ""


def _alignment(cursor: _Cursor, metadata: dict[str, str]) -> int:
    stated = metadata.get("general.alignment", str(_DEFAULT_ALIGNMENT))
    alignment = int(stated) if stated.isdecimal() else 0
    if not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.broken(f"has the alignment {stated[:40]!a}: it must be a power of two")
    return alignment


def _read_entry(cursor: _Cursor, shard: str) -> TensorInfo:
    """One tensor as the header lists it; `begin` is counted from the first tensor."""
    name = cursor.text(_MAX_NAME_BYTES, "a tensor's name")
    what = f"has the tensor {name[:200]!a}"
    dimensions = cursor.number(4)
    if dimensions > _MAX_DIMENSIONS:
        raise cursor.broken(f"{what} with {dimensions} dimensions, the limit is {_MAX_DIMENSIONS}")
    # ggml counts the fastest dimension first; everyone else writes it last.
    shape = tuple(reversed([cursor.number(8) for _ in range(dimensions)]))
    try:
        kind = ggml_type(cursor.number(4))
    except ModelFormatError as error:
        raise cursor.broken(f"{what}: {error}", error.hint) from error
    begin = cursor.number(8)
    if prod(max(size, 1) for size in shape) * kind.bits > MAX_INTEGER:
        raise cursor.broken(f"{what} of the shape {list(shape)}, too large for any file")
    if (shape[-1] if shape else 1) % kind.block:
        raise cursor.broken(f"{what} of the shape {list(shape)}, whose rows are no whole blocks of {kind}")
    return TensorInfo(name, kind, shape, shard, begin, kind.byte_range(0, prod(shape))[1])


def _placed(entry: TensorInfo, end: int, alignment: int, cursor: _Cursor) -> TensorInfo:
    if entry.begin % alignment:
        raise cursor.broken(f"has the tensor {entry.name[:200]!a} at an offset that is not a multiple of {alignment}")
    return TensorInfo(entry.name, entry.dtype, entry.shape, entry.shard, end + entry.begin, entry.nbytes)


def _place(tensor: TensorInfo) -> tuple[int, int]:
    return tensor.begin, tensor.nbytes


def _check_places(tensors: tuple[TensorInfo, ...], cursor: _Cursor) -> None:
    """Demand that tensors have names of their own and lie within the file and apart: no number is read twice."""
    names: set[str] = set()
    free = 0
    for tensor in tensors:
        if tensor.name in names:
            raise cursor.broken(f"has the tensor {tensor.name[:200]!a} twice")
        names.add(tensor.name)
        if tensor.begin < free:
            raise cursor.broken(f"has the tensor {tensor.name[:200]!a} on top of another")
        free = tensor.begin + tensor.nbytes
        if free > cursor.file_size:
            raise cursor.broken(
                f"ends at byte {cursor.file_size}, before its tensor {tensor.name[:200]!a} does",
                "the file was cut: fetch it again",
            )
