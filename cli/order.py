"""Since when others know of a release, and what that does to the threshold.

For the owner's layer the commitment is R, which stands in the entry of every copy: the earliest word counts. For a
recipient it is the copy's own. Where that word is older than the earliest known date of the suspect, nobody can have
redrawn keys to fit it, and 64 bits are enough instead of 128; whatever lay under the same stamp is then paid for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from itertools import chain, islice

from cli.stamping import order_of_copy, stamps_of_copy
from registry.signing.order import UNKNOWN, Order, earliest
from registry.signing.trust import TrustPolicy
from registry.store.record_file import ReleaseBook
from registry.store.records import CopyRecord
from watermark.errors import InputError
from watermark.evidence import THRESHOLD_LOG2_P, THRESHOLD_STAMPED_LOG2_P, add_multiplicity

#: What a stamped commitment pays for beside the tests: each entry under the stamp could have been another try.
LEAVES = "stamped entries"


@dataclass(frozen=True)
class ReleaseOrder:
    """The order of a release's mark (`owner`), and of the copies that a suspect led to, by id."""

    owner: Order = UNKNOWN
    copies: Mapping[str, Order] = field(default_factory=dict)

    def of(self, copy_id: str | None) -> Order:
        """The order of the commitment that a verdict uses: R, or that of the copy it names."""
        return self.owner if copy_id is None else self.copies.get(copy_id, UNKNOWN)


@dataclass(frozen=True)
class Threshold:
    """What a result must reach, after paying for `counts` beside the tests."""

    log2_p: float = THRESHOLD_LOG2_P
    counts: tuple[tuple[str, int], ...] = ()

    @property
    def is_lower(self) -> bool:
        """Whether an independent order earned the lower threshold."""
        return self.log2_p > THRESHOLD_LOG2_P

    def adjust(self, log2_p: float, counts: Sequence[int]) -> float:
        """log2 p after `counts` and what this threshold asks to pay for."""
        return add_multiplicity(log2_p, [*counts, *(count for _, count in self.counts)])


DEFAULT_THRESHOLD = Threshold()


def order_of_release(
    book: ReleaseBook, release_id: str, trust: TrustPolicy, named: Collection[str] = ()
) -> ReleaseOrder:
    """The orders that the owner's own records give, as his trust file judges them: R's, and those of the named copies.

    Every copy's entry holds R, and one copy is held at a time: there may be a million. Where nobody is believed about
    time, no copy can tell more than the first.
    """
    copies = book.each_copy(release_id)
    if not trust.authorities and trust.log.quorum is None:
        copies = islice(copies, 1)
    owner: Order | None = None
    found = {}
    for copy in chain(copies, filter(None, map(book.find_copy, named))):
        order = order_of_copy(copy.claims, copy.proof, trust)
        owner = order if owner is None else earliest([owner, order])
        if copy.copy_id in named:
            found[copy.copy_id] = order
    return ReleaseOrder(owner if owner is not None else UNKNOWN, found)


def best_known_copy(copies: Sequence[CopyRecord], trust: TrustPolicy) -> tuple[CopyRecord, tuple[bytes, ...]]:
    """The copy whose entry is independently known first (else the first one), and the stamps that say so."""
    orders = [order_of_copy(copy.claims, copy.proof, trust) for copy in copies]
    chosen = copies[orders.index(earliest(orders))]
    return chosen, stamps_of_copy(chosen.claims, chosen.proof)


def threshold_for(order: Order, suspect_date: datetime | None) -> Threshold:
    """The lower threshold where the order is independently older than the suspect, the usual one everywhere else."""
    if suspect_date is None or not order.is_before(suspect_date):
        return DEFAULT_THRESHOLD
    return Threshold(THRESHOLD_STAMPED_LOG2_P, ((LEAVES, order.leaves),))


def read_date(text: str, *, what: str = "--suspect-date") -> datetime:
    """A day (its first second, UTC, to nobody's disadvantage but the claimant's) or a time with zone, both RFC 3339."""
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"{what} {text!a} is no date", hint="write it as 2026-01-31 or 2026-01-31T08:00:00Z"
        ) from error
    if found.tzinfo is None:
        raise InputError(f"{what} {text!a} says no time zone", hint="write it as 2026-01-31T08:00:00Z")
    return found
