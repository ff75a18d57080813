"""The evidence file: one JSON document that a stranger can verify offline, without the owner's secret.

    {"type": "weightmark evidence", "v": 1, "body": {...}, "signatures": [{"keyid", "sig"}], "stamps": [...]}

The owner signs PAE("application/vnd.weightmark.evidence+json", RFC 8785 of body). Bytes are base64, digests hex, log
proofs the text of their `.tlog-proof`. `stamps`, where there are any, are RFC 3161 responses over the same PAE; those
on the checkpoint of the release stand in the body. Reading checks form alone; what the file claims is judged in
`evidence.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.signing.canonical import canonical
from registry.signing.dsse import pae
from registry.signing.encoding import from_base64, from_hex, to_base64
from registry.signing.keys import PublicKey
from registry.signing.signer import Signer
from registry.signing.strict_json import MAX_BUNDLE_BYTES, as_object, dumps, loads, member
from registry.signing.timestamps import MAX_STAMPS
from watermark.errors import DocumentError, UntrustedKeyError
from watermark.marks.commitment import BlockOpening

TYPE = "weightmark evidence"
PAYLOAD_TYPE = "application/vnd.weightmark.evidence+json"
_WHAT = "the evidence file"

LIMITS = (
    "The numbers speak of weights, not of how they were obtained: the suspect derives from this release.",
    "A recipient's code names a copy, never who leaked it: the owner held every copy too.",
    "Whoever holds the unmarked reference can remove the mark; nothing is said about suspects without it.",
    "Log order kept by the claimant alone proves no date to a stranger (order: self-asserted).",
    "Retraining from scratch and distillation leave no mark in weights.",
)


@dataclass(frozen=True)
class PriorCase:
    """An earlier case on the same release whose blocks are spent: its log proof, and what its draw was made from."""

    proof: bytes
    randomness: bytes


@dataclass(frozen=True)
class CopyOpening:
    """The opened copy of a recipient case."""

    key: bytes
    salt: bytes
    recipient: str


@dataclass(frozen=True)
class EvidenceBody:
    """What an evidence file holds, decoded; nothing of it is verified yet."""

    owner: str
    draw: str
    randomness: bytes
    proofs: Mapping[str, bytes]
    prior: tuple[PriorCase, ...]
    geometry: bytes
    openings: tuple[BlockOpening, ...]
    copy: CopyOpening | None
    suspect: Mapping[str, Any]
    result: Mapping[str, Any]
    tool: str
    stamps: tuple[bytes, ...] = ()  # on the checkpoint of the release's proof

    def to_json(self) -> dict[str, Any]:
        """The body as JSON values."""
        return {
            "owner": self.owner,
            "draw": {"kind": self.draw, "randomness": self.randomness.hex()},
            "proofs": {name: proof.decode("utf-8") for name, proof in self.proofs.items()},
            "prior": [{"case": p.proof.decode("utf-8"), "randomness": p.randomness.hex()} for p in self.prior],
            "geometry": self.geometry.decode("utf-8"),
            "openings": [
                {
                    "block": o.block,
                    "secret": o.secret.hex(),
                    "salt": o.salt.hex(),
                    "reference": to_base64(o.reference),
                    "path": [node.hex() for node in o.path],
                }
                for o in self.openings
            ],
            "copy": None
            if self.copy is None
            else {"key": self.copy.key.hex(), "salt": self.copy.salt.hex(), "recipient": self.copy.recipient},
            "suspect": dict(self.suspect),
            "result": dict(self.result),
            "limits": list(LIMITS),
            "tool": self.tool,
            "stamps": [to_base64(stamp) for stamp in self.stamps],
        }


def write_evidence(
    body: EvidenceBody, key: Signer, stamp: Callable[[bytes], tuple[bytes, ...]] = lambda _: ()
) -> bytes:
    """The file's bytes, signed by the owner; `stamp` gives time stamps on what he signs, kept beside the signature."""
    fields = body.to_json()
    message = pae(PAYLOAD_TYPE, canonical(fields))
    signatures = [{"keyid": key.public.key_id, "sig": to_base64(key.sign(message))}]
    document = {"type": TYPE, "v": 1, "body": fields, "signatures": signatures}
    stamps = [to_base64(one) for one in stamp(message)]
    return dumps({**document, "stamps": stamps} if stamps else document) + b"\n"


def read_evidence(data: bytes) -> tuple[EvidenceBody, bytes, tuple[tuple[str, bytes], ...]]:
    """Read a file strictly: its body, the signed bytes, and its signatures by key id.

    Raises:
        DocumentError: not an evidence file of this version, or with a part that is not of its form.
    """
    allowed = ("type", "v", "body", "signatures", "stamps")
    fields = as_object(loads(data, what=_WHAT, max_bytes=MAX_BUNDLE_BYTES), _WHAT, allowed=allowed)
    if fields.get("type") != TYPE or fields.get("v") != 1:
        raise DocumentError(f"{_WHAT} is not of the type {TYPE!r} version 1", hint="use the weightmark that wrote it")
    body = member(fields, "body", dict, _WHAT)
    signatures = []
    for item in member(fields, "signatures", list, _WHAT):
        one = as_object(item, f"a signature of {_WHAT}", allowed=("keyid", "sig"))
        signature = from_base64(member(one, "sig", str, _WHAT), what=f"a signature of {_WHAT}")
        signatures.append((member(one, "keyid", str, _WHAT), signature))
    return _read_body(body), canonical(body), tuple(signatures)


def file_stamps(data: bytes) -> tuple[bytes, ...]:
    """The time stamps beside the signature of an evidence file that was read before."""
    return _read_stamps(loads(data, what=_WHAT, max_bytes=MAX_BUNDLE_BYTES))


def stamped_bytes(signed: bytes) -> bytes:
    """The bytes that a stamp on an evidence file is over: all that the owner signs, not the signature."""
    return pae(PAYLOAD_TYPE, signed)


def verify_signature(
    signed: bytes, signatures: tuple[tuple[str, bytes], ...], keys: tuple[PublicKey, ...]
) -> PublicKey:
    """The owner's key that signed the body; UntrustedKeyError or SignatureError otherwise."""
    for key_id, signature in signatures:
        for key in keys:
            if key.key_id == key_id:
                key.verify(signature, pae(PAYLOAD_TYPE, signed))
                return key
    raise UntrustedKeyError(f"{_WHAT} is not signed by a trusted key of its owner")


def _read_body(body: dict[str, Any]) -> EvidenceBody:
    draw = member(body, "draw", dict, _WHAT)
    proofs = member(body, "proofs", dict, _WHAT)
    prior = [as_object(item, f"a prior case of {_WHAT}") for item in member(body, "prior", list, _WHAT)]
    copy = body.get("copy")
    return EvidenceBody(
        owner=member(body, "owner", str, _WHAT),
        draw=member(draw, "kind", str, _WHAT),
        randomness=_hex(draw, "randomness"),
        proofs={name: member(proofs, name, str, _WHAT).encode("utf-8") for name in proofs},
        prior=tuple(PriorCase(member(p, "case", str, _WHAT).encode("utf-8"), _hex(p, "randomness")) for p in prior),
        geometry=member(body, "geometry", str, _WHAT).encode("utf-8"),
        openings=tuple(_read_opening(item) for item in member(body, "openings", list, _WHAT)),
        copy=None if copy is None else _read_copy(copy),
        suspect=member(body, "suspect", dict, _WHAT),
        result=member(body, "result", dict, _WHAT),
        tool=member(body, "tool", str, _WHAT),
        stamps=_read_stamps(body),
    )


def _read_stamps(fields: dict[str, Any]) -> tuple[bytes, ...]:
    listed = member(fields, "stamps", list, _WHAT) if "stamps" in fields else []
    if len(listed) > MAX_STAMPS or not all(isinstance(one, str) for one in listed):
        raise DocumentError(f"the time stamps of {_WHAT} are not a list of at most {MAX_STAMPS} texts")
    return tuple(from_base64(one, what=f"a time stamp of {_WHAT}") for one in listed)


def _read_opening(item: Any) -> BlockOpening:
    fields = as_object(item, f"an opening of {_WHAT}")
    path = member(fields, "path", list, _WHAT)
    if not all(isinstance(node, str) for node in path):
        raise DocumentError(f"an opening of {_WHAT} has a path that is not hex text")
    return BlockOpening(
        member(fields, "block", int, _WHAT),
        _hex(fields, "secret", 32),
        _hex(fields, "salt", 32),
        from_base64(member(fields, "reference", str, _WHAT), what="reference values"),
        tuple(from_hex(node, what="a node of a Merkle path") for node in path),
    )


def _read_copy(item: Any) -> CopyOpening:
    fields = as_object(item, f"the copy of {_WHAT}")
    return CopyOpening(_hex(fields, "key", 32), _hex(fields, "salt", 32), member(fields, "recipient", str, _WHAT))


def _hex(fields: dict[str, Any], name: str, size: int | None = None) -> bytes:
    text = member(fields, name, str, _WHAT)
    try:
        data = bytes.fromhex(text)
    except ValueError as err:
        raise DocumentError(f"{name!r} of {_WHAT} is not hex") from err
    if data.hex() != text or (size is not None and len(data) != size):
        raise DocumentError(f"{name!r} of {_WHAT} is not {size or 'lower-case'} bytes of hex")
    return data
