"""Canonical JSON (RFC 8785): one byte form for one value, where the hash of a document is its name.

Wraps the `rfc8785` package and translates every error, also those that the package lets past its own error base.
Knows nothing about what the value means. Read untrusted text with `strict_json.loads` first.
"""

from __future__ import annotations

from typing import Any

import rfc8785

from watermark.errors import DocumentError


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of a JSON value.

    Raises DocumentError for NaN, infinities, integers beyond 2^53 - 1, keys that are no text, lone surrogates, values
    of other types, and nesting beyond Python's stack.
    """
    try:
        return rfc8785.dumps(value)
    except RecursionError as error:
        raise DocumentError("the value is nested too deep for a canonical form") from error
    except ValueError as error:  # rfc8785's own base and UnicodeEncodeError are both ValueErrors
        raise DocumentError(f"the value has no canonical form: {error}") from error
