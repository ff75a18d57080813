"""Nothing but the signer's own words gets through: a good bundle, changed in every byte and every field."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from registry.signing.encoding import from_base64, to_base64
from registry.signing.keys import generate
from registry.signing.oms import SignedManifest, sign_model, verify_signature
from tests.registry.signing.models import KEY_ONE, TINY, write_tree
from watermark.errors import DocumentError, InputError, VerificationError

SEED = 20261124
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sign_model(write_tree(tmp_path_factory.mktemp("m"), TINY), KEY_ONE).bundle


def outcome(data: bytes) -> SignedManifest | None:
    """What our verifier believes, or None; any other kind of error fails the test."""
    try:
        return verify_signature(data, key=KEY_ONE.public)
    except (DocumentError, VerificationError, InputError):
        return None


def byte_mutations(data: bytes, rng: random.Random) -> Iterator[bytes]:
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << rng.randrange(8)
        yield bytes(changed)
    for _ in range(2500):
        start = rng.randrange(len(data))
        stop = min(len(data), start + rng.randrange(1, 9))
        middle = rng.choice((b"", data[start:stop] * 2, rng.randbytes(stop - start), bytes([rng.randrange(256)])))
        yield data[:start] + middle + data[stop:]
    for stop in range(0, len(data), 7):
        yield data[:stop]


def field_mutations(document: object) -> Iterator[object]:
    """Each value of a JSON document replaced, removed or doubled, one at a time."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield {name: one for name, one in document.items() if name != key}
            yield {**document, key + "x": value}
            for changed in (*field_mutations(value), None, 1, "", "A===", [], {}, [value], {"x": value}):
                yield {**document, key: changed}
    elif isinstance(document, list):
        yield [*document, *document]
        for index, value in enumerate(document):
            for changed in field_mutations(value):
                yield [*document[:index], changed, *document[index + 1 :]]
    elif isinstance(document, str):
        yield document + " "
        yield document[:-1]
        yield document.swapcase()
        yield document[::-1]


def test_no_mutation_changes_what_is_believed(bundle: bytes) -> None:
    good = outcome(bundle)
    assert good is not None
    rng = random.Random(SEED)
    mutations = list(byte_mutations(bundle, rng))
    mutations += [json.dumps(changed).encode() for changed in field_mutations(json.loads(bundle))]
    accepted = 0
    for data in mutations:
        believed = outcome(data)
        if believed is not None:
            accepted += 1
            assert believed == good, f"seed {SEED}: {data!r}"
    assert len(mutations) > 4000
    # White space, hints and key ids may pass (they carry nothing), so some do; were it many, the test would be blind.
    assert 0 < accepted < len(mutations) // 20


def test_another_signer_is_never_believed(bundle: bytes) -> None:
    document = json.loads(bundle)
    envelope = document["dsseEnvelope"]
    payload = from_base64(envelope["payload"], what="x")
    from registry.signing import dsse

    for algorithm in ("p256", "p384", "p521", "ed25519"):
        forged = dsse.sign(payload, dsse.IN_TOTO_PAYLOAD_TYPE, generate(algorithm))
        document["dsseEnvelope"] = dsse.to_dict(forged)
        assert outcome(json.dumps(document).encode()) is None
        document["dsseEnvelope"]["signatures"].append(envelope["signatures"][0])
        assert outcome(json.dumps(document).encode()) is None


def test_signatures_are_malleable_and_identities_are_not(bundle: bytes) -> None:
    document = json.loads(bundle)
    (signature,) = document["dsseEnvelope"]["signatures"]
    r, s = decode_dss_signature(from_base64(signature["sig"], what="x"))
    signature["sig"] = to_base64(encode_dss_signature(r, P256_ORDER - s))
    twin = json.dumps(document).encode()
    assert outcome(twin) == outcome(bundle)
    for r2, s2 in ((0, s), (r, 0), (r + P256_ORDER, s), (r, s + P256_ORDER), (P256_ORDER, s), (r, P256_ORDER)):
        signature["sig"] = to_base64(encode_dss_signature(r2, s2))
        assert outcome(json.dumps(document).encode()) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.2"),
        ("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.3"),
        ("mediaType", "application/vnd.dev.sigstore.bundle.v0.4+json"),
        ("dsseEnvelope.payloadType", "application/json"),
        ("messageSignature", {}),
        ("verificationMaterial", {}),
        ("verificationMaterial.x", 1),
        ("verificationMaterial.certificate", {"rawBytes": ""}),
        ("verificationMaterial.publicKey.x", 1),
        ("verificationMaterial.tlogEntries", {}),
        ("verificationMaterial.timestampVerificationData", []),
        ("verificationMaterial.x509CertificateChain", {"certificates": []}),
    ],
)
def test_other_bundles_are_refused(bundle: bytes, path: str, value: object) -> None:
    document = json.loads(bundle)
    *parents, last = path.split(".")
    at = document
    for parent in parents:
        at = at[parent]
    at[last] = value
    with pytest.raises(DocumentError):
        verify_signature(json.dumps(document).encode(), key=KEY_ONE.public)


def test_fields_that_carry_nothing_may_be_there(bundle: bytes) -> None:
    document = json.loads(bundle)
    document["verificationMaterial"]["timestampVerificationData"] = {"rfc3161Timestamps": []}
    del document["verificationMaterial"]["tlogEntries"]
    assert outcome(json.dumps(document, indent=2).encode()) == outcome(bundle)
