"""Read JSON as strictly as signed documents need it.

Python's own reader takes NaN, Infinity, 1e999, duplicate keys, lone surrogates, a byte order mark and UTF-16: two
readers may then see two documents behind one signature. This reader refuses all of them, and every error that it raises
is a DocumentError. It knows JSON (RFC 8259, with the interoperable subset of RFC 7493), not any format built on it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any, NoReturn, TypeVar

from watermark.errors import DocumentError

MIB = 1 << 20
MAX_REQUEST_BYTES = MIB
MAX_BUNDLE_BYTES = 64 * MIB
MAX_SAFE_INTEGER = 2**53 - 1  # RFC 7493 section 2.2: beyond it readers disagree about the value

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_DIGITS = 17  # more than any safe integer with its sign has; also keeps int() away from huge inputs

T = TypeVar("T")


def loads(data: bytes, *, what: str, max_bytes: int = MAX_REQUEST_BYTES, max_depth: int = 64) -> Any:
    """Read one JSON value that every strict reader reads alike.

    `what` names the document in errors. Refuses (DocumentError): more than `max_bytes`, anything but UTF-8 without a
    byte order mark, duplicate keys, NaN and infinities, integers beyond 2^53 - 1, lone surrogates, nesting deeper than
    `max_depth`, and text after the value.
    """
    if len(data) > max_bytes:
        raise DocumentError(f"{what} has {len(data)} bytes; at most {max_bytes} are read")
    text = _decode(data, what)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_int=_safe_integer,
            parse_float=_finite_float,
            parse_constant=_refuse_constant,
        )
    except DocumentError as error:
        raise DocumentError(f"{what} {error}", hint=error.hint) from None
    except RecursionError as error:
        raise DocumentError(f"{what} is nested too deep; at most {max_depth} levels are read") from error
    except ValueError as error:
        raise DocumentError(f"{what} is not valid JSON: {error}") from error
    _check_depth(value, max_depth, what)
    if _SURROGATE_ESCAPE.search(text):  # the only way a surrogate gets past the UTF-8 decoder
        _check_surrogates(value, what)
    return value


def dumps(value: Any) -> bytes:
    """Write JSON with sorted keys, no spaces and UTF-8 not escaped; for bytes that are signed as they are.

    Not a canonical form: use `canonical` where a hash of the document is its name.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise DocumentError(f"the document cannot be written as JSON: {error}") from error


def member(document: dict[str, Any], key: str, kind: type[T], what: str) -> T:
    """The value of `key`, which must be there and of exactly this type (a bool is no int here)."""
    if key not in document:
        raise DocumentError(f"{what} has no {key!r}")
    value = document[key]
    if type(value) is not kind:
        raise DocumentError(f"{key!r} of {what} is not {_KIND_NAMES.get(kind, kind.__name__)}")
    return value


def as_object(value: Any, what: str, *, allowed: Collection[str] | None = None) -> dict[str, Any]:
    """`value` as a JSON object; with `allowed`, one that holds no other key."""
    if type(value) is not dict:
        raise DocumentError(f"{what} is not a JSON object")
    if allowed is not None:
        unknown = sorted(set(value) - set(allowed))
        if unknown:
            raise DocumentError(f"{what} holds the unknown key {unknown[0]!r}")
    return value


_KIND_NAMES: dict[type, str] = {
    str: "a text",
    int: "an integer",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _decode(data: bytes, what: str) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise DocumentError(f"{what} starts with a byte order mark")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{what} is not UTF-8: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DocumentError(f"holds the key {key!r} twice")
            seen.add(key)
    return document


def _safe_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or abs(int(digits)) > MAX_SAFE_INTEGER:
        raise DocumentError("holds an integer beyond 2^53 - 1")
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise DocumentError("holds a number that no double can hold")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise DocumentError(f"holds {name}, which is not JSON")


def _check_depth(value: Any, max_depth: int, what: str) -> None:
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            raise DocumentError(f"{what} is nested too deep; at most {max_depth} levels are read")
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]


def _children(parent: dict[str, Any] | list[Any]) -> Collection[Any]:
    return parent.values() if isinstance(parent, dict) else parent


def _check_surrogates(value: Any, what: str) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, str) and any("\ud800" <= character <= "\udfff" for character in item):
            raise DocumentError(f"{what} holds a lone surrogate")
