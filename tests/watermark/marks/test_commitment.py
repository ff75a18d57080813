"""R binds every key, every reference value and the geometry; openings prove single blocks and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from watermark.errors import DocumentError, KeyMismatchError
from watermark.marks.commitment import BlockOpening, LeafTree, hide_reference, hide_secret, leaf, root_from_path
from watermark.marks.geometry import Geometry, MarkedTensor
from watermark.marks.secret import (
    BlockSecrets,
    ReleaseKey,
    commit_to_secret,
    copy_commitment,
    hkdf_expand,
    hkdf_extract,
)


def test_hkdf_reproduces_rfc_5869_case_1():
    # RFC 5869 A.1 with its salt padded to the 32 bytes that this implementation takes: HMAC pads keys with zeros.
    key = bytes.fromhex("0b" * 22)
    extracted = hkdf_extract(bytes.fromhex("000102030405060708090a0b0c") + bytes(19), key)
    assert extracted.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    expanded = hkdf_expand(extracted, bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"))
    assert expanded.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


@pytest.mark.parametrize("count", range(1, 18))
def test_every_leaf_is_proved_and_every_broken_proof_is_refused(count):
    leaves = [hashlib.sha256(bytes([n])).digest() for n in range(count)]
    tree = LeafTree(leaves)
    for index, one in enumerate(leaves):
        path = tree.path(index)
        assert root_from_path(index, count, one, path) == tree.root
        assert root_from_path(index, count, hashlib.sha256(one).digest(), path) != tree.root
        for place in range(len(path)):
            broken = (*path[:place], bytes(32), *path[place + 1 :])
            assert root_from_path(index, count, one, broken) != tree.root
        with pytest.raises(KeyMismatchError):
            root_from_path(index, count, one, (*path, bytes(32)))
        if path:
            with pytest.raises(KeyMismatchError):
                root_from_path(index, count, one, path[:-1])
    with pytest.raises(KeyMismatchError):
        root_from_path(count, count, leaves[0], ())


def test_tree_is_the_one_of_rfc_6962():
    leaves = [hashlib.sha256(bytes([n])).digest() for n in range(5)]

    def node(left, right):
        return hashlib.sha256(b"\x01" + left + right).digest()

    four = node(node(leaves[0], leaves[1]), node(leaves[2], leaves[3]))
    assert LeafTree(leaves).root == node(four, leaves[4])


def openings_of(marked, blocks=(0, 3)):
    from watermark.model.digest import Span, layout_of, read_span
    from watermark.model.directory import open_model

    secrets = marked.plan.key.block_secrets()
    openings = []
    with open_model(marked.reference) as model:
        for block in blocks:
            tensor = marked.plan.geometry.tensor_of_block(block)
            name = marked.plan.surveys[tensor.digest].names[0]
            place = block - tensor.first_block
            assert layout_of(tensor.shape).blocks > place
            values = read_span(model, Span(model.tensors[name], place, place + 1))
            openings.append(
                BlockOpening(block, secrets.secret(block), secrets.salt(block), values, marked.plan.tree.path(block))
            )
    return openings


def test_an_opening_leads_to_the_root_and_any_change_does_not(marked):
    geometry, root = marked.plan.geometry, marked.plan.root
    for opening in openings_of(marked):
        opening.verify(geometry.blocks, geometry.digest(), root)
        flipped = bytes([opening.reference[0] ^ 1]) + opening.reference[1:]
        for forged in (
            replace(opening, secret=bytes(32)),
            replace(opening, salt=bytes(32)),
            replace(opening, reference=flipped),
            replace(opening, block=opening.block + 1),
        ):
            with pytest.raises(KeyMismatchError):
                forged.verify(geometry.blocks, geometry.digest(), root)
        with pytest.raises(KeyMismatchError):
            opening.verify(geometry.blocks, bytes(32), root)


def test_secret_and_reference_open_separately(marked):
    opening = openings_of(marked)[0]
    digest = hashlib.sha256(opening.reference).digest()
    by_parts = leaf(opening.block, hide_secret(opening.secret), hide_reference(opening.salt, digest))
    assert by_parts == opening.leaf_hash()


def test_keys_of_other_owners_references_blocks_and_recipients_differ():
    one = ReleaseKey.of(b"a" * 32, b"r" * 32)
    assert one.key != ReleaseKey.of(b"b" * 32, b"r" * 32).key
    assert one.key != ReleaseKey.of(b"a" * 32, b"s" * 32).key
    secrets = one.block_secrets()
    drawn = {secrets.secret(block) for block in range(500)} | {secrets.salt(block) for block in range(500)}
    assert len(drawn) == 1000
    assert secrets == BlockSecrets(hkdf_extract(b"", one.key))
    assert one.copy_key("Globex").key != one.copy_key("Initech").key
    assert one.copy_key("ab").copy_id != one.copy_key("a").copy_id
    assert commit_to_secret(b"a" * 32) != commit_to_secret(b"b" * 32)


def test_copy_commitment_binds_all_its_parts():
    base = (b"r" * 32, b"k" * 32, b"s" * 32, "Globex")
    found = copy_commitment(*base)
    assert found != copy_commitment(b"q" * 32, *base[1:])
    assert found != copy_commitment(base[0], b"j" * 32, *base[2:])
    assert found != copy_commitment(*base[:2], b"t" * 32, base[3])
    assert found != copy_commitment(*base[:3], "Initech")


def test_geometry_is_read_back_and_only_in_its_own_form(marked):
    document = marked.plan.geometry.document()
    assert Geometry.from_document(document) == marked.plan.geometry
    fields = json.loads(document)
    for forged in (
        {**fields, "leaves": fields["leaves"] + 1},
        {**fields, "statistic": 2},
        {**fields, "marked": [*fields["marked"], fields["marked"][-1]]},
        {**fields, "marked": [{**fields["marked"][0], "strength_ppm": 0}, *fields["marked"][1:]]},
        {**fields, "marked": [{**fields["marked"][0], "row": 7}, *fields["marked"][1:]]},
        {**fields, "marked": list(reversed(fields["marked"]))},
        {"v": 1},
        [],
    ):
        with pytest.raises(DocumentError):
            Geometry.from_document(json.dumps(forged, sort_keys=True, separators=(",", ":")))
    with pytest.raises(DocumentError):
        Geometry.from_document(b" " + document)


def test_overlapping_blocks_are_refused(marked):
    first, second, *rest = marked.plan.geometry.marked
    moved: tuple[MarkedTensor, ...] = (first, replace(second, first_block=second.first_block - 1), *rest)
    forged = replace(marked.plan.geometry, marked=moved).document()
    with pytest.raises(DocumentError):
        Geometry.from_document(forged)
