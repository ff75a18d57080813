"""The working folder of a release: what a killed run finished in it, the next run of this release does not do again.

Beside the target, hidden and locked while a release works in it. `notes` says whose work it is (the reference, tensor
by tensor, R, the copies, the files' headers) and, line by line, which tensors were written and with what digests, and
what of the sketches is done. A line is written after what it speaks of is on disk, and what it speaks of is read and
hashed again before it is believed. A folder of other work, of another form, or that cannot be read is emptied. An error
removes the folder; a kill, a lost machine or an interruption leaves it.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from cli.drafts import remove_abandoned
from watermark.errors import ConflictError, UnavailableError
from watermark.model.rewrite import Finished

_FORM: Final = "weightmark unfinished release v1"
_NOTES, _LOCK = "notes", "lock"
#: A killed release leaves worker processes that end with the piece they are at.
_WAIT_SECONDS = 10.0
_CHECK_CHARACTERS = 16


def unfinished_folder(target: Path) -> Path:
    """Where a release to `target` works."""
    return target.absolute().parent / f".{target.name}.weightmark-unfinished"


def identity_of(**facts: Any) -> str:
    """One name for a piece of work: equal only when everything that decides the bytes is."""
    return hashlib.sha256(json.dumps([_FORM, facts], sort_keys=True).encode()).hexdigest()


class Unfinished:
    """An open working folder: `is_resumed` when a run before this one, of the same work, left something in it."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Read the notes in a locked folder; anything but this very work is thrown away."""
        self.folder = folder
        self._tensors: dict[str, dict[str, Finished]] = {}
        self._kept: dict[str, bytes] = {}
        lines = _read_lines(folder / _NOTES)
        self.is_resumed = bool(lines) and lines[0] == {"work": identity}
        if self.is_resumed:
            for line in lines[1:]:
                self._take(line)
        else:
            _empty(folder)
        self._remove_all_but(self._tensors)
        self._notes: BinaryIO = open(folder / _NOTES, "wb")  # noqa: SIM115  closed with the folder
        self._write(lines if self.is_resumed else [{"work": identity}])

    def close(self) -> None:
        """Let go of the notes."""
        self._notes.close()

    def finished(self, shard: str) -> Mapping[str, Finished]:
        """Tensors of a shard that a run before this one wrote, in the order in which they stand there."""
        return self._tensors.get(shard, {})

    def finish(self, shard: str, tensors: Mapping[str, Finished]) -> None:
        """Note tensors of a shard whose bytes are on disk in every copy."""
        lines = [
            {
                "shard": shard,
                "tensor": name,
                "digests": [digest.hex() for digest in one.digests],
                "change": one.largest_change.hex(),
            }
            for name, one in tensors.items()
        ]
        self._write(lines)

    def pieces(self, of: bytes) -> MutableMapping[str, bytes]:
        """What was computed from a model with these tensors (their canonical digest), piece by piece."""
        return _Pieces(self, of.hex())

    def _take(self, line: Mapping[str, Any]) -> None:
        if "piece" in line:
            self._kept[line["piece"]] = base64.b64decode(line["data"])
            return
        digests = tuple(map(bytes.fromhex, line["digests"]))
        found = Finished(digests, float.fromhex(line["change"]))
        self._tensors.setdefault(line["shard"], {})[line["tensor"]] = found

    def _write(self, lines: Sequence[Mapping[str, Any]], *, is_durable: bool = True) -> None:
        """Add lines in one step; what can be computed again need not outlive a power cut."""
        texts = [json.dumps(line, sort_keys=True).encode() for line in lines]
        try:
            self._notes.write(b"".join(_check(text) + b" " + text + b"\n" for text in texts))
            self._notes.flush()
            if is_durable:
                os.fsync(self._notes.fileno())
        except OSError as err:
            raise UnavailableError(
                f"cannot write in {self.folder}: {err.strerror}", hint="free some disk space and run again"
            ) from err

    def _remove_all_but(self, shards: Iterable[str]) -> None:
        """Files that no note speaks of would ship otherwise."""
        kept = set(shards)
        for copy in self.folder.iterdir():
            for path in copy.rglob("*") if copy.is_dir() and not copy.is_symlink() else ():
                if path.is_symlink() or (path.is_file() and path.relative_to(copy).as_posix() not in kept):
                    path.unlink()


class _Pieces(MutableMapping[str, bytes]):
    """The pieces of one model's computation, noted durably as they are set."""

    def __init__(self, notes: Unfinished, of: str) -> None:
        self._notes, self._of = notes, of

    def __getitem__(self, name: str) -> bytes:
        return self._notes._kept[f"{self._of} {name}"]

    def __setitem__(self, name: str, data: bytes) -> None:
        self._notes._kept[f"{self._of} {name}"] = data
        line = {"piece": f"{self._of} {name}", "data": base64.b64encode(data).decode("ascii")}
        self._notes._write([line], is_durable=False)

    def __delitem__(self, name: str) -> None:
        raise TypeError("what was noted stays")

    def __iter__(self) -> Iterator[str]:
        return (key.partition(" ")[2] for key in self._notes._kept if key.startswith(self._of))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@contextmanager
def work_beside(target: Path, identity: str) -> Iterator[Unfinished]:
    """Open the working folder of a release to `target`; removed at the end and by any error, left by an interruption.

    Raises ConflictError while another release works on the same target.
    """
    folder = unfinished_folder(target)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent, target.name)
        lock = _locked(folder, target)
    except OSError as err:
        raise UnavailableError(f"cannot write in {folder.parent}: {err.strerror}", hint="choose another --out") from err
    try:
        work = Unfinished(folder, identity)
        try:
            yield work
        finally:
            work.close()
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _locked(folder: Path, target: Path) -> int:
    """Make or take over the folder and hold its lock; a place that is not a folder of ours is refused."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConflictError(f"{folder} is no working folder of yours", hint="choose another --out, or remove it")
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK)):
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass  # held, or removed by its holder in between
        os.close(lock)
        if time.monotonic() > until:
            raise ConflictError(
                f"another release is being written to {target}",
                hint="wait until it is done, or choose another --out",
            )
        time.sleep(0.1)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The notes up to the first line that is torn or changed; none when there are none."""
    lines: list[dict[str, Any]] = []
    try:
        data = path.read_bytes()
    except OSError:
        return []
    for line in data.split(b"\n")[:-1]:
        check, _, text = line.partition(b" ")
        if check != _check(text):
            break
        lines.append(json.loads(text))
    return lines


def _check(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECK_CHARACTERS].encode()


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
