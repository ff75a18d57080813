"""Walk a model's folder without following anything out of it.

Every file is opened by folder handles and without following links, so that no name can be swapped between the look
and the read. A link is followed only where the signature or the caller allows it, and only to a file below a folder
that is held open as well: what it leads to is opened from there, again without following anything. Follows the
enumeration rules of OMS v1.0; knows nothing of digests and signatures.
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
from registry.signing.refusals import LINK, LINK_OUTSIDE, NOT_A_FILE
from watermark.errors import InputError, LimitError, PathEscapeError

MAX_FILES = 100_000
MAX_DEPTH = 100
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # non-blocking: opening a FIFO must not hang


@dataclass(frozen=True)
class ModelFile:
    """A regular file of the model: its name in the manifest, where it lies below the root, its size.

    `linked` files lie below the folder that the caller named for links, and `location` counts from there.
    """

    name: str
    location: str
    size_bytes: int
    linked: bool = False


class ModelTree:
    """An opened model folder, or a single file seen as a model of one file."""

    def __init__(self, path: Path, *, links_below: Path | None = None) -> None:
        """Open `path`; InputError when it is neither a folder nor a regular file.

        With `links_below` a link to a file below that folder counts as that file: the way to read a Hugging Face cache,
        whose snapshots are links into the `blobs` beside them.
        """
        self.path = path
        self._links = _LinkFolder.open(links_below) if links_below is not None else None
        try:
            self.resolved = path.resolve(strict=True)  # the user named this place, so a link here is followed
            self.is_single_file = not self.resolved.is_dir()
            folder = self.resolved.parent if self.is_single_file else self.resolved
            self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, RuntimeError) as error:
            self._close_links()
            raise InputError(f"{path} cannot be opened: {reason(error)}") from error
        self.name = path.name if path.name not in ("", "..") else self.resolved.name or "model"

    def __enter__(self) -> ModelTree:
        """Nothing more: the folder is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the folders."""
        os.close(self._root)
        self._close_links()

    def _close_links(self) -> None:
        if self._links is not None:
            os.close(self._links.descriptor)

    def enumerate(self, ignored: Collection[str], *, allow_symlinks: bool = False) -> tuple[ModelFile, ...]:
        """Every regular file that is not ignored, in no particular order.

        `ignored` are exact root-relative paths, each with its subtree. Raises PathEscapeError for links (unless
        allowed and ending at a file inside, or at one below `links_below`), devices, FIFOs, sockets and unportable
        names; LimitError over 100,000 files or 100 levels.
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

    def find(self, name: str, *, allow_symlinks: bool = False) -> ModelFile:
        """The one file of this name, found as `enumerate` would find it; FileNotFoundError is left to the caller."""
        if allow_symlinks or self._links is not None:
            place = self.resolved / name
            if os.path.realpath(place.parent) == str(place.parent) and place.is_symlink():
                return self.follow(name, os.readlink(place), allow_symlinks=allow_symlinks)
        return self.stat(name)

    def follow(self, name: str, target: str, *, allow_symlinks: bool) -> ModelFile:
        """The file that the link `name` leads to, where that is allowed; PathEscapeError otherwise."""
        if self._links is None and not allow_symlinks:
            raise LINK(f"{name!a} is a symbolic link", hint=_cache_hint(self.resolved / name, target))
        real = Path(os.path.realpath(self.resolved / name))  # a loop or a dangling link fails just below
        try:
            if self._links is not None and real.is_relative_to(self._links.path):
                location = real.relative_to(self._links.path).as_posix()
                with _open_below(self._links.descriptor, location) as descriptor:
                    return ModelFile(name, location, os.fstat(descriptor).st_size, linked=True)
            if not allow_symlinks or not real.is_relative_to(self.resolved):
                where = "the model" if self._links is None else f"the folder {str(self._links.path)!a}"
                hint = _cache_hint(self.resolved / name, target)
                raise LINK_OUTSIDE(f"the link {name!a} leads out of {where}", hint=hint)
            return self.stat(real.relative_to(self.resolved).as_posix(), name=name)
        except OSError as error:
            raise NOT_A_FILE(f"the link {name!a} leads to no file: {reason(error)}") from error
        except PathEscapeError as error:
            if error.code == LINK_OUTSIDE.code:
                raise
            raise NOT_A_FILE(f"the link {name!a} leads to no file: {error}") from error

    @contextmanager
    def open_file(self, file: ModelFile) -> Iterator[int]:
        """Open a file that was found before; what is opened lies where it was found, whoever swaps links meanwhile."""
        root = self._links.descriptor if file.linked and self._links is not None else self._root
        with _open_below(root, file.location) as descriptor:
            yield descriptor

    @contextmanager
    def open(self, location: str) -> Iterator[int]:
        """Open a regular file by its root-relative path, following no link in any component."""
        with _open_below(self._root, location) as descriptor:
            yield descriptor


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
            target = os.readlink(entry.name, dir_fd=parent)
            self.found.append(self.tree.follow(name, target, allow_symlinks=self.allow_symlinks))
        elif entry.is_dir(follow_symlinks=False):
            descriptor = os.open(entry.name, _FOLDER, dir_fd=parent)
            try:
                self.folder(descriptor, name + "/", depth + 1)
            finally:
                os.close(descriptor)
        elif entry.is_file(follow_symlinks=False):
            self.found.append(ModelFile(name, name, entry.stat(follow_symlinks=False).st_size))
        else:
            raise NOT_A_FILE(f"{name!a} is neither a file nor a folder")
        if len(self.found) > MAX_FILES:
            raise LimitError(f"{self.tree.path} has more than {MAX_FILES} files", hint="ignore folders of small files")


@dataclass(frozen=True)
class _LinkFolder:
    """The folder below which links may end, held open."""

    path: Path
    descriptor: int

    @classmethod
    def open(cls, path: Path) -> _LinkFolder:
        try:
            resolved = path.resolve(strict=True)
            return cls(resolved, os.open(resolved, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{path} cannot be opened: {reason(error)}",
                hint="--allow-links-below takes the folder that all links of the model lead into",
            ) from error


@contextmanager
def _open_below(root: int, location: str) -> Iterator[int]:
    """Open a regular file by its path below the folder `root`, following no link in any component."""
    *folders, last = location.split("/")
    opened: list[int] = []
    try:
        at = root
        for folder in folders:
            at = _open_no_follow(folder, _FOLDER, at, location)
            opened.append(at)
        descriptor = _open_no_follow(last, _FILE, at, location)
    finally:
        for folder_descriptor in opened:
            os.close(folder_descriptor)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NOT_A_FILE(f"{location!a} is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _open_no_follow(name: str, flags: int, folder: int, location: str) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(name, folder):  # which of the two, Linux decides
            raise LINK(f"{location!a} is, or lies behind, a symbolic link") from error
        raise


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _cache_hint(place: Path, target: str) -> str | None:
    """What to do about the links of a Hugging Face snapshot, which is known by where they lead; None for others."""
    folders = target.split("/")
    if "blobs" not in folders[:-1]:
        return None
    blobs = os.path.normpath(place.parent / "/".join(folders[: folders.index("blobs") + 1]))
    return (
        "a snapshot in the Hugging Face cache consists of links into its blobs folder: accept them with "
        f"`--allow-links-below {os.path.dirname(blobs)}`, or make a real copy with `cp -rL SNAPSHOT COPY`"
    )


def reason(error: BaseException) -> str:
    """What the system says went wrong, without the path that the caller names itself."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
