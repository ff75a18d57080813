from __future__ import annotations

import json

import pytest

from registry.signing import dsse
from registry.signing.canonical import canonical
from registry.signing.entry import ENTRY_PAYLOAD_TYPE, MAX_ENTRY_BYTES, OWNER, make_entry, read_entry
from registry.signing.keys import ALGORITHMS, MLDSA_ALGORITHMS, PrivateKey, generate
from tests.registry.signing.models import KEY_ONE
from watermark.errors import DocumentError, InputError, LimitError, SignatureError, UntrustedKeyError

BODY = {"release": "abc", "claims": ["00"], "n": 3}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_round_trip(algorithm: str) -> None:
    key = generate(algorithm)
    data = make_entry("release", BODY, key)
    if algorithm not in MLDSA_ALGORITHMS:  # FIPS 204 signs with fresh randomness
        assert data == make_entry("release", BODY, key)
    entry = read_entry(data)
    assert (entry.kind, dict(entry.body), entry.key_id) == ("release", BODY, key.public.key_id)
    entry.verify(key.public)


def test_another_key_and_another_body_are_refused() -> None:
    entry = read_entry(make_entry("case", BODY, KEY_ONE))
    with pytest.raises(UntrustedKeyError):
        entry.verify(generate().public)
    fields = json.loads(make_entry("case", BODY, KEY_ONE))
    fields["payload"] = json.loads(make_entry("case", {**BODY, "n": 4}, KEY_ONE))["payload"]
    with pytest.raises(SignatureError, match="case"):
        read_entry(canonical(fields)).verify(KEY_ONE.public)


def test_owner_entries_introduce_their_own_key() -> None:
    key = generate()
    entry = read_entry(make_entry(OWNER, {"owner": "acme", "key": key.public.pem, "secret_commitment": "00"}, key))
    assert entry.introduced_key() == key.public
    stolen = read_entry(make_entry(OWNER, {"owner": "acme", "key": key.public.pem}, KEY_ONE))
    with pytest.raises(UntrustedKeyError):
        stolen.introduced_key()
    with pytest.raises(InputError):
        read_entry(make_entry("release", {"key": key.public.pem}, key)).introduced_key()


def signed(payload: bytes, payload_type: str = ENTRY_PAYLOAD_TYPE, key: PrivateKey = KEY_ONE) -> bytes:
    return canonical(dsse.to_dict(dsse.sign(payload, payload_type, key, keyid=key.public.key_id)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        signed(b'{"kind":"x","v":1}') + b"\n",
        b" " + signed(b'{"kind":"x","v":1}'),
        signed(b'{"v":1,"kind":"x"}'),
        signed(b'{"kind": "x","v":1}'),
        signed(b'{"kind":"x","v":2}'),
        signed(b'{"kind":"x","v":true}'),
        signed(b'{"kind":"x"}'),
        signed(b'{"kind":"X","v":1}'),
        signed(b'{"kind":"","v":1}'),
        signed(b'{"kind":"x\\n","v":1}'),
        signed(b'{"kind":"x","kind":"x","v":1}'),
        signed(b'["kind"]'),
        signed(b'{"kind":"x","v":1}', "application/vnd.in-toto+json"),
        json.dumps(json.loads(signed(b'{"kind":"x","v":1}'))).encode(),
    ],
)
def test_every_other_form_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        read_entry(data)


def test_two_signatures_are_refused() -> None:
    fields = json.loads(make_entry("case", BODY, KEY_ONE))
    fields["signatures"] *= 2
    with pytest.raises(DocumentError, match="2 signatures"):
        read_entry(canonical(fields))


def test_size_is_capped() -> None:
    with pytest.raises(LimitError):
        make_entry("case", {"x": "a" * MAX_ENTRY_BYTES}, KEY_ONE)
    with pytest.raises(DocumentError):
        read_entry(b" " * (MAX_ENTRY_BYTES + 1))


@pytest.mark.parametrize("kind", ["", "Release", "a b", "1a", "a" * 33, "a\n"])
def test_illegal_kinds(kind: str) -> None:
    with pytest.raises(InputError):
        make_entry(kind, {}, KEY_ONE)


@pytest.mark.parametrize("body", [{"kind": "x"}, {"v": 1}])
def test_reserved_names(body: dict[str, object]) -> None:
    with pytest.raises(InputError):
        make_entry("case", body, KEY_ONE)


def test_bodies_without_canonical_form() -> None:
    for value in (2**53, float("nan"), "\ud800", b"x"):
        with pytest.raises(DocumentError):
            make_entry("case", {"x": value}, KEY_ONE)
