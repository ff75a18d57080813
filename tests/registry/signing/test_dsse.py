from __future__ import annotations

import pytest

from registry.signing import dsse
from registry.signing.encoding import from_base64, from_hex
from registry.signing.keys import generate
from tests.registry.signing.models import KEY_ONE
from watermark.errors import DocumentError, SignatureError, UntrustedKeyError


def document() -> dict[str, object]:
    return dsse.to_dict(dsse.sign(b"\xfb\xff\xfe payload", "a/b", KEY_ONE))


def test_round_trip_and_verify() -> None:
    envelope = dsse.from_dict(document())
    verified = dsse.verify(envelope, [generate().public, KEY_ONE.public])
    assert (verified.payload, verified.key) == (b"\xfb\xff\xfe payload", KEY_ONE.public)


def test_url_safe_base64_is_read_and_never_written() -> None:
    fields = document()
    payload = str(fields["payload"])
    assert "+" in payload or "/" in payload
    fields["payload"] = payload.replace("+", "-").replace("/", "_")
    assert dsse.from_dict(fields) == dsse.from_dict(document())


def test_key_hints_are_hints() -> None:
    fields = document()
    (signature,) = fields["signatures"]  # type: ignore[misc]
    for keyid in (None, "", "anything"):
        fields["signatures"] = [{"sig": signature["sig"], "keyid": keyid}]
        assert dsse.verify(dsse.from_dict(fields), [KEY_ONE.public]).key == KEY_ONE.public
    fields["signatures"] = [{"sig": signature["sig"]}]
    assert dsse.verify(dsse.from_dict(fields), [KEY_ONE.public]).key == KEY_ONE.public


def test_refusals_tell_unknown_keys_from_bad_signatures() -> None:
    other = generate().public
    with pytest.raises(UntrustedKeyError):
        dsse.verify(dsse.from_dict(document()), [])
    with pytest.raises(SignatureError):
        dsse.verify(dsse.from_dict(document()), [other])
    named = dsse.sign(b"x", "a/b", KEY_ONE, keyid=KEY_ONE.public.key_id)
    with pytest.raises(UntrustedKeyError):
        dsse.verify(named, [other])
    moved = dsse.Envelope(b"x", "a/c", named.signatures)
    with pytest.raises(SignatureError):
        dsse.verify(moved, [KEY_ONE.public])


def test_type_and_payload_cannot_shift_into_each_other() -> None:
    assert dsse.pae("a", b"b c") != dsse.pae("a b", b"c")
    assert dsse.pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "AB"},
        {"payload": "QQ"},
        {"payload": "QR=="},
        {"payload": "QQ==\n"},
        {"payload": " QQ=="},
        {"payload": "QQ==QQ=="},
        {"payload": 1},
        {"payload": None},
        {"payloadType": 1},
        {"signatures": []},
        {"signatures": {}},
        {"signatures": [{"sig": "QQ=="}] * 17},
        {"signatures": ["QQ=="]},
        {"signatures": [{"keyid": "x"}]},
        {"signatures": [{"sig": "QQ==", "keyid": 5}]},
        {"signatures": [{"sig": "QQ==", "extra": 5}]},
        {"extra": 1},
    ],
)
def test_other_forms_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DocumentError):
        dsse.from_dict({**document(), **change})


@pytest.mark.parametrize("missing", ["payload", "payloadType", "signatures"])
def test_nothing_may_be_missing(missing: str) -> None:
    fields = document()
    del fields[missing]
    with pytest.raises(DocumentError, match=missing):
        dsse.from_dict(fields)


def test_base64_has_one_spelling() -> None:
    assert from_base64("+/8=", what="x") == b"\xfb\xff"
    for text in ("-_8=", "+/8", "+/9=", "+/8==", "+ /8=", "é", "+/8=\n"):
        with pytest.raises(DocumentError):
            from_base64(text, what="x")


def test_hex_has_one_spelling() -> None:
    assert from_hex("00ff", what="x", size=2) == b"\x00\xff"
    for text in ("00FF", "0ff", "00ff00", "", "00f ", "00f\uff16", "0x0f"):
        with pytest.raises(DocumentError):
            from_hex(text, what="x", size=2)
