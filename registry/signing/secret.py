"""A secret sealed under a passphrase, as a small JSON document (scrypt, RFC 7914; AES-256-GCM, NIST SP 800-38D).

Made for the owner's mark secret: 128 MiB and about a second for each guess. Version 1 fixes every parameter, so that a
forged document cannot make the reader spend more. Knows nothing of what the secret is for.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.signing.canonical import canonical
from registry.signing.encoding import from_base64, to_base64
from registry.signing.strict_json import as_object, loads, member
from watermark.errors import DocumentError, InputError

KIND = "weightmark-sealed-secret"
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1
_SCRYPT_MEMORY_BYTES = 160 * 1024 * 1024  # scrypt itself needs 128 * N * r bytes
_FIXED: dict[str, Any] = {
    "kind": KIND,
    "v": 1,
    "kdf": {"name": "scrypt", "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P},
    "cipher": "aes-256-gcm",
}
_WHAT = "the sealed secret"


def seal_secret(secret: bytes, passphrase: bytes) -> bytes:
    """Encrypt a secret under a passphrase into one RFC 8785 JSON document.

    Salt (16 bytes) and nonce (12 bytes) are fresh; every other field is authenticated as associated data.
    """
    if not passphrase:
        raise InputError("the passphrase is empty", hint="give a passphrase of at least one character")
    salt, nonce = os.urandom(16), os.urandom(12)
    header = {**_FIXED, "salt": to_base64(salt), "nonce": to_base64(nonce)}
    sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, secret, canonical(header))
    return canonical({**header, "sealed": to_base64(sealed)})


def open_secret(document: bytes, passphrase: bytes) -> bytes:
    """Decrypt what `seal_secret` wrote.

    Raises DocumentError when it is no such document or of another version, InputError for a wrong passphrase or a
    document that was changed (the two cannot be told apart).
    """
    fields = as_object(loads(document, what=_WHAT), _WHAT, allowed={*_FIXED, "salt", "nonce", "sealed"})
    for name, expected in _FIXED.items():
        if name not in fields or canonical(fields[name]) != canonical(expected):
            raise DocumentError(f"{_WHAT} is not of version 1: {name!r} differs", hint="use a newer weightmark")
    salt = from_base64(member(fields, "salt", str, _WHAT), what=f"the salt of {_WHAT}")
    nonce = from_base64(member(fields, "nonce", str, _WHAT), what=f"the nonce of {_WHAT}")
    sealed = from_base64(member(fields, "sealed", str, _WHAT), what=_WHAT)
    if len(salt) != 16 or len(nonce) != 12:
        raise DocumentError(f"{_WHAT} has a salt or nonce of the wrong length")
    header = canonical({name: value for name, value in fields.items() if name != "sealed"})
    try:
        return AESGCM(_derive(passphrase, salt)).decrypt(nonce, sealed, header)
    except InvalidTag as error:
        raise InputError(
            f"{_WHAT} does not open: wrong passphrase, or the file was changed",
            hint="give the passphrase by prompt, --passphrase-fd N or WEIGHTMARK_PASSPHRASE",
        ) from error


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(
        passphrase, salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, maxmem=_SCRYPT_MEMORY_BYTES, dklen=32
    )
