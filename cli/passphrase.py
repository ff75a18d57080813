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
NEW_VARIABLE = "WEIGHTMARK_NEW_PASSPHRASE"
PIN_VARIABLE = "WEIGHTMARK_PIN"
BACKUP_VARIABLE = "WEIGHTMARK_BACKUP_PASSPHRASE"
_MAX_BYTES = 64 * 1024
_WAYS = f"type it at a terminal, pass --passphrase-fd N (as in `--passphrase-fd 3 3<FILE`), or set {VARIABLE}"
_NEW_WAYS = f"type it at a terminal, pass --new-passphrase-fd N, or set {NEW_VARIABLE}"
_PIN_WAYS = f"type it at a terminal, pass --pin-fd N, set {PIN_VARIABLE}, or name a file with pin-source= in the URI"
_BACKUP_WAYS = f"type it at a terminal, pass --backup-passphrase-fd N, or set {BACKUP_VARIABLE}"


def read_passphrase(descriptor: int | None, *, confirm: bool = False, what: str = "passphrase") -> bytes:
    """Return the passphrase: the first line of `descriptor` if one is given, else WEIGHTMARK_PASSPHRASE, else a prompt.

    A terminal is asked twice where `confirm` says so: a mistyped passphrase of a new key could never be found again.
    Raises InputError when it is empty, when the two do not agree, or when there is no terminal to ask at.
    """
    return _read(descriptor, VARIABLE, what, _WAYS, confirm=confirm)


def read_new_passphrase(descriptor: int | None) -> bytes:
    """Return the passphrase that replaces another: from `descriptor`, WEIGHTMARK_NEW_PASSPHRASE, or typed twice."""
    return _read(descriptor, NEW_VARIABLE, "new passphrase", _NEW_WAYS, confirm=True)


def read_pin(store: str, descriptor: int | None = None) -> bytes:
    """Return the PIN of the token named `store`: from `descriptor`, WEIGHTMARK_PIN, or typed."""
    return _read(descriptor, PIN_VARIABLE, f"PIN of {store}", _PIN_WAYS, confirm=False)


def read_backup_passphrase(descriptor: int | None, *, confirm: bool) -> bytes:
    """Return the passphrase of a backup: from `descriptor`, WEIGHTMARK_BACKUP_PASSPHRASE, or typed."""
    return _read(descriptor, BACKUP_VARIABLE, "backup passphrase", _BACKUP_WAYS, confirm=confirm)


def _read(descriptor: int | None, variable: str, what: str, ways: str, *, confirm: bool) -> bytes:
    if descriptor is not None:
        return _checked(_first_line(descriptor), f"file descriptor {descriptor}", ways)
    given = os.environb.get(variable.encode())
    if given is not None:
        return _checked(given, variable, ways)
    if not _has_terminal():
        raise InputError(f"no {what} was given and there is no terminal to ask at", hint=ways)
    title = what[:1].upper() + what[1:]
    typed = _ask(f"{title}: ", ways)
    if confirm and typed and _ask(f"{title}, once more: ", ways) != typed:
        raise InputError("the two passphrases differ", hint="run the command again and type the same one twice")
    return _checked(typed.encode("utf-8", "surrogateescape"), "the terminal", ways)


def _checked(passphrase: bytes, source: str, ways: str) -> bytes:
    if not passphrase:
        raise InputError(f"the passphrase from {source} is empty", hint=ways)
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
            f"file descriptor {descriptor} cannot be read: {error.strerror}", hint="open it in the shell, as in 3<FILE"
        ) from error
    if len(read) > _MAX_BYTES:
        raise InputError(f"file descriptor {descriptor} has more than {_MAX_BYTES} bytes in its first line")
    return read.split(b"\n", 1)[0].removesuffix(b"\r")


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(prompt: str, ways: str) -> str:
    try:
        return getpass.getpass(prompt, stream=sys.stderr)
    except EOFError as error:
        raise InputError("the passphrase was not typed", hint=ways) from error
