from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from registry.signing.certificates import read_certificates
from registry.signing.encoding import to_base64
from registry.signing.keys import P256, P384, P521, PrivateKey, generate
from registry.signing.oms import sign_model, verify_model
from tests.registry.signing.authority import DAY, NOW, Authority, ec_key, new_root, write_certificates
from tests.registry.signing.models import TINY, write_tree
from watermark.errors import (
    DigestError,
    DocumentError,
    ExpiredKeyError,
    InputError,
    SignatureError,
    UntrustedKeyError,
)

ROOT = new_root()


def signed(model: Path, chain: list[x509.Certificate], key: PrivateKey) -> bytes:
    bundle = sign_model(model, key, certificates=chain).bundle
    (model / "model.sig").write_bytes(bundle)
    return bundle


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", TINY)


def leaf_for(key: PrivateKey, issuer: Authority = ROOT, **options: object) -> x509.Certificate:
    return issuer.issue("signer", ec_key(key).public_key(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", [P256, P384, P521])
@pytest.mark.parametrize("intermediates", [0, 1, 2])
def test_chain_to_the_readers_root(model: Path, algorithm: str, intermediates: int) -> None:
    key, issuer, chain = generate(algorithm), ROOT, []
    for number in range(intermediates):
        issuer = issuer.subordinate(f"intermediate {number}")
        chain.insert(0, issuer.certificate)
    bundle = signed(model, [leaf_for(key, issuer), *chain], key)
    verified = verify_model(model, bundle, roots=[new_root("another").certificate, ROOT.certificate])
    assert (verified.key, verified.signed_by) == (key.public, "CN=signer")
    write_tree(model, {"a-b": b"changed"})
    with pytest.raises(DigestError):
        verify_model(model, bundle, roots=[ROOT.certificate])


def test_root_in_the_bundle_is_harmless_and_gives_no_trust(model: Path) -> None:
    key = generate()
    bundle = signed(model, [leaf_for(key), ROOT.certificate], key)
    verify_model(model, bundle, roots=[ROOT.certificate])
    for roots in ([], [new_root().certificate], [new_root("test root").certificate]):
        with pytest.raises(UntrustedKeyError):
            verify_model(model, bundle, roots=roots)


@pytest.mark.parametrize("usage", ["code signing only", "both", "neither"])
def test_leaf_must_be_made_for_signing(model: Path, usage: str) -> None:
    key = generate()
    leaf = leaf_for(key, digital_signature=usage == "both", code_signing=usage != "neither")
    if usage == "neither":
        with pytest.raises(InputError, match="not made for signing"):
            signed(model, [leaf], key)
        document = json.loads(signed(model, [leaf_for(key)], key))
        set_chain(document, [leaf])
        with pytest.raises(SignatureError, match="not made for signing"):
            verify_model(model, json.dumps(document).encode(), roots=[ROOT.certificate])
    else:
        verify_model(model, signed(model, [leaf], key), roots=[ROOT.certificate])


def set_chain(document: dict[str, object], chain: list[x509.Certificate]) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    raw = [{"rawBytes": to_base64(one.public_bytes(Encoding.DER))} for one in chain]
    document["verificationMaterial"] = {"x509CertificateChain": {"certificates": raw}}


@pytest.mark.parametrize("who", ["leaf", "intermediate", "root"])
@pytest.mark.parametrize(("start", "end"), [(-2, -1), (1, 2)])
def test_every_certificate_must_be_valid_now(model: Path, who: str, start: int, end: int) -> None:
    window = {"start": NOW + start * DAY, "end": NOW + end * DAY}
    key = generate()
    root = new_root(**window) if who == "root" else ROOT  # type: ignore[arg-type]
    middle = root.subordinate("intermediate", **(window if who == "intermediate" else {}))
    leaf = leaf_for(key, middle, **(window if who == "leaf" else {}))
    bundle = signed(model, [leaf, middle.certificate], key)
    with pytest.raises((ExpiredKeyError, UntrustedKeyError)) as caught:
        verify_model(model, bundle, roots=[root.certificate])
    if who != "root":
        assert isinstance(caught.value, ExpiredKeyError)
    if who == "leaf":
        verify_model(model, bundle, roots=[root.certificate], at=NOW + (start + end) * DAY / 2)


def test_issuers_must_be_authorities(model: Path) -> None:
    key = generate()
    for options in ({"ca": None}, {"ca": False}):
        middle = ROOT.subordinate("no authority", **options)
        bundle = signed(model, [leaf_for(key, middle), middle.certificate], key)
        with pytest.raises(UntrustedKeyError):
            verify_model(model, bundle, roots=[ROOT.certificate])


def test_a_missing_or_foreign_intermediate(model: Path) -> None:
    key, middle = generate(), ROOT.subordinate("intermediate")
    impostor = Authority("intermediate", ec.generate_private_key(ec.SECP256R1()), middle.certificate)
    for chain in ([leaf_for(key, middle)], [leaf_for(key, impostor), middle.certificate]):
        with pytest.raises(UntrustedKeyError):
            verify_model(model, signed(model, chain, key), roots=[ROOT.certificate])


def test_unknown_critical_extensions_are_refused(model: Path) -> None:
    key = generate()
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    bundle = signed(model, [leaf_for(key, extra=odd)], key)
    with pytest.raises(UntrustedKeyError):
        verify_model(model, bundle, roots=[ROOT.certificate])


def test_signature_must_be_by_the_leafs_key(model: Path) -> None:
    key, other = generate(), generate()
    document = json.loads(signed(model, [leaf_for(key)], key))
    set_chain(document, [leaf_for(other)])
    with pytest.raises(SignatureError):
        verify_model(model, json.dumps(document).encode(), roots=[ROOT.certificate])
    with pytest.raises(InputError, match="another key"):
        sign_model(model, key, certificates=[leaf_for(other)])


def test_kind_must_be_the_kind_asked_for(model: Path) -> None:
    key = generate()
    bundle = signed(model, [leaf_for(key)], key)
    with pytest.raises(SignatureError, match="by a certificate, not by a key"):
        verify_model(model, bundle, key=key.public)


@pytest.mark.parametrize("der", [b"", b"x", b"\x30\x00", b"\x30\x82\xff\xff"])
def test_broken_certificates(model: Path, der: bytes) -> None:
    key = generate()
    document = json.loads(signed(model, [leaf_for(key)], key))
    for chain in ([der], [None, der]):
        certificates = document["verificationMaterial"]["x509CertificateChain"]["certificates"][:1]
        new = [certificates[0] if one is None else {"rawBytes": to_base64(one)} for one in chain]
        changed = json.loads(json.dumps(document))
        changed["verificationMaterial"]["x509CertificateChain"]["certificates"] = new
        with pytest.raises(DocumentError):
            verify_model(model, json.dumps(changed).encode(), roots=[ROOT.certificate])


def test_rsa_signers_are_refused_by_name(model: Path) -> None:
    key = generate()
    document = json.loads(signed(model, [leaf_for(key)], key))
    set_chain(document, [ROOT.issue("rsa signer", rsa.generate_private_key(65537, 2048).public_key())])  # type: ignore[arg-type]
    with pytest.raises(SignatureError, match="unsupported"):
        verify_model(model, json.dumps(document).encode(), roots=[ROOT.certificate])


def test_certificate_files(tmp_path: Path) -> None:
    path = write_certificates(tmp_path / "chain.pem", ROOT.certificate, ROOT.subordinate("x").certificate)
    assert len(read_certificates(path)) == 2
    (tmp_path / "bad.pem").write_bytes(b"hello")
    for name in ("bad.pem", "absent.pem"):
        with pytest.raises(InputError, match=name):
            read_certificates(tmp_path / name)
