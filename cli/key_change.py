"""Sign and log one change of an owner's keys, or draft it for others to sign: what all the jobs of `key_events` share.

Keys that are in this home sign at once, as many as the threshold asks for. Where they are not enough, the entry is
written as a draft that the others approve, and submitted then. The log decides, the home's files follow (`key_state`).
Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.home import Home
from cli.home_keys import add_key, home_keys, unlock
from cli.key_state import settle
from cli.key_stores import KeyStores, check_stores
from registry.keystores.interface import PinSource, open_signer
from registry.signing.entry import (
    KEY_EVENTS,
    MAX_ENTRY_BYTES,
    REVOKE,
    ROTATE,
    SECRET,
    make_entry,
    read_entry,
    sign_further,
)
from registry.signing.key_events import KeyEvent, read_key_event
from registry.signing.keys import generate
from registry.signing.owner_keys import OwnerKeys
from registry.signing.signer import Signer
from registry.signing.small_files import read_small_file, replace_file
from registry.store.embedded import EmbeddedRegistry
from watermark.errors import DocumentError, InputError, KeyEventError


@dataclass(frozen=True)
class ChangeRequest:
    """Whose home, which further keys sign (files or references), and where a draft goes that others still sign."""

    home: Path
    keys: tuple[str, ...] = ()
    draft: Path | None = None
    pin: PinSource | None = None


@dataclass(frozen=True)
class KeyChange:
    """What was logged, or drafted: `index` is None for a draft, and `threshold` and `current` then say nothing.

    `key` is the id of the key that it is about, `signers` those that signed, `threshold` how many must from now on,
    `current` the key that signs this home's releases from now on. `says` is what the entry says beyond the key.
    """

    kind: str
    owner: str
    version: int
    index: int | None
    key: str | None
    signers: tuple[str, ...]
    threshold: int | None = None
    current: str | None = None
    draft: Path | None = None
    notes: tuple[str, ...] = ()
    says: tuple[str, ...] = ()


@dataclass
class OpenKeys:
    """A home with its registry open for one change of keys; `was_settled`: a change cut off before was finished now."""

    home: Home
    registry: EmbeddedRegistry
    keys: OwnerKeys
    phrase: bytes
    request: ChangeRequest
    was_settled: bool

    @property
    def version(self) -> int:
        """The version that the next change must have."""
        return self.keys.version + 1

    @property
    def size(self) -> int:
        """The index that the next entry gets, unless another process is faster."""
        return self.registry.size


def with_open_keys(
    request: ChangeRequest, passphrase: Callable[[], bytes], make: Callable[[OpenKeys], KeyChange]
) -> KeyChange:
    """Open home and registry, put right what a crash left, and make one change."""
    home = Home.open(request.home)
    if request.draft is not None and request.draft.exists():
        raise InputError(f"{request.draft} is there already", hint="name another file for the draft")
    phrase, before = home.passphrase(passphrase), home.public_key
    with home.registry(home.log_key(phrase, request.pin)) as registry:
        home, keys = settle(home, registry)
        return make(OpenKeys(home, registry, keys, phrase, request, home.public_key != before))


def new_key(opened: OpenKeys, algorithm: str, reference: str | None) -> Signer:
    """A key that is kept in the home before the log hears of it; one that was made before and never logged is taken."""
    for one in home_keys(opened.home):
        if one.public.key_id not in opened.keys.keys and (one.public.algorithm, one.reference) == (
            algorithm,
            reference,
        ):
            return unlock(opened.home, one, opened.phrase, opened.request.pin)
    check_stores(KeyStores(owner_key=reference))  # a file would be no place of the home's own
    key: Signer = generate(algorithm) if reference is None else open_signer(reference, pin=opened.request.pin)
    add_key(opened.home, key, opened.phrase, reference)
    return key


def log_change(
    opened: OpenKeys,
    kind: str,
    body: Mapping[str, Any],
    *,
    key: str | None = None,
    newcomer: Signer | None = None,
    notes: tuple[str, ...] = (),
) -> KeyChange:
    """Sign with all the keys that are needed and at hand, then log, or write a draft for the others to sign."""
    signers = _signers(opened, newcomer, spent=key if kind == REVOKE else None)
    data = make_entry(kind, body, signers[0], further=signers[1:])
    draft = opened.request.draft
    if draft is None:
        return _append(opened, data, key, notes)
    replace_file(draft, data)
    return _described(data, key, draft=draft, notes=notes)


def approve_draft(draft: Path, signer: Signer) -> KeyChange:
    """Add a key's signature to a draft, in place; KeyEventError when it has signed already."""
    data = _read_draft(draft)
    signed = sign_further(data, signer)
    if signed == data:
        raise KeyEventError(f"key {signer.public.key_id[:16]} has signed {draft} already", hint="let another one sign")
    replace_file(draft, signed)
    return _described(signed, None, draft=draft)


def submit_draft(request: ChangeRequest, passphrase: Callable[[], bytes], draft: Path) -> KeyChange:
    """Log a draft that enough keys have signed; the log refuses it otherwise."""
    data = _read_draft(draft)
    return with_open_keys(request, passphrase, lambda opened: _append(opened, data, None, ()))


def _signers(opened: OpenKeys, newcomer: Signer | None, spent: str | None) -> list[Signer]:
    """The home's keys, as many as the threshold needs, then the new key and those named for this change."""
    request, active = opened.request, opened.keys.active(opened.size)
    usable = [one for one in home_keys(opened.home) if one.public.key_id in active and one.public.key_id != spent]
    chosen = [unlock(opened.home, one, opened.phrase, request.pin) for one in usable[: opened.keys.threshold]]
    if newcomer is not None:
        chosen.append(newcomer)
    for reference in request.keys:
        chosen.append(open_signer(reference, passphrase=lambda: opened.phrase, pin=request.pin))
    if not chosen:
        raise KeyEventError("this home has no key that may sign now", hint="name one with --key")
    return chosen


def _append(opened: OpenKeys, data: bytes, key: str | None, notes: tuple[str, ...]) -> KeyChange:
    receipt = opened.registry.append([data])[0]
    home, keys = settle(opened.home, opened.registry)
    return _described(
        data,
        key,
        index=receipt.index,
        threshold=keys.threshold,
        current=home.public_key.key_id,
        notes=notes,
    )


def _described(data: bytes, key: str | None, **rest: Any) -> KeyChange:
    entry = read_entry(data)
    event = read_key_event(entry)
    named = key or event.key_id or (event.keys[0].key_id if event.keys else None)
    signers = tuple(dict.fromkeys(one.keyid for one in entry.envelope.signatures))
    facts = {"kind": entry.kind, "owner": event.owner, "version": event.version, "key": named, "signers": signers}
    return KeyChange(**{"index": None, **facts, **rest}, says=_says(event))


def _says(event: KeyEvent) -> tuple[str, ...]:
    """What whoever signs a draft must have read."""
    lines = [f"the new set: key {key.key_id}" for key in event.keys if event.kind == ROTATE]
    if event.threshold is not None:
        lines.append(f"keys that must sign from then on: {event.threshold}")
    if event.from_index is not None:
        what = "the secret before it proves less" if event.kind == SECRET else "the key does not count"
        lines.append(f"{what} from log entry {event.from_index} on")
    if event.commitment is not None:
        lines.append(f"commitment to the new secret: {event.commitment}")
    return tuple(lines)


def _read_draft(draft: Path) -> bytes:
    data = read_small_file(draft, what="the draft", max_bytes=MAX_ENTRY_BYTES)
    if read_entry(data).kind not in KEY_EVENTS:
        raise DocumentError(f"{draft} is no change of keys", hint="name a draft that `weightmark keys` wrote")
    return data
