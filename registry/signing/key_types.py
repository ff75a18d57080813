"""Signing keys in memory: ECDSA on P-256, P-384, P-521, Ed25519, and ML-DSA-44, -65, -87.

Algorithms are an allow-list (FIPS 186-5, RFC 8032, FIPS 204); what else `cryptography` can load is refused by name. A
public key is judged when it is enrolled. Knows no file (see `key_files`), nothing of what is signed, nor whom to trust.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA44PublicKey,
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
    MLDSA87PrivateKey,
    MLDSA87PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from registry.signing.ed25519_points import check_ed25519_point
from registry.signing.pkcs8 import encrypt_pkcs8
from watermark.errors import InputError, SignatureError

P256: Final = "p256"
P384: Final = "p384"
P521: Final = "p521"
ED25519: Final = "ed25519"
MLDSA44: Final = "mldsa44"
MLDSA65: Final = "mldsa65"
MLDSA87: Final = "mldsa87"
#: What may sign a model (OMS v1.0): the curves only.
OMS_ALGORITHMS: Final = (P256, P384, P521)
#: Safe against quantum computers as far as anybody knows (FIPS 204).
MLDSA_ALGORITHMS: Final = (MLDSA44, MLDSA65, MLDSA87)
ALGORITHMS: Final = (*OMS_ALGORITHMS, ED25519, *MLDSA_ALGORITHMS)

_CURVES: Final[dict[str, ec.EllipticCurve]] = {P256: ec.SECP256R1(), P384: ec.SECP384R1(), P521: ec.SECP521R1()}
_CURVE_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    P256: hashes.SHA256(),
    P384: hashes.SHA384(),
    P521: hashes.SHA512(),
}
USE_SUPPORTED: Final = "use ECDSA on P-256, P-384 or P-521, Ed25519, or ML-DSA-44, -65 or -87"

_SPELLED: Final = {
    P256: "ECDSA P-256",
    P384: "ECDSA P-384",
    P521: "ECDSA P-521",
    ED25519: "Ed25519",
    MLDSA44: "ML-DSA-44",
    MLDSA65: "ML-DSA-65",
    MLDSA87: "ML-DSA-87",
}
_MLDSAPrivateKey = MLDSA44PrivateKey | MLDSA65PrivateKey | MLDSA87PrivateKey
_MLDSAPublicKey = MLDSA44PublicKey | MLDSA65PublicKey | MLDSA87PublicKey
_MLDSA_PRIVATE: Final[dict[str, type[_MLDSAPrivateKey]]] = {
    MLDSA44: MLDSA44PrivateKey,
    MLDSA65: MLDSA65PrivateKey,
    MLDSA87: MLDSA87PrivateKey,
}
_MLDSA_PUBLIC: Final[dict[str, type[_MLDSAPublicKey]]] = {
    MLDSA44: MLDSA44PublicKey,
    MLDSA65: MLDSA65PublicKey,
    MLDSA87: MLDSA87PublicKey,
}
#: Bytes of a public key's raw form (RFC 8032 section 5.1.5, FIPS 204 table 2).
_RAW_BYTES: Final = {ED25519: 32, MLDSA44: 1312, MLDSA65: 1952, MLDSA87: 2592}


@dataclass(frozen=True, eq=False)
class PublicKey:
    """A public key that passed enrolment. Two are equal when their SubjectPublicKeyInfo is."""

    algorithm: str
    _key: ec.EllipticCurvePublicKey | Ed25519PublicKey | _MLDSAPublicKey

    @property
    def algorithm_name(self) -> str:
        """The algorithm as its standard spells it, for people."""
        return _SPELLED[self.algorithm]

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
        """The raw bytes: 32 for Ed25519, 1312, 1952 or 2592 for ML-DSA; InputError for the curves."""
        if isinstance(self._key, ec.EllipticCurvePublicKey):
            raise InputError(f"a {self.algorithm} key has no raw form; ed25519 and ML-DSA keys have")
        return self._key.public_bytes_raw()

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise SignatureError unless this key signed `message`.

        ECDSA: DER (r, s) over the curve's own hash (SHA-256, -384, -512). Malleable: (r, n - s) verifies as well, so
        signature bytes are no identity. Ed25519: 64 bytes, RFC 8032. ML-DSA: 2420, 3309 or 4627 bytes, pure, with
        empty context (FIPS 204 section 5.3).
        """
        try:
            if isinstance(self._key, ec.EllipticCurvePublicKey):
                self._key.verify(signature, message, ec.ECDSA(_CURVE_HASHES[self.algorithm]))
            else:
                self._key.verify(signature, message)
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
    _key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey | _MLDSAPrivateKey

    @cached_property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.algorithm, self._key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Sign `message`; except for ML-DSA the same message gives the same signature.

        ECDSA: DER, the curve's own hash, nonce by RFC 6979, so no random generator can leak the key. Ed25519: 64 bytes.
        ML-DSA is hedged with fresh randomness (FIPS 204 section 3.4): who needs the same bytes again must keep them.
        """
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(message, ec.ECDSA(_CURVE_HASHES[self.algorithm], deterministic_signing=True))
        return self._key.sign(message)

    @property
    def seed(self) -> bytes:
        """The 32 bytes from which an Ed25519 or ML-DSA key grows: as secret as the key. InputError for the curves."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            raise InputError(f"a {self.algorithm} key grows from no seed; ed25519 and ML-DSA keys do")
        return self._key.private_bytes_raw()

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
    """Make a fresh key of one of `ALGORITHMS`."""
    if algorithm == ED25519:
        return PrivateKey(ED25519, Ed25519PrivateKey.generate())
    if algorithm in _MLDSA_PRIVATE:
        return PrivateKey(algorithm, _MLDSA_PRIVATE[algorithm].generate())
    if algorithm not in _CURVES:
        raise InputError(f"unknown key algorithm {algorithm!r}", hint=USE_SUPPORTED)
    return PrivateKey(algorithm, ec.generate_private_key(_CURVES[algorithm]))


def mldsa_from_seed(algorithm: str, seed: bytes) -> PrivateKey:
    """The ML-DSA key that grows from 32 bytes of seed (FIPS 204 algorithm 6, xi); InputError for anything else."""
    if algorithm not in _MLDSA_PRIVATE or len(seed) != 32:
        raise InputError(f"no {algorithm!r} key grows from a seed of {len(seed)} bytes", hint="use ML-DSA and 32 bytes")
    return PrivateKey(algorithm, _MLDSA_PRIVATE[algorithm].from_seed_bytes(seed))


def private_key_of(key: object, *, what: str = "the private key") -> PrivateKey:
    """Accept a private key of `cryptography` as one of ours, or raise InputError saying why not."""
    if isinstance(key, Ed25519PrivateKey):
        return PrivateKey(ED25519, key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return PrivateKey(_curve_algorithm(key.curve, what), key)
    for algorithm, kind in _MLDSA_PRIVATE.items():
        if isinstance(key, kind):
            return PrivateKey(algorithm, key)
    raise InputError(f"{what} is of an unsupported kind ({type(key).__name__})", hint=USE_SUPPORTED)


def enrol(key: object, *, what: str = "the public key") -> PublicKey:
    """Accept a public key of `cryptography` as one of ours, or raise InputError saying why not.

    Refuses other algorithms and curves, and Ed25519 points that are non-canonical, of small order, or off the curve.
    """
    if isinstance(key, Ed25519PublicKey):
        check_ed25519_point(key.public_bytes_raw())
        return PublicKey(ED25519, key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return PublicKey(_curve_algorithm(key.curve, what), key)
    for algorithm, kind in _MLDSA_PUBLIC.items():
        if isinstance(key, kind):  # of the right length, or `cryptography` had not loaded it; any such bytes are a key
            return PublicKey(algorithm, key)
    raise InputError(f"{what} is of an unsupported kind ({type(key).__name__})", hint=USE_SUPPORTED)


def public_key_from_raw(raw: bytes, algorithm: str = ED25519) -> PublicKey:
    """Enrol the raw bytes of an Ed25519 or ML-DSA public key."""
    if algorithm == ED25519:
        check_ed25519_point(raw)
        return PublicKey(ED25519, Ed25519PublicKey.from_public_bytes(raw))
    if algorithm not in _MLDSA_PUBLIC:
        raise InputError(f"a {algorithm!a} key has no raw form", hint="give it as PEM or DER")
    if len(raw) != _RAW_BYTES[algorithm]:
        raise InputError(f"an {algorithm} public key has {_RAW_BYTES[algorithm]} bytes, this one {len(raw)}")
    return PublicKey(algorithm, _MLDSA_PUBLIC[algorithm].from_public_bytes(raw))


def _curve_algorithm(curve: ec.EllipticCurve, what: str) -> str:
    for algorithm, known in _CURVES.items():
        if curve.name == known.name:
            return algorithm
    raise InputError(f"{what} is on the curve {curve.name}", hint=USE_SUPPORTED)
