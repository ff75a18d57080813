"""A consistent copy of a registry's files while others may go on appending to it.

The files of the log are read under the publication lock and the database after them, by SQLite's own backup: so the
database is never behind what was published, which is the one order that the sequencer accepts when the copy is opened.
Knows nothing of where the copy goes.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from registry.store.files import CHECKPOINT, DATABASE, LATEST, LogFiles
from watermark.errors import LimitError, RegistryError, UnavailableError

MAX_SNAPSHOT_BYTES: Final = 512 << 20


def take_snapshot(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a registry, by path below its folder.

    Raises LimitError beyond 512 MiB, RegistryError when there is no registry, UnavailableError when it cannot be read.
    """
    if not (folder / DATABASE).is_file():
        raise RegistryError(f"{folder}: no registry here", hint="make the backup without --with-registry")
    files: dict[str, bytes] = {}
    log = LogFiles(folder)
    try:
        with log.publication_lock():
            for name in (CHECKPOINT, LATEST):
                content = log.read(name)
                if content is not None:
                    files[name] = content
            size = 0
            for path, _ in log.all_tiles():
                files[f"log/{path}"] = (folder / "log" / path).read_bytes()
                size += len(files[f"log/{path}"])
                _check_size(size, folder)
        _check_size(size + os.path.getsize(folder / DATABASE), folder)
        files[DATABASE] = _copy_database(folder / DATABASE)
    except OSError as error:
        raise UnavailableError(f"{folder}: the registry cannot be copied: {error.strerror}") from error
    return files


def _copy_database(path: Path) -> bytes:
    try:
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(":memory:")) as copy,
        ):
            source.backup(copy)
            return bytes(copy.serialize())
    except sqlite3.Error as error:
        raise UnavailableError(f"{path}: the database cannot be copied: {error}") from error


def _check_size(size: int, folder: Path) -> None:
    if size > MAX_SNAPSHOT_BYTES:
        raise LimitError(
            f"{folder}: the registry has more than {MAX_SNAPSHOT_BYTES >> 20} MiB",
            hint="back up without --with-registry, and copy the folder by other means while nothing is appended",
        )
