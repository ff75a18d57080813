"""Decimal numbers exactly as the log formats write them, so that one value has one spelling.

The C2SP formats allow neither a sign nor a leading zero. Knows no format as a whole.
"""

from __future__ import annotations

import re

from watermark.errors import DocumentError

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


def read_decimal(text: str, *, what: str) -> int:
    """Read a decimal number below 2**63; anything else raises DocumentError, and `what` names the field in it."""
    if not _DECIMAL.fullmatch(text) or int(text) >= 2**63:
        raise DocumentError(f"{what}: {text[:40]!r} is not a decimal number without sign or leading zero below 2^63")
    return int(text)
