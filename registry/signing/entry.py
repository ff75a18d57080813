"""Log entries: one signed JSON object each, in exactly one byte form.

An entry is the RFC 8785 form of a DSSE envelope whose payload is the RFC 8785 form of {"kind", "v": 1, ...body}. It
holds digests and commitments, not big statements: the entry bundles of C2SP tlog-tiles cap it at 65535 bytes. A change
of an owner's keys may carry several signatures, in the order of their key ids; every other entry has exactly one. Knows
neither the log nor whose key may sign which kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from registry.signing import dsse
from registry.signing.canonical import canonical
from registry.signing.keys import PublicKey, public_key_from_pem
from registry.signing.signer import Signer
from registry.signing.strict_json import as_object, loads, member
from watermark.errors import DocumentError, InputError, LimitError, SignatureError, UntrustedKeyError

ENTRY_PAYLOAD_TYPE = "application/vnd.weightmark.entry+json"
MAX_ENTRY_BYTES = 65535  # uint16 length prefix of tlog-tiles entry bundles
OWNER, RELEASE, CASE, OPENING = "owner", "release", "case", "opening"
ENROL, ROTATE, REVOKE, RETIRE = "enrol", "rotate", "revoke", "retire"
THRESHOLD, SECRET = "threshold", "secret"
#: Changes of an owner's keys, one version each: what they mean is told by `keyring`.
KEY_EVENTS = (ENROL, ROTATE, REVOKE, RETIRE, THRESHOLD, SECRET)

_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_RESERVED = ("kind", "v")


@dataclass(frozen=True)
class Entry:
    """A log entry, read strictly but not verified: call `verify` before believing any of it."""

    kind: str
    body: Mapping[str, Any]
    key_id: str
    envelope: dsse.Envelope

    def verify(self, key: PublicKey) -> None:
        """Raise unless `key` is the key that this entry names (UntrustedKeyError) and signed it (SignatureError)."""
        if key.key_id != self.key_id:
            raise UntrustedKeyError(f"the {self.kind} entry is signed by key {self.key_id[:16]}, not {key.key_id[:16]}")
        try:
            dsse.verify(self.envelope, [key])
        except SignatureError as error:
            raise SignatureError(f"the {self.kind} entry's signature does not verify") from error

    def signers(self, keys: Mapping[str, PublicKey]) -> frozenset[str]:
        """The ids of the keys that signed this entry, all of its signatures verified; a key that signed twice is one.

        `keys` are those that have a say here, by id. Raises UntrustedKeyError for a signature by any other key,
        SignatureError for one that does not verify.
        """
        found = set()
        for signature in self.envelope.signatures:
            key = keys.get(signature.keyid)
            if key is None:
                raise UntrustedKeyError(
                    f"the {self.kind} entry is signed by key {signature.keyid[:16]!a}, a stranger here"
                )
            try:
                key.verify(signature.sig, self.envelope.pae)
            except SignatureError as error:
                raise SignatureError(f"a signature of the {self.kind} entry does not verify") from error
            found.add(key.key_id)
        return frozenset(found)

    def introduced_key(self) -> PublicKey:
        """The key that an `owner` entry enrols; verified to have signed this very entry."""
        if self.kind != OWNER:
            raise InputError(f"a {self.kind} entry introduces no key")
        key = public_key_from_pem(member(dict(self.body), "key", str, "the owner entry").encode("utf-8"))
        self.verify(key)
        return key


def make_entry(kind: str, body: Mapping[str, Any], key: Signer, *, further: Sequence[Signer] = ()) -> bytes:
    """Sign a log entry of this kind; with a key in a file the same arguments give the same bytes.

    `body` is JSON without the keys `kind` and `v`; 64-bit integers go in as text. `further` keys sign too, which only
    changes of an owner's keys allow. Raises InputError for an illegal kind, DocumentError for a body without canonical
    form, LimitError beyond 65535 bytes.
    """
    if not _KIND.fullmatch(kind):
        raise InputError(f"{kind!r} cannot name a kind of entry", hint="use lower-case letters, digits and -")
    reserved = [name for name in _RESERVED if name in body]
    if reserved:
        raise InputError(f"the body of an entry must not hold {reserved[0]!r}")
    payload = canonical({"kind": kind, "v": 1, **body})
    if further and kind not in KEY_EVENTS:
        raise InputError(f"a {kind} entry has exactly one signature")
    data = _to_bytes(kind, dsse.sign(payload, ENTRY_PAYLOAD_TYPE, key, keyid=key.public.key_id))
    for one in further:
        data = sign_further(data, one)
    return data


def sign_further(data: bytes, key: Signer) -> bytes:
    """Add a key's signature to a change of an owner's keys, in its place; a key that signed already adds nothing.

    Raises InputError for an entry of another kind: those have exactly one signature.
    """
    entry = read_entry(data)
    if entry.kind not in KEY_EVENTS:
        raise InputError(f"a {entry.kind} entry has exactly one signature")
    present = entry.envelope.signatures
    if any(one.keyid == key.public.key_id for one in present):
        return data
    added = dsse.Signature(key.sign(entry.envelope.pae), key.public.key_id)
    ordered = tuple(sorted((*present, added), key=lambda one: one.keyid))
    return _to_bytes(entry.kind, replace(entry.envelope, signatures=ordered))


def _to_bytes(kind: str, envelope: dsse.Envelope) -> bytes:
    data = canonical(dsse.to_dict(envelope))
    if len(data) > MAX_ENTRY_BYTES:
        raise LimitError(f"the {kind} entry has {len(data)} bytes; a log entry holds at most {MAX_ENTRY_BYTES}")
    return data


def read_entry(data: bytes) -> Entry:
    """Read a log entry in its one byte form; DocumentError for any other bytes.

    Nothing is verified: an auditor must read an entry to learn which key should have signed it.
    """
    what = "the log entry"
    envelope = dsse.from_dict(loads(data, what=what, max_bytes=MAX_ENTRY_BYTES), what=what)
    if canonical(dsse.to_dict(envelope)) != data:
        raise DocumentError(f"{what} is not in its canonical form")
    if envelope.payload_type != ENTRY_PAYLOAD_TYPE:
        raise DocumentError(f"{what} has the payload type {envelope.payload_type!r}")
    body = as_object(loads(envelope.payload, what=what, max_bytes=MAX_ENTRY_BYTES), what)
    if canonical(body) != envelope.payload:
        raise DocumentError(f"the payload of {what} is not in its canonical form")
    kind, version = member(body, "kind", str, what), member(body, "v", int, what)
    if not _KIND.fullmatch(kind):
        raise DocumentError(f"{what} is of the illegal kind {kind!r}")
    if version != 1:
        raise DocumentError(f"{what} is of version {version}; only 1 is read", hint="use a newer weightmark")
    if len(envelope.signatures) != 1 and kind not in KEY_EVENTS:
        raise DocumentError(f"{what} has {len(envelope.signatures)} signatures; exactly one is read")
    key_ids = [one.keyid for one in envelope.signatures]
    if key_ids != sorted(key_ids):
        raise DocumentError(f"the signatures of {what} are not in the order of their key ids")
    rest = {name: value for name, value in body.items() if name not in _RESERVED}
    return Entry(kind, rest, envelope.signatures[0].keyid, envelope)
