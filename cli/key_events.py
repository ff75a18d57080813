"""The jobs that change an owner's keys: enrol, rotate, revoke, retire, threshold.

Each is one entry in the log, signed by as many of the current keys as the threshold asks for; how it is signed, drafted
and logged is told by `key_change`. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cli.key_change import ChangeRequest, KeyChange, OpenKeys, log_change, new_key, with_open_keys
from cli.key_state import find_key
from registry.signing.entry import ENROL, KEY_EVENTS, RETIRE, REVOKE, ROTATE, THRESHOLD, read_entry
from registry.signing.key_events import check_threshold, enrol_body, retire_body, revoke_body, rotate_body
from registry.signing.key_events import threshold_body as body_of_threshold
from registry.signing.keys import OMS_ALGORITHMS, P256, read_public_key
from watermark.errors import InputError, KeyEventError


def enrol_key(
    request: ChangeRequest,
    passphrase: Callable[[], bytes],
    *,
    algorithm: str = P256,
    reference: str | None = None,
    public: Path | None = None,
) -> KeyChange:
    """Bring in a further key: a new one made in this home, one in a store, or somebody else's by its public half.

    Somebody else's key must sign, too: with `request.keys`, or by approving a draft.
    """

    def make(opened: OpenKeys) -> KeyChange:
        newcomer = new_key(opened, algorithm, reference) if public is None else None
        key = newcomer.public if newcomer is not None else read_public_key(public or Path())
        body = enrol_body(opened.home.owner, opened.version, key)
        return log_change(opened, ENROL, body, key=key.key_id, newcomer=newcomer)

    return with_open_keys(request, passphrase, make)


def rotate_keys(
    request: ChangeRequest,
    passphrase: Callable[[], bytes],
    *,
    algorithm: str = P256,
    reference: str | None = None,
    drop: tuple[str, ...] = (),
    threshold: int | None = None,
) -> KeyChange:
    """Replace the set of keys: a new key in place of the current one, the others as they are but for those dropped.

    A rotation that was cut off after the log had it is finished, and no second one made.
    """

    def make(opened: OpenKeys) -> KeyChange:
        home, keys = opened.home, opened.keys
        if opened.was_settled:
            return _finished(opened)
        dropped = {home.public_key.key_id, *(find_key(keys, one) for one in drop)}
        newcomer = new_key(opened, algorithm, reference)
        if newcomer.algorithm not in OMS_ALGORITHMS:
            raise InputError(f"a {newcomer.algorithm} key cannot sign releases", hint="use p256, p384 or p521")
        kept = [key for key_id, key in keys.active(opened.size).items() if key_id not in dropped]
        chosen = [newcomer.public, *kept]
        wanted = check_threshold(keys.threshold if threshold is None else threshold, len(chosen))
        body = rotate_body(home.owner, opened.version, chosen, wanted)
        return log_change(opened, ROTATE, body, key=newcomer.public.key_id, newcomer=newcomer)

    return with_open_keys(request, passphrase, make)


def revoke_key(
    request: ChangeRequest, passphrase: Callable[[], bytes], key_id: str, *, from_index: int | None = None
) -> KeyChange:
    """Take trust back from a key, from a log index on; without one, from now on."""

    def make(opened: OpenKeys) -> KeyChange:
        found = find_key(opened.keys, key_id)
        if found == opened.home.public_key.key_id:
            raise KeyEventError(
                f"key {found[:16]} is the one that this home signs with, and it cannot vouch for its own end",
                hint="run `weightmark keys rotate` first, then revoke it",
            )
        start = opened.size if from_index is None else from_index
        if not 0 <= start <= opened.size:
            raise InputError(
                f"--from {start} is not an index of a log of {opened.size}", hint=f"name 0 to {opened.size}"
            )
        body = revoke_body(opened.home.owner, opened.version, found, start)
        return log_change(opened, REVOKE, body, key=found, notes=_falling(opened, found, start))

    return with_open_keys(request, passphrase, make)


def retire_key(request: ChangeRequest, passphrase: Callable[[], bytes], key_id: str) -> KeyChange:
    """Take a key out of use in good order: what it signed stands."""

    def make(opened: OpenKeys) -> KeyChange:
        found = find_key(opened.keys, key_id)
        body = retire_body(opened.home.owner, opened.version, found)
        return log_change(opened, RETIRE, body, key=found)

    return with_open_keys(request, passphrase, make)


def set_threshold(request: ChangeRequest, passphrase: Callable[[], bytes], threshold: int) -> KeyChange:
    """Say how many keys must sign releases and changes of keys."""

    def make(opened: OpenKeys) -> KeyChange:
        check_threshold(threshold, len(opened.keys.active(opened.size)))
        body = body_of_threshold(opened.home.owner, opened.version, threshold)
        return log_change(opened, THRESHOLD, body)

    return with_open_keys(request, passphrase, make)


def _finished(opened: OpenKeys) -> KeyChange:
    current = opened.home.public_key.key_id
    return KeyChange(
        ROTATE,
        opened.home.owner,
        opened.keys.version,
        opened.keys.keys[current].since,
        current,
        (),
        opened.keys.threshold,
        current,
        notes=("the log had this change already; it had been cut off here, and is finished now",),
    )


def _falling(opened: OpenKeys, key_id: str, start: int) -> tuple[str, ...]:
    """Which entries fall with a key: those that it signed from the start on."""
    falling = []
    for index, data in enumerate(opened.registry.entries(start, opened.size), start=start):
        entry = read_entry(data)
        if all(one.keyid != key_id for one in entry.envelope.signatures) or entry.kind in (ENROL, ROTATE):
            continue  # keys that others vouch for stay, and those that this key alone let in are revoked with it
        what = "is in doubt, and stays in effect" if entry.kind in KEY_EVENTS else "falls"
        falling.append(f"entry {index} {what}: a {entry.kind} entry that this key signed")
    return tuple(falling)
