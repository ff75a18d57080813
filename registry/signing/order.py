"""Whose order: was a commitment in the log before some date, by the word of anyone but the claimant?

A log that the claimant keeps alone proves no date to a stranger. A stamp of a time stamping authority, or cosignatures
of a quorum of witnesses, does, where the reader's trust file accepts them and what they speak of binds the commitment:
the text of a checkpoint holds the root, the root binds the entry, the entry holds the commitment. Stamps on signatures
do not count here: a new ECDSA key can be fitted to signature bytes that were stamped long ago (see `timestamps`).
Pure trust logic; knows no marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from registry.log.merkle import leaf_hash, verify_inclusion
from registry.log.proof import read_proof
from registry.signing.stamp_claims import stamped_text
from registry.signing.timestamps import VerifiedStamp, judge_stamps
from registry.signing.trust import TrustPolicy
from watermark.errors import InclusionError

SELF_ASSERTED, INDEPENDENT = "self-asserted", "independent"


@dataclass(frozen=True)
class Order:
    """What others than the claimant say about when an entry was in the log.

    `time` is the latest moment at which it can have come to be, `source` who says so. `leaves` counts the entries under
    that word: each could have been another try. `stamps` are all that hold, earliest first; `notes` tell of the others.
    """

    kind: str = SELF_ASSERTED
    time: datetime | None = None
    source: str | None = None
    leaves: int = 0
    stamps: tuple[VerifiedStamp, ...] = ()
    notes: tuple[str, ...] = ()

    def is_before(self, date: datetime) -> bool:
        """Whether the entry is independently known to be older than `date` (with time zone)."""
        return self.time is not None and self.time < date


UNKNOWN = Order()


def order_of(proof: bytes, stamps: Sequence[bytes], trust: TrustPolicy) -> Order:
    """The order of the entry in a `.tlog-proof`, with the stamps brought for its checkpoint.

    Raises what a proof that does not hold raises, and what a stamp of a trusted authority that does not hold raises.
    """
    read = read_proof(proof)
    if read.extra is None:
        raise InclusionError("the log proof brings no entry")
    checkpoint, cosignatures = trust.log.verify(read.checkpoint)
    verify_inclusion(read.index, checkpoint.size, leaf_hash(read.extra), read.hashes, checkpoint.root)
    found = judge_stamps(stamps, stamped_text(read.checkpoint), trust.authorities, what="the checkpoint")
    words = [(stamp.latest, stamp.source) for stamp in found.verified]
    agreed = trust.log.agreed_at(cosignatures)
    if agreed is not None:
        words.append((datetime.fromtimestamp(agreed, UTC), f"witnesses {trust.log.quorum}"))
    if not words:
        return Order(notes=found.notes)
    time, source = min(words)
    return Order(INDEPENDENT, time, source, checkpoint.size, found.verified, found.notes)


def earliest(orders: Iterable[Order]) -> Order:
    """The order that reaches furthest back among those of entries that hold one commitment; the first if none does."""
    found = list(orders)
    timed = [(order.time, number) for number, order in enumerate(found) if order.time is not None]
    if timed:
        return found[min(timed)[1]]
    return found[0] if found else UNKNOWN
