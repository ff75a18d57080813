"""Remember the digests of files that were hashed before, so that signing a folder again reads what changed and no more.

A file is known by device, inode, size, modification time and change time: a write changes at least the last of them,
which the kernel sets and lets nobody set back. What that cannot show is a disk that lost a bit, a storage system that
answers with other bytes, or a program that keeps the file mapped and writes on; so a verifier reads the files unless
told otherwise. Files written within the last two seconds are not remembered: one more write could fall into the same
tick of the clock.

The cache is a convenience that nobody depends on: whatever is wrong with it (damaged, another's, no disk), it knows
nothing, and the files are read. It is private (mode 0600) because whoever writes to it decides what is signed. One
line of text for each file, the newest last, replaced as a whole; two processes at once lose entries, never mix them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

#: What a file system rounds times to is at most this (FAT: 2 s).
SETTLED_NS = 2_000_000_000
MAX_ENTRIES = 100_000
_MAX_BYTES = 64 << 20
_HEADER = b"weightmark digest cache 1"


class FileIdentity(NamedTuple):
    """What tells whether a file is still the same one, unchanged."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Take the identity from what stat says."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self, now_ns: int) -> bool:
        """Whether a further write would change these times: no time of the file is within two seconds of now."""
        return max(self.modified_ns, self.changed_ns) < now_ns - SETTLED_NS


def default_cache_path() -> Path:
    """Where the user's cache lies: `weightmark/digests` in XDG_CACHE_HOME, else in `~/.cache`."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(named) if os.path.isabs(named) else Path.home() / ".cache"  # XDG: relative paths are ignored
    return folder / "weightmark" / "digests"


class DigestCache:
    """SHA-256 digests by file identity, kept in one file. Never raises; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Read the cache at `path`; one that is absent, damaged or not only ours knows nothing."""
        self.path = path
        self._lines = _read(path)

    def __enter__(self) -> Self:
        """Use the cache in a `with` block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is held open."""

    def recall(self, identity: FileIdentity) -> bytes | None:
        """The digest of this very file as it is now, or None."""
        line = self._lines.get(_place(identity))
        if line is None:
            return None
        with contextlib.suppress(ValueError):
            digest = bytes.fromhex(line.rpartition(b" ")[0][-64:].decode("ascii"))
            if line == _line(identity, digest):
                return digest
        return None

    def remember(self, digests: Mapping[FileIdentity, bytes]) -> None:
        """Keep these digests, but those of files that were written just now; the oldest entries make room."""
        now = time.time_ns()
        settled = {identity: digest for identity, digest in digests.items() if identity.is_settled(now)}
        if not settled:
            return
        lines = _read(self.path)  # again: another process may have added to it meanwhile
        for identity, digest in settled.items():
            lines.pop(_place(identity), None)
            lines[_place(identity)] = _line(identity, digest)
        for place in list(lines)[: max(0, len(lines) - MAX_ENTRIES)]:
            del lines[place]
        self._lines = lines
        with contextlib.suppress(OSError):
            _replace(self.path, b"\n".join([_HEADER, *lines.values(), b""]))


def _place(identity: FileIdentity) -> bytes:
    """What a line begins with: where the file lies. One line each, so that a file's former state is forgotten."""
    return b"%d %d" % identity[:2]


def _line(identity: FileIdentity, digest: bytes) -> bytes:
    """An entry with a checksum over it: a flipped bit on the disk must not become a digest that is signed."""
    entry = b"%d %d %d %d %d %s" % (*identity, digest.hex().encode("ascii"))
    return b"%s %s" % (entry, hashlib.sha256(entry).hexdigest()[:16].encode("ascii"))


def _read(path: Path) -> dict[bytes, bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            private = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077 == 0
            if not stat.S_ISREG(status.st_mode) or not private or status.st_size > _MAX_BYTES:
                return {}
            header, *lines = file.read(_MAX_BYTES).split(b"\n")
    except OSError:
        return {}
    if header != _HEADER:
        return {}
    # A line is looked at when it is asked for. Its place ends at the second blank.
    return {b" ".join(line.split(b" ", 2)[:2]): line for line in lines if line}


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)  # not synced: a cache that is lost in a crash is made again
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
