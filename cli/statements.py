"""What a release says about itself: the claims beside the model, and the log entry that binds them.

Only commitments of the mark stand here, never keys, recipients or reference values. A log index stands in no signed
file, since it is not known yet: it lives in the proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.signing.claims import make_claim, read_claims, write_claims
from registry.signing.entry import RELEASE, make_entry
from registry.signing.oms import SignedModel
from registry.signing.signer import Signer
from registry.signing.statement import Statement

RELEASE_PREDICATE = "https://weightmark.dev/predicate/release/v1"
MARK_PREDICATE = "https://weightmark.dev/predicate/mark/v1"
FINGERPRINT_PREDICATE = "https://weightmark.dev/predicate/fingerprint/v1"


@dataclass(frozen=True)
class CopyFacts:
    """Everything public about one copy; digests in lower-case hex, the sketch as its claim states it."""

    owner: str
    name: str
    version: str
    release: str
    copy: str | None
    mark_root: str | None
    copy_commitment: str | None
    geometry_digest: str | None
    tensor_digests: tuple[str, ...]
    canonical_digest: str
    signed_at: str
    sketch: Mapping[str, Any] | None = None


def make_claims(
    facts: CopyFacts, signed: SignedModel, key: Signer, further: Sequence[tuple[str, dict[str, Any]]] = ()
) -> bytes:
    """The `claims.jsonl` of a copy: release, mark commitment (where there is a mark), fingerprint, and `further` ones.

    `further` are predicates with their types.
    """
    predicates: list[tuple[str, dict[str, Any]]] = [
        (
            RELEASE_PREDICATE,
            {
                "owner": facts.owner,
                "name": facts.name,
                "version": facts.version,
                "release": facts.release,
                "copy": facts.copy,
                "signedAt": facts.signed_at,
            },
        )
    ]
    if facts.mark_root is not None:
        mark = {"root": facts.mark_root, "copyCommitment": facts.copy_commitment, "geometry": facts.geometry_digest}
        predicates.append((MARK_PREDICATE, mark))
    fingerprint: dict[str, Any] = {"canonical": facts.canonical_digest, "tensors": list(facts.tensor_digests)}
    if facts.sketch is not None:
        fingerprint["sketch"] = dict(facts.sketch)
    predicates.append((FINGERPRINT_PREDICATE, fingerprint))
    return write_claims(
        make_claim(Statement(facts.name, signed.root, kind, predicate), key)
        for kind, predicate in (*predicates, *further)
    )


def make_release_entry(facts: CopyFacts, signed: SignedModel, claims: bytes, key: Signer) -> bytes:
    """The log entry of a copy: binds release, mark, signature and claims to one another."""
    body = {
        "owner": facts.owner,
        "release": facts.release,
        "copy": facts.copy,
        "R": facts.mark_root,
        "copy_commitment": facts.copy_commitment,
        "root": signed.root.hex(),
        "model_sig": signed.pae_sha256.hex(),
        "claims": [claim.pae_sha256.hex() for claim in read_claims(claims)],
        "signed_at": facts.signed_at,
    }
    return make_entry(RELEASE, body, key)
