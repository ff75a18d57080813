"""The owner's home: one folder that holds keys, mark secret, settings, trust file and the embedded registry.

    settings.toml      owner and origin of the log, where keys are that are not files of the home, and whom to ask
                       for time stamps (`tsa_settings`)
    owner.key          signing key, encrypted PKCS#8 (RFC 5958)      owner.pub   its public half, PEM
    secret.json        owner secret from which every mark derives, sealed under the same passphrase
    log.key            Ed25519 key of the log, encrypted PKCS#8
    trust.txt          whom this owner believes; begins with himself and his own log
    registry/          the log and the owner's private records
    calibrations/      what a calibration has measured, until its release is made

Signing key and log key may be in a token or a cloud instead (`key_stores`), the secret may be wrapped there. The folder
appears complete or not at all. Nothing here asks for a passphrase (a token's PIN is asked for) or prints; torch is
never imported, and the database only when the registry is opened.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.key_stores import (
    NO_STORES,
    KeyStores,
    check_stores,
    close_secret,
    new_log_signer,
    new_owner_signer,
    open_store_key,
    stores_of,
)
from cli.tsa_settings import NO_TSA, TsaSettings, tsa_settings_of
from registry.keystores.interface import PinSource
from registry.keystores.wrapped_secret import open_wrapped_secret, wrapping_key_of
from registry.signing.entry import OWNER, make_entry
from registry.signing.keys import (
    ED25519,
    MLDSA_ALGORITHMS,
    P256,
    PrivateKey,
    PublicKey,
    read_private_key,
    read_public_key,
    write_new_private_file,
    write_private_key,
)
from registry.signing.secret import open_secret, seal_secret
from registry.signing.signer import Signer
from registry.signing.small_files import read_small_file
from registry.signing.trust import TrustPolicy, check_owner_name, format_trust, read_trust, trust_of
from watermark.errors import ConflictError, DocumentError, InputError, RegistryError, UnavailableError

if TYPE_CHECKING:
    from registry.store.embedded import EmbeddedRegistry
    from registry.store.record_file import ReleaseBook
    from registry.store.records import OwnerRecords

SETTINGS, OWNER_KEY, OWNER_PUBLIC, OWNER_SECRET = "settings.toml", "owner.key", "owner.pub", "secret.json"
LOG_KEY, TRUST, REGISTRY = "log.key", "trust.txt", "registry"
SEALED = (OWNER_KEY, OWNER_SECRET, LOG_KEY)
#: The records of releases that a backup brought back without the registry itself.
RECORDS = "records.json"
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
    stores: KeyStores = NO_STORES
    tsa: TsaSettings = NO_TSA

    @classmethod
    def create(
        cls,
        path: Path,
        owner: str,
        passphrase: bytes,
        *,
        algorithm: str = P256,
        origin: str | None = None,
        stores: KeyStores = NO_STORES,
    ) -> Home:
        """Make keys, secret, trust file and registry, log the owner's commitment, and put the folder in place.

        `origin` is the public name of the log for ever; without one it is made from the owner's name and the log key.
        `stores` names keys that exist elsewhere and stay there. Raises ConflictError when something is there already
        (an empty folder is taken), InputError for a name or a passphrase that cannot be used, UnavailableError when
        the disk refuses, KeyStoreError when a store does. In each case nothing is left behind.
        """
        check_owner_name(owner)
        check_stores(stores)
        if algorithm == ED25519 or algorithm in MLDSA_ALGORITHMS:
            raise InputError(
                f"an owner's key cannot be {algorithm}: OMS signs models with ECDSA",
                hint="use p256 or p384, and add the other key as a second signature with --also-sign",
            )
        place = path.absolute().resolve()
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ConflictError(
                f"{path} is there already", hint="use it as it is, or name another home with --home or WEIGHTMARK_HOME"
            )
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))  # mode 0700
            try:
                _fill(draft, owner, passphrase, algorithm, origin, stores)
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
        return cls(path, settings["owner"], settings["origin"], stores_of(settings), tsa_settings_of(settings))

    @cached_property
    def public_key(self) -> PublicKey:
        """The owner's public signing key."""
        return read_public_key(self.path / OWNER_PUBLIC)

    def private_key(self, passphrase: bytes, pin: PinSource | None = None) -> Signer:
        """Unlock the owner's signing key; InputError for a wrong passphrase, KeyStoreError when a store refuses."""
        if self.stores.owner_key is not None:
            return open_store_key(self.stores.owner_key, self.public_key, pin)
        return read_private_key(self.path / OWNER_KEY, passphrase)

    def owner_secret(self, passphrase: bytes, pin: PinSource | None = None, *, name: str = OWNER_SECRET) -> bytes:
        """Unlock the 32 bytes from which the owner's marks derive: by the passphrase (a second), or by a store.

        `name` asks for a secret from before the current one (`former_secrets`).
        """
        document = self._secret_document(name)
        if wrapping_key_of(document) is None:
            return open_secret(document, passphrase)
        from cli.passphrase import read_pin

        return open_wrapped_secret(document, pin or read_pin)

    def log_key(self, passphrase: bytes, pin: PinSource | None = None) -> Signer:
        """Unlock the Ed25519 key of the log."""
        if self.stores.log_key is not None:
            return open_store_key(self.stores.log_key, None, pin)
        return read_private_key(self.path / LOG_KEY, passphrase)

    def wrapping_key(self) -> str | None:
        """The reference to the key that wraps the owner secret; None when the passphrase seals it."""
        return wrapping_key_of(self._secret_document())

    def passphrase(self, ask: Callable[[], bytes]) -> bytes:
        """Ask for the passphrase where anything of this home is sealed by it; nothing is asked for otherwise."""
        keys = (self.stores.owner_key, self.stores.log_key)
        return ask() if None in keys or self.wrapping_key() is None else b""

    def _secret_document(self, name: str = OWNER_SECRET) -> bytes:
        return read_small_file(self.path / name, what="the owner secret", max_bytes=_MAX_SETTINGS_BYTES)

    @property
    def key_files(self) -> tuple[str, ...]:
        """The names of the key files that this home has: those whose keys are not in a store, and those beside them."""
        stores = {OWNER_KEY: self.stores.owner_key, LOG_KEY: self.stores.log_key}
        beside = sorted(path.name for path in self.path.glob("owner-*.key"))
        return (*(name for name, reference in stores.items() if reference is None), *beside)

    @property
    def former_secrets(self) -> tuple[Path, ...]:
        """The documents of owner secrets that are not the current one: those that leaked, or one that is to come."""
        return tuple(sorted(self.path.glob("secret-*.json")))

    @property
    def registry_folder(self) -> Path:
        """Where the embedded registry lies."""
        return self.path / REGISTRY

    def registry(self, log_key: Signer | None = None) -> EmbeddedRegistry:
        """Open the embedded registry: for appending with its key, for reading only without."""
        from registry.store.embedded import EmbeddedRegistry  # SQLAlchemy costs start-up time: only when used

        if not self.has_registry and self.has_records:
            raise RegistryError(
                f"{self.path} was restored from a backup without its registry: nothing can be logged or proved from it",
                hint=f"put a copy of its {REGISTRY} folder back there; `check` and `list` work without it",
            )
        admission = None
        if log_key is not None:
            from registry.store.admission import KeyAdmission

            admission = KeyAdmission()
        return EmbeddedRegistry.open(self.registry_folder, log_key, admission=admission)

    def records(self) -> OwnerRecords:
        """The owner's private records in the registry, for reading only."""
        return self.registry().records

    @property
    def has_registry(self) -> bool:
        """Whether there is a registry: a home that was restored from a backup may have records only."""
        return self.registry_folder.is_dir()

    @property
    def has_records(self) -> bool:
        """Whether a backup left the records of releases here."""
        return (self.path / RECORDS).is_file()

    @contextmanager
    def book(self) -> Iterator[ReleaseBook]:
        """The owner's releases and copies, for reading: from the registry, else from the records of a backup."""
        if self.has_registry or not self.has_records:
            with self.registry() as registry:
                yield registry.records
            return
        from registry.store.record_file import MAX_RECORD_BYTES, RecordFile

        data = read_small_file(self.path / RECORDS, what="the records", max_bytes=MAX_RECORD_BYTES)
        yield RecordFile.read(data)

    @property
    def trust_path(self) -> Path:
        """Where the trust file lies."""
        return self.path / TRUST

    def trust(self) -> TrustPolicy:
        """Read the trust file; DocumentError naming the line that is wrong."""
        return read_trust(self.trust_path)

    def change_passphrase(self, old: bytes, new: bytes) -> None:
        """Seal the keys and the secret that lie here under a new passphrase: all of them or, after a crash, still all.

        The new files are made ready in a folder of their own; its rename is the moment of the change, and whoever
        opens the home next finishes what a crash interrupts. Raises InputError when the old passphrase is wrong.
        """
        keys = {name: read_private_key(self.path / name, old) for name in self.key_files}
        secret = self.owner_secret(old) if self.wrapping_key() is None else None
        documents = {path.name: self._secret_document(path.name) for path in self.former_secrets}
        formers = {name: open_secret(one, old) for name, one in documents.items() if wrapping_key_of(one) is None}
        try:
            draft = Path(tempfile.mkdtemp(prefix=f".{PENDING}-", dir=self.path))
            try:
                for name, key in keys.items():
                    write_private_key(draft / name, key, new)
                if secret is not None:
                    write_new_private_file(draft / OWNER_SECRET, seal_secret(secret, new))
                for name, former in formers.items():
                    write_new_private_file(draft / name, seal_secret(former, new))
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
        for name in (*SEALED, *sorted(one.name for one in pending.iterdir() if one.name not in SEALED)):
            if (pending / name).exists():
                os.replace(pending / name, path / name)
        _sync(path)
        pending.rmdir()
    except OSError as error:
        raise UnavailableError(
            f"{path}: a change of the passphrase is not finished: {error.strerror}",
            hint="permit writing there and run any command again: it goes on where it stopped",
        ) from error


def _fill(folder: Path, owner: str, passphrase: bytes, algorithm: str, origin: str | None, stores: KeyStores) -> None:
    from registry.store.embedded import EmbeddedRegistry
    from watermark.marks.secret import commit_to_secret, new_owner_secret

    key, log_key, secret = new_owner_signer(stores, algorithm), new_log_signer(stores), new_owner_secret()
    origin = origin or _default_origin(owner, log_key.public)
    for name, one in ((OWNER_KEY, key), (LOG_KEY, log_key)):
        if isinstance(one, PrivateKey):
            write_private_key(folder / name, one, passphrase)
    write_new_private_file(folder / OWNER_SECRET, close_secret(secret, owner, passphrase, stores))
    write_new_private_file(folder / OWNER_PUBLIC, key.public.pem.encode("ascii"))
    write_new_private_file(folder / SETTINGS, _format_settings({"owner": owner, "origin": origin} | stores.settings))
    body = {"owner": owner, "key": key.public.pem, "secret_commitment": commit_to_secret(secret).hex()}
    with EmbeddedRegistry.create(folder / REGISTRY, origin, log_key) as registry:
        registry.append([make_entry(OWNER, body, key)])
        trust = trust_of({owner: (key.public,)}, registry.vkeys)
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
