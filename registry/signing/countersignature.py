"""Countersignatures: claims by which further keys vouch for the very signature that an owner put on a model.

A claim in `claims.jsonl` over the model's root, of a predicate type of its own, that names the model signature it
joins and the key that joins it, so that each signer's claim has an identity of its own, which the log entry can list.
Any kind of key may make one, also those that OMS knows nothing of. Says who countersigned; how many must is told by
`signers`. Does no I/O and trusts nobody by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from registry.signing import dsse
from registry.signing.bundle import KeyMaterial
from registry.signing.claims import Claim, VerifiedClaim, make_claim, verify_claim
from registry.signing.encoding import from_hex
from registry.signing.keys import PublicKey
from registry.signing.signer import Signer
from registry.signing.statement import Statement, parse_statement
from registry.signing.strict_json import as_object, member
from watermark.errors import DigestError, DocumentError, UntrustedKeyError

COUNTERSIGNATURE = "https://weightmark.dev/predicate/countersignature/v1"
_WHAT = "a countersignature"


@dataclass(frozen=True)
class Countersignature:
    """A key that vouched for a model signature."""

    key: PublicKey
    pae_sha256: bytes


def make_countersignature(name: str, root: bytes, model_signature: bytes, key: Signer) -> bytes:
    """One line for `claims.jsonl`; `model_signature` is the SHA-256 of the PAE of the signature that is joined."""
    predicate = {"key": key.public.key_id, "modelSignature": {"sha256": model_signature.hex()}}
    return make_claim(Statement(name, root, COUNTERSIGNATURE, predicate), key)


def says_countersignature(claim: Claim) -> bool:
    """Whether an unverified claim says that it is a countersignature."""
    if claim.bundle.envelope.payload_type != dsse.IN_TOTO_PAYLOAD_TYPE:
        return False
    try:
        return parse_statement(claim.bundle.envelope.payload).predicate_type == COUNTERSIGNATURE
    except DocumentError:
        return False


def is_of_unknown_key(claim: Claim, keys: Sequence[PublicKey]) -> bool:
    """Whether the key that a claim names is none of these."""
    material = claim.bundle.material
    return isinstance(material, KeyMaterial) and not any(material.names(key) for key in keys)


def verify_countersignature(
    claim: Claim, keys: Sequence[PublicKey], *, root: bytes, model_signature: bytes
) -> VerifiedClaim:
    """Verify that one of `keys` vouched for this very model signature.

    Raises what `verify_claim` does, DigestError for another model signature, and UntrustedKeyError when the statement
    names another key than the one that signed it.
    """
    verified = verify_claim(claim, keys, root=root)
    predicate = as_object(dict(verified.statement.predicate), _WHAT, allowed=("key", "modelSignature"))
    digest = member(member(predicate, "modelSignature", dict, _WHAT), "sha256", str, _WHAT)
    if from_hex(digest, what=f"the digest in {_WHAT}") != model_signature:
        raise DigestError(f"claim {claim.number}: {_WHAT} of another model signature")
    if member(predicate, "key", str, _WHAT) != verified.key.key_id:
        raise UntrustedKeyError(f"claim {claim.number} names another key than the one that signed it")
    return verified


def countersignatures(claims: Iterable[VerifiedClaim]) -> tuple[Countersignature, ...]:
    """The countersignatures among verified claims, each key once."""
    found: dict[PublicKey, Countersignature] = {}
    for claim in claims:
        if claim.statement.predicate_type == COUNTERSIGNATURE:
            found.setdefault(claim.key, Countersignature(claim.key, claim.pae_sha256))
    return tuple(found.values())
