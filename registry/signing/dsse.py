"""DSSE envelopes (secure-systems-lab DSSE v1.0.2): bytes, a type, and signatures over both.

What is signed is the pre-authentication encoding (PAE) of type and bytes, so no JSON is canonicalised to verify it.
Knows nothing of what the payload means; whoever reads it must take it from `verify`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.signing.encoding import from_base64, to_base64
from registry.signing.keys import PublicKey
from registry.signing.refusals import SIGNATURE_COUNT
from registry.signing.signer import Signer
from registry.signing.strict_json import as_object, member
from watermark.errors import SignatureError, UntrustedKeyError

IN_TOTO_PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_SIGNATURES = 16


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: exactly the bytes that are signed (DSSE section 2)."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True)
class Signature:
    """One signature; `keyid` is a hint that nobody may trust."""

    sig: bytes
    keyid: str = ""


@dataclass(frozen=True)
class Envelope:
    """A payload with its type and signatures, as read: nothing about it is verified yet."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    @property
    def pae(self) -> bytes:
        """The bytes that every signature of this envelope signs."""
        return pae(self.payload_type, self.payload)

    @property
    def pae_sha256(self) -> bytes:
        """SHA-256 of the PAE: the identity of a signed statement (signature bytes are malleable, this is not)."""
        return hashlib.sha256(self.pae).digest()


@dataclass(frozen=True)
class Verified:
    """A payload whose signature by `key` was verified."""

    payload: bytes
    key: PublicKey


def sign(payload: bytes, payload_type: str, key: Signer, *, keyid: str = "") -> Envelope:
    """Sign payload and type with one key."""
    signature = Signature(key.sign(pae(payload_type, payload)), keyid)
    return Envelope(payload, payload_type, (signature,))


def verify(envelope: Envelope, keys: Sequence[PublicKey]) -> Verified:
    """Verify that one of `keys` signed the envelope, and return the payload with that key.

    Raises UntrustedKeyError when no key was given, or every signature names a key that is not among them;
    SignatureError when none verifies.
    """
    if not keys:
        raise UntrustedKeyError("no key was given to verify the signature with")
    for signature in envelope.signatures:
        for key in keys:
            try:
                key.verify(signature.sig, envelope.pae)
            except SignatureError:
                continue
            return Verified(envelope.payload, key)
    hints = {signature.keyid for signature in envelope.signatures}
    if "" not in hints and not hints & {key.key_id for key in keys}:
        raise UntrustedKeyError(f"signed by the key {min(hints)[:64]!r}, which is not among the trusted ones")
    raise SignatureError("the signature does not verify with any of the trusted keys")


def to_dict(envelope: Envelope) -> dict[str, Any]:
    """The envelope as a JSON object, in standard base64."""
    return {
        "payload": to_base64(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [{"sig": to_base64(one.sig), "keyid": one.keyid} for one in envelope.signatures],
    }


def from_dict(document: Any, *, what: str = "the envelope") -> Envelope:
    """Read an envelope from a strictly parsed JSON object; DocumentError for anything but its exact form.

    Both base64 alphabets are read, `keyid` may be absent or null, unknown keys are refused.
    """
    fields = as_object(document, what, allowed=("payload", "payloadType", "signatures"))
    payload = from_base64(member(fields, "payload", str, what), what=f"the payload of {what}", url_safe=True)
    payload_type = member(fields, "payloadType", str, what)
    listed = member(fields, "signatures", list, what)
    if not 1 <= len(listed) <= MAX_SIGNATURES:
        raise SIGNATURE_COUNT(f"{what} has {len(listed)} signatures; 1 to {MAX_SIGNATURES} are read")
    return Envelope(payload, payload_type, tuple(_signature_from(one, what) for one in listed))


def _signature_from(document: Any, what: str) -> Signature:
    name = f"a signature of {what}"
    fields = as_object(document, name, allowed=("sig", "keyid"))
    keyid = "" if fields.get("keyid") is None else member(fields, "keyid", str, name)
    return Signature(from_base64(member(fields, "sig", str, name), what=name, url_safe=True), keyid)
