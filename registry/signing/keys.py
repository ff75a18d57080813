"""Signing keys: ECDSA on P-256, P-384, P-521 and Ed25519, in memory and as PEM files.

Algorithms are an allow-list (FIPS 186-5, RFC 8032); what else `cryptography` can load is refused by name. A public
key is judged when it is enrolled, a private key file when it is read. Knows nothing of what is signed, nor whom to
trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from registry.signing.ed25519_points import check_ed25519_point
from registry.signing.pkcs8 import encrypt_pkcs8
from watermark.errors import InputError, SignatureError

P256: Final = "p256"
P384: Final = "p384"
P521: Final = "p521"
ED25519: Final = "ed25519"
ALGORITHMS: Final = (P256, P384, P521, ED25519)

_CURVES: Final[dict[str, ec.EllipticCurve]] = {P256: ec.SECP256R1(), P384: ec.SECP384R1(), P521: ec.SECP521R1()}
_CURVE_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    P256: hashes.SHA256(),
    P384: hashes.SHA384(),
    P521: hashes.SHA512(),
}
_MAX_KEY_FILE_BYTES = 64 * 1024
_USE_SUPPORTED = "use ECDSA on P-256, P-384 or P-521, or Ed25519"


@dataclass(frozen=True, eq=False)
class PublicKey:
    """A public key that passed enrolment. Two are equal when their SubjectPublicKeyInfo is."""

    algorithm: str
    _key: ec.EllipticCurvePublicKey | Ed25519PublicKey

    @cached_property
    def der(self) -> bytes:
        """SubjectPublicKeyInfo in DER (RFC 5280 section 4.1)."""
        return self._key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def pem(self) -> str:
        """SubjectPublicKeyInfo as PEM text in lines of 64 columns, with a final newline."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")

    @cached_property
    def key_id(self) -> str:
        """SHA-256 of the PEM text, in hex: the hint that OMS bundles carry."""
        return hashlib.sha256(self.pem.encode("ascii")).hexdigest()

    @cached_property
    def der_sha256(self) -> bytes:
        """SHA-256 of the DER form: the hint of other Sigstore clients, in base64 there."""
        return hashlib.sha256(self.der).digest()

    @property
    def raw(self) -> bytes:
        """The 32 bytes of an Ed25519 key; InputError for other algorithms."""
        if not isinstance(self._key, Ed25519PublicKey):
            raise InputError(f"a {self.algorithm} key has no raw form; only ed25519 has")
        return self._key.public_bytes_raw()

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise SignatureError unless this key signed `message`.

        ECDSA: DER (r, s) over the curve's own hash (SHA-256, -384, -512). Malleable: (r, n - s) verifies as well, so
        signature bytes are no identity. Ed25519: 64 bytes, RFC 8032.
        """
        try:
            if isinstance(self._key, Ed25519PublicKey):
                self._key.verify(signature, message)
            else:
                self._key.verify(signature, message, ec.ECDSA(_CURVE_HASHES[self.algorithm]))
        except InvalidSignature as error:
            raise SignatureError(f"the signature does not verify with key {self.key_id[:16]}") from error

    def verify_with_sha256(self, signature: bytes, message: bytes) -> None:
        """As `verify`, but ECDSA with SHA-256 whatever the curve: only for what model-signing 0.2 wrote."""
        if not isinstance(self._key, ec.EllipticCurvePublicKey):
            raise SignatureError("signatures of this old form exist with ECDSA only")
        try:
            self._key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise SignatureError(f"the signature does not verify with key {self.key_id[:16]}") from error

    def __eq__(self, other: object) -> bool:
        """Compare by SubjectPublicKeyInfo."""
        return isinstance(other, PublicKey) and self.der == other.der

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self.der)

    def __repr__(self) -> str:
        """Name algorithm and public key only."""
        return f"PublicKey({self.algorithm}, {self.key_id[:16]})"


@dataclass(frozen=True, eq=False)
class PrivateKey:
    """A private key in memory. Never printed: its text form names the public key only."""

    algorithm: str
    _key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey

    @cached_property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.algorithm, self._key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Sign `message`; the same message gives the same signature.

        ECDSA: DER, the curve's own hash, nonce by RFC 6979, so no random generator can leak the key. Ed25519: 64 bytes.
        """
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, ec.ECDSA(_CURVE_HASHES[self.algorithm], deterministic_signing=True))

    def to_pem(self, passphrase: bytes | None) -> bytes:
        """The key as PKCS#8 PEM; encrypted when a passphrase is given."""
        if passphrase is None:
            return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        if not passphrase:
            raise InputError("the passphrase is empty", hint="give a passphrase of at least one character")
        return encrypt_pkcs8(self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), passphrase)

    def __repr__(self) -> str:
        """Name algorithm and public key only."""
        return f"PrivateKey({self.algorithm}, public {self.public.key_id[:16]})"


def generate(algorithm: str = P256) -> PrivateKey:
    """Make a fresh key: one of `p256`, `p384`, `p521`, `ed25519`."""
    if algorithm == ED25519:
        return PrivateKey(ED25519, Ed25519PrivateKey.generate())
    if algorithm not in _CURVES:
        raise InputError(f"unknown key algorithm {algorithm!r}", hint=_USE_SUPPORTED)
    return PrivateKey(algorithm, ec.generate_private_key(_CURVES[algorithm]))


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
        raise InputError(f"{what} is no PEM private key: {error}", hint=_USE_SUPPORTED) from error
    if isinstance(key, Ed25519PrivateKey):
        return PrivateKey(ED25519, key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return PrivateKey(_curve_algorithm(key.curve, what), key)
    raise InputError(f"{what} is of an unsupported kind ({type(key).__name__})", hint=_USE_SUPPORTED)


def enrol(key: object, *, what: str = "the public key") -> PublicKey:
    """Accept a public key of `cryptography` as one of ours, or raise InputError saying why not.

    Refuses other algorithms and curves, and Ed25519 points that are non-canonical, of small order, or off the curve.
    """
    if isinstance(key, Ed25519PublicKey):
        check_ed25519_point(key.public_bytes_raw())
        return PublicKey(ED25519, key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return PublicKey(_curve_algorithm(key.curve, what), key)
    raise InputError(f"{what} is of an unsupported kind ({type(key).__name__})", hint=_USE_SUPPORTED)


def public_key_from_raw(raw: bytes) -> PublicKey:
    """Enrol 32 raw bytes as an Ed25519 public key."""
    check_ed25519_point(raw)
    return PublicKey(ED25519, Ed25519PublicKey.from_public_bytes(raw))


def public_key_from_der(der: bytes, *, what: str = "the public key") -> PublicKey:
    """Enrol a SubjectPublicKeyInfo in DER."""
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{what} is no public key: {error}", hint=_USE_SUPPORTED) from error
    return enrol(key, what=what)


def public_key_from_pem(data: bytes, *, what: str = "the public key") -> PublicKey:
    """Enrol a SubjectPublicKeyInfo in PEM."""
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{what} is no PEM public key: {error}", hint=_USE_SUPPORTED) from error
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


_UNLOCK_HINT = "give the passphrase by prompt, --passphrase-fd N or WEIGHTMARK_PASSPHRASE"


def _is_encrypted(data: bytes) -> bool:
    return b"ENCRYPTED" in data  # PKCS#8 says so in its label, the traditional form in its Proc-Type header


def _curve_algorithm(curve: ec.EllipticCurve, what: str) -> str:
    for algorithm, known in _CURVES.items():
        if curve.name == known.name:
            return algorithm
    raise InputError(f"{what} is on the curve {curve.name}", hint=_USE_SUPPORTED)


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
