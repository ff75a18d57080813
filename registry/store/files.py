"""The log's files on disk: tiles that never change, the published checkpoint, and the latest record kept apart.

    log/checkpoint        what readers fetch first
    log/tile/...          tiles and entry bundles (C2SP tlog-tiles)
    latest/checkpoint     the last signed checkpoint, apart from the database: a restored backup contradicts it
    staging/              files being written; nothing here counts
    publish.lock          held by the one process that publishes

A file is synced before it is renamed into place, its folder after. Knows nothing of what the files say.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.log.tiles import ENTRIES, MAX_ENTRY_BYTES, TILE_WIDTH, Tile, parse_path
from watermark.errors import DocumentError, LimitError, LogHaltedError, UnavailableError

DATABASE = "registry.sqlite"
CHECKPOINT = "log/checkpoint"
LATEST = "latest/checkpoint"
STAGING = "staging"
LOCK = "publish.lock"
LOCK_SECONDS = 60
RESERVE_BYTES = 64 << 20
MAX_FILE_BYTES = TILE_WIDTH * (MAX_ENTRY_BYTES + 2)


class LogFiles:
    """Reads and durably writes the files below one registry folder."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the registry's own."""
        self.folder = folder

    def make_folders(self) -> None:
        """Make the empty layout, durably."""
        with _storage(self.folder):
            for name in (STAGING, "latest", "log/tile/entries"):
                self._make_folder(self.folder / name)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, or None when there is none."""
        with _storage(self.folder / name):
            try:
                with open(self.folder / name, "rb") as file:
                    content = file.read(MAX_FILE_BYTES + 1)
            except FileNotFoundError:
                return None
        if len(content) > MAX_FILE_BYTES:
            raise LimitError(f"{name}: more than {MAX_FILE_BYTES} bytes")
        return content

    def read_tile(self, tile: Tile) -> bytes | None:
        """The bytes of a tile or bundle, or None when there is none."""
        return self.read(f"log/{tile.path}")

    def put_if_absent(self, tile: Tile, content: bytes) -> None:
        """Write a tile once: durable when this returns; one that is there with other bytes raises LogHaltedError."""
        present = self.read_tile(tile)
        if present is None:
            self._write(f"log/{tile.path}", content)
        elif present != content:
            raise LogHaltedError(f"{tile.path}: the file there differs from what the log says it must hold")

    def swap(self, name: str, expected: bytes | None, content: bytes) -> None:
        """Replace a small file, if it still holds what was expected: compare-and-swap under the publication lock."""
        if self.read(name) != expected:
            raise LogHaltedError(f"{name}: changed while this process held the publication lock")
        if expected != content:
            self._write(name, content)

    def drop_partial(self, tile: Tile) -> None:
        """Remove the partial tiles that a full one has made superfluous; what cannot be removed does no harm."""
        shutil.rmtree(self.folder / f"log/{tile.path}.p", ignore_errors=True)

    def tiles_beyond(self, size: int) -> Tile | None:
        """A tile or bundle that a log of `size` cannot have, or None; looks only at the right edge."""
        full, width = divmod(size, TILE_WIDTH)
        for later in (full, full + 1):
            if (self.folder / f"log/{Tile(0, later).path}").exists():
                return Tile(0, later)
        partial = self.folder / f"log/{Tile(0, full).path}.p"
        with _storage(partial):
            widths = [int(name) for name in os.listdir(partial) if name.isdecimal()] if partial.is_dir() else []
        return Tile(0, full, max(widths)) if widths and max(widths) > width else None

    def missing_at_edge(self, size: int) -> Tile | None:
        """The last tile or bundle that a published log of `size` has, if neither it nor the full one is there."""
        index, width = divmod(size, TILE_WIDTH)
        last = [Tile(level, index, width) if width else Tile(level, index - 1) for level in (ENTRIES, 0)]
        for tile in last if size else ():
            # In this order: another process drops the partial tile only after the full one is there.
            if not any((self.folder / f"log/{one.path}").exists() for one in (tile, Tile(tile.level, tile.index))):
                return tile
        return None

    def all_tiles(self) -> Iterator[tuple[str, Tile | None]]:
        """Each file below `log/tile` by its path, with its name as a tile, or None where the path is no tile's."""
        root = self.folder / "log"
        for folder, _, names in sorted(os.walk(root / "tile")):
            for name in sorted(names):
                path = (Path(folder) / name).relative_to(root).as_posix()
                try:
                    yield path, parse_path(path)
                except DocumentError:
                    yield path, None

    def refuse_when_full(self, wanted_bytes: int) -> None:
        """Raise UnavailableError while the disk could fill up in the middle of an append; reads go on meanwhile.

        Kept free: 5 % of the disk, at most 64 MiB, beyond what is wanted.
        """
        with _storage(self.folder):
            usage = shutil.disk_usage(self.folder)
        reserve = min(usage.total // 20, RESERVE_BYTES)
        if usage.free < wanted_bytes + reserve:
            raise UnavailableError(
                f"{self.folder}: {usage.free} bytes free on the disk, {wanted_bytes + reserve} wanted before an append",
                hint="free some space, then run the same command again",
            )

    @contextmanager
    def publication_lock(self) -> Iterator[None]:
        """Hold the right to publish: one process (and thread) at a time, released also when it is killed."""
        with _storage(self.folder / LOCK):
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait_for_lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def clear_staging(self) -> None:
        """Remove what a killed process left half-written; only under the publication lock."""
        with _storage(self.folder / STAGING):
            for name in os.listdir(self.folder / STAGING):
                os.unlink(self.folder / STAGING / name)

    def _wait_for_lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() > deadline:
                    raise UnavailableError(f"{self.folder}: another process keeps publishing") from error
                time.sleep(0.002)
            else:
                return

    def _write(self, name: str, content: bytes) -> None:
        """Stage, sync, rename, sync the folder: the target is absent, old or complete at every moment."""
        target = self.folder / name
        staged = self.folder / STAGING / f"{os.getpid()}-{name.replace('/', '-')}"
        with _storage(target):
            self._make_folder(target.parent)
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                written = 0
                while written < len(content):
                    written += os.write(descriptor, content[written:])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(staged, target)
            sync_folder(target.parent)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        os.mkdir(folder, 0o700)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; an fsync of a file does not do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _storage(place: Path) -> Iterator[None]:
    """Translate what the operating system says about a place."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{place}: {error.strerror}", hint="when the cause is gone, try again") from error
