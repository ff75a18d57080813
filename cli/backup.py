"""The job of `weightmark keys backup`: everything of a home that cannot be made again, in one file, one passphrase.

Key files and owner secrets are opened and sealed anew under the backup's own passphrase, also a secret that a token or
a cloud wraps: a backup that needs the cloud it is to outlive would be none. Keys that never leave their token are
named, not kept. The records of all releases go along, so that a suspect can be checked even when the registry is lost;
the registry itself only on request. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cli.documents import FOLDER as DOCUMENTS
from cli.home import LOG_KEY, OWNER_KEY, RECORDS, Home
from registry.keystores.interface import PinSource, place_of
from registry.keystores.wrapped_secret import open_wrapped_secret, wrapping_key_of
from registry.signing.backup_file import fingerprint, seal_backup
from registry.signing.canonical import canonical
from registry.signing.keys import read_private_key, write_new_private_file
from registry.signing.secret import open_secret
from registry.signing.small_files import read_small_file
from watermark.errors import ConflictError, InputError

KIND: Final = "weightmark-home-backup"
MANIFEST: Final = "manifest.json"
HOME_FOLDER, REGISTRY_FOLDER, DOCUMENTS_FOLDER = "home/", "registry/", "documents/"
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class BackupRequest:
    """Whose home to back up, and into which new file; `with_registry` takes the log and all records along."""

    home: Path
    file: Path
    with_registry: bool = False
    pin: PinSource | None = field(default=None, repr=False)


@dataclass(frozen=True)
class BackupResult:
    """The file that was written. `fingerprint` is its SHA-256 in hex; `outside` says which keys are not in it."""

    file: Path
    fingerprint: str
    owner: str
    size_bytes: int
    kept: tuple[str, ...]
    outside: tuple[str, ...]
    releases: int
    with_registry: bool
    has_records: bool


def back_up(
    request: BackupRequest, passphrase: Callable[[], bytes], backup_passphrase: Callable[[], bytes]
) -> BackupResult:
    """Write a backup of a home to a new file that only its owner can read.

    Raises ConflictError when the file is there already, InputError for a wrong passphrase, KeyStoreError when the store
    that wraps the secret refuses. Nothing is written then.
    """
    home = Home.open(request.home)
    _refuse_place(request, home)
    phrase = home.passphrase(passphrase)
    content = _home_content(home, phrase, request.pin)
    records, releases = _records(home)
    if records is not None:
        content[RECORDS] = records
    if request.with_registry:
        from registry.store.snapshot import take_snapshot

        content |= {REGISTRY_FOLDER + name: data for name, data in take_snapshot(home.registry_folder).items()}
    sealed = seal_backup(content, backup_passphrase())
    write_new_private_file(request.file, sealed)
    kept = tuple(name.removeprefix(HOME_FOLDER) for name in content if name.startswith(HOME_FOLDER))
    return BackupResult(
        request.file,
        fingerprint(sealed),
        home.owner,
        len(sealed),
        kept,
        tuple(outside_of(home)),
        releases,
        request.with_registry,
        records is not None,
    )


def outside_of(home: Home) -> list[str]:
    """What no backup of this home can hold: keys that stay in their stores, in words."""
    stores = ((OWNER_KEY, home.stores.owner_key), (LOG_KEY, home.stores.log_key))
    found = [f"{name} is {place_of(reference)}" for name, reference in stores if reference is not None]
    for path in sorted(home.path.glob("*.ref")):
        reference = read_small_file(path, what="a key's reference", max_bytes=4096).decode("utf-8", "replace").strip()
        found.append(f"{path.with_suffix('.key').name} is {place_of(reference)}")
    return found


def _refuse_place(request: BackupRequest, home: Home) -> None:
    if request.file.exists() or request.file.is_symlink():
        raise ConflictError(f"{request.file} is there already", hint="name a new file; no backup is written over")
    if request.file.absolute().resolve().is_relative_to(home.path.absolute().resolve()):
        raise InputError(f"{request.file} lies in the home itself", hint="name a place on another disk")


def _home_content(home: Home, phrase: bytes, pin: PinSource | None) -> dict[str, bytes]:
    """Every file of the home itself, by its name in the archive, with what was sealed opened."""
    files: dict[str, bytes] = {}
    keys, secrets = [], []
    for path in sorted(home.path.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.name == RECORDS:
            continue
        data = read_small_file(path, what=path.name, max_bytes=_MAX_FILE_BYTES)
        if path.suffix == ".key":
            keys.append(path.name)
            data = read_private_key(path, phrase).to_pem(None)
        elif path.name.startswith("secret") and path.suffix == ".json":
            wrapped_by = wrapping_key_of(data)
            secrets.append({"name": path.name, "wrapped_by": wrapped_by})
            data = open_secret(data, phrase) if wrapped_by is None else _unwrap(data, pin)
        files[HOME_FOLDER + path.name] = data
    manifest: dict[str, Any] = {
        "kind": KIND,
        "v": 1,
        "owner": home.owner,
        "origin": home.origin,
        "made_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "keys": keys,
        "secrets": secrets,
    }
    for path in sorted((home.path / DOCUMENTS).glob("*.json")):  # so that released copies can be made again
        data = read_small_file(path, what="the documents of a copy", max_bytes=_MAX_FILE_BYTES)
        files[f"{DOCUMENTS_FOLDER}{path.name}"] = data
    return {MANIFEST: canonical(manifest), **files}


def _unwrap(document: bytes, pin: PinSource | None) -> bytes:
    from cli.passphrase import read_pin

    return open_wrapped_secret(document, pin or read_pin)


def _records(home: Home) -> tuple[bytes | None, int]:
    """The records of all releases: from the registry, else those that a restored home has; None where neither is."""
    from registry.store.record_file import RecordFile, dump_records

    if home.has_registry:
        with home.registry() as registry:
            return dump_records(registry.records), len(registry.records.list_releases())
    if not (home.path / RECORDS).is_file():
        return None, 0
    data = (home.path / RECORDS).read_bytes()
    return data, len(RecordFile.read(data).list_releases())
