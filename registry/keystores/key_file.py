"""A signing key in a PEM file: read, unlocked where it is encrypted, and used in this process.

The passphrase is asked for only when the file is encrypted. Knows no more than `registry.signing.keys`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from registry.signing.keys import PrivateKey, read_private_key
from registry.signing.small_files import read_small_file

MAX_KEY_BYTES = 64 * 1024


def is_encrypted_pem(path: Path) -> bool:
    """Whether a PEM key file asks for a passphrase (RFC 7468 label, or the Proc-Type header of older forms)."""
    return b"ENCRYPTED" in read_small_file(path, what="the key", max_bytes=MAX_KEY_BYTES)


def open_key_file(path: Path, passphrase: Callable[[], bytes] | None = None) -> PrivateKey:
    """Read a private key file; InputError as `read_private_key`, also for a file that cannot be read."""
    phrase = passphrase() if passphrase is not None and is_encrypted_pem(path) else None
    return read_private_key(path, phrase)
