"""Walk a model's folder without following anything out of it.

Every file is opened by folder handles and without following links, so that no name can be swapped between the look
and the read. Follows the enumeration rules of OMS v1.0; knows nothing of digests and signatures.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.signing.manifest import check_name
from watermark.errors import InputError, LimitError, PathEscapeError

MAX_FILES = 100_000
MAX_DEPTH = 100
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # non-blocking: opening a FIFO must not hang


@dataclass(frozen=True)
class ModelFile:
    """A regular file of the model: its name in the manifest, where it lies below the root, its size."""

    name: str
    location: str
    size_bytes: int


class ModelTree:
    """An opened model folder, or a single file seen as a model of one file."""

    def __init__(self, path: Path) -> None:
        """Open `path`; InputError when it is neither a folder nor a regular file."""
        self.path = path
        try:
            self.resolved = path.resolve(strict=True)  # the user named this place, so a link here is followed
            self.is_single_file = not self.resolved.is_dir()
            folder = self.resolved.parent if self.is_single_file else self.resolved
            self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path} cannot be opened: {reason(error)}") from error
        self.name = path.name if path.name not in ("", "..") else self.resolved.name or "model"

    def __enter__(self) -> ModelTree:
        """Nothing more: the folder is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the folder."""
        os.close(self._root)

    def enumerate(self, ignored: Collection[str], *, allow_symlinks: bool = False) -> tuple[ModelFile, ...]:
        """Every regular file that is not ignored, in no particular order.

        `ignored` are exact root-relative paths, each with its subtree. Raises PathEscapeError for links (unless
        allowed and ending at a file inside), devices, FIFOs, sockets and unportable names; LimitError over 100,000
        files or 100 levels.
        """
        if self.is_single_file:
            return (self.stat(self.resolved.name, name=self.path.name),)
        found: list[ModelFile] = []
        walk = _Walk(self, frozenset(ignored), allow_symlinks, found)
        walk.folder(self._root, "", 1)
        return tuple(found)

    def stat(self, location: str, *, name: str | None = None) -> ModelFile:
        """The regular file at this place; FileNotFoundError is left to the caller, links are refused."""
        with self.open(location) as descriptor:
            return ModelFile(name or location, location, os.fstat(descriptor).st_size)

    @contextmanager
    def open(self, location: str) -> Iterator[int]:
        """Open a regular file by its root-relative path, following no link in any component."""
        *folders, last = location.split("/")
        opened: list[int] = []
        try:
            at = self._root
            for folder in folders:
                at = _open_no_follow(folder, _FOLDER, at, location)
                opened.append(at)
            descriptor = _open_no_follow(last, _FILE, at, location)
        finally:
            for folder_descriptor in opened:
                os.close(folder_descriptor)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PathEscapeError(f"{location!a} is not a regular file")
            yield descriptor
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Walk:
    tree: ModelTree
    ignored: frozenset[str]
    allow_symlinks: bool
    found: list[ModelFile]

    def folder(self, descriptor: int, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise LimitError(f"{self.tree.path} has folders more than {MAX_DEPTH} levels deep")
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if name not in self.ignored:
                        self.entry(entry, name, descriptor, depth)
        except OSError as error:
            raise InputError(f"{prefix or str(self.tree.path)!a} cannot be read: {reason(error)}") from error

    def entry(self, entry: os.DirEntry[str], name: str, parent: int, depth: int) -> None:
        check_name(name)
        if entry.is_symlink():
            self.found.append(self.link(name, os.readlink(entry.name, dir_fd=parent)))
        elif entry.is_dir(follow_symlinks=False):
            descriptor = os.open(entry.name, _FOLDER, dir_fd=parent)
            try:
                self.folder(descriptor, name + "/", depth + 1)
            finally:
                os.close(descriptor)
        elif entry.is_file(follow_symlinks=False):
            self.found.append(ModelFile(name, name, entry.stat(follow_symlinks=False).st_size))
        else:
            raise PathEscapeError(f"{name!a} is neither a file nor a folder", hint="remove or ignore it")
        if len(self.found) > MAX_FILES:
            raise LimitError(f"{self.tree.path} has more than {MAX_FILES} files", hint="ignore folders of small files")

    def link(self, name: str, target: str) -> ModelFile:
        if not self.allow_symlinks:
            raise PathEscapeError(f"{name!a} is a symbolic link", hint=_link_hint(target))
        real = Path(os.path.realpath(self.tree.resolved / name))  # a loop or a dangling link fails just below
        if not real.is_relative_to(self.tree.resolved):
            raise PathEscapeError(f"the link {name!a} leads out of the model")
        try:
            return self.tree.stat(real.relative_to(self.tree.resolved).as_posix(), name=name)
        except (OSError, PathEscapeError) as error:
            raise PathEscapeError(f"the link {name!a} leads to no file: {reason(error)}") from error


def _open_no_follow(name: str, flags: int, folder: int, location: str) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(name, folder):  # which of the two, Linux decides
            raise PathEscapeError(f"{location!a} is, or lies behind, a symbolic link") from error
        raise


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _link_hint(target: str) -> str:
    if "blobs/" in target:
        return (
            "a Hugging Face cache consists of links into its blobs folder: make a real copy with "
            "`cp -rL SNAPSHOT COPY` and use that"
        )
    return "replace the link by the file itself, or ignore it"


def reason(error: BaseException) -> str:
    """What the system says went wrong, without the path that the caller names itself."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
