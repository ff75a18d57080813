"""The backup of an owner's home as one file under one passphrase.

    weightmark backup v1                                         line 1
    {"cipher":"aes-256-gcm","kdf":{"name":"scrypt", ...} ...}    line 2: a fresh data key, sealed as `secret` seals
    nonce (12 bytes) || AES-256-GCM(data key, tar archive)       both lines are authenticated with it

The archive holds plain files by name, so that with the passphrase another tool can read it too. The fingerprint is the
SHA-256 of the whole file, what `sha256sum` prints. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.signing.secret import open_secret, seal_secret
from watermark.errors import DocumentError, InputError

HEADER: Final = b"weightmark backup v1\n"
MAX_BACKUP_BYTES: Final = 1 << 30
_NONCE_BYTES = 12
_KEY_BYTES = 32
_NAME = re.compile(r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)*")


def seal_backup(files: Mapping[str, bytes], passphrase: bytes) -> bytes:
    """Seal files under a passphrase into the bytes of one backup file."""
    key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
    head = HEADER + seal_secret(key, passphrase) + b"\n"
    return head + nonce + AESGCM(key).encrypt(nonce, _pack(files), head)


def open_backup(data: bytes, passphrase: bytes) -> dict[str, bytes]:
    """Open a backup file and return what `seal_backup` was given.

    Raises DocumentError when it is no backup or of another version, InputError for a wrong passphrase or a file that
    was changed. Nothing of the archive is read before the whole file is authenticated.
    """
    header, sealed, rest = _split(data)
    key = open_secret(sealed, passphrase)
    try:
        packed = AESGCM(key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + sealed + b"\n")
    except (InvalidTag, ValueError) as error:
        raise InputError(
            "the backup was changed or cut off", hint="compare its fingerprint, and take another copy of the file"
        ) from error
    return _unpack(packed)


def fingerprint(data: bytes) -> str:
    """SHA-256 of a backup file in hex, after it was seen to be one; DocumentError otherwise."""
    _split(data)
    return hashlib.sha256(data).hexdigest()


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    if not data.startswith(HEADER):
        old = data.startswith(b"weightmark backup v")
        raise DocumentError(
            "this is a backup of another version" if old else "this is no backup of weightmark",
            hint="use a newer weightmark" if old else "name the file that `weightmark keys backup` wrote",
        )
    end = data.find(b"\n", len(HEADER))
    if end < 0:
        raise DocumentError("the backup is cut off after its first line", hint="take another copy of the file")
    return HEADER, data[len(HEADER) : end], data[end + 1 :]


def _pack(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            if not _NAME.fullmatch(name):
                raise InputError(f"{name!a} cannot be a file of a backup")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _unpack(packed: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is None or entry.name in files or not _NAME.fullmatch(entry.name):
                    raise DocumentError(f"the backup holds {entry.name!a}, which no backup of ours does")
                files[entry.name] = content.read()
    except tarfile.TarError as error:
        raise DocumentError(f"the backup's archive is damaged: {error}") from error
    return files
