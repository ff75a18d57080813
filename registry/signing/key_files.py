"""Signing keys as files: PKCS#8 and SubjectPublicKeyInfo in PEM or DER (RFC 5958, RFC 5280), read with suspicion.

A private key file is judged when it is read: a key without a password must be closed to others. Written files are new,
private and on disk when the call returns. Knows no home and no trust.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key, load_pem_public_key

from registry.signing.key_types import USE_SUPPORTED, PrivateKey, PublicKey, enrol, private_key_of
from watermark.errors import InputError

_MAX_KEY_FILE_BYTES = 64 * 1024
_UNLOCK_HINT: Final = "give the passphrase by prompt, --passphrase-fd N or WEIGHTMARK_PASSPHRASE"


def private_key_from_pem(data: bytes, passphrase: bytes | None, *, what: str = "the private key") -> PrivateKey:
    """Read a private key from PEM bytes; InputError for a wrong passphrase or an unsupported kind of key."""
    if _is_encrypted(data):
        if passphrase is None:
            raise InputError(f"{what} is encrypted and no passphrase was given", hint=_UNLOCK_HINT)
    else:
        passphrase = None  # an unneeded passphrase is no error: one may be set for the whole session
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise InputError(f"{what} does not open: wrong passphrase, or no key", hint=_UNLOCK_HINT) from error
        raise InputError(f"{what} is no PEM private key: {error}", hint=USE_SUPPORTED) from error
    return private_key_of(key, what=what)


def public_key_from_der(der: bytes, *, what: str = "the public key") -> PublicKey:
    """Enrol a SubjectPublicKeyInfo in DER."""
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{what} is no public key: {error}", hint=USE_SUPPORTED) from error
    return enrol(key, what=what)


def public_key_from_pem(data: bytes, *, what: str = "the public key") -> PublicKey:
    """Enrol a SubjectPublicKeyInfo in PEM."""
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{what} is no PEM public key: {error}", hint=USE_SUPPORTED) from error
    return enrol(key, what=what)


def read_public_key(source: Path | bytes) -> PublicKey:
    """Enrol the PEM public key in a file, or in bytes already read."""
    if isinstance(source, bytes):
        return public_key_from_pem(source)
    data, _ = _read_small_file(source)
    return public_key_from_pem(data, what=str(source))


def write_private_key(path: Path, key: PrivateKey, passphrase: bytes | None) -> None:
    """Write a private key to a new file that only its owner can read (mode 0600), durably.

    Never overwrites: an existing file is an InputError and stays as it is.
    """
    write_new_private_file(path, key.to_pem(passphrase))


def write_new_private_file(path: Path, data: bytes) -> None:
    """Create `path` with mode 0600 and these bytes, on disk when this returns; InputError when it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(f"{path} exists already", hint="keys are never overwritten; choose another place") from error
    except OSError as error:
        raise InputError(f"{path} cannot be created: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError):
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        raise


def read_private_key(path: Path, passphrase: bytes | None) -> PrivateKey:
    """Read a private key file.

    Raises InputError for a file without password that others can read, a wrong or missing passphrase, and keys of an
    unsupported kind (RSA, other curves).
    """
    data, mode = _read_small_file(path)
    if not _is_encrypted(data) and mode & 0o077:
        raise InputError(
            f"{path} has no password and others may read it (mode {mode & 0o777:04o})",
            hint=f"chmod 600 {path}, or better encrypt it",
        )
    return private_key_from_pem(data, passphrase, what=str(path))


def _is_encrypted(data: bytes) -> bool:
    return b"ENCRYPTED" in data  # PKCS#8 says so in its label, the traditional form in its Proc-Type header


def _read_small_file(path: Path) -> tuple[bytes, int]:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # of the open file: a path may be swapped meanwhile
            data = file.read(_MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_KEY_FILE_BYTES:
        raise InputError(f"{path} is too big for a key file")
    return data, mode
