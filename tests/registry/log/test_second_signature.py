"""ML-DSA-44 beside Ed25519: the worked example of C2SP tlog-cosignature, and what a log and its readers make of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from registry.log.checkpoint import Checkpoint, read_checkpoint, sign_checkpoint
from registry.log.cosignature import cosign_with_mldsa, verify_cosignatures
from registry.log.log_keys import LogKeys
from registry.log.merkle import leaf_hash, root_of
from registry.log.note import Note, NoteSigner, NoteVerifier, parse_note, read_vkey
from registry.log.policy import parse_policy
from registry.log.proof import read_proof, verify_proof
from registry.log.subtree import sign_subtree, subtree_message, verify_subtree
from registry.signing.keys import MLDSA44, PrivateKey, generate, mldsa_from_seed, private_key_of
from registry.store.embedded import EmbeddedRegistry
from watermark.errors import DocumentError, InputError, SignatureError, UntrustedKeyError

ORIGIN, WITNESS, TIME = "registry.example/log1", "witness.example/w1", 1767225600
ROOT = root_of([leaf_hash(one) for one in (b"alpha", b"beta", b"gamma", b"delta", b"epsilon")])
SECOND = mldsa_from_seed(MLDSA44, bytes(range(0x40, 0x60)))
LOG = generate("ed25519")
SIGNER = NoteSigner(ORIGIN, LOG)
HEAD = Checkpoint(ORIGIN, 5, ROOT)
BOTH = (SIGNER.verifier.vkey, NoteVerifier(ORIGIN, 6, SECOND.public.raw).vkey)


def signed() -> bytes:
    return sign_checkpoint(HEAD, SIGNER, second=SECOND, time=TIME)


def test_the_worked_example_byte_for_byte() -> None:
    message = subtree_message(WITNESS, TIME, ORIGIN, 5, ROOT)
    assert len(message) == 109
    assert hashlib.sha256(message).hexdigest() == "fbd95f9902a779667eb65afa4ad92aaa583e56e6675586914dba78a2598725d0"
    line = sign_subtree(WITNESS, SECOND, TIME, ORIGIN, 5, ROOT)
    assert line.key_id.hex() == "c6e20533"
    assert len(line.key_id + line.signature) == 2432
    assert verify_subtree(line, NoteVerifier(WITNESS, 6, SECOND.public.raw), ORIGIN, 5, ROOT) == TIME


def test_old_readers_pass_the_second_line_over() -> None:
    assert read_checkpoint(signed(), [BOTH[0]]) == HEAD
    assert read_checkpoint(sign_checkpoint(HEAD, SIGNER), [BOTH[0]]) == HEAD


def test_who_trusts_both_keys_asks_for_both() -> None:
    assert read_checkpoint(signed(), BOTH) == HEAD
    assert read_checkpoint(signed(), [BOTH[1]]) == HEAD
    with pytest.raises(UntrustedKeyError, match="ML-DSA-44"):
        read_checkpoint(sign_checkpoint(HEAD, SIGNER), BOTH)
    note = parse_note(signed())
    only_second = Note(note.text, note.signatures[1:]).encode()
    with pytest.raises(UntrustedKeyError):
        read_checkpoint(only_second, BOTH)


def test_a_wrong_second_line_spoils_the_note_for_who_knows_its_key() -> None:
    data = signed()
    at = len(data) - 100
    spoilt = data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]
    assert read_checkpoint(spoilt, [BOTH[0]]) == HEAD
    with pytest.raises(SignatureError):
        read_checkpoint(spoilt, BOTH)


@pytest.mark.parametrize(
    ("name", "origin", "size", "root"),
    [
        ("other.example", ORIGIN, 5, ROOT),
        (WITNESS, "other.example", 5, ROOT),
        (WITNESS, ORIGIN, 6, ROOT),
        (WITNESS, ORIGIN, 5, bytes(32)),
    ],
)
def test_the_message_binds_name_origin_size_and_root(name: str, origin: str, size: int, root: bytes) -> None:
    line = sign_subtree(WITNESS, SECOND, TIME, ORIGIN, 5, ROOT)
    with pytest.raises(SignatureError):
        verify_subtree(line, NoteVerifier(name, 6, SECOND.public.raw), origin, size, root)


def test_lengths_and_times_are_checked() -> None:
    verifier = NoteVerifier(WITNESS, 6, SECOND.public.raw)
    line = sign_subtree(WITNESS, SECOND, TIME, ORIGIN, 5, ROOT)
    for signature in (line.signature[:-1], line.signature + b"\0", b"\xff" * 2428):
        with pytest.raises(SignatureError):
            verify_subtree(type(line)(line.name, line.key_id, signature), verifier, ORIGIN, 5, ROOT)
    for name, time in ((WITNESS, -1), (WITNESS, 2**63), ("", 0), ("x" * 256, 0)):
        with pytest.raises(DocumentError):
            subtree_message(name, time, ORIGIN, 5, ROOT)


def test_a_witness_may_cosign_with_either_kind() -> None:
    verifier = NoteVerifier(WITNESS, 6, SECOND.public.raw)
    note = parse_note(sign_checkpoint(HEAD, SIGNER))
    both = Note(note.text, (*note.signatures, cosign_with_mldsa(note.text, WITNESS, SECOND, TIME)))
    (found,) = verify_cosignatures(both, [verifier])
    assert (found.verifier, found.time) == (verifier, TIME)
    policy = parse_policy(f"log {BOTH[0]}\nwitness w {verifier.vkey}\nquorum w\n")
    assert policy.verify(both.encode())[0] == HEAD
    with pytest.raises(UntrustedKeyError, match="quorum"):
        policy.verify(note.encode())


def test_a_policy_names_both_keys_of_a_log() -> None:
    policy = parse_policy(f"log {BOTH[0]}\nlog {BOTH[1]}\nquorum none\n")
    assert policy.verify(signed())[0] == HEAD
    with pytest.raises(UntrustedKeyError):
        policy.verify(sign_checkpoint(HEAD, SIGNER))


def test_verifier_keys_of_another_length_are_refused() -> None:
    for public in (SECOND.public.raw[:-1], SECOND.public.raw + b"\0", bytes(32)):
        with pytest.raises(InputError):
            read_vkey(NoteVerifier(ORIGIN, 6, public).vkey)


def test_the_second_key_grows_from_the_seed_of_the_first() -> None:
    keys = LogKeys.of(LOG)
    again = LogKeys.of(private_key_of(LOG._key))
    assert keys.second is not None
    assert again.second is not None
    assert keys.second.public.raw == again.second.public.raw
    assert isinstance(keys.second, PrivateKey)
    assert keys.second.seed != LOG.seed
    other = LogKeys.of(generate("ed25519")).second
    assert other is not None
    assert other.public.raw != keys.second.public.raw


class InAStore:
    """A log key that never gives its seed away."""

    def __init__(self, key: PrivateKey) -> None:
        self.public = key.public
        self.sign = key.sign


def test_a_key_in_a_store_signs_alone(tmp_path: Path) -> None:
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, InAStore(LOG)) as registry:
        assert registry.vkeys == (registry.vkey,)
        receipt = registry.append([b"entry"])[0]
    assert len(parse_note(read_proof(receipt.proof).checkpoint).signatures) == 1


def test_the_registry_signs_every_checkpoint_twice(tmp_path: Path) -> None:
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, LOG) as registry:
        assert len(registry.vkeys) == 2
        for number in range(3):
            proof = read_proof(registry.append([b"entry %d" % number])[0].proof)
            assert verify_proof(proof, b"entry %d" % number, registry.vkeys).index == number
            assert len(parse_note(proof.checkpoint).signatures) == 2
        vkeys = registry.vkeys
    with EmbeddedRegistry.open(tmp_path / "log", LOG) as reopened:
        assert reopened.vkeys == vkeys


def test_a_log_from_before_goes_on_and_signs_twice_from_now_on(tmp_path: Path) -> None:
    """Made with a key that had no second one; the reader's trust file stays as it is."""
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, InAStore(LOG)) as registry:
        registry.append([b"old"])
    with EmbeddedRegistry.open(tmp_path / "log", LOG) as registry:
        proof = read_proof(registry.append([b"new"])[0].proof)
        assert verify_proof(proof, b"new", [registry.vkey]).index == 1
        assert verify_proof(proof, b"new", registry.vkeys).index == 1
