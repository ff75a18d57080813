"""The Merkle tree of the log: hashes, roots, and the two proofs, as RFC 6962 section 2.1 defines them.

Knows bytes only: where hashes are kept is the affair of whoever passes a `HashReader`. The same tree is RFC 9162
section 2.1. Every hash is SHA-256, 32 bytes. Leaves and inner nodes are hashed with different first bytes, so that
no inner node can be passed off as an entry.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Sequence

from watermark.errors import ConsistencyError, InclusionError

HASH_BYTES = 32
MAX_SIZE = 2**63 - 1
EMPTY_ROOT = hashlib.sha256(b"").digest()

HashReader = Callable[[int, int], bytes]
"""`reader(level, index)`: the hash of the complete subtree over entries [index * 2**level, (index + 1) * 2**level)."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry as a leaf: sha256(0x00 || entry) (RFC 6962 2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into their parent: sha256(0x01 || left || right) (RFC 6962 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaf_hashes: Iterable[bytes]) -> bytes:
    """Compute the root over all leaf hashes in order, holding one hash a level; no leaves give sha256 of nothing."""
    edge: list[bytes] = []
    for count, leaf in enumerate(leaf_hashes):
        _extend(edge, count, leaf)
    return _fold(edge) if edge else EMPTY_ROOT


def prefix_roots(leaf_hashes: Iterable[bytes], sizes: Collection[int]) -> dict[int, bytes]:
    """Compute the roots of the first n leaves for each n in `sizes`; a size beyond the leaves is left out."""
    wanted = set(sizes)
    roots = {0: EMPTY_ROOT} if 0 in wanted else {}
    edge: list[bytes] = []
    for count, leaf in enumerate(leaf_hashes):
        _extend(edge, count, leaf)
        if count + 1 in wanted:
            roots[count + 1] = _fold(edge)
    return roots


def root_from(size: int, reader: HashReader) -> bytes:
    """Compute the root at `size` from complete subtrees: one read for each bit set in `size`."""
    return _range_hash(0, size, reader) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, reader: HashReader) -> tuple[bytes, ...]:
    """Prove that entry `index` is in the tree of `size` entries: sibling hashes, leaf side first (RFC 6962 2.1.1)."""
    if not 0 <= index < size:
        raise InclusionError(f"entry {index} is not in a log of {size} entries")
    proof: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            proof.append(_range_hash(middle, stop, reader))
            stop = middle
        else:
            proof.append(_range_hash(start, middle, reader))
            start = middle
    return tuple(reversed(proof))


def consistency_proof(old_size: int, new_size: int, reader: HashReader) -> tuple[bytes, ...]:
    """Prove that the tree of `new_size` entries only appends to the one of `old_size` (RFC 6962 2.1.2).

    Sizes run from 1: nothing can be inconsistent with an empty log, so it has no proof.
    """
    if not 0 < old_size <= new_size:
        raise ConsistencyError(f"no consistency proof leads from {old_size} to {new_size} entries")
    proof: list[bytes] = []
    start, stop = 0, new_size
    while stop != old_size:
        middle = start + _split(stop - start)
        if old_size <= middle:
            proof.append(_range_hash(middle, stop, reader))
            stop = middle
        else:
            proof.append(_range_hash(start, middle, reader))
            start = middle
    if start:  # the old root itself is known to the verifier; an inner subtree is not
        proof.append(_range_hash(start, stop, reader))
    return tuple(reversed(proof))


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (a leaf hash) stands at `index` below `root`, or raise InclusionError (RFC 9162 2.1.3.2)."""
    if len(root) != HASH_BYTES:
        raise InclusionError(f"the proof for entry {index} holds a hash that is not {HASH_BYTES} bytes")
    if not hmac.compare_digest(proven_root(index, size, leaf, proof), root):
        raise InclusionError(f"the proof for entry {index} of {size} does not lead to the root")


def proven_root(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """Compute the root to which a proof leads `leaf` at `index`; whether it is the log's root is not known here.

    Raises InclusionError for a proof that does not have the form of one for this index and size.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise InclusionError(f"entry {index} cannot be in a log of {size} entries")
    if any(len(part) != HASH_BYTES for part in (leaf, *proof)):
        raise InclusionError(f"the proof for entry {index} holds a hash that is not {HASH_BYTES} bytes")
    node, last, computed = index, size - 1, leaf
    for part in proof:
        if last == 0:
            raise InclusionError(f"the proof for entry {index} of {size} is too long")
        if node & 1 or node == last:
            computed = node_hash(part, computed)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, part)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise InclusionError(f"the proof for entry {index} of {size} is too short")
    return computed


def verify_consistency(old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check that the new root only appends to the old one, or raise ConsistencyError (RFC 9162 2.1.4.2)."""
    if not 0 < old_size <= new_size <= MAX_SIZE:
        raise ConsistencyError(f"a log of {new_size} entries cannot continue one of {old_size}")
    if any(len(part) != HASH_BYTES for part in (old_root, new_root, *proof)):
        raise ConsistencyError(f"the proof from {old_size} to {new_size} holds a hash that is not {HASH_BYTES} bytes")
    if old_size == new_size:
        if proof or not hmac.compare_digest(old_root, new_root):
            raise ConsistencyError(f"two logs of {old_size} entries have different roots")
        return
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not proof:
        raise ConsistencyError(f"the proof from {old_size} to {new_size} is empty")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_computed = new_computed = path[0]
    for part in path[1:]:
        if last == 0:
            raise ConsistencyError(f"the proof from {old_size} to {new_size} is too long")
        if node & 1 or node == last:
            old_computed, new_computed = node_hash(part, old_computed), node_hash(part, new_computed)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new_computed = node_hash(new_computed, part)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ConsistencyError(f"the proof from {old_size} to {new_size} is too short")
    if not hmac.compare_digest(old_computed, old_root) or not hmac.compare_digest(new_computed, new_root):
        raise ConsistencyError(f"the log of {new_size} entries does not continue the one of {old_size}")


def _split(count: int) -> int:
    """The largest power of two smaller than `count` (RFC 6962 2.1: where a tree of `count` leaves divides)."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_hash(start: int, stop: int, reader: HashReader) -> bytes:
    """The tree hash of [start, stop), where `start` is aligned as the splits of RFC 6962 align it."""
    parts = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        parts.append(reader(level, start >> level))
        start += 1 << level
    return _fold(parts)


def _extend(edge: list[bytes], count: int, leaf: bytes) -> None:
    """Add leaf number `count` to the right edge: complete subtrees, largest first, one a bit set in the count."""
    carried = leaf
    while count & 1:
        carried, count = node_hash(edge.pop(), carried), count >> 1
    edge.append(carried)


def _fold(parts: list[bytes]) -> bytes:
    """Hash neighbouring subtrees, largest first, into one: the right edge is folded before what is left of it."""
    result = parts[-1]
    for left in reversed(parts[:-1]):
        result = node_hash(left, result)
    return result
