"""Read the JSON of a weight file one member at a time, exactly, in memory that a hostile text cannot inflate.

A general JSON parser builds whatever it is sent: 16 MiB of `[[],[],[],...` become 400 MB of Python lists before any
rule can be applied. The texts read here have a known, flat shape, so the cursor walks them member by member and hands
only short slices to the parser. It knows JSON only, nothing of what the members mean.

Standard: RFC 8259, narrowed: no duplicate member names (its section 4 leaves them open), no NaN or Infinity, no lone
surrogates, no byte order mark, no "-0" (whose integer value two parsers read differently).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from watermark.errors import ModelFormatError

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_INTEGER: Final = 2**63 - 1


def decode_text(data: bytes, *, what: str) -> str:
    """Read bytes as UTF-8 text.

    Raises:
        ModelFormatError: not UTF-8; this includes encoded surrogates.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{what}: not UTF-8 text at byte {error.start}") from error


class JsonCursor:
    """A place in a JSON text, moved forward by what is read there.

    Every method raises ModelFormatError, naming `what` and the place, when the text holds anything else.
    """

    def __init__(self, text: str, *, what: str) -> None:
        """Stand at the first character of `text`; `what` names it in errors."""
        self._text = text
        self._at = 0
        self._what = what
        self._decoder = _decoder(what)

    def fail(self, problem: str) -> NoReturn:
        """Refuse the text at the present place."""
        raise ModelFormatError(f"{self._what}: {problem} (character {self._at})")

    def members(self) -> Iterator[str]:
        """Walk an object: yield each member's name, standing at its value, which the caller must read.

        No name comes twice.
        """
        self._expect("{", "an object must begin")
        seen: set[str] = set()
        self._skip_whitespace()
        if self._take("}"):
            return
        while True:
            self._skip_whitespace()
            name = self.string()
            if name in seen:
                self.fail(f"the name {name[:200]!a} stands twice")
            seen.add(name)
            self._skip_whitespace()
            self._expect(":", "a colon must follow a name")
            self._skip_whitespace()
            yield name
            self._skip_whitespace()
            if self._take("}"):
                return
            self._expect(",", "a comma or a closing brace must follow a value")

    def string(self) -> str:
        """Read one string."""
        if not self._text.startswith('"', self._at):
            self.fail("a string must begin here")
        value: str
        try:
            value, self._at = self._decoder.raw_decode(self._text, self._at)
        except ValueError as error:
            raise ModelFormatError(f"{self._what}: a string is not valid JSON (character {self._at})") from error
        return _without_surrogates(value, self._what)

    def small_object(self, max_chars: int) -> dict[str, Any]:
        """Read one whole object of at most `max_chars` characters, with everything in it."""
        piece = self._text[self._at : self._at + max_chars]
        if not piece.startswith("{"):
            self.fail("an object must begin")
        try:
            value, length = self._decoder.raw_decode(piece)
        except ValueError as error:
            cut = " or is too long" if len(piece) == max_chars else ""
            raise ModelFormatError(f"{self._what}: an object is not valid JSON{cut} (character {self._at})") from error
        except RecursionError as error:
            raise ModelFormatError(f"{self._what}: nested too deep (character {self._at})") from error
        self._at += length
        assert isinstance(value, dict)
        return value

    def end(self, padding: str = " \t\n\r") -> None:
        """Demand that nothing but `padding` follows."""
        if self._text[self._at :].strip(padding):
            self.fail("text follows the closing brace")

    def _skip_whitespace(self) -> None:
        match = _WHITESPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _take(self, char: str) -> bool:
        if self._text.startswith(char, self._at):
            self._at += 1
            return True
        return False

    def _expect(self, char: str, rule: str) -> None:
        if not self._take(char):
            self.fail(f"{rule} here")


def _without_surrogates(value: str, what: str) -> str:
    # "\ud800" is well-formed JSON that no UTF-8 text can hold: the reference parser refuses it, so do we.
    if not value.isascii() and _SURROGATE.search(value):
        raise ModelFormatError(f"{what}: a string holds half of a surrogate pair")
    return value


def _decoder(what: str) -> json.JSONDecoder:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ModelFormatError(f"{what}: a name stands twice in one object")
        for name, value in pairs:
            _without_surrogates(name, what)
            if isinstance(value, str):
                _without_surrogates(value, what)
        return members

    def integer(digits: str) -> int:
        # Length first: int() of many digits is slow, and refuses beyond 4,300 with an error of its own.
        if digits == "-0" or len(digits) > 20 or abs(int(digits)) > MAX_INTEGER:
            raise ModelFormatError(f"{what}: the number {digits[:24]} is out of range")
        return int(digits)

    def real(digits: str) -> float:
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            raise ModelFormatError(f"{what}: the number {digits[:24]} is out of range")
        return value

    def constant(name: str) -> NoReturn:
        raise ModelFormatError(f"{what}: {name} is not JSON")

    return json.JSONDecoder(
        object_pairs_hook=unique, parse_int=integer, parse_float=real, parse_constant=constant, strict=True
    )
