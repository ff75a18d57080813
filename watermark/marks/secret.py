"""Owner secret > release key > block secrets and copy keys: derived, never chosen.

HKDF-SHA256 (RFC 5869) throughout. The chips of a block depend on its secret k_b and on scrypt(R) (RFC 7914), where the
Merkle root R holds every block secret, every reference value and the whole geometry (`commitment.py`): whoever
changes anything after the fact redraws every chip, a second of work and 128 MiB a try. Does not know what the chips
are used for.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from dataclasses import dataclass

SECRET_BYTES = 32

_PAD = bytes(32)
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def new_owner_secret() -> bytes:
    """Draw the 32 bytes from which every key of an owner derives."""
    return secrets.token_bytes(SECRET_BYTES)


def commit_to_secret(owner_secret: bytes) -> bytes:
    """Commitment to the owner secret that `init` logs; tells nothing about it."""
    return hashlib.sha256(b"weightmark owner secret v1\x00" + owner_secret).digest()


class _Keyed:
    """HMAC-SHA256 (RFC 2104) under one key of 32 bytes, its two pads hashed once.

    A fifth of the call cost of `hmac.digest`, which counts at three calls a block of a large model.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key + _PAD
        self._inner = hashlib.sha256(padded.translate(_INNER))
        self._outer = hashlib.sha256(padded.translate(_OUTER))

    def __call__(self, message: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


_keyed = functools.lru_cache(maxsize=64)(_Keyed)


def hkdf_extract(salt: bytes, key_material: bytes) -> bytes:
    """RFC 5869 2.2 with SHA-256; the salt is empty or 32 bytes."""
    return _keyed(salt or bytes(32))(key_material)


def hkdf_expand(pseudorandom_key: bytes, info: bytes) -> bytes:
    """RFC 5869 2.3 with SHA-256, first 32 bytes."""
    padded = pseudorandom_key + _PAD
    inner = hashlib.sha256(padded.translate(_INNER) + info + b"\x01").digest()
    return hashlib.sha256(padded.translate(_OUTER) + inner).digest()


def derive(key: bytes, label: str, *parts: bytes) -> bytes:
    """HKDF-SHA256 with an empty salt; parts are length-prefixed so that no two derivations share an input."""
    info = b"weightmark " + label.encode() + b" v1\x00" + b"".join(len(p).to_bytes(4, "big") + p for p in parts)
    return hkdf_expand(hkdf_extract(b"", key), info)


def stretch_root(root: bytes) -> bytes:
    """scrypt(R): about a second and 128 MiB, the price of one try at inventing a reference."""
    return hashlib.scrypt(root, salt=b"weightmark R v1", n=2**17, r=8, p=3, maxmem=1 << 28, dklen=32)


@dataclass(frozen=True)
class ReleaseKey:
    """The key of one release: one unmarked reference under one owner."""

    key: bytes

    @classmethod
    def of(cls, owner_secret: bytes, reference_digest: bytes) -> ReleaseKey:
        """Derive the release key from the owner secret and the canonical digest of the reference."""
        return cls(derive(owner_secret, "release key", reference_digest))

    @property
    def release_id(self) -> str:
        """Public name of the release, 32 hex digits: tells nothing about owner or reference, and never changes."""
        return derive(self.key, "release id")[:16].hex()

    def block_secrets(self) -> BlockSecrets:
        """The generator of k_b and salt_b."""
        return BlockSecrets(hkdf_extract(b"", self.key))

    def copy_key(self, recipient: str) -> CopyKey:
        """Derive the key of the copy for one recipient."""
        name = recipient.encode()
        return CopyKey(derive(self.key, "copy key", name), derive(self.key, "recipient salt", name), recipient)


@dataclass(frozen=True)
class BlockSecrets:
    """Secrets k_b and salts salt_b of the blocks of one release, each opened at most once in a dispute.

    Both are one block of HKDF-Expand under the extracted release key.
    """

    pseudorandom_key: bytes

    @functools.cached_property
    def _keyed(self) -> _Keyed:
        return _Keyed(self.pseudorandom_key)

    def secret(self, block: int) -> bytes:
        """k_b, 32 bytes."""
        return self._keyed(b"weightmark block secret v1" + block.to_bytes(8, "big") + b"\x01")

    def salt(self, block: int) -> bytes:
        """salt_b, 32 bytes: hides the reference block in its leaf."""
        return self._keyed(b"weightmark block salt v1" + block.to_bytes(8, "big") + b"\x01")


@dataclass(frozen=True)
class CopyKey:
    """The key of one copy: names the recipient and draws the recipient's code."""

    key: bytes
    salt: bytes
    recipient: str

    @property
    def copy_id(self) -> str:
        """Public name of the copy, 32 hex digits; tells nothing about the recipient."""
        return derive(self.key, "copy id")[:16].hex()

    def commitment(self, root: bytes) -> bytes:
        """H(R, H(copy key), H(recipient salt, recipient)): logged before the copy ships."""
        return copy_commitment(root, self.key, self.salt, self.recipient)


def copy_commitment(root: bytes, copy_key: bytes, salt: bytes, recipient: str) -> bytes:
    """Recompute the commitment of a copy from its opened parts."""
    hidden_key = hashlib.sha256(b"weightmark copy key v1\x00" + copy_key).digest()
    hidden_name = hashlib.sha256(b"weightmark recipient v1\x00" + salt + recipient.encode()).digest()
    return hashlib.sha256(b"weightmark copy v1\x00" + root + hidden_key + hidden_name).digest()
