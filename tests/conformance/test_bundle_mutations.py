"""10,000 mutations of good bundles, byte by byte and field by field: none is believed with other content or signer.

White space, key hints and the malleable form of ECDSA may pass: they change nothing of what is believed. Counted, so
that a verifier that refuses everything would fail as well.
"""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.signing import dsse
from registry.signing.keys import generate
from registry.signing.oms import SignedManifest, sign_model, verify_signature
from tests.registry.signing.authority import ec_key, new_root
from tests.registry.signing.models import KEY_ONE, SHARDED, write_tree
from tests.registry.signing.test_mutations import byte_mutations, field_mutations
from watermark.errors import WeightmarkError

SEED = 20261125
ROOT = new_root()
MIDDLE = ROOT.subordinate("middle")
STRANGER = generate()


@pytest.fixture(scope="module")
def by_key(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sign_model(model(tmp_path_factory), KEY_ONE).bundle


@pytest.fixture(scope="module")
def by_certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    chain = [MIDDLE.issue("signer", ec_key(KEY_ONE).public_key()), MIDDLE.certificate]
    return sign_model(model(tmp_path_factory), KEY_ONE, certificates=chain).bundle


def model(factory: pytest.TempPathFactory) -> Path:
    return write_tree(factory.mktemp("mutated") / "m", SHARDED)


def believed(data: bytes, **trust: Any) -> SignedManifest | None:
    """What the verifier believes; any error but one of ours fails the test."""
    try:
        return verify_signature(data, **trust)
    except WeightmarkError:
        return None


def inside_mutations(document: dict[str, Any], rng: random.Random) -> Iterator[bytes]:
    """Changes below the base64: bits of the payload and the signature, fields of the statement, stolen signatures."""
    envelope = document["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    signature = base64.b64decode(envelope["signatures"][0]["sig"])

    def again(new_payload: bytes, new_signature: bytes) -> bytes:
        changed = {**envelope, "payload": base64.b64encode(new_payload).decode()}
        changed["signatures"] = [{"sig": base64.b64encode(new_signature).decode(), "keyid": ""}]
        return json.dumps({**document, "dsseEnvelope": changed}).encode()

    for position in range(len(payload)):
        changed = bytearray(payload)
        changed[position] ^= 1 << rng.randrange(8)
        yield again(bytes(changed), signature)
    for position in range(len(signature)):
        for bit in range(8):
            changed = bytearray(signature)
            changed[position] ^= 1 << bit
            yield again(payload, bytes(changed))
    for field in field_mutations(json.loads(payload)):
        other = json.dumps(field).encode()
        yield again(other, signature)
        yield again(other, STRANGER.sign(dsse.pae(dsse.IN_TOTO_PAYLOAD_TYPE, other)))
    for kind in ("", "text/plain", "application/vnd.in-toto+json "):
        yield again(payload, KEY_ONE.sign(dsse.pae(kind, payload)))


def every_mutation(bundle: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(seed)
    document = json.loads(bundle)
    for _ in range(2):
        yield from (("bytes", data) for data in byte_mutations(bundle, rng))
    yield from (("fields", json.dumps(changed).encode()) for changed in field_mutations(document))
    yield from (("inside", data) for data in inside_mutations(document, rng))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["key", "certificate"])
def test_no_mutation_is_believed_with_other_content_or_signer(kind: str, request: pytest.FixtureRequest) -> None:
    bundle: bytes = request.getfixturevalue(f"by_{kind}")
    trust: dict[str, Any] = {"key": KEY_ONE.public} if kind == "key" else {"roots": [ROOT.certificate]}
    good = believed(bundle, **trust)
    assert good is not None
    tried, passed = Counter[str](), Counter[str]()
    for way, data in every_mutation(bundle, SEED):
        tried[way] += 1
        found = believed(data, **trust)
        if found is not None:
            passed[way] += 1
            assert found == good, f"seed {SEED}: {data[:3000]!r}"
    assert tried.total() >= 10_000
    assert passed["inside"] == 0
    assert passed.total() < tried.total() // 50
    assert passed["fields"] > 0


def test_a_sample_of_mutations(by_key: bytes, by_certificate: bytes) -> None:
    """What every commit runs: each thirtieth of them."""
    for bundle, trust in ((by_key, {"key": KEY_ONE.public}), (by_certificate, {"roots": [ROOT.certificate]})):
        good = believed(bundle, **trust)  # type: ignore[arg-type]
        assert good is not None
        for number, (_, data) in enumerate(every_mutation(bundle, SEED + 1)):
            if number % 30 == 0:
                found = believed(data, **trust)  # type: ignore[arg-type]
                assert found is None or found == good, f"seed {SEED + 1}: {data!r}"
