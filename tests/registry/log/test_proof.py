from __future__ import annotations

import pytest

from registry.log.checkpoint import Checkpoint, sign_checkpoint
from registry.log.merkle import inclusion_proof, leaf_hash, root_of
from registry.log.note import NoteSigner
from registry.log.proof import TlogProof, read_proof, verify_proof, write_proof
from registry.log.tiles import TileHashes
from registry.log.witness import parse_add_checkpoint
from tests.registry.example_log import LOG_KEY, ORIGIN, WITNESS_KEY
from watermark.errors import InputError, UntrustedKeyError, VerificationError

SIGNER = NoteSigner(ORIGIN, LOG_KEY)
VKEYS = [SIGNER.verifier.vkey]
COUNT = 20


def proofs_of(signer: NoteSigner, prefix: bytes) -> list[tuple[bytes, TlogProof]]:
    entries = [prefix + b"%d" % number for number in range(COUNT)]
    leaves = [leaf_hash(entry) for entry in entries]
    hashes = TileHashes(lambda level, start, stop: leaves[start:stop])
    note = sign_checkpoint(Checkpoint(signer.name, COUNT, root_of(leaves)), signer)
    return [(entry, TlogProof(at, inclusion_proof(at, COUNT, hashes), note, entry)) for at, entry in enumerate(entries)]


PROOFS = proofs_of(SIGNER, b"entry ")


def test_each_proof_is_good_for_its_own_entry_only() -> None:
    for number, (_, proof) in enumerate(PROOFS):
        read = read_proof(write_proof(proof))
        for other, (entry, _) in enumerate(PROOFS):
            if other == number:
                assert verify_proof(read, entry, VKEYS).index == number
            else:
                with pytest.raises(VerificationError):
                    verify_proof(read, entry, VKEYS)


def test_a_proof_of_another_log_is_refused() -> None:
    stranger = NoteSigner("other.example", WITNESS_KEY)
    for entry, proof in proofs_of(stranger, b"entry "):
        with pytest.raises(UntrustedKeyError):
            verify_proof(proof, entry, VKEYS)
        assert verify_proof(proof, entry, [stranger.verifier.vkey]).origin == "other.example"


def test_parts_of_two_proofs_do_not_mix() -> None:
    for entry, proof in PROOFS:
        for _, other in PROOFS:
            if other.index == proof.index:
                continue
            for mixed in (
                TlogProof(other.index, proof.hashes, proof.checkpoint),
                TlogProof(proof.index, other.hashes, proof.checkpoint),
            ):
                with pytest.raises(VerificationError):
                    verify_proof(mixed, entry, VKEYS)


def test_every_changed_byte_of_a_proof_file_is_refused() -> None:
    entry, proof = PROOFS[7]
    data = write_proof(TlogProof(proof.index, proof.hashes, proof.checkpoint))
    for at in range(len(data)):
        for bit in (1, 2, 0x20, 0x80):
            changed = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            with pytest.raises((InputError, VerificationError)):
                verify_proof(read_proof(changed), entry, VKEYS)


HEAD = b"c2sp.org/tlog-proof@v1\n"
HASH = b"XHEX+57bDOw4cleJEQXaamYWciryRwg+LW7aZxUpzcU=\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD,
        HEAD + b"\nnote",
        b"c2sp.org/tlog-proof@v2\nindex 1\n\nnote",
        HEAD + b"index 01\n\nnote",
        HEAD + b"index -1\n\nnote",
        HEAD + b"index\n\nnote",
        HEAD + b"index 1 \n\nnote",
        HEAD + b"index 1\n",
        HEAD + b"index 9223372036854775808\n\nnote",
        HEAD + b"index 1\nextra AAAA\n\nnote",
        HEAD + b"extra AAA\nindex 1\n\nnote",
        HEAD + b"extra AAAA\nextra AAAA\nindex 1\n\nnote",
        HEAD + b"index 1\n" + HASH[:-1] + b"\r\n\nnote",
        HEAD + b"index 1\n" + HASH[4:] + b"\nnote",
        HEAD + b"index 1\n" + HASH * 64 + b"\nnote",
        HEAD + b"index \xc2\xb2\n\nnote",
        HEAD + b"index 1\n\n" + b"x" * (2 << 20),
    ],
)
def test_what_is_not_a_proof(data: bytes) -> None:
    with pytest.raises(InputError):
        read_proof(data)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 3\n",
        b"old 03\n\nnote",
        b"new 3\n\nnote",
        b"old 3\nAAAA\n\nnote",
        b"old 3\n" + HASH * 64 + b"\nnote",
        b"old \xff\n\nnote",
    ],
)
def test_what_is_not_a_witness_request(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_add_checkpoint(body)
