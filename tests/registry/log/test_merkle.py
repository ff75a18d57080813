from __future__ import annotations

from collections.abc import Callable

import pytest

from registry.log.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    prefix_roots,
    root_from,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from registry.log.tiles import TileHashes
from watermark.errors import ConsistencyError, InclusionError, LogHaltedError

LARGEST = 40
LEAVES = [leaf_hash(bytes([number])) for number in range(LARGEST)]
HASHES = TileHashes(lambda level, start, stop: LEAVES[start:stop] if level == 0 else [])
Proof = tuple[bytes, ...]


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 2.1 word for word, as a check on the iterative forms."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(recursive_root(leaves[:split]), recursive_root(leaves[split:]))


ROOTS = [recursive_root(LEAVES[:size]) for size in range(LARGEST + 1)]


def test_roots_of_every_size() -> None:
    for size, root in enumerate(ROOTS):
        assert root_of(LEAVES[:size]) == root
        assert root_from(size, HASHES) == root
    assert prefix_roots(LEAVES, range(LARGEST + 5)) == dict(enumerate(ROOTS))


def test_every_inclusion_proof_verifies() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            verify_inclusion(index, size, LEAVES[index], inclusion_proof(index, size, HASHES), ROOTS[size])


def test_every_consistency_proof_verifies() -> None:
    for new in range(1, LARGEST + 1):
        for old in range(1, new + 1):
            verify_consistency(old, new, consistency_proof(old, new, HASHES), ROOTS[old], ROOTS[new])


def flipped(value: bytes, bit: int = 0) -> bytes:
    return bytes([value[0] ^ (1 << bit)]) + value[1:]


def broken_proofs(proof: Proof, known: list[bytes]) -> list[Proof]:
    """The proof broken in every way that changes its hashes: flipped, cut, grown, swapped, doubled, replaced."""
    broken: list[Proof] = []
    for at, part in enumerate(proof):
        before, after = proof[:at], proof[at + 1 :]
        broken += [(*before, *after), (*before, part, part, *after)]
        broken += [(*before, bad, *after) for bad in (flipped(part), part[:-1], part + b"\0", b"", EMPTY_ROOT)]
    broken += [(*proof[:at], proof[at + 1], proof[at], *proof[at + 2 :]) for at in range(len(proof) - 1)]
    for extra in (EMPTY_ROOT, *known):
        broken += [(extra, *proof), (*proof, extra)]
    return [bad for bad in broken if bad != proof]


def test_inclusion_proofs_broken_in_every_way() -> None:
    for size in range(1, 18):
        for index in range(size):
            proof, root = inclusion_proof(index, size, HASHES), ROOTS[size]
            for bad in broken_proofs(proof, [LEAVES[index], root]):
                with pytest.raises(InclusionError):
                    verify_inclusion(index, size, LEAVES[index], bad, root)
            for bad_leaf in (
                flipped(LEAVES[index]),
                LEAVES[index][:-1],
                b"",
                root + b"\0",
                LEAVES[(index + 1) % LARGEST],
            ):
                with pytest.raises(InclusionError):
                    verify_inclusion(index, size, bad_leaf, proof, root)
            for bad_root in (flipped(root), root[:-1], b"", EMPTY_ROOT, ROOTS[size + 1]):
                with pytest.raises(InclusionError):
                    verify_inclusion(index, size, LEAVES[index], proof, bad_root)
            for bad_index in [-1, size, size + 1, 2**63, *(other for other in range(size) if other != index)]:
                with pytest.raises(InclusionError):
                    verify_inclusion(bad_index, size, LEAVES[index], proof, root)


def test_inclusion_with_another_size_only_where_the_paths_coincide() -> None:
    """A size that is not the root's is refused, except where the tree of that size has the same shape on this path."""
    for size in range(1, 18):
        for index in range(size):
            proof = inclusion_proof(index, size, HASHES)
            for other in (0, index, index - 1, 2**63):
                with pytest.raises(InclusionError):
                    verify_inclusion(index, other, LEAVES[index], proof, ROOTS[size])
            for other in range(index + 1, LARGEST):
                if len(inclusion_proof(index, other, HASHES)) != len(proof):
                    with pytest.raises(InclusionError):
                        verify_inclusion(index, other, LEAVES[index], proof, ROOTS[size])


def test_consistency_proofs_broken_in_every_way() -> None:
    for new in range(1, 18):
        for old in range(1, new + 1):
            proof, first, second = consistency_proof(old, new, HASHES), ROOTS[old], ROOTS[new]
            for bad in broken_proofs(proof, [first, second]):
                with pytest.raises(ConsistencyError):
                    verify_consistency(old, new, bad, first, second)
            for bad_root in (flipped(first), first[:-1], b"", EMPTY_ROOT):
                with pytest.raises(ConsistencyError):
                    verify_consistency(old, new, proof, bad_root, second)
            for bad_root in (flipped(second), second + b"\0", b"", EMPTY_ROOT):
                with pytest.raises(ConsistencyError):
                    verify_consistency(old, new, proof, first, bad_root)
            for bad_sizes in ((0, new), (-1, new), (new + 1, new), (old, 0), (old, 2**63)):
                with pytest.raises(ConsistencyError):
                    verify_consistency(*bad_sizes, proof, first, second)


@pytest.mark.parametrize(
    "call",
    [
        lambda: inclusion_proof(3, 3, HASHES),
        lambda: inclusion_proof(-1, 3, HASHES),
        lambda: inclusion_proof(0, 0, HASHES),
        lambda: consistency_proof(0, 3, HASHES),
        lambda: consistency_proof(4, 3, HASHES),
    ],
)
def test_no_proof_of_what_is_not_there(call: Callable[[], Proof]) -> None:
    with pytest.raises((InclusionError, ConsistencyError)):
        call()


def test_a_missing_hash_stops_the_proof() -> None:
    short = TileHashes(lambda level, start, stop: LEAVES[start : min(stop, 6)])
    with pytest.raises(LogHaltedError, match="hash 6 is missing"):
        inclusion_proof(0, 8, short)


def test_leaf_and_node_never_agree() -> None:
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


def test_bytes_moved_between_neighbours_are_refused() -> None:
    """Hashing joins two values: without a check of their lengths a byte could wander from one into the other."""
    joined = node_hash(LEAVES[0], LEAVES[1])
    verify_inclusion(0, 2, LEAVES[0], (LEAVES[1],), joined)
    for cut in (1, 31, 33, 63):
        both = LEAVES[0] + LEAVES[1]
        with pytest.raises(InclusionError):
            verify_inclusion(0, 2, both[:cut], (both[cut:],), joined)
    old = node_hash(LEAVES[0], LEAVES[1])
    new = node_hash(old, LEAVES[2])
    verify_consistency(2, 3, (LEAVES[2],), old, new)
    both = old + LEAVES[2]
    for cut in (1, 31, 33, 63):
        with pytest.raises(ConsistencyError):
            verify_consistency(2, 3, (both[cut:],), both[:cut], new)
