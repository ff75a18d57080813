"""The jobs of `weightmark keys`: what keys a home has, what others need to trust it, and a new passphrase.

`list` and `show` read public halves only and ask for no passphrase. Prints nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.home import LOG_KEY, OWNER_KEY, OWNER_SECRET, Home
from cli.home_keys import home_keys, name_beside
from cli.key_state import owner_keys, purposes_beside, trust_in
from registry.keystores.interface import place_of
from registry.keystores.key_file import MAX_KEY_BYTES, is_encrypted_pem
from registry.keystores.wrapped_secret import wrapping_key_of
from registry.signing.keys import ED25519, read_private_key
from registry.signing.small_files import read_small_file, replace_file
from registry.signing.strict_json import as_object, loads
from registry.signing.trust import TrustPolicy, format_trust, trust_of
from watermark.errors import DocumentError, InputError

_PURPOSES = {
    OWNER_KEY: "signs models, claims and log entries",
    OWNER_SECRET: "derives every mark; without it nothing can be recognised",
    LOG_KEY: "signs the log's checkpoints",
}


@dataclass(frozen=True)
class KeyFile:
    """A secret file of the home. `key_id` is the hex SHA-256 of the public half, None where it has none.

    `mode` are its permission bits; `problem` says why the file cannot be used, None when it can. `place` says where
    the key is (or for the secret: the key that opens it) when that is not in the home; it is not asked for here.
    """

    name: str
    purpose: str
    algorithm: str
    key_id: str | None
    sealed: bool
    mode: int
    problem: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class OwnerKey:
    """What the owner shows of himself: name, public key in PEM with its id, and the verifier key of his log."""

    owner: str
    key_id: str
    algorithm: str
    pem: str
    origin: str
    log_vkey: str


@dataclass(frozen=True)
class ExportedTrust:
    """The trust file for others, and where it was written if anywhere."""

    owner: str
    key_id: str
    text: str
    written_to: Path | None


def list_keys(home_folder: Path) -> tuple[KeyFile, ...]:
    """Look at each secret of a home without opening it: is it there, sealed, and for its owner's eyes only?

    Keys in tokens and clouds are named with their place; whether they answer is seen when they sign.
    """
    home = Home.open(home_folder)
    log_keys = [log.verifier for log in _own(home).log.logs]
    described = {
        OWNER_KEY: (home.public_key.algorithm, home.public_key.key_id),
        OWNER_SECRET: ("scrypt, aes-256-gcm", None),
        LOG_KEY: (ED25519, log_keys[0].key_id.hex()),
    }
    stores = {OWNER_KEY: home.stores.owner_key, LOG_KEY: home.stores.log_key}
    keys = []
    for name, (algorithm, key_id) in described.items():
        reference = stores.get(name)
        if reference is None:
            keys.append(_key_file(home.path / name, _PURPOSES[name], algorithm, key_id))
        else:
            place = place_of(reference)
            keys.append(KeyFile(name, _PURPOSES[name], algorithm, key_id, sealed=True, mode=0, place=place))
    return (*keys, *_beside(home))


def show_key(home_folder: Path) -> OwnerKey:
    """Return the owner's public key and the verifier key of his log."""
    home = Home.open(home_folder)
    key = home.public_key
    return OwnerKey(home.owner, key.key_id, key.algorithm, key.pem, home.origin, _own(home).log_vkeys[0])


def export_trust(home_folder: Path, out: Path | None = None) -> ExportedTrust:
    """Return the trust file that others need for this owner: his keys and his log, nobody whom he trusts himself.

    It says from when on a key does not count, how many must sign, and how far the log is now, so that its age shows.
    With `out` it is written there too, in one step. Raises InputError when `out` is in the home: the owner's own trust
    file may hold more.
    """
    home = Home.open(home_folder)
    own = _own(home)
    with home.registry() as registry:
        keys = owner_keys(home, registry.keyring())
        text = format_trust(trust_in(home, keys, own.log.logs, registry.size))
    if out is not None:
        if out.absolute().resolve().is_relative_to(home.path.absolute().resolve()):
            raise InputError(f"{out} lies in your home", hint="export the trust file to where you send it from")
        replace_file(out, text.encode("utf-8"))
    return ExportedTrust(home.owner, home.public_key.key_id, text, out)


def change_passphrase(home_folder: Path, old: Callable[[], bytes], new: Callable[[], bytes]) -> tuple[str, ...]:
    """Seal the keys and the owner secret under a new passphrase, all or none; return the names of the files.

    Raises InputError when the old passphrase is wrong, before the new one is asked for.
    """
    home = Home.open(home_folder)
    sealed = home.key_files if home.wrapping_key() is not None else (*home.key_files, OWNER_SECRET)
    if not sealed:
        raise InputError(f"nothing in {home.path} is sealed by a passphrase", hint="see `weightmark keys list`")
    if home.key_files:
        read_private_key(home.path / home.key_files[0], old())  # a wrong one ends here, before a new one is asked for
    else:
        home.owner_secret(old())
    home.change_passphrase(old(), new())
    ours = [name for name in _PURPOSES if name in sealed]
    formers = [path.name for path in home.former_secrets if _wrapping_key(path) is None]
    return (*ours, *(name for name in home.key_files if name not in _PURPOSES), *formers)


def _own(home: Home) -> TrustPolicy:
    """The part of the trust file that is about the owner himself and his log."""
    vkeys = tuple(log.verifier.vkey for log in home.trust().log.logs if log.verifier.name == home.origin)
    if not vkeys:
        raise DocumentError(
            f"{home.trust_path} does not name the log {home.origin}",
            hint="restore its `log` line from a backup, or from a trust file that you gave away",
        )
    return trust_of({home.owner: (home.public_key,)}, vkeys)


def _beside(home: Home) -> Iterator[KeyFile]:
    """The keys and secrets that are not the current ones."""
    purposes = purposes_beside(home)
    for one in home_keys(home):
        name, algorithm, key_id = name_beside(one.public.key_id), one.public.algorithm, one.public.key_id
        if one.reference is not None and not one.is_current:
            place = place_of(one.reference)
            yield KeyFile(name, "a key beside the current one", algorithm, key_id, sealed=True, mode=0, place=place)
        elif not one.is_current:
            yield _key_file(home.path / name, purposes[name], algorithm, key_id)
    for path in home.former_secrets:
        yield _key_file(path, purposes[path.name], "scrypt, aes-256-gcm", None)


def _key_file(path: Path, purpose: str, algorithm: str, key_id: str | None) -> KeyFile:
    is_secret = path.suffix == ".json"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        wrapped_by = _wrapping_key(path) if is_secret else None
        sealed = wrapped_by is not None or (_is_sealed_secret(path) if is_secret else is_encrypted_pem(path))
    except FileNotFoundError:
        return KeyFile(path.name, purpose, algorithm, key_id, sealed=False, mode=0, problem="is missing")
    except (InputError, OSError) as error:
        return KeyFile(path.name, purpose, algorithm, key_id, sealed=False, mode=0, problem=str(error))
    problem = None if sealed else "is not encrypted"
    if problem is None and mode & 0o077:
        problem = f"may be used by others (mode {mode:04o})"
    if wrapped_by is not None:
        return KeyFile(
            path.name, purpose, "wrapped", key_id, sealed, mode, problem, f"opened by the key {place_of(wrapped_by)}"
        )
    return KeyFile(path.name, purpose, algorithm, key_id, sealed, mode, problem)


def _wrapping_key(path: Path) -> str | None:
    return wrapping_key_of(read_small_file(path, what="the owner secret", max_bytes=MAX_KEY_BYTES))


def _is_sealed_secret(path: Path) -> bool:
    what = "the owner secret"
    document = as_object(loads(read_small_file(path, what=what, max_bytes=MAX_KEY_BYTES), what=what), what)
    return document.get("kind") == "weightmark-sealed-secret"
