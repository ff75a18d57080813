"""Read and write the header of a safetensors file, and write whole files.

The header decides where every tensor lies, so a lie in it is a lie about the model. `parse_header` takes bytes and
answers or raises; it opens nothing and knows nothing of folders, shards that belong together, or what a tensor means.

Format: https://github.com/huggingface/safetensors: 8 bytes of length (u64, little-endian), that many bytes of JSON
beginning with "{" and padded with spaces, then the tensors without hole or overlap. Stricter than the reference reader:
names that stand twice, unknown members and the wrong types are refused, and the header may have 16 MiB, not 100 MB
(100 MB cost a Python reader seconds and most of a gigabyte before the first check).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from watermark.errors import InputError, LimitError, ModelFormatError
from watermark.model.dtypes import DType, dtype
from watermark.model.strict_json import MAX_INTEGER, JsonCursor, decode_text

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
LENGTH_BYTES: Final = 8
MAX_DIMENSIONS: Final = 64
_METADATA: Final = "__metadata__"
_ALIGNMENT: Final = 8
# Longest text of one tensor's {"dtype", "shape", "data_offsets"}: 64 dimensions of 20 digits, and generous white space.
_MAX_ENTRY_CHARS: Final = 4096


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies, and as what: `begin` is counted from the start of the file `shard`."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    shard: str
    begin: int
    nbytes: int

    @property
    def count(self) -> int:
        """How many elements the tensor has; 1 for a scalar."""
        return prod(self.shape)


def header_length(first_bytes: bytes, file_size: int, shard: str, *, limit: int = MAX_HEADER_BYTES) -> int:
    """Read how long the header is, in bytes and with its 8 bytes of length, before reading it.

    Raises:
        ModelFormatError: the file is too short to be what it says.
        LimitError: the header is over `limit` bytes.
    """
    what = _describe(shard)
    if len(first_bytes) < LENGTH_BYTES or file_size < LENGTH_BYTES:
        raise ModelFormatError(f"{what}: only {file_size} bytes, too short for a safetensors header")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if length > file_size - LENGTH_BYTES:
        raise ModelFormatError(f"{what}: the header claims {length} bytes, the file has {file_size}")
    if length > limit:
        raise LimitError(
            f"{what}: the header has {length} bytes, the limit is {limit}", hint="split the tensors over more shards"
        )
    return LENGTH_BYTES + length


def parse_header(
    data: bytes, file_size: int, shard: str, *, limit: int = MAX_HEADER_BYTES
) -> tuple[tuple[TensorInfo, ...], dict[str, str], int]:
    """Read the header of a safetensors file: its tensors in the order of their bytes, its metadata, and where it ends.

    `data` is the beginning of the file, at least to the end of the header; `file_size` is the size of the whole file
    in bytes. What is returned covers every byte from the end of the header to the end of the file exactly once.

    Raises:
        ModelFormatError: the header is not exactly the format, or does not fit the file.
        LimitError: the header is over `limit` bytes.
    """
    what = _describe(shard)
    end = header_length(data, file_size, shard, limit=limit)
    if len(data) < end:
        raise ModelFormatError(f"{what}: cut within the header, at byte {len(data)} of {end}")
    text = decode_text(data[LENGTH_BYTES:end], what=f"{what} header")
    cursor = JsonCursor(text, what=f"{what} header")
    tensors: list[TensorInfo] = []
    metadata: dict[str, str] = {}
    for name in cursor.members():
        if name == _METADATA:
            metadata = {key: cursor.string() for key in cursor.members()}
        else:
            tensors.append(_read_entry(name, cursor.small_object(_MAX_ENTRY_CHARS), shard, end))
    cursor.end(padding=" ")
    # Empty tensors lie at the begin of the next one, so they come first there.
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.nbytes))
    _check_cover(tensors, end, file_size, what)
    return tuple(tensors), metadata, end


def build_header(
    tensors: Sequence[tuple[str, DType, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Write the header of a safetensors file whose tensors follow each other in the given order.

    The same arguments give the same bytes. Padded with spaces so that the first tensor begins at a multiple of 8.

    Raises:
        InputError: a name is reserved or stands twice, or a shape cannot be written.
        LimitError: over 16 MiB, which our own reader would refuse.
    """
    members: dict[str, Any] = {}
    if metadata:
        members[_METADATA] = dict(metadata)
    begin = 0
    for name, kind, shape in tensors:
        if name in members or name == _METADATA:
            raise InputError(f"the tensor name {name!a} stands twice or is reserved")
        if any(size < 0 for size in shape) or prod(shape) * kind.bits % 8:
            raise InputError(f"tensor {name!a}: the shape {list(shape)} of {kind} is not a whole number of bytes")
        end = begin + prod(shape) * kind.bits // 8
        members[name] = {"dtype": kind.name, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    try:
        text = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError("a tensor name or metadata text holds half of a surrogate pair") from error
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise LimitError(f"the header would have {len(text)} bytes, the limit is {MAX_HEADER_BYTES}")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def write_safetensors(
    path: Path,
    tensors: Iterable[tuple[str, DType, tuple[int, ...], bytes]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file that did not exist before, and return when it is on the disk.

    Raises:
        InputError: the file exists or cannot be written, or a tensor's bytes do not fit its shape.
    """
    listed = list(tensors)
    header = build_header([(name, kind, shape) for name, kind, shape, _ in listed], metadata)
    for name, kind, shape, data in listed:
        if len(data) * 8 != prod(shape) * kind.bits:
            raise InputError(f"tensor {name!a}: {len(data)} bytes do not fill the shape {list(shape)} of {kind}")
    try:
        with path.open("xb") as file:
            file.write(header)
            for _, _, _, data in listed:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _describe(shard: str) -> str:
    return ascii(shard)


def _read_entry(name: str, entry: dict[str, Any], shard: str, data_start: int) -> TensorInfo:
    what = f"{_describe(shard)}: tensor {name[:200]!a}"
    if entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFormatError(f"{what}: must have exactly dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str):
        raise ModelFormatError(f"{what}: the dtype is not a text")
    try:
        kind = dtype(entry["dtype"])
    except ModelFormatError as error:
        raise ModelFormatError(f"{what}: {error}", hint=error.hint) from error
    shape = _whole_numbers(entry["shape"], f"{what}: shape")
    offsets = _whole_numbers(entry["data_offsets"], f"{what}: data_offsets")
    if len(shape) > MAX_DIMENSIONS:
        raise ModelFormatError(f"{what}: {len(shape)} dimensions, the limit is {MAX_DIMENSIONS}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFormatError(f"{what}: data_offsets are not a begin and an end")
    nbytes = offsets[1] - offsets[0]
    # A zero further on must not hide an overflow from readers that multiply in 64 bits.
    if prod(max(size, 1) for size in shape) * kind.bits > MAX_INTEGER:
        raise ModelFormatError(f"{what}: the shape {list(shape)[:8]} is too large for any file")
    if prod(shape) * kind.bits != nbytes * 8:
        raise ModelFormatError(f"{what}: {nbytes} bytes do not hold the shape {list(shape)[:8]} of {kind}")
    return TensorInfo(name, kind, shape, shard, data_start + offsets[0], nbytes)


def _whole_numbers(value: object, what: str) -> tuple[int, ...]:
    # bool is an int to Python, and 1.0 equals 1: the format knows neither here.
    if not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value):
        raise ModelFormatError(f"{what}: not a list of whole numbers")
    return tuple(value)


def _check_cover(tensors: Sequence[TensorInfo], start: int, file_size: int, what: str) -> None:
    covered = start
    for tensor in tensors:
        if tensor.begin != covered:
            kind = "overlaps the one before" if tensor.begin < covered else "leaves a hole before it"
            raise ModelFormatError(f"{what}: tensor {tensor.name[:200]!a} {kind}")
        covered += tensor.nbytes
    if covered != file_size:
        ending = f"{file_size - covered} bytes follow" if covered < file_size else f"{covered - file_size} are missing"
        raise ModelFormatError(f"{what}: the tensors end at byte {covered}, {ending}", hint=None)
