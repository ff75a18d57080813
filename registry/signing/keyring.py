"""The life of every owner's keys, as the log tells it: a fold over its entries, in their order.

Each entry is judged by the keys as they stand at its index. A change of the keys needs as many signatures as the
threshold before it asks for (a rotation also as many as the one after it: python-tuf's rule), counted over distinct
keys; it must be the very next version; and what it leaves must be able to sign. Revocation takes trust back from an
index on: what stands before it stays, and keys that were let in by nobody else after it fall as well. Trust never
comes back. Reads bytes and does no I/O; knows no database and no trust file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from registry.signing.entry import ENROL, KEY_EVENTS, OWNER, RETIRE, REVOKE, ROTATE, THRESHOLD, Entry, read_entry
from registry.signing.key_events import KeyEvent, read_key_event
from registry.signing.keys import PublicKey
from registry.signing.owner_keys import KnownKey, KnownSecret, OwnerKeys, reached
from registry.signing.strict_json import member
from watermark.errors import (
    DocumentError,
    KeyEventError,
    ThresholdError,
    UntrustedKeyError,
)


@dataclass
class Keyring:
    """Every owner's keys so far; hand it the log's entries in their order, leaving out none that changes keys."""

    owners: dict[str, OwnerKeys] = field(default_factory=dict)
    owner_of: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Keyring:
        """The same state, to try entries on."""
        return Keyring(dict(self.owners), dict(self.owner_of))

    def follow(self, index: int, data: bytes) -> Entry:
        """Verify the entry at this index by the keys of that moment, and apply what it changes; a refused one does not.

        Raises DocumentError for an entry that cannot be read, SignatureError, UntrustedKeyError for a stranger's or an
        owner's second beginning, RevokedKeyError, RetiredKeyError, ThresholdError, or KeyEventError for a change that
        does not follow from the state before it.
        """
        entry = read_entry(data)
        if entry.kind == OWNER:
            self._introduce(entry, index)
        elif entry.kind in KEY_EVENTS:
            self._change(entry, index)
        else:
            self._verify(entry, index)
        return entry

    def known(self, key_id: str) -> KnownKey | None:
        """What the log says of a key, whoever's it is."""
        owner = self.owner_of.get(key_id)
        return None if owner is None else self.owners[owner].keys[key_id]

    def _verify(self, entry: Entry, index: int) -> None:
        """An entry that changes no keys: one signature by an active key of the owner whom it names, if it names one."""
        known = self.known(entry.key_id)
        if known is None:
            raise UntrustedKeyError(f"signed by key {entry.key_id[:16]}, which no earlier entry introduced")
        known.refuse_unless_active(index)
        entry.verify(known.key)
        named = entry.body.get("owner")
        if named is not None and named != self.owner_of[entry.key_id]:
            raise UntrustedKeyError(
                f"a {entry.kind} entry of {named!a}, signed by a key of {self.owner_of[entry.key_id]!a}"
            )

    def _introduce(self, entry: Entry, index: int) -> None:
        key = entry.introduced_key()
        owner = member(dict(entry.body), "owner", str, "the owner entry")
        if not owner:
            raise DocumentError("an owner entry without the owner's name")
        if owner in self.owners:
            raise UntrustedKeyError(
                f"a second key for the owner {owner!r}: {key.key_id[:16]}",
                hint="an owner begins once; further keys come with `weightmark keys enrol`",
            )
        self._refuse_known(key)
        commitment = entry.body.get("secret_commitment")
        secrets = (KnownSecret(commitment, index),) if isinstance(commitment, str) else ()
        self.owners[owner] = OwnerKeys(owner, 1, {key.key_id: KnownKey(key, index)}, ((index, 1),), secrets)
        self.owner_of[key.key_id] = owner

    def _change(self, entry: Entry, index: int) -> None:
        event = read_key_event(entry)
        before = self.owners.get(event.owner)
        if before is None:
            raise UntrustedKeyError(f"a {event.kind} entry of {event.owner!a}, whom no earlier entry introduced")
        if event.version != before.version + 1:
            raise KeyEventError(
                f"the {event.kind} entry is version {event.version} of {event.owner}'s keys, which are at "
                f"{before.version}: none may be skipped or repeated"
            )
        old = before.active(index)
        keeps = old if event.kind == ROTATE else {}  # a new set may hold keys of the old one
        newcomers = {key.key_id: key for key in event.keys if key.key_id not in keeps}
        for key in newcomers.values():
            self._refuse_known(key)
        for signature in entry.envelope.signatures:
            if signature.keyid in before.keys:
                before.keys[signature.keyid].refuse_unless_active(index)
        signers = entry.signers({**old, **newcomers})
        agreed = signers & old.keys()
        if event.kind == REVOKE:
            agreed -= {
                event.key_id
            }  # whoever holds a stolen key cannot help to revoke: it is not trusted at this index
        _demand(len(agreed), before.threshold, event, "its owner's current keys")
        after = _apply(event, before, index, signers, frozenset(agreed))
        left = len(after.active(index + 1))
        if left < after.threshold:
            raise KeyEventError(
                f"the {event.kind} entry would leave {left} keys, and {after.threshold} must sign",
                hint="rotate to a new set of keys, enrol another one first, or lower the threshold",
            )
        self.owners[event.owner] = replace(after, version=event.version)
        self.owner_of.update(dict.fromkeys(newcomers, event.owner))

    def _refuse_known(self, key: PublicKey) -> None:
        if key.key_id in self.owner_of:
            raise KeyEventError(
                f"key {key.key_id[:16]} was introduced before, by {self.owner_of[key.key_id]!a}",
                hint="make a new key: one that went out of use does not come back",
            )


def _apply(
    event: KeyEvent, before: OwnerKeys, index: int, signers: frozenset[str], agreed: frozenset[str]
) -> OwnerKeys:
    """The keys after an event whose signatures suffice for the old threshold."""
    if event.kind == ENROL:
        if event.keys[0].key_id not in signers:
            raise KeyEventError(
                "the enrol entry is not signed by the key that it brings in",
                hint="the new key must sign too: whoever holds it shows that it is his",
            )
        return _with_keys(before, event, index, agreed)
    if event.kind == ROTATE:
        return _rotate(event, before, index, signers, agreed)
    if event.kind == REVOKE:
        return _revoke(event, before, index, agreed)
    if event.kind == RETIRE:
        known = _named(event, before)
        known.refuse_unless_active(index)
        return _with_key(before, replace(known, retired_from=index + 1))
    if event.kind == THRESHOLD:
        assert event.threshold is not None
        return replace(before, thresholds=(*before.thresholds, (index, event.threshold)))
    return _leak(event, before, index)


def _rotate(
    event: KeyEvent, before: OwnerKeys, index: int, signers: frozenset[str], agreed: frozenset[str]
) -> OwnerKeys:
    """The new set signs for itself as well; whoever is not in it goes out of use."""
    assert event.threshold is not None
    chosen = {key.key_id for key in event.keys}
    if event.threshold > len(chosen):
        raise KeyEventError(f"the rotate entry asks for {event.threshold} of {len(chosen)} keys")
    _demand(len(signers & chosen), event.threshold, event, "the keys that it brings in")
    grown = _with_keys(before, event, index, agreed)
    keys = {
        key_id: one if key_id in chosen or not one.is_active(index) else replace(one, retired_from=index + 1)
        for key_id, one in grown.keys.items()
    }
    return replace(grown, keys=keys, thresholds=(*before.thresholds, (index, event.threshold)))


def _revoke(event: KeyEvent, before: OwnerKeys, index: int, agreed: frozenset[str]) -> OwnerKeys:
    """Take trust back from an index on, also from keys that nobody else let in after it.

    Those who sign the revocation stand, and so do the keys that came with them: else an owner whose only key was
    stolen could rotate, and never revoke that key from before the rotation.
    """
    known, start = _named(event, before), event.from_index
    assert start is not None
    if start > index:
        raise KeyEventError(f"the revoke entry counts from entry {start}, and stands at {index}: it cannot look ahead")
    if known.revoked_from is not None and start >= known.revoked_from:
        raise KeyEventError(f"key {known.key.key_id[:16]} is revoked from entry {known.revoked_from} on already")
    after = _with_key(before, replace(known, revoked_from=start))
    standing = {before.keys[key_id].since for key_id in agreed}
    for key_id in before.keys:  # in the order of their coming: who was let in by a fallen key falls before his own do
        one = after.keys[key_id]
        if one.since in standing:
            continue
        good = sum(not reached(after.keys[voucher].revoked_from, one.since) for voucher in one.vouchers)
        if good < one.needed and not reached(one.revoked_from, one.since):
            after = _with_key(after, replace(one, revoked_from=one.since))
    return after


def _leak(event: KeyEvent, before: OwnerKeys, index: int) -> OwnerKeys:
    """A new owner secret: the one before proves less from an index on."""
    assert event.commitment is not None
    assert event.from_index is not None
    if event.from_index > index:
        raise KeyEventError(f"the secret entry counts from entry {event.from_index}, and stands at {index}")
    if any(secret.commitment == event.commitment for secret in before.secrets):
        raise KeyEventError("the secret entry commits to a secret that was committed before")
    leaked = tuple(
        secret if secret.leaked_from is not None else replace(secret, leaked_from=event.from_index)
        for secret in before.secrets
    )
    return replace(before, secrets=(*leaked, KnownSecret(event.commitment, index)))


def _with_keys(before: OwnerKeys, event: KeyEvent, index: int, agreed: frozenset[str]) -> OwnerKeys:
    fresh = {
        key.key_id: KnownKey(key, index, vouchers=agreed, needed=before.threshold)
        for key in event.keys
        if key.key_id not in before.keys
    }
    return replace(before, keys={**before.keys, **fresh})


def _with_key(before: OwnerKeys, known: KnownKey) -> OwnerKeys:
    return replace(before, keys={**before.keys, known.key.key_id: known})


def _named(event: KeyEvent, before: OwnerKeys) -> KnownKey:
    known = before.keys.get(event.key_id or "")
    if known is None:
        raise KeyEventError(
            f"the {event.kind} entry names key {(event.key_id or '')[:16]}, which {event.owner} never had"
        )
    return known


def _demand(found: int, needed: int, event: KeyEvent, whose: str) -> None:
    if found < needed:
        raise ThresholdError(f"the {event.kind} entry is signed by {found} of {whose}, and {needed} must sign")
