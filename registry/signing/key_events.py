"""What a change of an owner's keys says: the bodies of the log's key events, written and strictly read.

    enrol      owner, version, key (PEM)                          a further key
    rotate     owner, version, keys (PEM each), threshold         a whole new set of keys
    revoke     owner, version, key (id), from                     not trusted from that log index on
    retire     owner, version, key (id)                           out of use from here on
    threshold  owner, version, threshold                          how many keys must sign
    secret     owner, version, secret_commitment, from            a new owner secret; the old one leaked

`version` counts an owner's key events: his `owner` entry is version 1, and each event is one more than the last, so
that none can be skipped, repeated or replayed. Knows no state: whether an event may stand is told by `keyring`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.signing.encoding import from_hex
from registry.signing.entry import ENROL, KEY_EVENTS, RETIRE, REVOKE, ROTATE, SECRET, THRESHOLD, Entry
from registry.signing.keys import PublicKey, public_key_from_pem
from registry.signing.strict_json import as_object, member
from watermark.errors import DocumentError, InputError

MAX_KEYS = 16  # as many signatures as an envelope holds

_FIELDS = {
    ENROL: ("key",),
    ROTATE: ("keys", "threshold"),
    REVOKE: ("key", "from"),
    RETIRE: ("key",),
    THRESHOLD: ("threshold",),
    SECRET: ("secret_commitment", "from"),
}


@dataclass(frozen=True)
class KeyEvent:
    """A key event as it was read: nothing about it is verified but its form. Fields that a kind lacks are empty."""

    kind: str
    owner: str
    version: int
    keys: tuple[PublicKey, ...] = ()
    key_id: str | None = None
    from_index: int | None = None
    threshold: int | None = None
    commitment: str | None = None


def enrol_body(owner: str, version: int, key: PublicKey) -> dict[str, Any]:
    """A further key of the owner."""
    return {"owner": owner, "version": version, "key": key.pem}


def rotate_body(owner: str, version: int, keys: Sequence[PublicKey], threshold: int) -> dict[str, Any]:
    """A new set of keys in place of the whole old one."""
    return {"owner": owner, "version": version, "keys": [key.pem for key in keys], "threshold": threshold}


def revoke_body(owner: str, version: int, key_id: str, from_index: int) -> dict[str, Any]:
    """A key is not trusted from that log index on."""
    return {"owner": owner, "version": version, "key": key_id, "from": from_index}


def retire_body(owner: str, version: int, key_id: str) -> dict[str, Any]:
    """A key signs nothing new after this entry."""
    return {"owner": owner, "version": version, "key": key_id}


def threshold_body(owner: str, version: int, threshold: int) -> dict[str, Any]:
    """So many keys must sign from here on."""
    return {"owner": owner, "version": version, "threshold": threshold}


def secret_body(owner: str, version: int, commitment: bytes, from_index: int) -> dict[str, Any]:
    """A new owner secret; marks of the one before prove less from that log index on."""
    return {"owner": owner, "version": version, "secret_commitment": commitment.hex(), "from": from_index}


def read_key_event(entry: Entry) -> KeyEvent:
    """Read a key event strictly; DocumentError for another form, InputError for a key that may not be enrolled."""
    if entry.kind not in KEY_EVENTS:
        raise DocumentError(f"a {entry.kind!a} entry is no change of an owner's keys")
    what = f"the {entry.kind} entry"
    body = as_object(dict(entry.body), what, allowed=("owner", "version", *_FIELDS[entry.kind]))
    owner, version = member(body, "owner", str, what), member(body, "version", int, what)
    return KeyEvent(
        kind=entry.kind,
        owner=owner,
        version=version,
        keys=_read_keys(body, entry.kind, what),
        key_id=_read_key_id(body, what) if entry.kind in (REVOKE, RETIRE) else None,
        from_index=_read_natural(body, "from", what) if "from" in _FIELDS[entry.kind] else None,
        threshold=_read_threshold(body, what) if "threshold" in _FIELDS[entry.kind] else None,
        commitment=_read_commitment(body, what) if entry.kind == SECRET else None,
    )


def _read_keys(body: dict[str, Any], kind: str, what: str) -> tuple[PublicKey, ...]:
    if kind == ENROL:
        return (_read_key(member(body, "key", str, what), what),)
    if kind != ROTATE:
        return ()
    listed = member(body, "keys", list, what)
    if not 1 <= len(listed) <= MAX_KEYS or not all(isinstance(one, str) for one in listed):
        raise DocumentError(f"{what} does not list 1 to {MAX_KEYS} keys")
    keys = tuple(_read_key(one, what) for one in listed)
    if len(set(keys)) != len(keys):
        raise DocumentError(f"{what} lists a key twice")
    return keys


def _read_key(pem: str, what: str) -> PublicKey:
    key = public_key_from_pem(pem.encode("utf-8"), what=f"a key in {what}")
    if key.pem != pem:
        raise DocumentError(f"a key in {what} is not in its one PEM form")
    return key


def _read_key_id(body: Mapping[str, Any], what: str) -> str:
    return from_hex(member(dict(body), "key", str, what), what=f"'key' of {what}").hex()


def _read_commitment(body: Mapping[str, Any], what: str) -> str:
    return from_hex(member(dict(body), "secret_commitment", str, what), what=f"'secret_commitment' of {what}").hex()


def _read_natural(body: Mapping[str, Any], name: str, what: str) -> int:
    number = member(dict(body), name, int, what)
    if number < 0:
        raise DocumentError(f"{name!r} of {what} is negative")
    return number


def _read_threshold(body: Mapping[str, Any], what: str) -> int:
    return check_threshold(_read_natural(body, "threshold", what), MAX_KEYS)


def check_threshold(threshold: int, keys: int) -> int:
    """Refuse a threshold that `keys` keys could never reach, or that asks for nobody: InputError."""
    if not 1 <= threshold <= keys:
        raise InputError(f"a threshold of {threshold} does not fit {keys} keys", hint=f"choose 1 to {keys}")
    return threshold
