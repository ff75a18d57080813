"""Whose order: which words of others count on a checkpoint, and since when."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from registry.log.checkpoint import Checkpoint, sign_checkpoint
from registry.log.cosignature import cosign
from registry.log.merkle import inclusion_proof, leaf_hash, root_of
from registry.log.note import ED25519_COSIGNATURE, Note, NoteSigner, NoteVerifier, parse_note
from registry.log.proof import TlogProof, write_proof
from registry.signing import dsse
from registry.signing.claims import read_claims, verify_claim
from registry.signing.encoding import to_base64
from registry.signing.keys import PrivateKey, generate
from registry.signing.order import Order, earliest, order_of
from registry.signing.stamp_claims import STAMP_PREDICATE, checkpoint_stamps, make_stamp_claim, stamped_text
from registry.signing.statement import Statement
from registry.signing.timestamps import verify_stamp
from registry.signing.trust import TrustPolicy, parse_trust
from tests.registry.signing.models import KEY_ONE
from tests.stamping_authority import LocalTsa, new_tsa
from watermark.errors import DigestError, DocumentError, InclusionError, UntrustedKeyError

LOG = NoteSigner("test.example/log", generate("ed25519"))
WITNESSES = {name: generate("ed25519") for name in ("w1", "w2", "w3")}
ENTRY, SIZE = b"the entry", 5


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> LocalTsa:
    return new_tsa(tmp_path_factory.mktemp("tsa") / "clock")


def witness_line(name: str) -> str:
    verifier = NoteVerifier(f"{name}.example", ED25519_COSIGNATURE, WITNESSES[name].public.raw)
    return f"witness {name} {verifier.vkey}\n"


def trusting(*lines: str) -> TrustPolicy:
    return parse_trust(f"log {LOG.verifier.vkey}\n" + "".join(lines))


def proof_of(times: dict[str, int] | None = None, entry: bytes = ENTRY, extra: bytes | None = ENTRY) -> bytes:
    leaves = [leaf_hash(one) for one in (b"a", b"b", entry, b"c", b"d")]
    note = parse_note(sign_checkpoint(Checkpoint(LOG.name, SIZE, root_of(leaves)), LOG))
    lines = [cosign(note.text, f"{name}.example", WITNESSES[name], at) for name, at in (times or {}).items()]
    hashes = inclusion_proof(2, SIZE, lambda level, at: root_of(leaves[at << level : (at + 1) << level]))
    return write_proof(TlogProof(2, hashes, Note(note.text, (*note.signatures, *lines)).encode(), extra))


def checkpoint_of(proof: bytes) -> bytes:
    return proof.partition(b"\n\n")[2]


def test_a_log_alone_proves_no_order() -> None:
    order = order_of(proof_of(), (), trusting())
    assert (order.kind, order.time, order.source, order.leaves) == ("self-asserted", None, None, 0)
    assert not order.is_before(datetime(2999, 1, 1, tzinfo=UTC))


def test_a_believed_stamp_on_the_checkpoint_makes_it_independent(tsa: LocalTsa) -> None:
    proof = proof_of()
    stamps = (tsa.stamp(stamped_text(checkpoint_of(proof))),)
    order = order_of(proof, stamps, trusting(tsa.line))
    assert (order.kind, order.source, order.leaves) == ("independent", "rfc3161 clock", SIZE)
    assert order.time == order.stamps[0].latest
    assert order.is_before(order.time + timedelta(seconds=1))
    assert not order.is_before(order.time)
    stranger = order_of(proof, stamps, trusting())
    assert stranger.kind == "self-asserted"
    assert "not looked at" in stranger.notes[0]


def test_a_stamp_on_anything_else_is_refused(tsa: LocalTsa) -> None:
    proof = proof_of()
    for message in (checkpoint_of(proof), ENTRY, stamped_text(checkpoint_of(proof_of(entry=b"another")))):
        with pytest.raises(DigestError):
            order_of(proof, (tsa.stamp(message),), trusting(tsa.line))


def test_a_stamp_helps_no_entry_that_is_not_in_the_checkpoint(tsa: LocalTsa) -> None:
    proof = proof_of(extra=b"an entry made afterwards")
    stamps = (tsa.stamp(stamped_text(checkpoint_of(proof))),)
    with pytest.raises(InclusionError):
        order_of(proof, stamps, trusting(tsa.line))
    with pytest.raises(InclusionError):
        order_of(proof_of(extra=None), stamps, trusting(tsa.line))
    another_log = NoteSigner("other.example/log", generate("ed25519")).verifier.vkey
    trust = parse_trust(f"log {another_log}\n{tsa.line}\n")
    with pytest.raises(UntrustedKeyError):
        order_of(proof_of(), stamps, trust)


def test_witnesses_may_still_sign_a_stamped_checkpoint(tsa: LocalTsa) -> None:
    before, after = proof_of(), proof_of({"w1": 1_700_000_000})
    assert stamped_text(checkpoint_of(before)) == stamped_text(checkpoint_of(after))
    stamps = (tsa.stamp(stamped_text(checkpoint_of(before))),)
    assert order_of(after, stamps, trusting(tsa.line)).kind == "independent"


def test_a_quorum_of_witnesses_speaks_from_its_last_needed_word_on() -> None:
    lines = [witness_line(name) for name in WITNESSES]
    proof = proof_of({"w1": 300, "w2": 100, "w3": 200})
    for needed, agreed in (("any", 100), ("2", 200), ("all", 300)):
        trust = trusting(*lines, f"group g {needed} w1 w2 w3\n", "quorum g\n")
        order = order_of(proof, (), trust)
        assert (order.kind, order.source, order.leaves) == ("independent", "witnesses g", SIZE)
        assert order.time == datetime.fromtimestamp(agreed, UTC)
    assert order_of(proof, (), trusting(*lines)).kind == "self-asserted"  # known, but no quorum is asked of them
    with pytest.raises(UntrustedKeyError):
        order_of(proof_of({"w1": 300}), (), trusting(*lines, "group g 2 w1 w2 w3\n", "quorum g\n"))


def test_the_earlier_of_stamp_and_quorum_counts(tsa: LocalTsa) -> None:
    future = int(datetime(2999, 1, 1, tzinfo=UTC).timestamp())
    for at, source in ((100, "witnesses w1"), (future, "rfc3161 clock")):
        proof = proof_of({"w1": at})
        stamps = (tsa.stamp(stamped_text(checkpoint_of(proof))),)
        assert order_of(proof, stamps, trusting(tsa.line + "\n", witness_line("w1"), "quorum w1\n")).source == source


def test_earliest_of_several() -> None:
    def at(day: int) -> Order:
        return Order("independent", datetime(2026, 1, day, tzinfo=UTC))

    plain = Order(notes=("why",))
    assert earliest([at(3), plain, at(2), at(2)]) == at(2)
    assert earliest([plain, Order()]) == plain
    assert earliest([]) == Order()


def test_stamp_claims_carry_stamps_for_one_checkpoint(tsa: LocalTsa) -> None:
    checkpoint = checkpoint_of(proof_of())
    stamps = (tsa.stamp(stamped_text(checkpoint)), b"second")
    line = make_stamp_claim("m", b"r" * 32, checkpoint, stamps, KEY_ONE)
    (claim,) = read_claims(line + b"\n")
    statement = verify_claim(claim, [KEY_ONE.public], root=b"r" * 32).statement
    assert statement.predicate["checkpoint"]["size"] == SIZE
    assert checkpoint_stamps([statement, statement], checkpoint) == stamps * 2
    assert checkpoint_stamps([statement], checkpoint_of(proof_of(entry=b"another"))) == ()


@pytest.mark.parametrize("change", [{"stamps": [1]}, {"stamps": ["!"]}, {"stamps": {}}, {"more": 1}, {"checkpoint": 1}])
def test_stamp_claims_in_no_known_form(change: dict[str, object]) -> None:
    checkpoint = checkpoint_of(proof_of())
    (claim,) = read_claims(make_stamp_claim("m", b"r" * 32, checkpoint, (b"x",), KEY_ONE) + b"\n")
    good = verify_claim(claim, [KEY_ONE.public]).statement
    with pytest.raises(DocumentError):
        checkpoint_stamps([Statement("m", good.root, STAMP_PREDICATE, {**good.predicate, **change})], checkpoint)
    many = {**good.predicate, "stamps": [to_base64(b"x")] * 17}
    with pytest.raises(DocumentError):
        checkpoint_stamps([Statement("m", good.root, STAMP_PREDICATE, many)], checkpoint)


def test_a_key_fitted_to_old_signature_bytes_gains_no_order(tsa: LocalTsa) -> None:
    """Why stamps on signatures do not count: bytes are stamped first, then a key is made under which they sign."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
    nonce, s = 0x1234567, 0x7654321
    r = ec.derive_private_key(nonce, ec.SECP256R1()).public_key().public_numbers().x % order
    signature = encode_dss_signature(r, s)
    stamp = tsa.stamp(signature)

    payload = b'{"made": "afterwards"}'
    digest = int.from_bytes(hashlib.sha256(dsse.pae(dsse.IN_TOTO_PAYLOAD_TYPE, payload)).digest(), "big")
    private = (s * nonce - digest) * pow(r, -1, order) % order
    key = PrivateKey("p256", ec.derive_private_key(private, ec.SECP256R1()))
    envelope = dsse.Envelope(payload, dsse.IN_TOTO_PAYLOAD_TYPE, (dsse.Signature(signature),))
    assert dsse.verify(envelope, [key.public]).payload == payload
    assert verify_stamp(stamp, signature, [tsa.trusted]).tsa == "clock"

    with pytest.raises(DigestError):
        order_of(proof_of(), (stamp,), trusting(tsa.line))
