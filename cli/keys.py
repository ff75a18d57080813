"""The jobs of `weightmark keys`: what keys a home has, what others need to trust it, and a new passphrase.

`list` and `show` read public halves only and ask for no passphrase. Prints nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.home import LOG_KEY, OWNER_KEY, OWNER_SECRET, Home
from registry.signing.keys import ED25519
from registry.signing.small_files import read_small_file, replace_file
from registry.signing.strict_json import as_object, loads
from registry.signing.trust import TrustPolicy, format_trust, trust_of
from watermark.errors import DocumentError, InputError

MAX_KEY_BYTES = 64 * 1024
_PURPOSES = {
    OWNER_KEY: "signs models, claims and log entries",
    OWNER_SECRET: "derives every mark; without it nothing can be recognised",
    LOG_KEY: "signs the log's checkpoints",
}


@dataclass(frozen=True)
class KeyFile:
    """A secret file of the home. `key_id` is the hex SHA-256 of the public half, None where it has none.

    `mode` are its permission bits; `problem` says why the file cannot be used, None when it can.
    """

    name: str
    purpose: str
    algorithm: str
    key_id: str | None
    sealed: bool
    mode: int
    problem: str | None = None


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
    """Look at each secret file of a home without opening it: is it there, sealed, and for its owner's eyes only?"""
    home = Home.open(home_folder)
    log_keys = [log.verifier for log in _own(home).log.logs]
    described = {
        OWNER_KEY: (home.public_key.algorithm, home.public_key.key_id),
        OWNER_SECRET: ("scrypt, aes-256-gcm", None),
        LOG_KEY: (ED25519, log_keys[0].key_id.hex()),
    }
    return tuple(_key_file(home.path / name, *described[name]) for name in _PURPOSES)


def show_key(home_folder: Path) -> OwnerKey:
    """Return the owner's public key and the verifier key of his log."""
    home = Home.open(home_folder)
    key = home.public_key
    return OwnerKey(home.owner, key.key_id, key.algorithm, key.pem, home.origin, _own(home).log_vkeys[0])


def export_trust(home_folder: Path, out: Path | None = None) -> ExportedTrust:
    """Return the trust file that others need for this owner: his key and his log, nobody whom he trusts himself.

    With `out` it is written there too, in one step. Raises InputError when `out` is in the home: the owner's own trust
    file may hold more.
    """
    home = Home.open(home_folder)
    text = format_trust(_own(home))
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
    home.private_key(old())
    home.change_passphrase(old(), new())
    return tuple(_PURPOSES)


def is_encrypted_pem(path: Path) -> bool:
    """Whether a PEM key file asks for a passphrase (RFC 7468 label, or the Proc-Type header of older forms)."""
    return b"ENCRYPTED" in read_small_file(path, what="the key", max_bytes=MAX_KEY_BYTES)


def _own(home: Home) -> TrustPolicy:
    """The part of the trust file that is about the owner himself and his log."""
    vkeys = tuple(log.verifier.vkey for log in home.trust().log.logs if log.verifier.name == home.origin)
    if not vkeys:
        raise DocumentError(
            f"{home.trust_path} does not name the log {home.origin}",
            hint="restore its `log` line from a backup, or from a trust file that you gave away",
        )
    return trust_of({home.owner: (home.public_key,)}, vkeys)


def _key_file(path: Path, algorithm: str, key_id: str | None) -> KeyFile:
    purpose = _PURPOSES[path.name]
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        sealed = is_encrypted_pem(path) if path.name != OWNER_SECRET else _is_sealed_secret(path)
    except FileNotFoundError:
        return KeyFile(path.name, purpose, algorithm, key_id, sealed=False, mode=0, problem="is missing")
    except (InputError, OSError) as error:
        return KeyFile(path.name, purpose, algorithm, key_id, sealed=False, mode=0, problem=str(error))
    problem = None if sealed else "is not encrypted"
    if problem is None and mode & 0o077:
        problem = f"may be used by others (mode {mode:04o})"
    return KeyFile(path.name, purpose, algorithm, key_id, sealed, mode, problem)


def _is_sealed_secret(path: Path) -> bool:
    what = "the owner secret"
    document = as_object(loads(read_small_file(path, what=what, max_bytes=MAX_KEY_BYTES), what=what), what)
    return document.get("kind") == "weightmark-sealed-secret"
