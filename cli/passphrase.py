"""Ask for a passphrase: from a file descriptor, the environment, or a person at a terminal. Never from argv.

Arguments of a process are public on most systems (`ps`), and stay in the shell's history; so no option takes one.
Knows nothing of what the passphrase opens.
"""

from __future__ import annotations

import getpass
import os
import sys

from watermark.errors import InputError

VARIABLE = "WEIGHTMARK_PASSPHRASE"
_MAX_BYTES = 64 * 1024
_WAYS = f"type it at a terminal, pass --passphrase-fd N (as in `--passphrase-fd 3 3<FILE`), or set {VARIABLE}"


def read_passphrase(descriptor: int | None, *, confirm: bool = False, what: str = "passphrase") -> bytes:
    """Return the passphrase: the first line of `descriptor` if one is given, else WEIGHTMARK_PASSPHRASE, else a prompt.

    A terminal is asked twice where `confirm` says so: a mistyped passphrase of a new key could never be found again.
    Raises InputError when it is empty, when the two do not agree, or when there is no terminal to ask at.
    """
    if descriptor is not None:
        return _checked(_first_line(descriptor), f"file descriptor {descriptor}")
    given = os.environb.get(VARIABLE.encode()) if os.supports_bytes_environ else os.environ.get(VARIABLE, "").encode()
    if given is not None:
        return _checked(given, VARIABLE)
    if not _has_terminal():
        raise InputError(f"no {what} was given and there is no terminal to ask at", hint=_WAYS)
    typed = _ask(f"{what.capitalize()}: ")
    if confirm and typed and _ask(f"{what.capitalize()}, once more: ") != typed:
        raise InputError("the two passphrases differ", hint="run the command again and type the same one twice")
    return _checked(typed.encode("utf-8", "surrogateescape"), "the terminal")


def _checked(passphrase: bytes, source: str) -> bytes:
    if not passphrase:
        raise InputError(f"the passphrase from {source} is empty", hint=_WAYS)
    return passphrase


def _first_line(descriptor: int) -> bytes:
    read = b""
    try:
        while b"\n" not in read and len(read) <= _MAX_BYTES:
            part = os.read(descriptor, 4096)  # not a buffered file: what stands after the line is left to others
            if not part:
                break
            read += part
    except OSError as error:
        raise InputError(
            f"--passphrase-fd {descriptor} cannot be read: {error.strerror}", hint="open it in the shell, as in 3<FILE"
        ) from error
    if len(read) > _MAX_BYTES:
        raise InputError(f"--passphrase-fd {descriptor} has more than {_MAX_BYTES} bytes in its first line")
    return read.split(b"\n", 1)[0].removesuffix(b"\r")


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(prompt: str) -> str:
    try:
        return getpass.getpass(prompt, stream=sys.stderr)
    except EOFError as error:
        raise InputError("the passphrase was not typed", hint=_WAYS) from error
