"""COSE receipts: what they show, what they do not, and each way to spoil one."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from registry.log.checkpoint import Checkpoint
from registry.log.cose import make_cose_receipt, verify_cose_receipt
from registry.log.merkle import inclusion_proof, leaf_hash, root_of
from registry.signing.keys import PublicKey, enrol, generate
from tests.registry.example_log import LOG_KEY
from watermark.errors import (
    DocumentError,
    InclusionError,
    LimitError,
    SignatureError,
    UntrustedKeyError,
    WeightmarkError,
)

ENTRIES = [b"alpha", b"beta", b"gamma", b"delta", b"epsilon"]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
ROOT = root_of(LEAVES)


def proof(index: int, size: int = 5) -> tuple[bytes, ...]:
    return inclusion_proof(index, size, lambda level, at: root_of(LEAVES[at << level : (at + 1) << level]))


def receipt(index: int = 2) -> bytes:
    return make_cose_receipt(index, 5, ENTRIES[index], proof(index), LOG_KEY)


def rebuilt(
    protected: Any = None, unprotected: Any = None, payload: Any = None, signature: Any = None, parts: Any = None
) -> bytes:
    """The good receipt for entry 2 with one part replaced; encoded deterministically, signed as it was."""
    old = cbor2.loads(receipt()).value
    new = [
        old[0] if protected is None else protected,
        old[1] if unprotected is None else unprotected,
        payload,
        old[3] if signature is None else signature,
    ]
    return cbor2.dumps(cbor2.CBORTag(18, new if parts is None else parts), canonical=True)


def with_proof(*proofs: Any) -> bytes:
    encoded = [cbor2.dumps(one, canonical=True) for one in proofs]
    return rebuilt(unprotected={396: {-1: encoded}})


@pytest.mark.parametrize("index", range(5))
def test_round_trip(index: int) -> None:
    found = verify_cose_receipt(receipt(index), ENTRIES[index], LOG_KEY.public, checkpoint=Checkpoint("x", 5, ROOT))
    assert (found.index, found.size, found.root) == (index, 5, ROOT)


def test_each_receipt_fits_its_own_entry_only() -> None:
    for index in range(5):
        for other in range(5):
            if other != index:
                with pytest.raises(SignatureError, match="does not belong to this entry"):
                    verify_cose_receipt(receipt(index), ENTRIES[other], LOG_KEY.public)


def test_the_index_is_verified_by_a_checkpoint_only() -> None:
    """RFC 9942 signs the root alone: entry 4 of 5 has a path of the same shape as entry 1 of 2."""
    moved = [*cbor2.loads(cbor2.loads(receipt(4)).value[1][396][-1][0])]
    assert moved[:2] == [5, 4]
    moved[:2] = [2, 1]
    parts = cbor2.loads(receipt(4)).value
    rewritten = cbor2.dumps(
        cbor2.CBORTag(18, [parts[0], {396: {-1: [cbor2.dumps(moved)]}}, None, parts[3]]), canonical=True
    )
    assert verify_cose_receipt(rewritten, b"epsilon", LOG_KEY.public).index == 1
    with pytest.raises(InclusionError, match="checkpoint"):
        verify_cose_receipt(rewritten, b"epsilon", LOG_KEY.public, checkpoint=Checkpoint("x", 5, ROOT))


def test_es256_receipts_of_other_logs() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    key: PublicKey = enrol(private.public_key())
    protected = cbor2.dumps({1: -7, 395: 1})
    signed = cbor2.dumps(["Signature1", protected, b"", ROOT])
    r, s = decode_dss_signature(private.sign(signed, ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    good = rebuilt(protected=protected, signature=signature)
    assert verify_cose_receipt(good, b"gamma", key).root == ROOT
    with pytest.raises(SignatureError):
        verify_cose_receipt(rebuilt(protected=protected, signature=signature + b"\0"), b"gamma", key)
    with pytest.raises(UntrustedKeyError):
        verify_cose_receipt(good, b"gamma", LOG_KEY.public)


def test_another_log_did_not_sign() -> None:
    with pytest.raises(SignatureError):
        verify_cose_receipt(receipt(), b"gamma", generate("ed25519").public)
    with pytest.raises(UntrustedKeyError, match="p256"):
        verify_cose_receipt(receipt(), b"gamma", generate().public)


@pytest.mark.parametrize(
    ("spoiled", "error"),
    [
        (b"", DocumentError),
        (b"\xd2", DocumentError),
        (receipt() + b"\0", DocumentError),
        (receipt()[:-1], DocumentError),
        (receipt()[1:], DocumentError),
        (b"\xd1" + receipt()[1:], DocumentError),
        (bytes(70_000), LimitError),
        (rebuilt(parts=[b"", {}, None]), DocumentError),
        (rebuilt(payload=ROOT), DocumentError),
        (rebuilt(payload=b""), DocumentError),
        (rebuilt(signature="text"), DocumentError),
        (rebuilt(signature=b""), SignatureError),
        (rebuilt(protected={1: -8, 395: 1}), DocumentError),
        (rebuilt(protected=b""), DocumentError),
        (rebuilt(protected=cbor2.dumps({395: 1})), DocumentError),
        (rebuilt(protected=cbor2.dumps({1: -8})), DocumentError),
        (rebuilt(protected=cbor2.dumps({1: -8, 395: 2})), DocumentError),
        (rebuilt(protected=cbor2.dumps({1: -8, 395: True})), DocumentError),
        (rebuilt(protected=cbor2.dumps({1: -37, 395: 1})), DocumentError),
        (rebuilt(protected=cbor2.dumps({1: -8, 2: [99], 395: 1}, canonical=True)), DocumentError),
        (rebuilt(protected=cbor2.dumps({1: -8, 4: b"kid", 395: 1}, canonical=True)), SignatureError),
        (rebuilt(protected=bytes.fromhex("a2012719018b1801")), DocumentError),  # 1 written in two bytes
        (rebuilt(protected=bytes.fromhex("a30127012719018b01")), DocumentError),  # a key twice
        (rebuilt(protected=bytes.fromhex("bf012719018b01ff")), DocumentError),  # indefinite length
        (rebuilt(unprotected={}), InclusionError),
        (rebuilt(unprotected={396: {-2: []}}), InclusionError),
        (rebuilt(unprotected={396: {-1: []}}), InclusionError),
        (rebuilt(unprotected={396: {-1: [b"", b""]}}), InclusionError),
        (with_proof([5, 2]), DocumentError),
        (with_proof([5, True, [*proof(2)]]), DocumentError),
        (with_proof([5, 2, "hashes"]), DocumentError),
        (with_proof([5, 2, [1, 2, 3]]), DocumentError),
        (with_proof([2, 5, [*proof(2)]]), InclusionError),
        (with_proof([5, -1, [*proof(2)]]), InclusionError),
        (with_proof([2**64, 2, [*proof(2)]]), DocumentError),
        (with_proof([2**63, 2, [*proof(2)]]), InclusionError),
        (with_proof([5, 2, [*proof(2)][:-1]]), InclusionError),
        (with_proof([5, 2, [*proof(2), bytes(32)]]), InclusionError),
        (with_proof([5, 2, [bytes(31), *proof(2)[1:]]]), InclusionError),
        (with_proof([5, 2, [bytes(32), *proof(2)[1:]]]), SignatureError),
        (with_proof([5, 3, [*proof(2)]]), SignatureError),
    ],
)
def test_spoiled_receipts(spoiled: bytes, error: type[WeightmarkError]) -> None:
    with pytest.raises(error) as refused:
        verify_cose_receipt(spoiled, b"gamma", LOG_KEY.public)
    assert type(refused.value) is error
    assert refused.value.hint


def test_no_tag_is_ever_decoded() -> None:
    """CBOR tags make dates, patterns and powers of numbers out of bytes: a reader of strangers' bytes makes none."""
    for tag in (*range(300), 1004, 43000, 55799, 2**32):
        with pytest.raises(DocumentError):
            verify_cose_receipt(rebuilt(protected=cbor2.dumps(cbor2.CBORTag(tag, 1))), b"gamma", LOG_KEY.public)


def test_every_bit() -> None:
    """Each flipped bit is refused, or leaves the same root proved for the same entry: size and index are not signed."""
    good = receipt()
    passed = 0
    for bit in range(8 * len(good)):
        mutated = bytearray(good)
        mutated[bit // 8] ^= 1 << (bit % 8)
        try:
            found = verify_cose_receipt(bytes(mutated), b"gamma", LOG_KEY.public)
        except WeightmarkError:
            continue
        assert found.root == ROOT
        assert (found.size, found.index) != (5, 2)
        passed += 1
        with pytest.raises(InclusionError):
            verify_cose_receipt(bytes(mutated), b"gamma", LOG_KEY.public, checkpoint=Checkpoint("x", 5, ROOT))
    assert passed == 1  # 2 of 5 and 2 of 7 have one path
