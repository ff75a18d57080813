"""Folders that appear complete or not at all: written as a draft beside their place, synced, then renamed.

A killed process leaves only a hidden draft behind, named after it, which the next one removes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watermark.errors import ConflictError, UnavailableError

_DRAFT = re.compile(r"\.(?P<name>.+)\.weightmark-draft-(?P<pid>\d+)")


def refuse_taken(target: Path) -> None:
    """Raise ConflictError when something stands at `target`; an empty folder is taken over."""
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise ConflictError(f"{target} is there already", hint="choose another --out, or remove it first")


@contextmanager
def draft_beside(target: Path) -> Iterator[Path]:
    """Give an empty draft folder on the same file system as `target`; removed at the end whatever happens."""
    parent = target.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent, target.name)
        draft = parent / f".{target.name}.weightmark-draft-{os.getpid()}"
        draft.mkdir(mode=0o700)
    except OSError as err:
        raise UnavailableError(f"cannot write in {parent}: {err.strerror}", hint="choose another --out") from err
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def put_in_place(finished: Path, target: Path) -> None:
    """Sync the finished folder and rename it to `target`: the one moment at which it appears."""
    try:
        for folder, _, names in os.walk(finished, topdown=False):
            for name in names:
                sync(Path(folder) / name)
            sync(Path(folder))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(finished, 0o755)  # noqa: S103  what ships is for everybody, unlike the draft
        os.rename(finished, target)
        sync(target.parent)
    except OSError as err:
        raise UnavailableError(
            f"cannot put {target} in place: {err.strerror}", hint="run the same command again"
        ) from err


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(parent: Path, name: str) -> None:
    """Remove drafts of processes that are gone."""
    for entry in parent.iterdir():
        match = _DRAFT.fullmatch(entry.name)
        if match and match["name"] == name and not _is_running(int(match["pid"])):
            shutil.rmtree(entry, ignore_errors=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
