"""Walk the fields of protobuf messages in a file, by position and a little at a time.

Payloads are passed over, not read: a field is where it lies, and whoever wants its bytes reads them there. Every length
is held against the end of the message around it. Knows the wire format and no message.

Format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from watermark.errors import LimitError, ModelFormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types: a number of variable length, 8 bytes, bytes with their length before them, 4 bytes."""
_GROUP_BEGIN, _GROUP_END = 3, 4
_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}

#: Several times the graph of a large language model; a hostile file has hundreds of millions.
MAX_FIELDS: Final = 2_000_000
#: Text is kept, so that a file made of names must not fill the memory.
MAX_TEXT_BYTES: Final = 64 * 1024 * 1024

_WINDOW_BYTES: Final = 1 << 16
#: A tag and a length.
_MOST_BYTES_AHEAD: Final = 20
_MAX_VARINT_BYTES: Final = 10
_MAX_TAG: Final = (1 << 32) - 1
_MAX_GROUPS: Final = 32
_MAX_NAME_BYTES: Final = 4_096

#: Gives the bytes of the file from the first number to the second.
Read = Callable[[int, int], bytes]


class Field(NamedTuple):
    """One field: its number in the message, its wire type, and where its payload begins and ends.

    For a VARINT, `value` is the number; it is 0 for others.
    """

    number: int
    kind: int
    begin: int
    end: int
    value: int


class Wire:
    """A file of protobuf messages; reads go through a small window."""

    def __init__(self, read: Read, file_size: int, what: str, max_fields: int = MAX_FIELDS) -> None:
        """`what` names the file in errors."""
        self._read, self.file_size, self.what, self._max_fields = read, file_size, what, max_fields
        self._window, self._begin = b"", 0
        self._fields = self._text_bytes = 0

    def broken(self, how: str, hint: str | None = None) -> ModelFormatError:
        """Say that the file is not what it should be."""
        return ModelFormatError(f"{self.what} {how}", hint=hint)

    def fields(self, begin: int, end: int) -> Iterator[Field]:
        """The fields of the message from `begin` to `end`, in order; groups, which nobody writes any more, left out.

        Raises:
            ModelFormatError: these bytes are no message.
            LimitError: the file has too many fields.
        """
        place = begin
        groups: list[int] = []
        while place < end:
            self._fields += 1
            if self._fields > self._max_fields:
                raise LimitError(f"{self.what} has more than {self._max_fields} fields")
            tag, place = self.varint(place, end)
            number, kind = tag >> 3, tag & 7
            if not number or tag > _MAX_TAG:
                raise self.broken(f"has a field that protobuf does not know, before byte {place}")
            value, start = 0, place
            if kind == VARINT:
                value, place = self.varint(place, end)
            elif kind == BYTES:
                length, start = self.varint(place, end)
                place = start + length
            elif kind in _FIXED_BYTES:
                place += _FIXED_BYTES[kind]
            elif kind == _GROUP_BEGIN and len(groups) < _MAX_GROUPS:
                groups.append(number)
                continue
            elif kind == _GROUP_END and groups and groups.pop() == number:
                continue
            else:
                raise self.broken(f"has a field that protobuf does not know, before byte {place}")
            if place > end:
                raise self._cut(start)
            if not groups:
                yield Field(number, kind, start, place, value)
        if groups:
            raise self._cut(place)

    def varint(self, place: int, end: int) -> tuple[int, int]:
        """The number of variable length at `place`, as 64 bits without a sign, and where it ends."""
        at = place - self._begin
        held = len(self._window)
        if 0 <= at < held and place < end and (byte := self._window[at]) < 0x80:
            return byte, place + 1
        if at < 0 or (at + _MOST_BYTES_AHEAD > held and self._begin + held < self.file_size) or at > held:
            self._window = self._read(place, min(self.file_size, place + _WINDOW_BYTES))
            self._begin, at = place, 0
        window = self._window
        value = shift = 0
        for index in range(at, min(at + _MAX_VARINT_BYTES, at + end - place, len(window))):
            byte = window[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, place + index + 1 - at
            shift += 7
        if end - place >= _MAX_VARINT_BYTES:
            raise self.broken(f"has a number of more than {_MAX_VARINT_BYTES} bytes at byte {place}")
        raise self._cut(place)

    def text(self, field: Field, limit: int, what: str) -> str:
        """The text of a field.

        Raises:
            ModelFormatError: it is over `limit` bytes or not UTF-8.
            LimitError: the file has more text than is kept.
        """
        length = field.end - field.begin
        self._text_bytes += length
        if length > limit:
            raise self.broken(f"has {what} of {length} bytes")
        if self._text_bytes > MAX_TEXT_BYTES:
            raise LimitError(f"{self.what} has more than {MAX_TEXT_BYTES} bytes of names")
        at = field.begin - self._begin
        if 0 <= at <= at + length <= len(self._window):
            raw = self._window[at : at + length]
        else:
            raw = self._read(field.begin, field.end)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"has {what} that is not UTF-8") from error

    def name(self, field: Field) -> str:
        """The text of a field that is a name, or no longer than one."""
        return self.text(self.message(field), _MAX_NAME_BYTES, "a name")

    def message(self, field: Field) -> Field:
        """A field that must be bytes: a message, a text or a list."""
        return self._of_kind(field, BYTES)

    def number(self, field: Field) -> int:
        """The number in a field that must be one."""
        return self._of_kind(field, VARINT).value

    def _of_kind(self, field: Field, kind: int) -> Field:
        if field.kind != kind:
            raise self.broken(f"has a field of the wrong kind at byte {field.begin}", "not an ONNX file, or damaged")
        return field

    def _cut(self, place: int) -> ModelFormatError:
        return self.broken(
            f"is cut, or lies about a length, at byte {place}", "not an ONNX file, or damaged: fetch it again"
        )
