"""List the files of a folder and open them, without ever leaving the folder.

Every step goes by folder handle and follows no link, so a folder that is swapped for a link between two steps stops us
instead of leading us elsewhere. Only regular files and folders are accepted; what each file was when it was listed
(size, times, inode) is kept, and whoever opens it later gets that very file or an error. The module knows names and
handles, nothing of what the files hold.

Standard: POSIX.1-2008 openat and fstatat, with O_NOFOLLOW.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from watermark.errors import InputError, LimitError, ModelFormatError, PathEscapeError
from watermark.model.names import MAX_PATH_BYTES, check_component
from watermark.model.safetensors import MAX_HEADER_BYTES

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a name that became a FIFO since it was listed must not hang us before we can look at it.
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What we are ready to read: counts, depths and sizes over which a model is refused before it costs anything."""

    max_files: int = 100_000
    max_depth: int = 64
    max_header_bytes: int = MAX_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One regular file of a model: its path from the model's root, with `/`, and its size."""

    path: str
    size_bytes: int


class Identity(NamedTuple):
    """What tells whether a file is still the same one, unchanged.

    The change time is in it because a writer can set the modification time back, and cannot set the change time.
    """

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Take the identity from what stat says."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Listed(NamedTuple):
    """One file as it was found: `target` is where an accepted link leads, from the link root, and None for no link."""

    path: str
    identity: Identity
    target: str | None = None


class Folder:
    """A folder held open by handle, whose files are listed once and opened by no other way than from that handle."""

    def __init__(self, root: Path, limits: Limits, link_root: Path | None = None) -> None:
        """Open `root`; links among its files are refused unless they lead to files below `link_root`.

        Raises:
            InputError: `root` or `link_root` is no folder that we may read.
        """
        self._limits = limits
        self._entries_seen = 0
        # The last step of `root` may be a link: the person who runs us named it.
        self._root = root.absolute()
        self._handle = _open_folder(root)
        try:
            self._link_root = None if link_root is None else Path(os.path.realpath(link_root))
            self._link_handle = None if self._link_root is None else _open_folder(self._link_root)
        except InputError:
            os.close(self._handle)
            raise

    def close(self) -> None:
        """Let go of the handles."""
        os.close(self._handle)
        if self._link_handle is not None:
            os.close(self._link_handle)

    def __enter__(self) -> Self:
        """Use the folder in a `with` block, which closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the folder."""
        self.close()

    def files(self) -> list[Listed]:
        """List every regular file below the folder, by path in code point order.

        Raises:
            PathEscapeError: a name is refused, two names are one on some systems, or an entry is a link or no file.
            LimitError: too many entries, or folders too deep.
        """
        self._entries_seen = 0
        try:
            return sorted(self._walk(self._handle, "", 1))
        except OSError as error:
            # An entry that vanished between its listing and the look at it, or a folder that we may not read.
            raise _translate(error, str(error.filename)) from error

    def find(self, path: str) -> Listed:
        """List the one file at `path`, in the folder itself or below it.

        Raises:
            PathEscapeError: a name is refused, or is a link or no file.
            InputError: there is no such file.
        """
        *folders, name = path.split("/")
        for component in (*folders, name):
            check_component(component)
        try:
            with ExitStack() as stack:
                current = self._handle
                for folder in folders:
                    current = os.open(folder, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=current)
                    stack.callback(os.close, current)
                status = os.stat(name, dir_fd=current, follow_symlinks=False)
                return self._accept(current, name, path, status)
        except OSError as error:
            raise _translate(error, path) from error

    def open(self, listed: Listed) -> int:
        """Open a listed file and return its descriptor, which the caller closes.

        The descriptor is of the very file that was listed, unchanged since.

        Raises:
            ModelFormatError: the file was changed, swapped or removed since it was listed.
            InputError: we may not read it, or have too many files open.
        """
        try:
            if listed.target is not None:
                assert self._link_handle is not None
                descriptor = _open_below(self._link_handle, listed.target)
            else:
                descriptor = _open_below(self._handle, listed.path)
        except OSError as error:
            raise _translate(error, listed.path) from error
        if Identity.of(os.fstat(descriptor)) != listed.identity:
            os.close(descriptor)
            raise changed(listed.path)
        return descriptor

    def check_unchanged(self, listed: Listed) -> None:
        """Demand that the file under this name is still the one that was listed, unchanged.

        Raises:
            ModelFormatError: it is not.
        """
        try:
            if listed.target is not None:
                status = os.stat(listed.target, dir_fd=self._link_handle, follow_symlinks=False)
            else:
                status = os.stat(listed.path, dir_fd=self._handle, follow_symlinks=False)
        except OSError as error:
            raise changed(listed.path) from error
        if Identity.of(status) != listed.identity:
            raise changed(listed.path)

    def _walk(self, folder: int, path: str, depth: int) -> Iterator[Listed]:
        folded: dict[str, str] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                self._entries_seen += 1
                if self._entries_seen > self._limits.max_files:
                    raise LimitError(
                        f"more than {self._limits.max_files} files and folders",
                        hint="point at the folder of one model",
                    )
                form = check_component(entry.name, path)
                if form in folded:
                    raise PathEscapeError(
                        f"in {path or '.'!a} the names {folded[form]!a} and {entry.name!a} are one file on some systems"
                    )
                folded[form] = entry.name
                below = f"{path}/{entry.name}" if path else entry.name
                if len(below.encode()) > MAX_PATH_BYTES:
                    raise PathEscapeError(f"the path {below[:80]!a}... is longer than {MAX_PATH_BYTES} bytes")
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    yield from self._enter(folder, entry.name, below, depth)
                else:
                    yield self._accept(folder, entry.name, below, status)

    def _enter(self, parent: int, name: str, path: str, depth: int) -> Iterator[Listed]:
        if depth > self._limits.max_depth:
            raise LimitError(f"{path[:80]!a}: folders more than {self._limits.max_depth} deep", hint="flatten them")
        folder = os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        try:
            yield from self._walk(folder, path, depth + 1)
        finally:
            os.close(folder)

    def _accept(self, folder: int, name: str, path: str, status: os.stat_result) -> Listed:
        if stat.S_ISREG(status.st_mode):
            return Listed(path, Identity.of(status))
        if stat.S_ISLNK(status.st_mode):
            return self._follow(os.readlink(name, dir_fd=folder), path)
        raise PathEscapeError(f"{path!a} is {_kind(status)}, not a file")

    def _follow(self, target: str, path: str) -> Listed:
        if self._link_root is None or self._link_handle is None:
            raise PathEscapeError(f"{path!a} is a link to {target!a}", hint=_link_hint(target))
        resolved = Path(os.path.realpath(self._root / path))
        if not resolved.is_relative_to(self._link_root):
            raise PathEscapeError(
                f"{path!a} is a link to {target!a}, which is not below {str(self._link_root)!a}",
                hint="remove the link, or name the folder that all links lead into",
            )
        below = resolved.relative_to(self._link_root).as_posix()
        try:
            status = os.stat(below, dir_fd=self._link_handle, follow_symlinks=False)
        except OSError as error:
            raise PathEscapeError(f"{path!a} is a link to {target!a}, which leads nowhere") from error
        if not stat.S_ISREG(status.st_mode):
            raise PathEscapeError(f"{path!a} is a link to {_kind(status)}, not to a file")
        return Listed(path, Identity.of(status), below)


def changed(path: str) -> ModelFormatError:
    """Say that a file is not what it was when the model was opened."""
    return ModelFormatError(
        f"{path!a} was changed, swapped or removed while it was read",
        hint="wait until nothing writes to the model, and run again",
    )


def _open_folder(path: Path) -> int:
    try:
        return os.open(path, _OPEN_FOLDER)
    except OSError as error:
        raise InputError(f"{str(path)!a}: the folder cannot be read: {error.strerror}") from error


def _open_below(handle: int, path: str) -> int:
    """Open a file by walking from a folder handle, following no link on the way."""
    *folders, name = path.split("/")
    current = handle
    try:
        for folder in folders:
            inner = os.open(folder, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=current)
            if current != handle:
                os.close(current)
            current = inner
        return os.open(name, _OPEN_FILE, dir_fd=current)
    finally:
        if current != handle:
            os.close(current)


def _translate(error: OSError, path: str) -> InputError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
        return changed(path)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return LimitError(f"{path!a}: too many files are open", hint="raise the limit with `ulimit -n 4096`")
    return InputError(f"{path!a}: cannot be read: {error.strerror}")


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "no plain file")


def _link_hint(target: str) -> str:
    if "/blobs/" in f"/{target}":
        return (
            "this is the Hugging Face cache, where a snapshot is links into blobs/: accept them with "
            "`--allow-links-below DIR`, DIR being the folder that holds blobs/, or make a real copy with "
            "`cp -RL SNAPSHOT COPY` or `hf download REPO --local-dir COPY`, and use that"
        )
    return "replace the link by the file it leads to: `cp -RL MODEL COPY` copies a folder so"
