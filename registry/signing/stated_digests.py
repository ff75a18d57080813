"""Digests that somebody else took: `SHA256SUMS` lists and Git LFS pointer files, for signing without reading.

Whoever signs with them vouches for bytes that he has not looked at, so they are used on request only, and each resource
that rests on one says so in its annotations (in-toto ResourceDescriptor v1, `annotations`; OMS verifiers ignore keys
that they do not know there). A verifier reads the files all the same: a wrong list makes a signature that never holds.

Reads GNU coreutils' two line forms and the BSD form of SHA-256 lists, and Git LFS pointers v1 (git-lfs specification).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.signing.files import ModelFile, ModelTree
from registry.signing.manifest import DEFAULT_IGNORED, check_name
from registry.signing.small_files import read_small_file
from watermark.errors import DocumentError, InputError, PathEscapeError

#: What a resource's annotation says about where its digest comes from.
SHA256SUMS, GIT_LFS = "sha256sums", "git-lfs"
MAX_LIST_BYTES = 64 << 20
MAX_POINTER_BYTES = 1024  # git-lfs: a pointer must be smaller than this

_GNU = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_BSD = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
_POINTER = re.compile(
    rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,17})\n"
)


@dataclass(frozen=True)
class StatedDigest:
    """A digest that was not taken here: by whom it is stated, and the file's size where that is stated too."""

    sha256: bytes
    source: str
    size_bytes: int | None = None


def parse_checksum_list(data: bytes, *, what: str = "the checksum list") -> dict[str, StatedDigest]:
    """Read a `SHA256SUMS` list: SHA-256 by path relative to the list's folder; a leading `./` is dropped.

    Empty lines and lines that begin with `#` are passed over. Raises DocumentError for any other line, for a list
    without a line, and for one name with two digests; PathEscapeError for names that leave the folder.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{what} is not UTF-8 text", hint=_LIST_HINT) from error
    stated: dict[str, StatedDigest] = {}
    for number, line in enumerate((line.removesuffix("\r") for line in lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, digest = _split_line(line, f"line {number} of {what}")
        check_name(name)
        entry = StatedDigest(bytes.fromhex(digest), SHA256SUMS)
        if stated.setdefault(name, entry) != entry:
            raise DocumentError(f"line {number} of {what} states a second digest for {name!a}", hint=_LIST_HINT)
    if not stated:
        raise DocumentError(f"{what} states no digest", hint=_LIST_HINT)
    return stated


def parse_lfs_pointer(data: bytes) -> StatedDigest | None:
    """Read a Git LFS pointer file; None when it is none."""
    match = _POINTER.fullmatch(data) if len(data) < MAX_POINTER_BYTES else None
    return StatedDigest(bytes.fromhex(match[1].decode()), GIT_LFS, int(match[2])) if match else None


def read_stated_digests(path: Path) -> dict[str, StatedDigest]:
    """Read what a `SHA256SUMS` file states, or every Git LFS pointer in a folder (a clone without the objects).

    Raises InputError for a folder without a pointer, and what `parse_checksum_list` raises.
    """
    if not path.is_dir():
        return parse_checksum_list(
            read_small_file(path, what="the checksum list", max_bytes=MAX_LIST_BYTES), what=str(path)
        )
    with ModelTree(path) as tree:
        small = [file for file in tree.enumerate(DEFAULT_IGNORED) if file.size_bytes < MAX_POINTER_BYTES]
        pointers = {file.name: pointer for file in small if (pointer := _read_pointer(tree, file)) is not None}
    if not pointers:
        raise InputError(
            f"{path} holds no Git LFS pointer", hint="clone with GIT_LFS_SKIP_SMUDGE=1 to get pointers, not objects"
        )
    return pointers


def choose_stated(
    stated: Mapping[str, StatedDigest], files: Iterable[ModelFile], ignored: Iterable[str], tree: ModelTree
) -> dict[str, StatedDigest]:
    """Those of `stated` that speak of `files`; InputError when one contradicts what is there.

    A file must be there under every name that is stated and not ignored, of the stated size; or it is itself the
    pointer that states it, and stands for the object.
    """
    by_name = {file.name: file for file in files}
    left_out = tuple(ignored)
    chosen = {}
    for name, one in stated.items():
        if any(name == path or name.startswith(path + "/") for path in left_out):
            continue
        if name not in by_name:
            raise InputError(
                f"a digest is stated for {name!a}, which is no file of the model",
                hint="use a list that was made for this very folder, or leave the file out with --ignore",
            )
        size = by_name[name].size_bytes
        if one.size_bytes not in (None, size) and _read_pointer(tree, by_name[name]) != one:
            raise InputError(
                f"{name!a} has {size} bytes, but its Git LFS pointer says {one.size_bytes}",
                hint="fetch the objects of this very commit with `git lfs pull`",
            )
        chosen[name] = one
    return chosen


def _read_pointer(tree: ModelTree, file: ModelFile) -> StatedDigest | None:
    if file.size_bytes >= MAX_POINTER_BYTES:
        return None
    with tree.open_file(file) as descriptor:
        return parse_lfs_pointer(os.pread(descriptor, MAX_POINTER_BYTES, 0))


def _split_line(line: str, where: str) -> tuple[str, str]:
    if (bsd := _BSD.fullmatch(line)) is not None:
        name, digest = bsd[1], bsd[2]
    elif (gnu := _GNU.fullmatch(line)) is not None:
        name, digest = (_unescape(gnu[3]) if gnu[1] else gnu[3]), gnu[2]
    else:
        raise DocumentError(f"{where} states no SHA-256 digest of a file", hint=_LIST_HINT)
    if name.startswith("/"):
        raise PathEscapeError(f"{where} names {name!a}, a path of somebody's disk", hint=_LIST_HINT)
    while name.startswith("./"):
        name = name[2:]
    return name, digest


def _unescape(name: str) -> str:
    return re.sub(r"\\[\\nr]", lambda match: _ESCAPES[match[0]], name)


_LIST_HINT = "make the list with `sha256sum` in the model's own folder: `find . -type f -exec sha256sum {} +`"
