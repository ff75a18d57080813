"""Check each entry by the keys as they stand at its index, and look back at what a later revocation felled.

An entry must be signed by a key that the log had introduced before it and not revoked or retired since; a change of
keys must follow from the state before it (`keyring`). A revocation reaches back to its own index: entries by that key
from there on were rightly taken in, and count no more. Knows no database and no tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from registry.auditing.findings import Findings
from registry.signing.entry import ENROL, KEY_EVENTS, ROTATE
from registry.signing.keyring import Keyring
from registry.signing.owner_keys import reached
from watermark.errors import (
    KeyEventError,
    RetiredKeyError,
    RevokedKeyError,
    ThresholdError,
    WeightmarkError,
)

ENTRY = "entry"
REVOKED = RevokedKeyError.code
#: What is wrong with the life of keys has a code of its own; all else is a bad entry.
_NAMED = (RevokedKeyError, RetiredKeyError, ThresholdError, KeyEventError)


@dataclass
class SignatureAudit:
    """Hand it the log's entries in their order, and ask for what fell when all are through."""

    ring: Keyring = field(default_factory=Keyring)
    signed: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def check(self, index: int, data: bytes, findings: Findings) -> bool:
        """Whether the next entry holds by itself; what is wrong with it is a finding."""
        try:
            entry = self.ring.follow(index, data)
        except WeightmarkError as error:
            findings.add(error.code if isinstance(error, _NAMED) else ENTRY, f"entry {index}: {error}", index)
            return False
        for signature in entry.envelope.signatures:
            self.signed.setdefault(signature.keyid, []).append((index, entry.kind))
        return True

    def note_fallen(self, findings: Findings) -> None:
        """A finding for each entry that a revocation took back after it was in the log."""
        for index, text in sorted(self._fallen()):
            findings.add(REVOKED, text, index)

    def _fallen(self) -> Iterator[tuple[int, str]]:
        for key_id, entries in self.signed.items():
            known = self.ring.known(key_id)
            if known is None or known.revoked_from is None:
                continue
            for index, kind in entries:
                if index >= known.revoked_from and not self._stands(index, kind):
                    yield index, _describe(index, kind, key_id, known.revoked_from)

    def _stands(self, index: int, kind: str) -> bool:
        """Whether an entry that let keys in still does: others vouch for it, or they revoked the one who did."""
        if kind not in (ENROL, ROTATE):
            return False
        newcomers = [one for keys in self.ring.owners.values() for one in keys.keys.values() if one.since == index]
        return all(not reached(one.revoked_from, one.since) for one in newcomers)


def _describe(index: int, kind: str, key_id: str, start: int) -> str:
    why = f"key {key_id[:16]}, which signed it, was revoked later from entry {start} on"
    if kind in KEY_EVENTS and kind not in (ENROL, ROTATE):
        return f"entry {index}: the {kind} entry is in doubt, and in effect until the next change: {why}"
    return f"entry {index}: the {kind} entry fell: {why}"
