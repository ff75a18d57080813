"""From keys to chips: the key stream of AES-256, and the fixed table of the recipient code.

Owner layer: one chip of +-1 a carrier, a bit of the block's key stream. Recipient layer (evidence for a copy): a copy
has one code of 32,768 near-normal values; a mixing that all copies share, derived from the block secret, gives each
carrier 16 keyed draws of it with a sign, and the chip is their sum over 4. Near-normal chips make every collusion rule
the mean plus noise. Chips never depend on weights, so a test that uses them holds for any suspect.

Does not know weights, strengths or statistics.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from watermark.marks import kernels
from watermark.marks.secret import hkdf_expand, hkdf_extract

CODE_VALUES = 32_768
DRAWS = 16
#: Code values are integers in units of 1/32 of a deviation.
CODE_UNIT = 32
#: A recipient chip is the sum of 16 signed code values over 4, so an integer in units of 1/128.
RECIPIENT_CHIP_UNIT = CODE_UNIT * 4
#: At most this many blocks carry a recipient layer: 67 million carriers settle every coalition that the code can.
RECIPIENT_BLOCKS = 4_096

_NONCE = bytes(12)
_TAG_BYTES = 16
_OWNER = b"weightmark owner chips v1"
_MIXING = b"weightmark mixing v1"
_ROUNDING = b"weightmark rounding v1"
_SHARE = b"weightmark recipient share v1"


def key_stream(key: bytes, size_bytes: int) -> bytes:
    """AES-256 in counter mode, as inside GCM with a zero nonce: counter blocks 0^96 || 2, 3, ... (NIST SP 800-38D).

    Every key is used once. GCM's one-shot call is twice as fast to set up as a CTR context, and a block has few bytes.
    """
    return AESGCM(key).encrypt(_NONCE, bytes(size_bytes), None)[:-_TAG_BYTES]


class BlockKeys:
    """The stream keys of one block: HKDF(k_b, salt = scrypt(R), info = label, b)."""

    __slots__ = ("_info", "_prk")

    def __init__(self, secret: bytes, stretched_root: bytes, block: int) -> None:
        """Extract once; every stream is one expansion."""
        self._prk = hkdf_extract(stretched_root, secret)
        self._info = block.to_bytes(8, "big")

    def owner_bits(self, count: int) -> bytes:
        """Packed owner chips of `count` carriers, most significant bit first; bit 1 is chip +1, bit 0 is chip -1."""
        return key_stream(hkdf_expand(self._prk, _OWNER + self._info), -(-count // 8))

    def mixing(self, count: int) -> NDArray[np.uint16]:
        """The draws of `count` carriers, (16, count): 15 bits of index into the code and one bit of sign."""
        stream = key_stream(hkdf_expand(self._prk, _MIXING + self._info), count * DRAWS * 2)
        return np.frombuffer(stream, "<u2").reshape(DRAWS, count)

    def rounding(self, count: int) -> bytes:
        """A random byte a carrier, for stochastic rounding onto the release's grid."""
        return key_stream(hkdf_expand(self._prk, _ROUNDING + self._info), count)

    def fine_rounding(self, count: int) -> NDArray[np.uint16]:
        """Two random bytes a carrier, for steps between codes: these are taken so rarely that 1/256 is too coarse."""
        return np.frombuffer(self.rounding(2 * count), "<u2")

    def carries_recipient(self, share: int) -> bool:
        """Whether this block carries the recipient layer, for a share of `share` in 65,536 blocks."""
        if share >= 1 << 16:
            return True
        return int.from_bytes(hkdf_expand(self._prk, _SHARE + self._info)[:2], "big") < share


def recipient_share(blocks: int) -> int:
    """Share of blocks, in 65,536ths, that carry a recipient layer."""
    return 1 << 16 if blocks <= RECIPIENT_BLOCKS else -(-RECIPIENT_BLOCKS * (1 << 16) // blocks)


@functools.cache
def _signs_of_byte() -> NDArray[np.float32]:
    """The eight chips of each byte, (256, 8): one look-up is faster than unpacking bits and scaling them."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(256, 8)
    return bits.astype(np.float32) * 2 - 1


def unpack_chips(bits: bytes, into: NDArray[np.float32]) -> NDArray[np.float32]:
    """Write owner chips as +-1 into a contiguous array, one a carrier, at most 8 to the byte; gives the array."""
    table, octets = _signs_of_byte(), np.frombuffer(bits, np.uint8)
    if into.size == 8 * octets.size:
        table.take(octets, axis=0, out=into.reshape(-1, 8), mode="clip")  # a view of `into`: no copy
    else:
        into[:] = table.take(octets, axis=0).reshape(-1)[: into.size]
    return into


class OwnerChips:
    """Owner chips of consecutive blocks: packed, each block from a byte of its own, and unpacked when asked for."""

    def __init__(self, keys: Sequence[BlockKeys], counts: Sequence[int]) -> None:
        """Draw the chips of blocks with so many carriers."""
        self._bits = [key.owner_bits(count) for key, count in zip(keys, counts, strict=True)]
        self._counts = counts

    @functools.cached_property
    def packed(self) -> NDArray[np.uint8]:
        """One bit a carrier, most significant first; 1 is +1 and 0 is -1."""
        return np.frombuffer(b"".join(self._bits), np.uint8)

    @functools.cached_property
    def signs(self) -> NDArray[np.float32]:
        """+-1, flat; one look-up for all blocks where bytes and blocks agree."""
        chips = np.empty(sum(self._counts), np.float32)
        if all(count % 8 == 0 for count in self._counts):
            return unpack_chips(self.packed.tobytes(), chips)
        start = 0
        for bits, count in zip(self._bits, self._counts, strict=True):
            unpack_chips(bits, chips[start : start + count])
            start += count
        return chips


@functools.cache
def code_table() -> NDArray[np.int8]:
    """The 256 values of a code byte: means of the normal law in equally likely bins, in 1/32, rounded toward zero.

    A bin's conditional mean keeps the variable sub-Gaussian with proxy 1 (Jensen); rounding the magnitude toward zero
    and the symmetry j <-> 255 - j keep it so, since cosh grows with the magnitude.
    """
    normal = NormalDist()
    edges = [-math.inf, *(normal.inv_cdf(j / 256) for j in range(1, 256)), math.inf]
    density = [0.0 if math.isinf(edge) else normal.pdf(edge) for edge in edges]
    upper = [int(256 * (density[j] - density[j + 1]) * CODE_UNIT) for j in range(128, 256)]
    return np.array([-value for value in reversed(upper)] + upper, dtype=np.int8)


def recipient_code(copy_key: bytes, stretched_root: bytes, commitment: bytes) -> NDArray[np.int8]:
    """The code of one copy, (32768,), in units of 1/32: HKDF(copy key, salt = scrypt(R), info = copy commitment)."""
    key = hkdf_expand(hkdf_extract(stretched_root, copy_key), b"weightmark code v1" + commitment)
    # `translate` looks a byte up in a fifth of the time of numpy's indexing; a release may have a million codes.
    return np.frombuffer(key_stream(key, CODE_VALUES).translate(code_table().tobytes()), np.int8)


def signed_code(code: NDArray[np.int8]) -> NDArray[np.int16]:
    """Code and its negative, (65536,): a 16-bit draw indexes it with the sign as its top bit."""
    wide = code.astype(np.int16)
    return np.concatenate([wide, -wide])


def recipient_chips(draws: NDArray[np.uint16], table: NDArray[np.int16]) -> NDArray[np.int16]:
    """Recipient chips of the carriers behind `draws`, (16, n), in units of 1/128 of a deviation."""
    chips = np.empty(draws.shape[1], np.int16)
    kernels.recipient_sums(draws.ravel(), table, chips)
    return chips
