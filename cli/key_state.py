"""Bring a home in line with what its log says of the owner's keys: current key, current secret, own trust lines.

The log decides and comes first; the files follow. Whatever a crash leaves between the two is put right by the next
command that changes or lists keys. Prints nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cli.home import Home
from cli.home_keys import HomeKey, home_keys, make_current, make_secret_current, name_beside, secret_beside
from registry.log.policy import Log, Policy
from registry.signing.encoding import to_base64
from registry.signing.key_lines import RETIRED, REVOKED, THRESHOLD, LogView, format_key_lines
from registry.signing.keyring import Keyring
from registry.signing.owner_keys import OwnerKeys
from registry.signing.small_files import read_small_file, replace_file
from registry.signing.trust import MAX_TRUST_BYTES, TrustPolicy
from registry.store.embedded import EmbeddedRegistry
from watermark.errors import InputError, KeyEventError

_OWN_LINES = ("owner", THRESHOLD, REVOKED, RETIRED)


def owner_keys(home: Home, ring: Keyring) -> OwnerKeys:
    """The owner's keys as his log tells of them; KeyEventError when it does not know him."""
    keys = ring.owners.get(home.owner)
    if keys is None:
        raise KeyEventError(f"the log {home.origin} introduces no owner {home.owner!a}", hint="run `weightmark audit`")
    return keys


def find_key(keys: OwnerKeys, beginning: str) -> str:
    """The id of the one key of the owner that begins so; InputError for none or several."""
    found = [key_id for key_id in keys.keys if key_id.startswith(beginning.lower())]
    if len(found) != 1 or not beginning:
        known = "more than one key" if found else "no key"
        raise InputError(f"{beginning!a}: {known} of {keys.owner} begins with this", hint="see `weightmark keys list`")
    return found[0]


def settle(home: Home, registry: EmbeddedRegistry) -> tuple[Home, OwnerKeys]:
    """Let the home's files say what the log says; gives the home anew, and the owner's keys."""
    ring = registry.keyring()
    keys = owner_keys(home, ring)
    chosen = _rightful(home, keys, registry.size)
    if chosen is not None:
        home = make_current(home, chosen)
    for before, now in zip(keys.secrets, keys.secrets[1:], strict=False):
        make_secret_current(home, now.commitment, before.commitment)
    _write_own_lines(home, keys)
    return home, keys


def trust_in(home: Home, keys: OwnerKeys, logs: tuple[Log, ...], size: int | None = None) -> TrustPolicy:
    """What others need to know of this owner: all his keys, from when some do not count, and how old this is."""
    known = keys.keys.values()
    at = datetime.now(UTC).replace(microsecond=0)
    return TrustPolicy(
        {home.owner: tuple(one.key for one in known)},
        Policy(logs, (), (), None),
        thresholds=_thresholds(home, keys),
        revoked={one.key.key_id: one.revoked_from for one in known if one.revoked_from is not None},
        retired={one.key.key_id: one.retired_from for one in known if one.retired_from is not None},
        viewed={} if size is None else {home.origin: LogView(home.origin, size, at)},
    )


def _thresholds(home: Home, keys: OwnerKeys) -> dict[str, tuple[tuple[int, int], ...]]:
    """How many keys must sign, as it changed; nothing where one was always enough, and none that changed nothing."""
    changes = [(0, 1)]  # what an owner begins with
    for start, threshold in keys.thresholds:
        if threshold != changes[-1][1]:
            changes.append((start, threshold))
    return {home.owner: tuple(changes[1:])} if len(changes) > 1 else {}


def _rightful(home: Home, keys: OwnerKeys, size: int) -> HomeKey | None:
    """The key that must become the current one: the newest of the home's, where the current one is out of use."""
    active = keys.active(size)
    if home.public_key.key_id in active:
        return None
    waiting = [one for one in home_keys(home) if one.public.key_id in active and one.can_sign_models]
    return max(waiting, key=lambda one: keys.keys[one.public.key_id].since, default=None)


def _write_own_lines(home: Home, keys: OwnerKeys) -> None:
    """Renew the trust file's lines about the owner himself; every other line stays as a person left it."""
    text = read_small_file(home.trust_path, what="the trust file", max_bytes=MAX_TRUST_BYTES).decode("utf-8")
    lines = text.split("\n")
    words = [line.partition("#")[0].split() for line in lines]
    own = [len(found) > 1 and found[0] in _OWN_LINES and found[1] == home.owner for found in words]
    at = own.index(True) if True in own else 0
    told = trust_in(home, keys, ())
    fresh = [f"owner {home.owner} {to_base64(one.key.der)}" for one in keys.keys.values()]
    fresh += format_key_lines(
        home.owner, list(keys.keys), told.thresholds.get(home.owner, ()), told.revoked, told.retired
    )
    rest = [line for line, is_own in zip(lines, own, strict=True) if not is_own]
    renewed = "\n".join([*rest[:at], *fresh, *rest[at:]])
    if renewed != text:
        replace_file(home.trust_path, renewed.encode("utf-8"))


def purposes_beside(home: Home) -> dict[str, str]:
    """What each key and secret beside the current ones is good for, as the log tells, by the name of its file."""
    beside = [one for one in home_keys(home) if not one.is_current]
    if not beside and not home.former_secrets:
        return {}
    with home.registry() as registry:
        keys = owner_keys(home, registry.keyring())
    found = {
        name_beside(one.public.key_id): _purpose(keys, one.public.key_id) for one in beside if one.reference is None
    }
    leaks = {secret_beside(home, one.commitment).name: one.leaked_from for one in keys.secrets}
    for path in home.former_secrets:
        leaked = leaks.get(path.name)
        since = "not in the log yet" if path.name not in leaks else f"leaked from entry {leaked} on"
        found[path.name] = f"finds the marks of old releases; {since}"
    return found


def _purpose(keys: OwnerKeys, key_id: str) -> str:
    known = keys.keys.get(key_id)
    if known is None:
        return "not in the log yet"
    if known.revoked_from is not None:
        return f"revoked from entry {known.revoked_from} on"
    if known.retired_from is not None:
        return f"out of use from entry {known.retired_from} on"
    return "may sign too, beside the current key"
