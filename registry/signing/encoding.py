"""Strict base64 and hex, as signed documents use them.

Each byte string has exactly one accepted spelling, so that no one can change a signed file without changing what it
says. Base64 is RFC 4648 section 4 with padding; hex is lower case.
"""

from __future__ import annotations

import base64
import binascii
import re

from watermark.errors import DocumentError

_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def to_base64(data: bytes) -> str:
    """Base64 with the standard alphabet and padding."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, *, what: str, url_safe: bool = False) -> bytes:
    """Decode padded base64 strictly; with `url_safe` the alphabet of RFC 4648 section 5 is read too.

    DSSE verifiers must read both alphabets; notes and proofs only the standard one. White space, missing padding and
    spare bits are refused: DocumentError.
    """
    standard = text.translate(_FROM_URL_SAFE) if url_safe else text
    try:
        data = base64.b64decode(standard, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"{what} is not base64: {error}") from error
    if to_base64(data) != standard:  # spare bits or padding in the middle: another spelling of the same bytes
        raise DocumentError(f"{what} is not base64 in its one canonical form")
    return data


def from_hex(text: str, *, what: str, size: int = 32) -> bytes:
    """Decode lower-case hex of exactly `size` bytes; DocumentError otherwise."""
    if len(text) != 2 * size or not _HEX.fullmatch(text):
        raise DocumentError(f"{what} is not {2 * size} lower-case hex digits")
    return bytes.fromhex(text)


_FROM_URL_SAFE = str.maketrans("-_", "+/")
