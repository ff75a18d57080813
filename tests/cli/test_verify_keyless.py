"""`weightmark verify` with a Sigstore trusted root, a name and an issuer."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from registry.signing.oms import sign_model
from tests.cli.command import Finished, weightmark
from tests.cli.test_startup import loaded
from tests.registry.signing.models import KEY_ONE
from tests.registry.sigstore.instance import IDENTITY, ISSUER, V2, Recipe, encode
from tests.registry.sigstore.variants import HERE


@pytest.fixture
def signed(model: Path) -> Path:
    payload = json.loads(sign_model(model, KEY_ONE).bundle)["dsseEnvelope"]["payload"]
    (model / "model.sig").write_bytes(encode(HERE.sign(base64.b64decode(payload), Recipe())))
    return model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "trusted_root.json"
    path.write_bytes(encode(HERE.trusted_root()))
    return path


def verify(model: Path, root: Path, *more: str, identity: str = IDENTITY, issuer: str = ISSUER) -> Finished:
    flags = ("--sigstore-trusted-root", root, "--identity", identity, "--issuer", issuer)
    return weightmark("verify", model, *flags, *more, passphrase=None)


def test_a_keyless_signature_in_words(signed: Path, root: Path) -> None:
    done = verify(signed, root)
    assert done.code == 0, done.err
    head, *body = done.out.splitlines()
    assert head == f"VERIFIED   {signed} is exactly what {IDENTITY} (by {ISSUER}) signed"
    assert f"  identity    {IDENTITY}, vouched for by {ISSUER}" in body
    assert "  public log  entry 9000006 of https://rekor.example" in body
    assert any(line.startswith("  signed at ") and line.endswith("(by rekor https://rekor.example)") for line in body)


def test_a_keyless_signature_as_document(signed: Path, root: Path) -> None:
    document = verify(signed, root, "--json").document
    assert document["verified"] is True
    assert document["owner"] is None
    assert document["time_source"] == "rekor https://rekor.example"
    assert document["sigstore"] == {
        "identity": IDENTITY,
        "issuer": ISSUER,
        "log": "https://rekor.example",
        "log_index": 9_000_006,
    }


def test_a_v2_entry_with_a_stamp(model: Path, root: Path) -> None:
    payload = json.loads(sign_model(model, KEY_ONE).bundle)["dsseEnvelope"]["payload"]
    (model / "model.sig").write_bytes(encode(HERE.sign(base64.b64decode(payload), V2)))
    document = verify(model, root, "--json").document
    assert document["time_source"] == "rfc3161 https://tsa.example"


def test_refusals_have_their_codes(signed: Path, root: Path) -> None:
    cases = [
        (verify(signed, root, "--json", identity="thief@models.example"), "identity", 1),
        (verify(signed, root, "--json", issuer="https://other.example"), "issuer", 1),
        (verify(signed, signed / "config.json", "--json"), "document", 2),
        (weightmark("verify", signed, "--identity", IDENTITY, "--json"), "input", 2),
        (verify(signed, root, "--public-key", str(root), "--json"), "input", 2),
    ]
    for done, code, exit_code in cases:
        assert (done.error["code"], done.code) == (code, exit_code)


def test_a_changed_file_is_found(signed: Path, root: Path) -> None:
    (signed / "config.json").write_text("{}")
    done = verify(signed, root, "--json")
    assert (done.error["code"], done.code) == ("digest", 1)


def test_it_loads_no_torch_and_no_network(signed: Path, root: Path) -> None:
    flags = ("--sigstore-trusted-root", root, "--identity", IDENTITY, "--issuer", ISSUER)
    modules = loaded("verify", signed, *flags)
    for absent in ("torch", "numpy", "sqlalchemy", "requests", "urllib3", "http.client", "sigstore", "cbor2"):
        assert absent not in modules
