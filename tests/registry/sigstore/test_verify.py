"""Keyless signatures against a Sigstore of our own: what is right passes, each single fault has its refusal."""

from __future__ import annotations

import base64
import json
import random
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.signing.keys import generate
from registry.signing.oms import verify_signature
from registry.sigstore.trusted_root import parse_trusted_root
from registry.sigstore.verify import KeylessSignature, verify_keyless
from tests.registry.sigstore.instance import IDENTITY, ISSUER, SIGNED_AT, V2, Recipe, b64, encode
from tests.registry.sigstore.variants import BROKEN, DIGEST, GOOD, HERE, STRICTER, WIDER, Attempt, Variant, attempt, der
from watermark.errors import InputError, SignatureError, WeightmarkError


def verify(at: Attempt) -> KeylessSignature:
    root = parse_trusted_root(encode(at.root))
    return verify_keyless(encode(at.bundle), root, identity=at.identity, issuer=at.issuer)


@pytest.mark.parametrize("variant", [*GOOD, *WIDER], ids=lambda variant: variant.name)
def test_good_bundles(variant: Variant) -> None:
    at = variant.make()
    found = verify(at)
    assert (found.identity.name, found.identity.issuer) == (at.identity, at.issuer)
    assert [one.digest for one in found.signed.manifest.resources] == [DIGEST.digest()]
    assert {one.time for one in found.times} == {SIGNED_AT}


@pytest.mark.parametrize("variant", [*BROKEN, *STRICTER], ids=lambda variant: variant.name)
def test_each_single_fault_has_its_refusal(variant: Variant) -> None:
    with pytest.raises(WeightmarkError) as refused:
        verify(variant.make())
    assert refused.value.code == variant.code
    assert refused.value.hint
    assert refused.value.exit_code in (1, 2)


def test_refusals_are_told_apart() -> None:
    """One code a step at least: a program can act on the step that failed."""
    codes = {variant.code for variant in [*BROKEN, *STRICTER]}
    assert len(codes) >= 18


def test_what_is_told_about_a_v1_entry() -> None:
    found = verify(attempt())
    (logged,) = found.logged
    assert (logged.index, logged.size, logged.time) == (9_000_006, 11, SIGNED_AT)
    assert [one.source for one in found.times] == ["rekor https://rekor.example"]
    assert found.signed.signed_by == f"{IDENTITY} (by {ISSUER})"


def test_what_is_told_about_a_v2_entry() -> None:
    found = verify(attempt(V2))
    (logged,) = found.logged
    assert (logged.index, logged.size, logged.time, logged.origin) == (6, 11, None, "log1.rekor.example")
    assert [one.source for one in found.times] == ["rfc3161 https://tsa.example"]


def test_an_index_that_nothing_proves_is_not_told() -> None:
    at = attempt(V2)
    at.entry["logIndex"] = "123456"
    assert verify(at).logged[0].index == 6


def test_names_of_other_kinds() -> None:
    text = b"ci-runner"
    name = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7"), b"\x0c" + bytes([len(text)]) + text)
    at = attempt(Recipe(identity=name))
    at.identity = "ci-runner"
    assert verify(at).identity.name == "ci-runner"


def test_a_name_and_an_issuer_must_be_asked_for() -> None:
    at = attempt()
    root = parse_trusted_root(encode(at.root))
    for identity, issuer in [("", ISSUER), (IDENTITY, "")]:
        with pytest.raises(InputError):
            verify_keyless(encode(at.bundle), root, identity=identity, issuer=issuer)


def test_other_kinds_of_signature_are_told_by_name() -> None:
    at = attempt()
    with pytest.raises(SignatureError, match="keyless") as refused:
        verify_signature(encode(at.bundle), key=generate().public)
    assert "--sigstore-trusted-root" in refused.value.hint
    at.material["publicKey"] = {"hint": ""}
    del at.material["certificate"]
    with pytest.raises(SignatureError, match="not signed keyless"):
        verify(at)


def test_every_byte_of_the_log_entry_counts() -> None:
    """Body, proof, checkpoint, promise and time: no change of one bit may pass."""
    at = attempt()
    whole = json.dumps(at.entry)
    for path in (
        ["canonicalizedBody"],
        ["inclusionPromise", "signedEntryTimestamp"],
        ["inclusionProof", "rootHash"],
        ["inclusionProof", "hashes", 0],
        ["inclusionProof", "hashes", 2],
        ["logId", "keyId"],
    ):
        entry = json.loads(whole)
        holder = entry
        for name in path[:-1]:
            holder = holder[name]
        data = base64.b64decode(holder[path[-1]])
        for position in range(0, len(data), 7):
            mutated = bytearray(data)
            mutated[position] ^= 1 << (position % 8)
            holder[path[-1]] = base64.b64encode(bytes(mutated)).decode()
            at.material["tlogEntries"] = [entry]
            with pytest.raises(WeightmarkError):
                verify(at)


def test_a_checkpoint_may_carry_other_lines() -> None:
    at = attempt(V2)
    at.proof["checkpoint"]["envelope"] += "\u2014 witness.example AAAAAAAAAAAAAAAA\n"
    assert verify(at).logged[0].index == 6


def test_stamps_of_strangers_beside_a_promise_are_passed_over() -> None:
    at = attempt(Recipe(stamp_time=SIGNED_AT))
    at.root["timestampAuthorities"] = []
    assert [one.source for one in verify(at).times] == ["rekor https://rekor.example"]


def test_the_earliest_time_is_told_first() -> None:
    found = verify(attempt(Recipe(stamp_time=SIGNED_AT + timedelta(seconds=5))))
    assert [one.source for one in found.times] == ["rekor https://rekor.example", "rfc3161 https://tsa.example"]


def test_keys_outside_oms_are_refused() -> None:
    at = attempt(V2)
    at.material["certificate"]["rawBytes"] = b64(der(HERE.issue(Ed25519PrivateKey.generate(), V2)))
    with pytest.raises(SignatureError, match="OMS") as refused:
        verify(at)
    assert refused.value.code == "certificate-usage"


@pytest.mark.parametrize("seed", [1, 2])
def test_random_mutations_change_nothing_unseen(seed: int) -> None:
    """A changed byte anywhere in the bundle is refused by an error of ours, or leaves the same statement and signer."""
    chance = random.Random(seed)
    at = attempt(V2 if seed % 2 else None)
    root, data = parse_trusted_root(encode(at.root)), encode(at.bundle)
    accepted = 0
    for _ in range(1500):
        mutated = bytearray(data)
        mutated[chance.randrange(len(data))] = chance.randrange(256)
        try:
            found = verify_keyless(bytes(mutated), root, identity=IDENTITY, issuer=ISSUER)
        except WeightmarkError:
            continue
        accepted += 1
        assert [one.digest for one in found.signed.manifest.resources] == [DIGEST.digest()]
        assert found.identity.name == IDENTITY
        assert {one.time for one in found.times} == {SIGNED_AT}
    assert accepted < 150, seed
