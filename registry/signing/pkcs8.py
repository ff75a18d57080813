"""Encrypted PKCS#8 private keys with a key derivation that is worth its name (RFC 5958, RFC 8018).

`cryptography` writes PBES2 with PBKDF2 at a fixed 2048 rounds. A stolen key file should cost its finder more than that,
so this module writes the same container with 600,000 rounds of HMAC-SHA-256 and AES-256-CBC. OpenSSL and `cryptography`
read it like any other. Reading stays with `cryptography`; this module only writes.
"""

from __future__ import annotations

import base64
import hashlib
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

PBKDF2_ROUNDS = 600_000

# Object identifiers in DER: RFC 8018 appendix A for the first two, section B.1.2 and B.2.5 for the others.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d0209")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
_NULL = b"\x05\x00"


def encrypt_pkcs8(private_key_info: bytes, passphrase: bytes) -> bytes:
    """Encrypt a PKCS#8 PrivateKeyInfo (DER) into the PEM text of an EncryptedPrivateKeyInfo.

    PBES2: PBKDF2-HMAC-SHA-256 with 600,000 rounds and 16 bytes of salt, AES-256-CBC with PKCS#7 padding.
    """
    salt, iv = os.urandom(16), os.urandom(16)
    key = hashlib.pbkdf2_hmac("sha256", passphrase, salt, PBKDF2_ROUNDS, dklen=32)
    padder = PKCS7(128).padder()
    padded = padder.update(private_key_info) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    encrypted = encryptor.update(padded) + encryptor.finalize()
    derivation = _sequence(_PBKDF2, _sequence(_octets(salt), _integer(PBKDF2_ROUNDS), _sequence(_HMAC_SHA256, _NULL)))
    scheme = _sequence(_PBES2, _sequence(derivation, _sequence(_AES_256_CBC, _octets(iv))))
    return _pem("ENCRYPTED PRIVATE KEY", _sequence(scheme, _octets(encrypted)))


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode("ascii")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("ascii")


def _tagged(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    size_bytes = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size_bytes)]) + size_bytes + content


def _sequence(*parts: bytes) -> bytes:
    return _tagged(0x30, b"".join(parts))


def _octets(content: bytes) -> bytes:
    return _tagged(0x04, content)


def _integer(value: int) -> bytes:
    return _tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))
