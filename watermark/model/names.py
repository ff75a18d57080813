"""Decide whether a file name inside a model means one file, in that folder, on every system.

A model travels: a name that is harmless here may leave its folder, vanish into a device or fall together with another
on the reader's machine, and then two readers of one signature see two models. These rules look at names only and touch
no file.

Sources: POSIX and the Windows naming rules (device names, trailing dots and spaces, drive letters); Unicode NFC and
case folding, which APFS, HFS+ and NTFS apply in their own ways; Trojan Source (CVE-2021-42574) for the bidirectional
controls.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from watermark.errors import PathEscapeError

MAX_COMPONENT_BYTES: Final = 255
MAX_PATH_BYTES: Final = 4096

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


def check_component(name: str, within: str = "") -> str:
    """Check one file or folder name, and return what it falls together with: its folded form.

    Two names of one folder whose folded forms are equal are one file on some systems. `within` is the folder's path,
    for the error only.

    Raises:
        PathEscapeError: the name could leave its folder, or cannot be carried to other systems.
    """
    problem = _problem(name)
    if problem is not None:
        shown = f"{within}/{name}" if within else name
        raise PathEscapeError(f"the name {shown!a} {problem}")
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_path(path: str) -> str:
    """Check a relative path with `/` between its names, and return it.

    Raises:
        PathEscapeError: it is absolute, empty or too long, or one of its names is refused.
    """
    if path.startswith("/") or not path:
        raise PathEscapeError(f"the path {path!a} is {'absolute' if path else 'empty'}")
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise PathEscapeError(f"the path {path[:80]!a}... is longer than {MAX_PATH_BYTES} bytes")
    for name in path.split("/"):
        problem = _problem(name)
        if problem is not None:
            raise PathEscapeError(f"the path {path!a} holds the name {name!a}, which {problem}")
    return path


def _problem(name: str) -> str | None:
    if _PLAIN.fullmatch(name) and len(name) <= MAX_COMPONENT_BYTES and name[-1] != ".":
        return "is a device on Windows" if _DEVICE.fullmatch(name) else None
    rules = (
        (name in ("", ".", ".."), "leaves its folder"),
        ("/" in name or "\\" in name, "holds a path separator"),
        (_CONTROLS.search(name) is not None, "holds a control character"),
        (_DRIVE.match(name) is not None, "begins with a drive letter"),
        (_DEVICE.fullmatch(name) is not None, "is a device on Windows"),
        (name.endswith((".", " ")), "ends with a dot or a space, which Windows drops"),
    )
    for broken, problem in rules:
        if broken:
            return problem
    try:
        if len(name.encode("utf-8")) > MAX_COMPONENT_BYTES:
            return f"is longer than {MAX_COMPONENT_BYTES} bytes"
    except UnicodeEncodeError:
        # How Python shows bytes of a name that are not UTF-8 (PEP 383).
        return "is not UTF-8 text"
    return None
