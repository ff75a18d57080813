"""The keys of a log: Ed25519, which every reader knows, and beside it ML-DSA-44, which a quantum computer cannot forge.

A log whose Ed25519 key lies in a file gets its second key from the same 32-byte seed, so that nothing more has to be
kept, backed up or unlocked:

    ML-DSA-44 seed = HKDF-SHA-256(Ed25519 seed, info "weightmark log ml-dsa-44 v1")      RFC 5869, FIPS 204 algorithm 6

Whoever breaks Ed25519 learns the private scalar, which is half of a SHA-512 of the seed (RFC 8032 section 5.1.5): the
seed itself stays hidden, and with it the second key. A log key in a store that never gives its seed away has no second
one. Knows no checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from registry.log.note import ML_DSA_44_COSIGNATURE, Ed25519Key, NoteVerifier, RawPublicKey, RawSigner
from registry.signing.keys import ED25519, MLDSA44, PrivateKey, mldsa_from_seed

_INFO = b"weightmark log ml-dsa-44 v1"


@dataclass(frozen=True)
class LogKeys:
    """What signs a log's checkpoints. Used as the Ed25519 key alone wherever only that is asked for."""

    first: Ed25519Key = field(repr=False)
    second: RawSigner | None = field(default=None, repr=False)

    @classmethod
    def of(cls, key: Ed25519Key) -> LogKeys:
        """The keys of a log whose Ed25519 key is `key`: with the second one where the seed is at hand."""
        if isinstance(key, LogKeys):
            return key
        if isinstance(key, PrivateKey) and key.algorithm == ED25519:
            seed = HKDF(SHA256(), 32, salt=None, info=_INFO).derive(key.seed)
            return cls(key, mldsa_from_seed(MLDSA44, seed))
        return cls(key)

    @property
    def public(self) -> RawPublicKey:
        """The Ed25519 key's public half."""
        return self.first.public

    def sign(self, message: bytes) -> bytes:
        """Sign with the Ed25519 key."""
        return self.first.sign(message)

    def second_verifier(self, origin: str) -> NoteVerifier | None:
        """Who verifies the ML-DSA-44 lines of the log named `origin`; None where there is no second key."""
        if self.second is None:
            return None
        return NoteVerifier(origin, ML_DSA_44_COSIGNATURE, self.second.public.raw)
