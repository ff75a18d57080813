"""What Rekor v2 would store about our signatures: against bytes made another way, and Sigstore's own models."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
import rfc8785

from registry.signing import dsse
from registry.signing.encoding import to_base64
from registry.signing.keys import ED25519, P256, P384, P521, generate
from registry.sigstore.rekor_body import Verifier, check_body, hashedrekord_v002
from watermark.errors import InputError, LogEntryError

PAYLOAD = b'{"a": "statement"}'
TABLE = [
    (P256, "PKIX_ECDSA_P256_SHA_256", "SHA2_256", "sha256"),
    (P384, "PKIX_ECDSA_P384_SHA_384", "SHA2_384", "sha384"),
    (P521, "PKIX_ECDSA_P521_SHA_512", "SHA2_512", "sha512"),
]


@pytest.mark.parametrize(("algorithm", "details", "hash_name", "function"), TABLE)
def test_the_body_of_a_signature_by_key(algorithm: str, details: str, hash_name: str, function: str) -> None:
    key = generate(algorithm)
    envelope = dsse.sign(PAYLOAD, dsse.IN_TOTO_PAYLOAD_TYPE, key)
    body = hashedrekord_v002(envelope, Verifier(key.public))
    pae = b"DSSEv1 28 application/vnd.in-toto+json 18 " + PAYLOAD
    signature = {
        "content": to_base64(envelope.signatures[0].sig),
        "verifier": {"keyDetails": details, "publicKey": {"rawBytes": to_base64(key.public.der)}},
    }
    data = {"algorithm": hash_name, "digest": to_base64(hashlib.new(function, pae).digest())}
    spec = {"hashedRekordV002": {"data": data, "signature": signature}}
    assert body == rfc8785.dumps({"kind": "hashedrekord", "apiVersion": "0.0.2", "spec": spec})
    assert body.startswith(b'{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{')
    check_body("hashedrekord", "0.0.2", body, envelope, Verifier(key.public))


def test_sigstores_own_models_read_it() -> None:
    from sigstore_models.common.v1 import HashAlgorithm, PublicKeyDetails
    from sigstore_models.rekor.v2.entry import Entry

    key = generate(P384)
    envelope = dsse.sign(PAYLOAD, dsse.IN_TOTO_PAYLOAD_TYPE, key)
    entry = Entry.from_json(hashedrekord_v002(envelope, Verifier(key.public)))
    stored = entry.spec.hashed_rekord_v002
    assert stored is not None
    assert stored.data.algorithm == HashAlgorithm.SHA2_384
    assert stored.signature.content == envelope.signatures[0].sig
    assert stored.signature.verifier.key_details == PublicKeyDetails.PKIX_ECDSA_P384_SHA_384
    assert stored.signature.verifier.public_key is not None
    assert stored.signature.verifier.public_key.raw_bytes == key.public.der


def test_what_rekor_does_not_take() -> None:
    key = generate(ED25519)
    envelope = dsse.sign(PAYLOAD, dsse.IN_TOTO_PAYLOAD_TYPE, key)
    with pytest.raises(InputError, match="ed25519"):
        hashedrekord_v002(envelope, Verifier(key.public))
    one = generate()
    several = dsse.Envelope(PAYLOAD, "t", (dsse.Signature(b"1"), dsse.Signature(b"2")))
    with pytest.raises(InputError, match="2 signatures"):
        hashedrekord_v002(several, Verifier(one.public))


def test_every_change_of_a_body_is_found() -> None:
    key = generate()
    envelope = dsse.sign(PAYLOAD, dsse.IN_TOTO_PAYLOAD_TYPE, key)
    verifier = Verifier(key.public)
    body = hashedrekord_v002(envelope, verifier)
    refused = 0
    for position in range(len(body)):
        mutated = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
        try:
            check_body("hashedrekord", "0.0.2", mutated, envelope, verifier)
        except LogEntryError:
            refused += 1
    assert refused == len(body)


def test_the_place_of_a_difference_is_named() -> None:
    key = generate()
    envelope = dsse.sign(PAYLOAD, dsse.IN_TOTO_PAYLOAD_TYPE, key)
    body = json.loads(hashedrekord_v002(envelope, Verifier(key.public)))
    body["spec"]["hashedRekordV002"]["data"]["digest"] = base64.b64encode(bytes(32)).decode()
    with pytest.raises(LogEntryError, match=r"spec\.hashedRekordV002\.data\.digest"):
        check_body("hashedrekord", "0.0.2", rfc8785.dumps(body), envelope, Verifier(key.public))
    del body["spec"]
    with pytest.raises(LogEntryError, match="'spec' is missing"):
        check_body("hashedrekord", "0.0.2", rfc8785.dumps(body), envelope, Verifier(key.public))
