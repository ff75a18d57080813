"""The owner secret encrypted by a key in a store: what stands in `secret.json` instead of a passphrase's seal.

The document names the key that opens it, so whoever may use that key opens it without ever handling the secret at
rest: several people, build servers. Its context (whose secret it is) is authenticated by the store, and a KMS writes it
into its own record of uses. Knows nothing of what the secret is for.
"""

from __future__ import annotations

from typing import Any

from registry.keystores.interface import PinSource, open_wrapping, place_of
from registry.signing.canonical import canonical
from registry.signing.encoding import from_base64, to_base64
from registry.signing.strict_json import as_object, loads, member
from watermark.errors import DocumentError, KeyStoreError

KIND = "weightmark-wrapped-secret"
_WHAT = "the wrapped secret"
_VERSION = 1
_NAMES = ("kind", "v", "key", "owner", "wrapped")


def wrap_secret(secret: bytes, reference: str, owner: str, pin: PinSource | None = None) -> bytes:
    """Encrypt an owner's secret by the key at `reference` into one RFC 8785 JSON document.

    It is unwrapped again at once and compared: a secret that cannot come back is never written. Raises KeyStoreError
    or UnavailableError.
    """
    wrapping = open_wrapping(reference, pin=pin)
    wrapped = wrapping.wrap(secret, _context(owner))
    if wrapping.unwrap(wrapped, _context(owner)) != secret:
        raise KeyStoreError(f"the key {place_of(reference)} does not give back what it wrapped")
    fields = {"kind": KIND, "v": _VERSION, "key": reference, "owner": owner, "wrapped": to_base64(wrapped)}
    return canonical(fields)


def open_wrapped_secret(document: bytes, pin: PinSource | None = None) -> bytes:
    """Decrypt what `wrap_secret` wrote, by asking the store; DocumentError, KeyStoreError or UnavailableError."""
    fields = _read(document)
    wrapped = from_base64(member(fields, "wrapped", str, _WHAT), what=_WHAT)
    context = _context(member(fields, "owner", str, _WHAT))
    return open_wrapping(member(fields, "key", str, _WHAT), pin=pin).unwrap(wrapped, context)


def wrapping_key_of(document: bytes) -> str | None:
    """The reference to the key that wraps a secret document; None when it is sealed by a passphrase instead."""
    fields = as_object(loads(document, what=_WHAT), _WHAT)
    return member(_read(document), "key", str, _WHAT) if fields.get("kind") == KIND else None


def _context(owner: str) -> dict[str, str]:
    return {"weightmark": "owner secret", "owner": owner}


def _read(document: bytes) -> dict[str, Any]:
    fields = as_object(loads(document, what=_WHAT), _WHAT, allowed=_NAMES)
    if fields.get("kind") != KIND or fields.get("v") != _VERSION:
        raise DocumentError(f"{_WHAT} is not of version {_VERSION}", hint="use a newer weightmark")
    return fields
