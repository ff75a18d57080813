"""A key searched for after seeing the suspect, as the design allows it: one salt redrawn, and so R, and so every chip.

A real try costs scrypt(R) with N = 2^17, a second and 128 MiB; here N = 2, else each step is the product's. The gain is
what chance predicts: the best of n tries shows about log2 n bits. 2^64 tries gain 64 bits and 2^80 gain 80, while 128
are asked for; at a second and 128 MiB a try, 2^80 tries are 4 x 10^16 years of one core, and of a million cores still 3
times the age of the universe.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from watermark.evidence import log2_p_subgaussian
from watermark.marks.chips import BlockKeys
from watermark.marks.commitment import BlockOpening, LeafTree, bind_root, root_from_path

_TOGETHER = 512
_LEAVES = 64
_GEOMETRY = hashlib.sha256(b"geometry").digest()


@dataclass(frozen=True)
class Best:
    """The best key of the first `tries`."""

    tries: int
    bits: float


def search(shown: NDArray[np.float32], tries: int) -> Iterator[Best]:
    """Redraw R by the salt of one leaf, `tries` times; gives the best so far at each power of two.

    `shown` are the integers that the suspect shows in the carriers of one block.
    """
    energy, whole = int(np.square(shown, dtype=np.float64).sum()), int(shown.sum(dtype=np.float64))
    opening = BlockOpening(0, b"k" * 32, bytes(32), b"reference", _path())
    best, done = 0.0, 0
    while done < tries:
        count = min(_TOGETHER, tries - done)
        bits = b"".join(_owner_bits(opening, done + number, len(shown)) for number in range(count))
        packed = np.frombuffer(bits, np.uint8).reshape(count, -1)
        totals = np.unpackbits(packed, axis=1, count=len(shown)).astype(np.float32) @ shown
        best = min(best, log2_p_subgaussian(2 * int(totals.max()) - whole, energy))
        done += count
        if done & (done - 1) == 0:
            yield Best(done, -best)


def _path() -> tuple[bytes, ...]:
    return LeafTree([hashlib.sha256(bytes([number])).digest() for number in range(_LEAVES)]).path(0)


def _owner_bits(opening: BlockOpening, number: int, count: int) -> bytes:
    salted = BlockOpening(0, opening.secret, number.to_bytes(32, "big"), opening.reference, opening.path)
    root = bind_root(root_from_path(0, _LEAVES, salted.leaf_hash(), salted.path), _GEOMETRY)
    stretched = hashlib.scrypt(root, salt=b"weightmark R v1", n=2, r=8, p=3, dklen=32)
    return BlockKeys(salted.secret, stretched, 0).owner_bits(count)


def predicted_bits(tries: int) -> float:
    """The median of the best of so many tries, by the normal law."""
    z = NormalDist().inv_cdf(0.5 ** (1 / tries))
    return z * z / (2 * math.log(2))
