"""The owner's home: one folder that holds keys, mark secret, settings, trust file and the embedded registry.

    settings.toml      owner and origin of the log
    owner.key          signing key, encrypted PKCS#8 (RFC 5958)      owner.pub   its public half, PEM
    secret.json        owner secret from which every mark derives, sealed under the same passphrase
    log.key            Ed25519 key of the log, encrypted PKCS#8
    trust.txt          whom this owner believes; begins with himself and his own log
    registry/          the log and the owner's private records

The folder appears complete or not at all. Nothing here asks for a passphrase or prints; torch is never imported, and
the database only when the registry is opened.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.signing.entry import OWNER, make_entry
from registry.signing.keys import (
    ED25519,
    P256,
    PrivateKey,
    PublicKey,
    generate,
    read_private_key,
    read_public_key,
    write_new_private_file,
    write_private_key,
)
from registry.signing.secret import open_secret, seal_secret
from registry.signing.small_files import read_small_file
from registry.signing.trust import TrustPolicy, check_owner_name, format_trust, read_trust, trust_of
from watermark.errors import ConflictError, DocumentError, InputError, UnavailableError

if TYPE_CHECKING:
    from registry.store.embedded import EmbeddedRegistry
    from registry.store.records import OwnerRecords

SETTINGS, OWNER_KEY, OWNER_PUBLIC, OWNER_SECRET = "settings.toml", "owner.key", "owner.pub", "secret.json"
LOG_KEY, TRUST, REGISTRY = "log.key", "trust.txt", "registry"
SEALED = (OWNER_KEY, OWNER_SECRET, LOG_KEY)
#: A passphrase change that has been decided and whose files are not all in place yet.
PENDING = "passphrase-change"

_MAX_SETTINGS_BYTES = 64 * 1024
_INIT_HINT = "run `weightmark init`, or name the home with --home or WEIGHTMARK_HOME"


def home_path(given: Path | None = None) -> Path:
    """Choose the home: the folder given, else WEIGHTMARK_HOME, else `~/.weightmark`. Need not exist."""
    named = os.environ.get("WEIGHTMARK_HOME")
    return given or (Path(named) if named else Path.home() / ".weightmark")


@dataclass(frozen=True)
class Home:
    """An owner's home that was found whole enough to use. Make one with `create`, use it with `open`."""

    path: Path
    owner: str
    origin: str

    @classmethod
    def create(
        cls, path: Path, owner: str, passphrase: bytes, *, algorithm: str = P256, origin: str | None = None
    ) -> Home:
        """Make keys, secret, trust file and registry, log the owner's commitment, and put the folder in place.

        `origin` is the public name of the log for ever; without one it is made from the owner's name and the log key.
        Raises ConflictError when something is there already (an empty folder is taken), InputError for a name or a
        passphrase that cannot be used, UnavailableError when the disk refuses. In each case nothing is left behind.
        """
        check_owner_name(owner)
        if algorithm == ED25519:
            raise InputError("an owner's key cannot be ed25519: OMS signs models with ECDSA", hint="use p256 or p384")
        place = path.absolute().resolve()
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ConflictError(
                f"{path} is there already", hint="use it as it is, or name another home with --home or WEIGHTMARK_HOME"
            )
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))  # mode 0700
            try:
                _fill(draft, owner, passphrase, algorithm, origin)
                os.rename(draft, place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            _sync(place.parent)
        except OSError as error:
            raise UnavailableError(
                f"{path} cannot be made: {error.strerror}", hint="name a folder that you may write, with --home"
            ) from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Home:
        """Open a home; InputError that says how to make one when there is none, DocumentError when it is damaged."""
        if not (path / SETTINGS).is_file():
            raise InputError(f"{path} is not the home of an owner", hint=_INIT_HINT)
        finish_passphrase_change(path)
        settings = _read_settings(path / SETTINGS)
        return cls(path, settings["owner"], settings["origin"])

    @cached_property
    def public_key(self) -> PublicKey:
        """The owner's public signing key."""
        return read_public_key(self.path / OWNER_PUBLIC)

    def private_key(self, passphrase: bytes) -> PrivateKey:
        """Unlock the owner's signing key; InputError for a wrong passphrase."""
        return read_private_key(self.path / OWNER_KEY, passphrase)

    def owner_secret(self, passphrase: bytes) -> bytes:
        """Unlock the 32 bytes from which the owner's marks derive; takes about a second (scrypt)."""
        document = read_small_file(self.path / OWNER_SECRET, what="the owner secret", max_bytes=_MAX_SETTINGS_BYTES)
        return open_secret(document, passphrase)

    def log_key(self, passphrase: bytes) -> PrivateKey:
        """Unlock the Ed25519 key of the log."""
        return read_private_key(self.path / LOG_KEY, passphrase)

    @property
    def registry_folder(self) -> Path:
        """Where the embedded registry lies."""
        return self.path / REGISTRY

    def registry(self, log_key: PrivateKey | None = None) -> EmbeddedRegistry:
        """Open the embedded registry: for appending with its key, for reading only without."""
        from registry.store.embedded import EmbeddedRegistry  # SQLAlchemy costs start-up time: only when used

        return EmbeddedRegistry.open(self.registry_folder, log_key)

    def records(self) -> OwnerRecords:
        """The owner's private records, for reading only."""
        return self.registry().records

    @property
    def trust_path(self) -> Path:
        """Where the trust file lies."""
        return self.path / TRUST

    def trust(self) -> TrustPolicy:
        """Read the trust file; DocumentError naming the line that is wrong."""
        return read_trust(self.trust_path)

    def change_passphrase(self, old: bytes, new: bytes) -> None:
        """Seal both keys and the owner secret under a new passphrase: all of them or, after a crash, still all.

        The new files are made ready in a folder of their own; its rename is the moment of the change, and whoever
        opens the home next finishes what a crash interrupts. Raises InputError when the old passphrase is wrong.
        """
        owner_key, log_key, secret = self.private_key(old), self.log_key(old), self.owner_secret(old)
        try:
            draft = Path(tempfile.mkdtemp(prefix=f".{PENDING}-", dir=self.path))
            try:
                write_private_key(draft / OWNER_KEY, owner_key, new)
                write_private_key(draft / LOG_KEY, log_key, new)
                write_new_private_file(draft / OWNER_SECRET, seal_secret(secret, new))
                os.rename(draft, self.path / PENDING)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            _sync(self.path)
        except OSError as error:
            raise UnavailableError(f"{self.path} cannot be written: {error.strerror}") from error
        finish_passphrase_change(self.path)


def finish_passphrase_change(path: Path) -> None:
    """Put the files of a decided passphrase change in place; does nothing when none is pending."""
    pending = path / PENDING
    if not pending.is_dir():
        return
    try:
        for name in SEALED:
            if (pending / name).exists():
                os.replace(pending / name, path / name)
        _sync(path)
        pending.rmdir()
    except OSError as error:
        raise UnavailableError(
            f"{path}: a change of the passphrase is not finished: {error.strerror}",
            hint="permit writing there and run any command again: it goes on where it stopped",
        ) from error


def _fill(folder: Path, owner: str, passphrase: bytes, algorithm: str, origin: str | None) -> None:
    from registry.store.embedded import EmbeddedRegistry
    from watermark.marks.secret import commit_to_secret, new_owner_secret

    key, log_key, secret = generate(algorithm), generate(ED25519), new_owner_secret()
    origin = origin or _default_origin(owner, log_key.public)
    write_private_key(folder / OWNER_KEY, key, passphrase)
    write_private_key(folder / LOG_KEY, log_key, passphrase)
    write_new_private_file(folder / OWNER_SECRET, seal_secret(secret, passphrase))
    write_new_private_file(folder / OWNER_PUBLIC, key.public.pem.encode("ascii"))
    write_new_private_file(folder / SETTINGS, _format_settings({"owner": owner, "origin": origin}))
    body = {"owner": owner, "key": key.public.pem, "secret_commitment": commit_to_secret(secret).hex()}
    with EmbeddedRegistry.create(folder / REGISTRY, origin, log_key) as registry:
        registry.append([make_entry(OWNER, body, key)])
        trust = trust_of({owner: (key.public,)}, (registry.vkey,))
    write_new_private_file(folder / TRUST, format_trust(trust).encode("utf-8"))


def _default_origin(owner: str, log_key: PublicKey) -> str:
    """A name nobody else's log has, also when two owners choose one name: it ends in the beginning of the key id."""
    return f"weightmark.invalid/{re.sub(r'[^a-z0-9._-]', '-', owner.lower())}-{log_key.key_id[:12]}"


def _format_settings(settings: dict[str, str]) -> bytes:
    # JSON strings without \u escapes are TOML basic strings (TOML 1.0, "String"); names hold no control characters.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()]
    return "\n".join(["# Written by `weightmark init`.", *lines, ""]).encode("utf-8")


def _read_settings(path: Path) -> dict[str, Any]:
    text = _text(read_small_file(path, what="the settings file", max_bytes=_MAX_SETTINGS_BYTES), path)
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"{path} is not TOML: {error}", hint="restore it from a backup") from error
    for name in ("owner", "origin"):
        if not isinstance(settings.get(name), str):
            raise DocumentError(f"{path} says no {name}", hint="restore it from a backup")
    return settings


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path} is not UTF-8 text", hint="restore it from a backup") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
