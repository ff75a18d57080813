"""Read one tensor of an ONNX file: its name, type and shape, and where its numbers lie.

Numbers lie together in `raw_data` or in a data file beside the model, or one by one in a list. No number is read here.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (TensorProto), docs/ExternalData.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from watermark.errors import PathEscapeError
from watermark.model.dtypes import DTYPES, DType
from watermark.model.names import check_path
from watermark.model.protobuf import BYTES, VARINT, Field, Wire
from watermark.model.safetensors import MAX_DIMENSIONS

_NAMES: Final = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 12: "U32",
    13: "U64", 14: "C64", 16: "BF16", 17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2", 20: "F8_E5M2FNUZ", 23: "F4",
    24: "F8_E8M0", 27: "F6_E2M3", 28: "F6_E3M2",
}  # fmt: skip
# Integers of less than a byte: carried as they are, unpacked where the graph says what they stand for.
U2, I2, U4, I4 = (DType(name, int(name[1]), False, False) for name in ("U2", "I2", "U4", "I4"))
ONNX_TYPES: Final[Mapping[int, DType]] = MappingProxyType(
    {
        **{number: DTYPES[name] for number, name in _NAMES.items()},
        21: U4,
        22: I4,
        25: U2,
        26: I2,
    }
)
"""Types of tensors by their number in the file; text and 128-bit numbers have none here."""

TEXT: Final = 8
"""The type of tensors of text."""

# Numbers of fields.
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
#: Where numbers may lie besides `raw_data`: as they are, or each as one of variable length. 6-bit floats are left out.
_FLOATS, _INT32, _INT64, _DOUBLES, _UINT64 = 4, 5, 7, 10, 11
_LISTS: Final = {
    "F32": _FLOATS, "C64": _FLOATS, "F64": _DOUBLES, "I64": _INT64,
    "U32": _UINT64, "U64": _UINT64, "F6_E2M3": 0, "F6_E3M2": 0,
}  # fmt: skip
_ANY_LIST: Final = frozenset({_FLOATS, _INT32, _INT64, _DOUBLES, _UINT64})
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_IN_DATA_FILE = 1
_SIGN: Final = 1 << 63


@dataclass
class TensorMessage:
    """One TensorProto as it is collected field by field."""

    name: str = ""
    type: int = 0
    shape: list[int] = field(default_factory=list)
    raw: Field | None = None
    lists: list[Field] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False

    @property
    def what(self) -> str:
        """The tensor, for errors."""
        return f"has the tensor {self.name[:200]!a}"

    def lists_of(self, kind: DType) -> tuple[tuple[int, int], ...]:
        """First byte and one past the last of the pieces of the list in which numbers of this type stand."""
        number = _LISTS.get(kind.name, _INT32)
        return tuple((found.begin, found.end) for found in self.lists if found.number == number)


def read_tensor(wire: Wire, message: Field) -> TensorMessage:
    """Read a TensorProto; of its numbers only where they are.

    Raises:
        ModelFormatError: it is none.
    """
    tensor = TensorMessage()
    for found in wire.fields(message.begin, message.end):
        if found.number == _DIMS:
            _add_dimensions(wire, tensor.shape, found)
        elif found.number == _TYPE:
            tensor.type = wire.number(found)
        elif found.number == _NAME:
            tensor.name = wire.name(found)
        elif found.number == _RAW:
            tensor.raw = wire.message(found)
        elif found.number in _ANY_LIST:
            tensor.lists.append(found)
        elif found.number == _EXTERNAL:
            tensor.external.update([_entry(wire, wire.message(found))])
        elif found.number == _LOCATION:
            tensor.is_external = wire.number(found) == _IN_DATA_FILE
    return tensor


def _entry(wire: Wire, message: Field) -> tuple[str, str]:
    key = value = ""
    for found in wire.fields(message.begin, message.end):
        if found.number == _ENTRY_KEY:
            key = wire.name(found)
        elif found.number == _ENTRY_VALUE:
            value = wire.name(found)
    return key, value


def _add_dimensions(wire: Wire, shape: list[int], found: Field) -> None:
    place = found.begin
    sizes = [found.value] if found.kind == VARINT else []
    while found.kind == BYTES and place < found.end and len(shape) + len(sizes) <= MAX_DIMENSIONS:
        size, place = wire.varint(place, found.end)
        sizes.append(size)
    if found.kind not in (VARINT, BYTES) or any(size >= _SIGN for size in sizes):
        raise wire.broken(f"has a tensor whose dimensions are no numbers, at byte {found.begin}")
    shape += sizes
    if len(shape) > MAX_DIMENSIONS:
        raise wire.broken(f"has a tensor of more than {MAX_DIMENSIONS} dimensions, at byte {found.begin}")


def item_bytes(kind: DType) -> int:
    """Bytes that each number of variable length in a list of this type becomes; 0 where a list is those bytes."""
    is_plain = _LISTS.get(kind.name, _INT32) in (_FLOATS, _DOUBLES)
    return 0 if is_plain else max(1, kind.bits // 8)


def raw_place(wire: Wire, tensor: TensorMessage, nbytes: int) -> int:
    """The first byte of a tensor whose numbers lie together in its file; there must be `nbytes` of them.

    Raises:
        ModelFormatError: there are more or fewer.
    """
    begin, end = (tensor.raw.begin, tensor.raw.end) if tensor.raw is not None else (0, 0)
    if end - begin != nbytes:
        raise wire.broken(f"{tensor.what} of the shape {tensor.shape} in {end - begin} bytes, not {nbytes}")
    return begin


def external_place(wire: Wire, tensor: TensorMessage, shard: str, nbytes: int) -> tuple[str, int]:
    """The data file that a tensor of the model `shard` is in, and the first of its `nbytes` there.

    Raises:
        PathEscapeError: it is not within the model's folder.
        ModelFormatError: what is said about its place is no place.
    """
    location = tensor.external.get("location", "")
    folder = shard.rpartition("/")[0]
    try:
        inside = check_path(location.removeprefix("./"))
        path = check_path(f"{folder}/{inside}" if folder else inside)
    except PathEscapeError as error:
        raise PathEscapeError(f"{wire.what} keeps tensors elsewhere than beside it: {error}") from error
    begin, length = (_stated(wire, tensor, key) for key in ("offset", "length"))
    if path == shard:
        raise wire.broken(f"{tensor.what} in a data file that is the file itself")
    if "length" in tensor.external and length != nbytes:
        raise wire.broken(f"{tensor.what} of the shape {tensor.shape} in {length} bytes of {path!a}, not {nbytes}")
    return path, begin


def _stated(wire: Wire, tensor: TensorMessage, key: str) -> int:
    stated = tensor.external.get(key, "0")
    if not (stated.isascii() and stated.isdecimal() and len(stated) < 20):
        raise wire.broken(f"{tensor.what} with the {key} {stated[:40]!a} in its data file")
    return int(stated)
