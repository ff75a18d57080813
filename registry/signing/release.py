"""Tie a signed model to its owner's entry in the log: the three side files of a release belong together.

Pure trust logic over what was read: the model signature, `claims.jsonl` and `release.tlog-proof`. The log entry names
the PAE digests of the signature and of each claim, so that no file can be swapped for one of another release. Knows
no marks: it compares commitments, it does not open them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.log.merkle import leaf_hash, verify_inclusion
from registry.log.proof import read_proof
from registry.signing.claims import VerifiedClaim, read_claims, verify_claim
from registry.signing.comparison import SignedManifest
from registry.signing.encoding import from_hex
from registry.signing.entry import RELEASE, Entry, read_entry
from registry.signing.keys import PublicKey
from registry.signing.strict_json import member
from registry.signing.trust import TrustPolicy
from watermark.errors import DigestError, DocumentError, InclusionError, UntrustedKeyError

_WHAT = "the release entry"


@dataclass(frozen=True)
class VerifiedRelease:
    """A signature that its owner's log entry vouches for, with the verified claims about the same bytes."""

    owner: str
    entry: Entry
    index: int
    size: int
    origin: str
    claims: tuple[VerifiedClaim, ...]


def verify_release(signed: SignedManifest, claims: bytes, proof: bytes, trust: TrustPolicy) -> VerifiedRelease:
    """Verify that a trusted owner released exactly this signed manifest, with these claims, in a trusted log.

    `claims` may hold more than the log entry lists (claims can be added later), all signed by the same owner; none of
    the listed ones may be absent. Raises UntrustedKeyError, SignatureError, DigestError, InclusionError or
    DocumentError.
    """
    owner = trust.owner_of(signed.key)
    keys = trust.owners[owner]
    verified_claims = tuple(verify_claim(claim, keys, root=signed.manifest.root) for claim in read_claims(claims))
    read = read_proof(proof)
    if read.extra is None:
        raise InclusionError("the log proof brings no entry")
    entry = read_entry(read.extra)
    _verify_signer(entry, owner, keys)
    _check_binding(entry, owner, signed, verified_claims)
    checkpoint, _ = trust.log.verify(read.checkpoint)
    verify_inclusion(read.index, checkpoint.size, leaf_hash(read.extra), read.hashes, checkpoint.root)
    return VerifiedRelease(owner, entry, read.index, checkpoint.size, checkpoint.origin, verified_claims)


def _verify_signer(entry: Entry, owner: str, keys: Sequence[PublicKey]) -> None:
    for key in keys:
        if key.key_id == entry.key_id:
            entry.verify(key)
            return
    raise UntrustedKeyError(f"{_WHAT} is not signed by a key of {owner}")


def _check_binding(entry: Entry, owner: str, signed: SignedManifest, claims: Sequence[VerifiedClaim]) -> None:
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
    present = {claim.pae_sha256 for claim in claims}
    absent = [one for one in listed if from_hex(one, what=f"a claim of {_WHAT}") not in present]
    if absent:
        raise DigestError(f"{len(absent)} of the {len(listed)} claims that the log lists are missing")


def _digest(body: Mapping[str, Any], name: str) -> bytes:
    return from_hex(member(dict(body), name, str, _WHAT), what=f"{name!r} of {_WHAT}")
