"""What a log says of one owner's keys: which there were, from when until when each counts, and how many must sign.

The state is told by index, not by time: a log's order can be proved, its clock cannot. Knows no entry and does not
decide what changes it: that is `keyring`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from registry.signing.keys import PublicKey
from watermark.errors import RetiredKeyError, RevokedKeyError, UntrustedKeyError


@dataclass(frozen=True)
class KnownKey:
    """A key that the log introduced at the index `since`, and until when it may sign.

    `vouchers` are the keys that let it in, of which `needed` had to; none for the key that an owner began with.
    """

    key: PublicKey
    since: int
    revoked_from: int | None = None
    retired_from: int | None = None
    vouchers: frozenset[str] = frozenset()
    needed: int = 0

    def is_active(self, index: int) -> bool:
        """Whether what it signs at this log index counts."""
        return self.since <= index and not reached(self.revoked_from, index) and not reached(self.retired_from, index)

    def refuse_unless_active(self, index: int) -> None:
        """Raise RevokedKeyError, RetiredKeyError or UntrustedKeyError where what it signs here does not count."""
        refuse_spent_key(self.key.key_id, index, revoked_from=self.revoked_from, retired_from=self.retired_from)
        if index < self.since:
            raise UntrustedKeyError(f"key {self.key.key_id[:16]} was introduced at entry {self.since}, after {index}")


@dataclass(frozen=True)
class KnownSecret:
    """A commitment to an owner's mark secret, logged at `since`; marks made by it prove less from `leaked_from` on."""

    commitment: str
    since: int
    leaked_from: int | None = None


@dataclass(frozen=True)
class OwnerKeys:
    """One owner's keys, old and new, in the order in which they came. `thresholds` holds (index, m) as they changed."""

    owner: str
    version: int
    keys: Mapping[str, KnownKey]
    thresholds: tuple[tuple[int, int], ...]
    secrets: tuple[KnownSecret, ...] = ()

    @property
    def threshold(self) -> int:
        """How many keys must sign now."""
        return self.thresholds[-1][1]

    def threshold_at(self, index: int) -> int:
        """How many keys had to sign at a log index; 0 before the owner was there."""
        return next((m for since, m in reversed(self.thresholds) if since <= index), 0)

    def active(self, index: int) -> dict[str, PublicKey]:
        """The keys whose signature counts at a log index, by id."""
        return {key_id: one.key for key_id, one in self.keys.items() if one.is_active(index)}


def refuse_spent_key(key_id: str, index: int, *, revoked_from: int | None, retired_from: int | None) -> None:
    """Raise RevokedKeyError or RetiredKeyError for a signature at a log index that the key had lost the right to."""
    if reached(revoked_from, index):
        raise RevokedKeyError(f"entry {index} is signed by key {key_id[:16]}, not trusted from entry {revoked_from} on")
    if reached(retired_from, index):
        raise RetiredKeyError(f"entry {index} is signed by key {key_id[:16]}, out of use from entry {retired_from} on")


def reached(start: int | None, index: int) -> bool:
    """Whether a log index lies at or after a start, if there is one."""
    return start is not None and start <= index
