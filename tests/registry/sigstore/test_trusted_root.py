"""Trusted roots: read as they are, or refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registry.sigstore.trusted_root import parse_trusted_root, read_trusted_root
from tests.registry.sigstore.instance import encode
from tests.registry.sigstore.variants import HERE
from watermark.errors import DocumentError, InputError, LimitError


def test_a_root_as_read() -> None:
    root = parse_trusted_root(encode(HERE.trusted_root()))
    assert [log.url for log in root.logs] == ["https://rekor.example", "https://log1.rekor.example"]
    assert [one.url for one in root.authorities] == ["https://fulcio.example"]
    assert root.authorities[0].root == HERE.root
    assert [one.root for one in root.stamp_authorities] == [HERE.tsa.root]


def test_windows_include_both_ends() -> None:
    document = HERE.trusted_root()
    document["certificateAuthorities"][0]["validFor"] = {
        "start": "2026-01-02T03:04:05Z",
        "end": "2026-01-02T03:04:06.999Z",
    }
    (authority,) = parse_trusted_root(encode(document)).authorities
    window = authority.valid
    assert window.covers(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert window.covers(datetime(2026, 1, 2, 3, 4, 6, 999000, tzinfo=UTC))
    assert not window.covers(datetime(2026, 1, 2, 3, 4, 7, tzinfo=UTC))
    assert not window.covers(datetime(2026, 1, 2, 3, 4, 4, tzinfo=UTC))
    assert str(window) == "from 2026-01-02 to 2026-01-02"


def test_sections_that_may_be_absent() -> None:
    document = HERE.trusted_root()
    del document["timestampAuthorities"], document["ctlogs"]
    root = parse_trusted_root(encode(document))
    assert (root.certificate_logs, root.stamp_authorities) == ((), ())


def _log(document: dict[str, Any]) -> dict[str, Any]:
    return document["tlogs"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(mediaType="application/vnd.dev.sigstore.signingconfig.v0.2+json"), "media type"),
        (lambda d: d.update(hello=1), "unknown key 'hello'"),
        (lambda d: d.pop("mediaType"), "mediaType"),
        (lambda d: d.pop("tlogs"), "names no log"),
        (lambda d: d.update(certificateAuthorities=[]), "names no certificate authority"),
        (lambda d: d["tlogs"].append(_log(d)), "same log id"),
        (lambda d: _log(d).update(hashAlgorithm="SHA2_512"), "SHA2_512"),
        (lambda d: _log(d).update(logId={"keyId": "AAAA"}), "not 32"),
        (lambda d: _log(d)["publicKey"].update(keyDetails="PKIX_ED25519"), "PKIX_ED25519"),
        (lambda d: _log(d)["publicKey"].update(rawBytes="!!"), "base64"),
        (lambda d: _log(d)["publicKey"].pop("validFor"), "validFor"),
        (lambda d: _log(d)["publicKey"]["validFor"].update(start="2026-01-01"), "not a time"),
        (lambda d: _log(d)["publicKey"]["validFor"].update(start="2026-02-30T00:00:00Z"), "no such time"),
        (lambda d: _log(d)["publicKey"]["validFor"].update(start="2026-01-01T00:00:00+02:00"), "not a time"),
        (lambda d: d["certificateAuthorities"][0]["certChain"].update(certificates=[]), "0 certificates"),
        (
            lambda d: d["certificateAuthorities"][0]["certChain"]["certificates"][0].update(rawBytes="AAAA"),
            "certificateAuthorities",
        ),
        (lambda d: d["certificateAuthorities"][0].pop("validFor"), "validFor"),
    ],
)
def test_each_flaw_is_named(change: Any, said: str) -> None:
    document = HERE.trusted_root()
    change(document)
    with pytest.raises(DocumentError, match=said):
        parse_trusted_root(encode(document))


def test_a_weak_key_is_refused() -> None:
    document = HERE.trusted_root()
    small_order = bytes.fromhex("302a300506032b6570032100") + b"\1" + bytes(31)
    import base64

    document["tlogs"][1]["publicKey"]["rawBytes"] = base64.b64encode(small_order).decode()
    with pytest.raises(InputError):
        parse_trusted_root(encode(document))


def test_caps() -> None:
    document = HERE.trusted_root()
    document["ctlogs"] = document["ctlogs"] * 300
    with pytest.raises(LimitError, match="300"):
        parse_trusted_root(encode(document))


def test_twice_the_same_key_and_what_is_no_json() -> None:
    text = json.dumps(HERE.trusted_root())
    with pytest.raises(DocumentError, match="twice"):
        parse_trusted_root((text[:-1] + ', "tlogs": []}').encode())
    with pytest.raises(DocumentError):
        parse_trusted_root(b"not json")


def test_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json"):
        read_trusted_root(tmp_path / "absent.json")
    path = tmp_path / "root.json"
    path.write_bytes(encode(HERE.trusted_root()))
    assert len(read_trusted_root(path).logs) == 2
