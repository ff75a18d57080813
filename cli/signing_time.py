"""When was it signed, and who says so: the owner's clock, or a time stamp that the reader believes.

A plain signature has the earliest stamp on its bytes. A release has the earliest word of others on the checkpoint that
holds its entry: that binds the content, where a stamp on signature bytes binds only the bytes (see `registry.signing.
order`). Reads no files and prints nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from registry.signing.comparison import SignedManifest
from registry.signing.timestamps import StampsFound, VerifiedStamp, judge_stamps

if TYPE_CHECKING:
    from registry.signing.release import VerifiedRelease
    from registry.signing.trust import TrustPolicy

OWNER_CLOCK = "owner"
_SIGNATURE = "the model signature"


@dataclass(frozen=True)
class SigningTime:
    """A time (RFC 3339, seconds) with its source, every stamp that holds with what it is on, and a word on each other.

    `order` is None for a plain signature, where the question does not arise.
    """

    at: str | None = None
    source: str | None = None
    stamps: tuple[tuple[str, VerifiedStamp], ...] = ()
    notes: tuple[str, ...] = ()
    order: str | None = None


def time_of_signature(signed: SignedManifest) -> SigningTime:
    """The time of a plain signature: the earliest believed stamp on it, or none at all."""
    found = signed.stamps
    if not found.verified:
        return SigningTime(notes=found.notes)
    stamps = tuple((_SIGNATURE, stamp) for stamp in found.verified)
    notes = found.notes
    if signed.signed_by == f"key {signed.key_id}":  # no CA bound the key in time
        notes = (*notes, "whether the key is as old as the time stamp: a new key can be fitted to bytes stamped before")
    return SigningTime(text_of_time(found.verified[0].time), found.verified[0].source, stamps, notes)


def time_of_release(
    signed: SignedManifest, release: VerifiedRelease, claims: bytes, proof: bytes, trust: TrustPolicy
) -> SigningTime:
    """The time of a release: what others say about its checkpoint, else what the owner's clock said.

    Raises what a stamp of a trusted authority that does not hold raises.
    """
    from registry.log.proof import read_proof  # logs cost start-up time: only when a release is verified
    from registry.signing.claims import read_claims
    from registry.signing.order import order_of
    from registry.signing.stamp_claims import checkpoint_stamps

    found = {_SIGNATURE: signed.stamps}
    for claim in read_claims(claims):
        signature, what = claim.bundle.envelope.signatures[0].sig, f"claim {claim.number}"
        found[what] = judge_stamps(claim.bundle.stamps, signature, trust.authorities, what=what)
    statements = (claim.statement for claim in release.claims)
    order = order_of(proof, checkpoint_stamps(statements, read_proof(proof).checkpoint), trust)
    found["the checkpoint"] = StampsFound(order.stamps, order.notes)
    stamps = tuple((what, stamp) for what, one in found.items() for stamp in one.verified)
    notes = tuple(note for one in found.values() for note in one.notes)
    if order.time is not None:
        by_stamp = next((stamp for stamp in order.stamps if stamp.source == order.source), None)
        at = by_stamp.time if by_stamp is not None else order.time
        return SigningTime(text_of_time(at), order.source, stamps, notes, order.kind)
    owner_clock = release.entry.body.get("signed_at")
    if isinstance(owner_clock, str):
        return SigningTime(owner_clock, OWNER_CLOCK, stamps, notes, order.kind)
    return SigningTime(stamps=stamps, notes=notes, order=order.kind)


def text_of_time(time: datetime) -> str:
    """A time as results write it: RFC 3339 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
