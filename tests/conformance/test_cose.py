"""The worked example of a COSE receipt (RFC 9942), byte for byte; hashes computed from the RFC with another library."""

from __future__ import annotations

import hashlib

import cbor2

from registry.log.checkpoint import read_checkpoint
from registry.log.cose import make_cose_receipt, verify_cose_receipt
from registry.log.merkle import inclusion_proof
from tests.conformance.test_log_formats import CHECKPOINT, HASHES, LOG_VKEY, ROOTS
from tests.registry.example_log import LOG_KEY


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_receipt_of_entry_2_of_5() -> None:
    receipt = make_cose_receipt(2, 5, b"gamma", inclusion_proof(2, 5, HASHES), LOG_KEY)
    assert len(receipt) == 192
    assert sha256(receipt) == "a61acb86f8c755bccbfcd30a16f4372012348de7564ed5fa5da0acc133f8c2ae"
    protected, unprotected, payload, signature = cbor2.loads(receipt).value
    assert protected.hex() == "a2012719018b01"
    (proof,) = unprotected[396][-1]
    assert len(proof) == 106
    assert sha256(proof) == "48ece0e678ce491ab60429fe577b76b013c55390c5dd8133bcc72bf82c25c56f"
    assert payload is None
    root = bytes.fromhex(ROOTS[5])
    signed = b"\x84\x6aSignature1\x47" + protected + b"\x40\x58\x20" + root
    assert len(signed) == 55
    assert sha256(signed) == "230dc851bdace7a4e043d5bbfdc01c3aa5921ffc6d484ace639a6ddfeb5dcc8e"
    LOG_KEY.public.verify(signature, signed)


def test_it_is_read_back_against_the_checkpoint_of_the_same_log() -> None:
    receipt = make_cose_receipt(2, 5, b"gamma", inclusion_proof(2, 5, HASHES), LOG_KEY)
    checkpoint = read_checkpoint(CHECKPOINT, [LOG_VKEY])
    found = verify_cose_receipt(receipt, b"gamma", LOG_KEY.public, checkpoint=checkpoint)
    assert (found.index, found.size, found.root.hex()) == (2, 5, ROOTS[5])
