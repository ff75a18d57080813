"""Keys and key events for tests: an owner's log written one entry at a time, right or wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from registry.signing.entry import OWNER, RELEASE, make_entry
from registry.signing.key_events import (
    enrol_body,
    retire_body,
    revoke_body,
    rotate_body,
    secret_body,
    threshold_body,
)
from registry.signing.keyring import Keyring
from registry.signing.keys import PrivateKey, generate
from registry.signing.owner_keys import OwnerKeys

OWNER_NAME = "acme"


@cache
def key(name: str) -> PrivateKey:
    """The key that goes by this name in the tests."""
    return generate("p256")


def key_id(name: str) -> str:
    return key(name).public.key_id


def owner_entry(name: str = "a", owner: str = OWNER_NAME) -> bytes:
    body = {"owner": owner, "key": key(name).public.pem, "secret_commitment": "00" * 32}
    return make_entry(OWNER, body, key(name))


def event(kind: str, signers: str, version: int, owner: str = OWNER_NAME, **given: Any) -> bytes:
    """A key event signed by the keys whose names are the letters of `signers`."""
    made = {
        "enrol": lambda: enrol_body(owner, version, key(given["new"]).public),
        "rotate": lambda: rotate_body(
            owner, version, [key(name).public for name in given["new"]], given.get("threshold", 1)
        ),
        "revoke": lambda: revoke_body(owner, version, key_id(given["old"]), given["start"]),
        "retire": lambda: retire_body(owner, version, key_id(given["old"])),
        "threshold": lambda: threshold_body(owner, version, given["threshold"]),
        "secret": lambda: secret_body(owner, version, bytes([version]) * 32, given["start"]),
    }
    return make_entry(kind, made[kind](), key(signers[0]), further=[key(name) for name in signers[1:]])


@cache
def release_by(name: str, number: int = 0, owner: str | None = None) -> bytes:
    body = {"release": f"{number:032x}"} | ({} if owner is None else {"owner": owner})
    return make_entry(RELEASE, body, key(name))


@dataclass
class KeyLog:
    """A log in memory whose every entry was admitted, and the keys as they stand after it."""

    entries: list[bytes] = field(default_factory=list)
    ring: Keyring = field(default_factory=Keyring)

    @classmethod
    def of(cls, *entries: bytes) -> KeyLog:
        log = cls()
        for entry in entries:
            log.add(entry)
        return log

    def add(self, entry: bytes) -> None:
        self.ring.follow(len(self.entries), entry)
        self.entries.append(entry)

    @property
    def keys(self) -> OwnerKeys:
        return self.ring.owners[OWNER_NAME]

    def active(self) -> str:
        """The names of the keys that may sign the next entry."""
        ids = set(self.keys.active(len(self.entries)))
        return "".join(sorted(name for name in "abcdefgh" if key_id(name) in ids))


def log_with(names: str, threshold: int) -> KeyLog:
    """An owner who has these keys and this threshold; the events before it are versions 1 and up."""
    log = KeyLog.of(owner_entry(names[0]))
    for version, name in enumerate(names[1:], start=2):
        log.add(event("enrol", names[0] + name, version, new=name))
    if threshold > 1:
        log.add(event("threshold", names[0], len(names) + 1, threshold=threshold))
    return log
