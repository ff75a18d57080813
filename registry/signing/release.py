"""Tie a signed model to its owner's entry in the log: the three side files of a release belong together.

Pure trust logic over what was read: the model signature, `claims.jsonl` and `release.tlog-proof`. The log entry names
the PAE digests of the signature and of each claim, so that no file can be swapped for one of another release. Knows
no marks: it compares commitments, it does not open them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.log.merkle import leaf_hash, verify_inclusion
from registry.log.proof import read_proof
from registry.signing.claims import Claim, VerifiedClaim, read_claims, verify_claim
from registry.signing.comparison import SignedManifest
from registry.signing.countersignature import (
    COUNTERSIGNATURE,
    Countersignature,
    countersignatures,
    is_of_unknown_key,
    says_countersignature,
    verify_countersignature,
)
from registry.signing.encoding import from_hex
from registry.signing.entry import RELEASE, Entry, read_entry
from registry.signing.keys import PublicKey
from registry.signing.signers import Signers, count_signers
from registry.signing.strict_json import member
from registry.signing.trust import TrustPolicy
from watermark.errors import DigestError, DocumentError, InclusionError, RevokedKeyError, UntrustedKeyError

_WHAT = "the release entry"


@dataclass(frozen=True)
class VerifiedRelease:
    """A signature that its owner's log entry vouches for, with the verified claims about the same bytes.

    `signers` are the owner's keys behind it; whether they are enough is told by `signers.demand_threshold`.
    """

    owner: str
    entry: Entry
    index: int
    size: int
    origin: str
    claims: tuple[VerifiedClaim, ...]
    signers: Signers
    countersignatures: tuple[Countersignature, ...] = ()
    unknown_countersignatures: int = 0


def verify_release(signed: SignedManifest, claims: bytes, proof: bytes, trust: TrustPolicy) -> VerifiedRelease:
    """Verify that a trusted owner released exactly this signed manifest, with these claims, in a trusted log.

    `claims` may hold more than the log entry lists (claims can be added later), all signed by the same owner; none of
    the listed ones may be absent. Countersignatures by keys that the trust file does not name are counted and passed
    over; those of a trusted key must hold. Raises UntrustedKeyError, SignatureError, DigestError, InclusionError,
    DocumentError, or RevokedKeyError and RetiredKeyError for a key that had lost its right at the release's index.
    """
    owner = trust.owner_of(signed.key)
    keys = trust.owners[owner]
    verified_claims, unknown = _verify_claims(read_claims(claims), signed, keys, trust.keys)
    read = read_proof(proof)
    if read.extra is None:
        raise InclusionError("the log proof brings no entry")
    entry = read_entry(read.extra)
    _verify_signer(entry, owner, keys)
    present = {claim.pae_sha256 for claim in verified_claims} | {claim.pae_sha256 for claim in unknown}
    _check_binding(entry, owner, signed, present)
    checkpoint, _ = trust.log.verify(read.checkpoint)
    verify_inclusion(read.index, checkpoint.size, leaf_hash(read.extra), read.hashes, checkpoint.root)
    _refuse_spent_keys(entry, read.index, signed, verified_claims, owner, trust)
    joined, listed = countersignatures(verified_claims), set(entry.body["claims"])
    return VerifiedRelease(
        owner,
        entry,
        read.index,
        checkpoint.size,
        checkpoint.origin,
        verified_claims,
        count_signers(
            owner, signed.key, [(one.key, one.pae_sha256.hex() in listed) for one in joined], read.index, trust
        ),
        joined,
        len(unknown),
    )


def _verify_claims(
    claims: Sequence[Claim], signed: SignedManifest, keys: Sequence[PublicKey], trusted: Sequence[PublicKey]
) -> tuple[tuple[VerifiedClaim, ...], tuple[Claim, ...]]:
    """Verify the owner's claims, and the countersignatures of whomever the reader trusts; gives those of strangers."""
    root, verified, unknown = signed.manifest.root, [], []
    for claim in claims:
        if not says_countersignature(claim):
            verified.append(verify_claim(claim, keys, root=root))
        elif is_of_unknown_key(claim, trusted):
            unknown.append(claim)
        else:
            verified.append(verify_countersignature(claim, trusted, root=root, model_signature=signed.pae_sha256))
    return tuple(verified), tuple(unknown)


def _refuse_spent_keys(
    entry: Entry,
    index: int,
    signed: SignedManifest,
    claims: Sequence[VerifiedClaim],
    owner: str,
    trust: TrustPolicy,
) -> None:
    """What the log entry lists was there at its index; nothing shows when a claim was made that it does not list."""
    for key in (*(one for one in trust.owners[owner] if one.key_id == entry.key_id), signed.key):
        trust.refuse_spent(key, index)
    listed = set(entry.body["claims"])
    for claim in claims:
        if claim.statement.predicate_type == COUNTERSIGNATURE:
            continue  # a spent key's is not counted, which is no fault of the others
        if claim.pae_sha256.hex() in listed:
            trust.refuse_spent(claim.key, index)
        elif claim.key.key_id in trust.revoked:
            raise RevokedKeyError(
                f"a later claim ({claim.statement.predicate_type!a}) is by the revoked key {claim.key.key_id[:16]}: "
                "nothing shows that it was made before"
            )


def _verify_signer(entry: Entry, owner: str, keys: Sequence[PublicKey]) -> None:
    for key in keys:
        if key.key_id == entry.key_id:
            entry.verify(key)
            return
    raise UntrustedKeyError(f"{_WHAT} is not signed by a key of {owner}")


def _check_binding(entry: Entry, owner: str, signed: SignedManifest, present: Collection[bytes]) -> None:
    """Every digest in the entry must be that of the file beside it: proofs of other releases end here."""
    if entry.kind != RELEASE:
        raise InclusionError(f"the log proof is for a {entry.kind!a} entry, not for a release")
    body = dict(entry.body)
    if member(body, "owner", str, _WHAT) != owner:
        raise UntrustedKeyError(f"{_WHAT} names another owner than the trust file")
    if _digest(body, "model_sig") != signed.pae_sha256:
        raise DigestError("the log proof is for another model signature than the one in the folder")
    if _digest(body, "root") != signed.manifest.root:
        raise DigestError("the log proof is for a model of another root digest")
    listed = member(body, "claims", list, _WHAT)
    if not all(isinstance(one, str) for one in listed):
        raise DocumentError(f"{_WHAT} lists claims that are no digests")
    absent = [one for one in listed if from_hex(one, what=f"a claim of {_WHAT}") not in present]
    if absent:
        raise DigestError(f"{len(absent)} of the {len(listed)} claims that the log lists are missing")


def _digest(body: Mapping[str, Any], name: str) -> bytes:
    return from_hex(member(dict(body), name, str, _WHAT), what=f"{name!r} of {_WHAT}")
