"""The Merkle root R to which every chip is bound, and the openings of single blocks.

    leaf b = H(0x00, b, H(k_b), H(salt_b, H(reference block b)))     secret and reference open separately
    node   = H(0x01, left, right)                                    RFC 6962 2.1, no duplicated last leaf
    R      = H(0x02, leaf root, H(geometry))                         geometry in canonical JSON (RFC 8785)

The block digest inside the leaf is the one that the tensor digest is made of, so that one reading of the reference
serves both. Does not know chips, statistics or files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from watermark.errors import KeyMismatchError


def hide_secret(secret: bytes) -> bytes:
    """H(k_b)."""
    return hashlib.sha256(b"weightmark k\x00" + secret).digest()


def hide_reference(salt: bytes, block_digest: bytes) -> bytes:
    """H(salt_b, H(reference block b))."""
    return hashlib.sha256(b"weightmark w\x00" + salt + block_digest).digest()


def leaf(block: int, hidden_secret: bytes, hidden_reference: bytes) -> bytes:
    """Leaf hash of block `block`."""
    return hashlib.sha256(b"\x00" + block.to_bytes(8, "big") + hidden_secret + hidden_reference).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All levels of the tree; an odd last node moves up unchanged, which is the split of RFC 6962 2.1."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [_node(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels


def leaf_root(leaves: Sequence[bytes]) -> bytes:
    """Root over the leaves; SHA-256 of nothing for none."""
    return _levels(leaves)[-1][0] if leaves else hashlib.sha256(b"").digest()


def bind_root(leaves_root: bytes, geometry_digest: bytes) -> bytes:
    """R = H(0x02, leaf root, H(geometry))."""
    return hashlib.sha256(b"\x02" + leaves_root + geometry_digest).digest()


class LeafTree:
    """The leaves of one release, ready to prove any of them."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        """Hash the whole tree once."""
        self._levels = _levels(leaves)

    @property
    def root(self) -> bytes:
        """Root over the leaves."""
        return self._levels[-1][0]

    def path(self, block: int) -> tuple[bytes, ...]:
        """Audit path of a leaf, leaf side first (RFC 6962 2.1.1)."""
        path, index = [], block
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            index >>= 1
        return tuple(path)


def root_from_path(index: int, count: int, leaf_hash: bytes, path: Sequence[bytes]) -> bytes:
    """Recompute the leaf root from one leaf and its audit path (RFC 9162 2.1.3.2).

    Raises:
        KeyMismatchError: the path does not have the length that `index` and `count` require.
    """
    if not 0 <= index < count:
        raise KeyMismatchError(f"block {index} is not one of the {count} blocks of the commitment")
    position, last, running = index, count - 1, leaf_hash
    for sibling in path:
        if last == 0:
            raise KeyMismatchError(f"the Merkle path of block {index} is too long")
        if position & 1 or position == last:
            running = _node(sibling, running)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            running = _node(running, sibling)
        position >>= 1
        last >>= 1
    if last != 0:
        raise KeyMismatchError(f"the Merkle path of block {index} is too short")
    return running


@dataclass(frozen=True)
class BlockOpening:
    """What a dispute opens of one block: its secret, its reference values, and the path that binds both to R."""

    block: int
    secret: bytes
    salt: bytes
    reference: bytes
    path: tuple[bytes, ...]

    def leaf_hash(self) -> bytes:
        """The leaf that this opening claims to be."""
        digest = hashlib.sha256(self.reference).digest()
        return leaf(self.block, hide_secret(self.secret), hide_reference(self.salt, digest))

    def verify(self, count: int, geometry_digest: bytes, root: bytes) -> None:
        """Check the opening against R.

        Raises:
            KeyMismatchError: secret, reference values and path do not lead to R.
        """
        found = bind_root(root_from_path(self.block, count, self.leaf_hash(), self.path), geometry_digest)
        if found != root:
            raise KeyMismatchError(f"block {self.block} is not the one that the commitment holds")
