"""Check that each entry is signed by a key that the log had introduced before it.

An `owner` entry brings a key and is signed by that key; every later entry names a key that was introduced at a smaller
index. A second key under an owner's name is a finding: nothing in it shows that the first key agreed. Knows no
database and no tile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.signing.entry import OWNER, Entry, read_entry
from registry.signing.keys import PublicKey
from watermark.errors import DocumentError, UntrustedKeyError


@dataclass
class EnrolledKeys:
    """The keys that the log has introduced so far; hand it the entries in their order."""

    keys: dict[str, PublicKey] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def check(self, data: bytes) -> None:
        """Verify the next entry and enrol the key it introduces, if any.

        Raises DocumentError for an entry that cannot be read, UntrustedKeyError for a key that no earlier entry
        introduced or a second key for one owner, SignatureError for a wrong signature.
        """
        entry = read_entry(data)
        if entry.kind == OWNER:
            self._enrol(entry)
            return
        key = self.keys.get(entry.key_id)
        if key is None:
            raise UntrustedKeyError(f"signed by key {entry.key_id[:16]}, which no earlier entry introduced")
        entry.verify(key)

    def _enrol(self, entry: Entry) -> None:
        key = entry.introduced_key()
        owner = entry.body.get("owner")
        if not isinstance(owner, str) or not owner:
            raise DocumentError("an owner entry without the owner's name")
        if self.owners.setdefault(owner, key.key_id) != key.key_id:
            raise UntrustedKeyError(f"a second key for the owner {owner!r}: {key.key_id[:16]}")
        self.keys[key.key_id] = key
