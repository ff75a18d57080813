from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from registry.signing.bundle import read_bundle
from registry.signing.claims import Claim, make_claim, read_claims, verify_claim, write_claims
from registry.signing.countersignature import (
    COUNTERSIGNATURE,
    countersignatures,
    is_of_unknown_key,
    make_countersignature,
    says_countersignature,
    verify_countersignature,
)
from registry.signing.encoding import from_base64, to_base64
from registry.signing.keys import ALGORITHMS, PrivateKey, generate
from registry.signing.release import verify_release
from registry.signing.statement import Statement
from registry.signing.trust import TrustPolicy, trust_of
from tests.registry.signing.models import KEY_ONE, TINY
from tests.registry.signing.test_release import LOG, Folder, prove, release
from watermark.errors import DigestError, DocumentError, SignatureError, UntrustedKeyError

ROOT, MODEL_SIG = bytes(range(32)), bytes(range(32, 64))
KEYS = {algorithm: generate(algorithm) for algorithm in ALGORITHMS}
SECOND, THIRD = KEYS["mldsa65"], KEYS["ed25519"]


def claim_of(line: bytes) -> Claim:
    return Claim(1, line, read_bundle(line))


def countersign(key: PrivateKey, root: bytes = ROOT, model_signature: bytes = MODEL_SIG) -> Claim:
    return claim_of(make_countersignature("m", root, model_signature, key))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_kind_of_key_countersigns(algorithm: str) -> None:
    key = KEYS[algorithm]
    claim = countersign(key)
    assert says_countersignature(claim)
    verified = verify_countersignature(claim, [KEY_ONE.public, key.public], root=ROOT, model_signature=MODEL_SIG)
    assert verified.key == key.public
    assert [one.key for one in countersignatures([verified, verified])] == [key.public]


def test_each_signer_has_an_identity_of_his_own_that_does_not_depend_on_signature_bytes() -> None:
    one, again, other = countersign(SECOND), countersign(SECOND), countersign(THIRD)
    assert one.line != again.line  # ML-DSA is randomised
    assert one.pae_sha256 == again.pae_sha256 != other.pae_sha256


def test_another_model_or_another_model_signature_is_refused() -> None:
    for claim in (countersign(SECOND, root=bytes(32)), countersign(SECOND, model_signature=bytes(32))):
        with pytest.raises(DigestError):
            verify_countersignature(claim, [SECOND.public], root=ROOT, model_signature=MODEL_SIG)


def test_a_wrong_signature_of_a_trusted_key_is_refused() -> None:
    document = json.loads(countersign(SECOND).line)
    signature = bytearray(from_base64(document["dsseEnvelope"]["signatures"][0]["sig"], what="sig"))
    signature[7] ^= 1
    document["dsseEnvelope"]["signatures"][0]["sig"] = to_base64(bytes(signature))
    with pytest.raises(SignatureError):
        verify_countersignature(
            claim_of(json.dumps(document).encode()), [SECOND.public], root=ROOT, model_signature=MODEL_SIG
        )


def test_a_statement_that_names_another_signer_is_refused() -> None:
    """Signed by the third key, it says to be the second's: it would count for neither."""
    predicate = {"key": SECOND.public.key_id, "modelSignature": {"sha256": MODEL_SIG.hex()}}
    claim = claim_of(make_claim(Statement("m", ROOT, COUNTERSIGNATURE, predicate), THIRD))
    with pytest.raises(UntrustedKeyError, match="another key"):
        verify_countersignature(claim, [THIRD.public], root=ROOT, model_signature=MODEL_SIG)


@pytest.mark.parametrize(
    "predicate",
    [
        {},
        {"key": SECOND.public.key_id},
        {"modelSignature": {"sha256": MODEL_SIG.hex()}},
        {"key": SECOND.public.key_id, "modelSignature": {"sha256": MODEL_SIG.hex().upper()}},
        {"key": 3, "modelSignature": {"sha256": MODEL_SIG.hex()}},
        {"key": SECOND.public.key_id, "modelSignature": {"sha256": MODEL_SIG.hex()}, "more": 1},
    ],
)
def test_other_predicates_are_refused(predicate: dict[str, object]) -> None:
    claim = claim_of(make_claim(Statement("m", ROOT, COUNTERSIGNATURE, predicate), SECOND))
    with pytest.raises(DocumentError):
        verify_countersignature(claim, [SECOND.public], root=ROOT, model_signature=MODEL_SIG)


def test_a_key_is_unknown_by_its_hint() -> None:
    claim = countersign(SECOND)
    assert is_of_unknown_key(claim, [THIRD.public])
    assert not is_of_unknown_key(claim, [THIRD.public, SECOND.public])
    assert not says_countersignature(claim_of(make_claim(Statement("m", ROOT, "https://example.com", {}), SECOND)))


# In a release.


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return release(tmp_path, TINY)


def with_signers(folder: Folder, *keys: PrivateKey) -> Folder:
    root, model_signature = folder.signed.manifest.root, folder.signed.pae_sha256
    lines = [claim.line for claim in read_claims(folder.claims)]
    lines += [make_countersignature("m", root, model_signature, key) for key in keys]
    return replace(folder, claims=write_claims(lines))


def trusting(*keys: PrivateKey, **others: PrivateKey) -> TrustPolicy:
    owners = {"acme": (KEY_ONE.public, *(key.public for key in keys))}
    return trust_of({**owners, **{name: (key.public,) for name, key in others.items()}}, (LOG.verifier.vkey,))


def test_a_release_shows_every_countersignature_that_it_can_verify(folder: Folder) -> None:
    signed = with_signers(folder, SECOND, THIRD)
    found = signed.verify(folder.entry(), trust=trusting(SECOND, THIRD))
    assert [one.key for one in found.countersignatures] == [SECOND.public, THIRD.public]
    assert found.unknown_countersignatures == 0
    assert len(found.claims) == 4
    auditor = signed.verify(folder.entry(), trust=trusting(SECOND, auditor=THIRD))
    assert [one.key for one in auditor.countersignatures] == [SECOND.public, THIRD.public]


def test_those_of_strangers_are_counted_and_passed_over(folder: Folder) -> None:
    found = with_signers(folder, SECOND, THIRD).verify(folder.entry(), trust=trusting(SECOND))
    assert [one.key for one in found.countersignatures] == [SECOND.public]
    assert found.unknown_countersignatures == 1


def test_those_that_the_log_lists_may_not_be_missing(folder: Folder) -> None:
    signed = with_signers(folder, SECOND)
    listed = [claim.pae_sha256.hex() for claim in read_claims(signed.claims)]
    assert signed.verify(folder.entry(claims=listed), trust=trusting(SECOND)).countersignatures
    assert signed.verify(folder.entry(claims=listed), trust=trusting()).unknown_countersignatures == 1
    with pytest.raises(DigestError, match="missing"):
        folder.verify(folder.entry(claims=listed), trust=trusting(SECOND))


def test_another_releases_countersignature_is_refused(folder: Folder, tmp_path: Path) -> None:
    other = with_signers(release(tmp_path / "other", {**TINY, "more": b"x"}), SECOND)
    stolen = read_claims(other.claims)[-1].line
    mixed = replace(folder, claims=folder.claims + write_claims([stolen]))
    with pytest.raises(DigestError):
        mixed.verify(folder.entry(), trust=trusting(SECOND))
    assert mixed.verify(folder.entry(), trust=trusting()).unknown_countersignatures == 1  # says nothing to strangers


def test_an_ordinary_claim_by_a_stranger_is_refused_as_ever(folder: Folder) -> None:
    line = make_claim(Statement("m", folder.signed.manifest.root, "https://example.com/x", {}), SECOND)
    mixed = replace(folder, claims=folder.claims + write_claims([line]))
    with pytest.raises(UntrustedKeyError):
        mixed.verify(folder.entry(), trust=trusting())
    (last,) = read_claims(write_claims([line]))
    assert verify_claim(last, [SECOND.public]).key == SECOND.public
    assert verify_release(mixed.signed, folder.claims, prove(folder.entry()), trusting()).owner == "acme"
