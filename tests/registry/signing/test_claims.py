from __future__ import annotations

import json

import pytest

from registry.signing.claims import make_claim, read_claims, verify_claim, write_claims
from registry.signing.keys import generate
from registry.signing.statement import Statement, build_statement, parse_statement
from tests.registry.signing.models import KEY_ONE
from watermark.errors import DigestError, DocumentError, SignatureError, UntrustedKeyError

ROOT = b"\x05" * 32
STATEMENT = Statement("m", ROOT, "https://example.com/mark/v1", {"commitment": "00", "n": 3})


def test_round_trip() -> None:
    ed25519 = generate("ed25519")
    data = write_claims([make_claim(STATEMENT, KEY_ONE), make_claim(STATEMENT, ed25519)])
    assert data.count(b"\n") == 2
    claims = read_claims(data)
    assert write_claims(claim.line for claim in claims) == data
    keys = [KEY_ONE.public, ed25519.public]
    verified = [verify_claim(claim, keys, root=ROOT) for claim in claims]
    assert [one.key for one in verified] == keys
    assert all(one.statement == STATEMENT for one in verified)
    assert claims[0].pae_sha256 == claims[1].pae_sha256 == verified[0].pae_sha256
    assert make_claim(STATEMENT, KEY_ONE) == claims[0].line


def test_claims_of_others_and_about_others() -> None:
    (claim,) = read_claims(write_claims([make_claim(STATEMENT, KEY_ONE)]))
    with pytest.raises(UntrustedKeyError, match="claim 1"):
        verify_claim(claim, [generate().public])
    with pytest.raises(UntrustedKeyError):
        verify_claim(claim, [])
    with pytest.raises(DigestError, match="claim 1 speaks of another model"):
        verify_claim(claim, [KEY_ONE.public], root=b"\x06" * 32)


def test_changed_claims() -> None:
    document = json.loads(make_claim(STATEMENT, KEY_ONE))
    other = json.loads(make_claim(Statement("m", ROOT, STATEMENT.predicate_type, {}), KEY_ONE))
    document["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    (claim,) = read_claims(json.dumps(document).encode() + b"\n")
    with pytest.raises(SignatureError, match="claim 1"):
        verify_claim(claim, [KEY_ONE.public])


@pytest.mark.parametrize("data", [b"\n", b"{}\n", b"{}", b"null\n"])
def test_files_that_are_none(data: bytes) -> None:
    with pytest.raises(DocumentError):
        read_claims(data)
    good = write_claims([make_claim(STATEMENT, KEY_ONE)])
    for joined in (good + data, data + good, good[:-1]):
        with pytest.raises(DocumentError):
            read_claims(joined)


def test_no_claims() -> None:
    assert read_claims(b"") == ()
    with pytest.raises(DocumentError):
        write_claims([b"a\nb"])


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"subject": []},
        {"subject": [{"name": "m", "digest": {"sha256": "05" * 31}}]},
        {"subject": [{"name": "m"}]},
        {"subject": ["m"]},
        {"predicate": []},
        {"predicateType": 1},
        {"more": 1},
    ],
)
def test_statements_have_one_form(change: dict[str, object]) -> None:
    document = {**json.loads(build_statement(STATEMENT)), **change}
    with pytest.raises(DocumentError):
        parse_statement(json.dumps(document).encode())


def test_statement_types_are_compared() -> None:
    payload = build_statement(STATEMENT)
    assert parse_statement(payload, predicate_type=STATEMENT.predicate_type) == STATEMENT
    with pytest.raises(DocumentError):
        parse_statement(payload, predicate_type="https://example.com/mark/v2")
    with pytest.raises(DocumentError):
        build_statement(Statement("m", b"short", "x", {}))
