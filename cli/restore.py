"""The job of `weightmark keys restore`: make a home from a backup file, and say plainly what is still missing.

The restored home is sealed under the backup's passphrase, its secrets too when a token or a cloud wrapped them before:
it depends on nothing but itself. A home that exists is never touched. Prints nothing; the fingerprint is shown by the
caller before the passphrase is asked for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.backup import DOCUMENTS_FOLDER, HOME_FOLDER, KIND, MANIFEST, REGISTRY_FOLDER, outside_of
from cli.documents import FOLDER as DOCUMENTS
from cli.drafts import sync
from cli.home import RECORDS, REGISTRY, Home
from registry.signing.backup_file import MAX_BACKUP_BYTES, fingerprint, open_backup
from registry.signing.keys import private_key_from_pem, write_new_private_file, write_private_key
from registry.signing.secret import seal_secret
from registry.signing.small_files import read_small_file
from registry.signing.strict_json import as_object, loads, member
from watermark.errors import ConflictError, DigestError, DocumentError, InputError, UnavailableError

_WHAT = "the backup's manifest"


@dataclass(frozen=True)
class RestoreRequest:
    """Which backup goes into which new home; `fingerprint` (hex) is what the owner wrote down, if anything."""

    file: Path
    home: Path
    fingerprint: str | None = None


@dataclass(frozen=True)
class RestoreResult:
    """The home that was made, and what it lacks. `references` are the places where unmarked models are expected."""

    home: Path
    owner: str
    key: str
    origin: str
    fingerprint: str
    made_at: str
    restored: tuple[str, ...]
    outside: tuple[str, ...]
    unwrapped: tuple[str, ...]
    releases: int
    references: tuple[str, ...]
    with_registry: bool


def restore(
    request: RestoreRequest, backup_passphrase: Callable[[], bytes], show: Callable[[str], None] | None = None
) -> RestoreResult:
    """Make the home that a backup holds; it appears complete or not at all.

    `show` is given the fingerprint before the passphrase is asked for. Raises ConflictError when there is a home
    already, DigestError when the fingerprint is another, InputError for a wrong passphrase, DocumentError for a file
    that is no backup.
    """
    if request.home.exists() and (not request.home.is_dir() or any(request.home.iterdir())):
        raise ConflictError(
            f"{request.home} is there already", hint="name another home with --home; a backup never replaces one"
        )
    data = read_small_file(request.file, what="the backup", max_bytes=MAX_BACKUP_BYTES)
    print_of_file = fingerprint(data)
    _check_fingerprint(request.fingerprint, print_of_file)
    if show is not None:
        show(print_of_file)
    phrase = backup_passphrase()
    files = open_backup(data, phrase)
    manifest = _read_manifest(files)
    place = request.home.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))  # mode 0700
        try:
            _fill(draft, files, manifest, phrase)
            os.rename(draft, place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        sync(place.parent)
    except OSError as error:
        raise UnavailableError(
            f"{request.home} cannot be made: {error.strerror}", hint="name a folder that you may write, with --home"
        ) from error
    return _result(Home.open(request.home), files, manifest, print_of_file)


def _check_fingerprint(expected: str | None, found: str) -> None:
    if expected is None:
        return
    wanted = expected.replace(" ", "").lower()
    if len(wanted) < 16 or any(letter not in "0123456789abcdef" for letter in wanted):
        raise InputError("the fingerprint is not at least 16 hex digits", hint="copy it as `keys backup` printed it")
    if not found.startswith(wanted):
        raise DigestError(
            f"the file's fingerprint is {found}, not {wanted}",
            hint="this is another backup, or the file was changed: take another copy of it",
        )


def _read_manifest(files: Mapping[str, bytes]) -> dict[str, Any]:
    if MANIFEST not in files:
        raise DocumentError("the backup has no manifest", hint="take another copy of the file")
    manifest = as_object(loads(files[MANIFEST], what=_WHAT), _WHAT)
    if manifest.get("kind") != KIND or manifest.get("v") != 1:
        raise DocumentError("the backup is of another version", hint="use a newer weightmark")
    return manifest


def _fill(folder: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any], phrase: bytes) -> None:
    keys = member(dict(manifest), "keys", list, _WHAT)
    secrets = [one["name"] for one in member(dict(manifest), "secrets", list, _WHAT)]
    for name, content in files.items():
        if name.startswith(HOME_FOLDER):
            target = folder / name.removeprefix(HOME_FOLDER)
            if target.parent != folder:
                raise DocumentError(f"the backup holds {name!a}, which no home has")
            if target.name in keys:
                write_private_key(target, private_key_from_pem(content, None, what=target.name), phrase)
            elif target.name in secrets:
                write_new_private_file(target, seal_secret(content, phrase))
            else:
                write_new_private_file(target, content)
        elif name.startswith(DOCUMENTS_FOLDER):
            target = folder / DOCUMENTS / name.removeprefix(DOCUMENTS_FOLDER)
            if target.parent != folder / DOCUMENTS:
                raise DocumentError(f"the backup holds {name!a}, which no home has")
            target.parent.mkdir(exist_ok=True, mode=0o700)
            write_new_private_file(target, content)
        elif name.startswith(REGISTRY_FOLDER):
            target = folder / REGISTRY / name.removeprefix(REGISTRY_FOLDER)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_new_private_file(target, content)
    if _has_registry(files):
        (folder / REGISTRY / "staging").mkdir(mode=0o700, exist_ok=True)
        (folder / REGISTRY / "log/tile/entries").mkdir(mode=0o700, parents=True, exist_ok=True)
    elif RECORDS in files:
        write_new_private_file(folder / RECORDS, files[RECORDS])


def _has_registry(files: Mapping[str, bytes]) -> bool:
    return any(name.startswith(REGISTRY_FOLDER) for name in files)


def _result(home: Home, files: Mapping[str, bytes], manifest: dict[str, Any], print_of_file: str) -> RestoreResult:
    from registry.store.record_file import RecordFile

    known = RecordFile.read(files[RECORDS]).list_releases() if RECORDS in files else []
    return RestoreResult(
        home.path,
        home.owner,
        home.public_key.key_id,
        home.origin,
        print_of_file,
        member(manifest, "made_at", str, _WHAT),
        tuple(name.removeprefix(HOME_FOLDER) for name in files if name.startswith(HOME_FOLDER)),
        tuple(outside_of(home)),
        tuple(one["name"] for one in manifest["secrets"] if one["wrapped_by"] is not None),
        len(known),
        tuple(dict.fromkeys(release.reference_place for release in known)),
        _has_registry(files),
    )
