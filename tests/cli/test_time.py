"""Time stamps on the command line: sign and verify, what an authority that is down stops, whom a reader believes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from registry.signing.bundle import read_bundle
from registry.signing.keys import generate
from registry.signing.stamp_claims import with_stamps
from registry.signing.timestamps import verify_stamp
from registry.signing.trust import read_trust
from tests.cli.command import weightmark
from tests.registry.signing.authority import ec_key, new_root, write_certificates
from tests.stamping_authority import LocalTsa, new_tsa, serving


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTsa]:
    with serving(new_tsa(tmp_path_factory.mktemp("tsa") / "clock")) as running:
        yield running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTsa]:
    with serving(new_tsa(tmp_path_factory.mktemp("tsa") / "other", "other")) as running:
        yield running


def test_sign_and_verify_with_two_authorities(home: Path, model: Path, tsa: LocalTsa, other: LocalTsa) -> None:
    signed = weightmark("sign", model, "--tsa", tsa.url, "--tsa", other.url, home=home)
    assert signed.code == 0, signed.err
    assert "time stamps  2, on the signature" in signed.out
    bundle = read_bundle((model / "model.sig").read_bytes())
    assert len(bundle.stamps) == 2
    stamps = [
        verify_stamp(stamp, bundle.envelope.signatures[0].sig, [tsa.trusted, other.trusted]) for stamp in bundle.stamps
    ]
    assert [stamp.tsa for stamp in stamps] == ["clock", "other"]

    by_key = ("verify", model, "--public-key", home / "owner.pub", "--json")
    both = weightmark(*by_key, "--tsa-root", tsa.root_pem, "--tsa-root", other.root_pem)
    assert both.code == 0
    earliest = min(stamps, key=lambda stamp: stamp.latest)
    assert both.document["signed_at"] == earliest.time.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert both.document["time_source"] == f"rfc3161 {earliest.tsa} root"
    assert {one["tsa"] for one in both.document["stamps"]} == {"clock root", "other root"}

    one = weightmark(*by_key, "--tsa-root", other.root_pem)
    assert one.document["time_source"] == "rfc3161 other root"
    told = weightmark(*by_key[:-1], "--tsa-root", other.root_pem)
    assert "not checked: the model signature: a time stamp by an authority that is not trusted" in told.out
    assert "not checked: whether the key is as old as the time stamp" in told.out
    none = weightmark(*by_key)
    assert none.code == 0
    assert none.document["signed_at"] is None


def test_certificate_outlives_itself_by_a_stamp(model: Path, tmp_path: Path, tsa: LocalTsa) -> None:
    """The real thing, with a certificate that expires while the test waits."""
    root, key = new_root(), generate()
    ends = datetime.now(UTC) + timedelta(seconds=2)
    leaf = root.issue("signer", ec_key(key).public_key(), end=ends)
    key_file, cert = tmp_path / "key.pem", write_certificates(tmp_path / "cert.pem", leaf)
    key_file.write_bytes(key.to_pem(None))
    key_file.chmod(0o600)
    roots = write_certificates(tmp_path / "roots.pem", root.certificate)
    sign = ("sign", model, "--key", key_file, "--cert", cert)
    verify = ("verify", model, "--root", roots)
    assert weightmark(*sign, "--signature", tmp_path / "bare.sig", home=tmp_path / "none").code == 0
    assert weightmark(*sign, "--tsa", tsa.url, home=tmp_path / "none").code == 0
    assert weightmark(*verify).code == 0
    while datetime.now(UTC) <= ends + timedelta(seconds=1):
        time.sleep(0.2)
    assert weightmark(*verify, "--json").document["error"]["code"] in ("expired-key", "certificate-expired")
    bare = ("--signature", tmp_path / "bare.sig", "--ignore", "model.sig", "--tsa-root", tsa.root_pem)
    assert weightmark(*verify, *bare).code == 1
    good = weightmark(*verify, "--tsa-root", tsa.root_pem)
    assert good.code == 0, good.err
    assert "(by rfc3161 clock root)" in good.out
    assert weightmark(*sign, "--tsa", tsa.url, home=tmp_path / "none").code == 0  # stamped after the end
    late = weightmark(*verify, "--tsa-root", tsa.root_pem, "--json")
    assert late.code == 1
    assert late.error["code"] in ("expired-key", "certificate-expired")


def test_authority_that_is_down_stops_sign_and_leaves_nothing(home: Path, model: Path) -> None:
    down = weightmark("sign", model, "--tsa", "http://127.0.0.1:1/", "--json", home=home)
    assert down.code == 4
    assert down.error["code"] == "tsa-unreachable"
    assert "--no-tsa" in down.error["hint"]
    assert not (model / "model.sig").exists()
    assert weightmark("sign", model, "--tsa", "http://tsa.example/", home=home).code == 2
    assert weightmark("sign", model, "--tsa", "https://tsa.example/", "--no-tsa", home=home).code == 2


def test_settings_name_authorities_once_for_all(home: Path, model: Path, tsa: LocalTsa) -> None:
    settings = home / "settings.toml"
    plain = settings.read_text()
    settings.write_text(f'{plain}tsa = ["{tsa.url}"]\n')
    assert "1, on the signature" in weightmark("sign", model, home=home).out
    assert "on the signature" not in weightmark("sign", model, "--no-tsa", home=home).out
    for wrong in ('tsa = "one"', "tsa = [1]", 'tsa_allow_http = "yes"'):
        settings.write_text(f"{plain}{wrong}\n")
        refused = weightmark("sign", model, "--json", home=home)
        assert refused.code == 2
        assert refused.error["code"] == "document"
    settings.write_text(f'{plain}tsa = ["http://tsa.example/"]\n')
    assert "tsa_allow_http" in weightmark("sign", model, "--json", home=home).error["hint"]


def test_home_believes_an_authority_and_asks_nobody_else_to(home: Path, tmp_path: Path, tsa: LocalTsa) -> None:
    before = (home / "trust.txt").read_text()
    added = weightmark("keys", "trust-tsa", "clock", tsa.root_pem, "--json", home=home, passphrase=None)
    assert added.code == 0, added.out
    assert added.document == {"name": "clock", "roots": ["clock root"], "trust": str(home / "trust.txt")}
    assert (home / "trust.txt").read_text() == f"{before}{tsa.line}\n"
    out = tmp_path / "acme.trust"
    assert weightmark("keys", "export", "--out", out, home=home).code == 0
    assert read_trust(home / "trust.txt").authorities == (tsa.trusted,)
    assert read_trust(out).authorities == ()  # a stranger must not take his clock from the claimant
    assert weightmark("keys", "trust-tsa", "again", tsa.root_pem, home=home).code == 2
    assert weightmark("keys", "trust-tsa", "two words", tsa.root_pem, home=home).code == 2
    assert weightmark("keys", "trust-tsa", "none", tmp_path / "missing.pem", home=home).code == 2
    below = tsa.root.subordinate("below").certificate
    (tmp_path / "below.pem").write_bytes(below.public_bytes(Encoding.PEM))
    refused = weightmark("keys", "trust-tsa", "below", tmp_path / "below.pem", "--json", home=home)
    assert refused.error["code"] == "tsa-not-root"
    assert (home / "trust.txt").read_text() == f"{before}{tsa.line}\n"


def test_bad_stamp_of_a_believed_authority_is_an_error(home: Path, model: Path, tsa: LocalTsa) -> None:
    assert weightmark("sign", model, home=home).code == 0
    signature = model / "model.sig"
    signature.write_bytes(with_stamps(signature.read_bytes(), [tsa.stamp(b"another signature")]))
    verify = ("verify", model, "--public-key", home / "owner.pub", "--json")
    assert weightmark(*verify).code == 0
    refused = weightmark(*verify, "--tsa-root", tsa.root_pem)
    assert refused.code == 1
    assert refused.error["code"] == "stamp-imprint"
