"""Which owner secret a release was marked with, where there was more than one: a leak brings a new one, marks stay.

A release id follows from secret and reference, so the right secret shows itself. Secrets from before are unlocked only
when they are needed: each costs a second. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from cli.home import Home
from registry.keystores.interface import PinSource
from registry.store.embedded import EmbeddedRegistry
from registry.store.records import ReleaseRecord
from watermark.marks.secret import ReleaseKey, commit_to_secret


@dataclass
class OwnerSecrets:
    """The secrets of a home, the current one first; unlocked at the first use."""

    home: Home
    passphrase: bytes = field(repr=False)
    pin: PinSource | None = field(default=None, repr=False)
    _known: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def current(self) -> bytes:
        """The secret that marks new releases."""
        return self._open("")

    def of(self, record: ReleaseRecord) -> bytes:
        """The secret that this release was marked with; the current one when none of this home was."""
        digest = bytes.fromhex(record.reference_digest)
        return next((one for one in self._all() if _marks(one, digest, record.release_id)), self.current)

    def for_reference(self, digest: bytes, records: Iterable[ReleaseRecord]) -> bytes:
        """The secret to release this reference with: the one it was released with before, else the current one.

        Two marks of one reference under two secrets would show both, so an old release keeps its secret.
        """
        before = [record for record in records if record.reference_digest == digest.hex()]
        return self.of(before[0]) if before and self.home.former_secrets else self.current

    def _all(self) -> Iterable[bytes]:
        yield self.current
        for path in self.home.former_secrets:
            yield self._open(path.name)

    def _open(self, name: str) -> bytes:
        if name not in self._known:
            given = {"name": name} if name else {}
            self._known[name] = self.home.owner_secret(self.passphrase, self.pin, **given)
        return self._known[name]


@dataclass(frozen=True)
class Leak:
    """The log entry that says that an owner secret leaked, and from which entry on its marks prove less."""

    index: int
    from_index: int


def leak_of(home: Home, secret: bytes, registry: EmbeddedRegistry) -> Leak | None:
    """What the log says of a leak of this secret; None where it says nothing."""
    if not home.former_secrets:
        return None  # no secret of this home was ever replaced, so the log need not be read
    keys = registry.keyring().owners.get(home.owner)
    known = keys.secrets if keys is not None else ()
    commitment = commit_to_secret(secret).hex()
    # The entry that brought the next secret is the one that called this one leaked.
    for one, following in pairwise(known):
        if one.commitment == commitment and one.leaked_from is not None:
            return Leak(following.since, one.leaked_from)
    return None


def leak_notes(home: Home, secret: bytes, registry: EmbeddedRegistry) -> tuple[str, ...]:
    """What a reader must know about marks of a secret that the log says has leaked; nothing for any other secret."""
    leak = leak_of(home, secret, registry)
    return () if leak is None else (note_of_leak(leak.from_index),)


def note_of_leak(from_index: int) -> str:
    """The same in one sentence."""
    return (
        f"the secret of this mark leaked: from log entry {from_index} on others could have made it too, so it proves "
        "less about what appeared after that"
    )


def _marks(secret: bytes, reference_digest: bytes, release_id: str) -> bool:
    return ReleaseKey.of(secret, reference_digest).release_id == release_id
