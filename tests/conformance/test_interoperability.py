"""The matrix against model-signing 1.1.1: three curves, key and certificate, models of every shape, both ways.

And the six things that it takes wrongly: shown to be taken there, refused here, each with its code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.signing import dsse
from registry.signing.bundle import Bundle, CertificateMaterial, KeyMaterial, write_bundle
from registry.signing.keys import P256, P384, P521, PrivateKey, generate
from registry.signing.oms import sign_model, verify_model
from registry.signing.stated_digests import read_stated_digests
from tests.registry.signing.authority import DAY, NOW, ec_key, new_root, write_certificates
from tests.registry.signing.models import KEY_ONE, write_tree
from watermark.errors import WeightmarkError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

CURVES = [P256, P384, P521]
SHAPES: dict[str, dict[str, bytes]] = {
    "one file": {"model.safetensors": b"weights"},
    "folders": {"config.json": b"{}", "a/b/c/w.bin": b"w", "a-b": b"x", "a/w.bin": b"y", "a.b": b"z"},
    "odd names": {"é/ü": b"u", "模型.bin": b"m", "two words (copy)": b"", "w:0:4": b"colon", ".hidden": b"h"},
    "many": {f"shard-{number:03}.bin": bytes([number]) * number for number in range(120)},
}
ROOT = new_root()
MIDDLE = ROOT.subordinate("intermediate")


class Parties:
    """A signer's files: a key pair, and a certificate under an intermediate under a root."""

    def __init__(self, folder: Path, algorithm: str) -> None:
        self.key: PrivateKey = generate(algorithm)
        self.private, self.public = folder / "key.pem", folder / "key.pub"
        self.private.write_bytes(self.key.to_pem(None))
        self.public.write_text(self.key.public.pem)
        self.leaf = MIDDLE.issue("signer", ec_key(self.key).public_key(), code_signing=True)
        self.leaf_file = write_certificates(folder / "leaf.pem", self.leaf)
        self.chain_file = write_certificates(folder / "chain.pem", MIDDLE.certificate)
        self.root_file = write_certificates(folder / "root.pem", ROOT.certificate)

    def we_sign(self, model: Path, signature: Path, method: str) -> None:
        chain = [self.leaf, MIDDLE.certificate] if method == "certificate" else []
        signature.write_bytes(sign_model(model, self.key, certificates=chain, signature_path=signature).bundle)

    def we_verify(self, model: Path, signature: Path, method: str) -> None:
        trust: dict[str, Any] = {"roots": [ROOT.certificate]} if method == "certificate" else {"key": self.key.public}
        verify_model(model, signature.read_bytes(), signature_path=signature, **trust)

    def they_sign(self, model: Path, signature: Path, method: str) -> None:
        from model_signing import hashing, signing

        config = signing.Config()
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True))
        if method == "certificate":
            config.use_certificate_signer(
                private_key=self.private, signing_certificate=self.leaf_file, certificate_chain=[self.chain_file]
            )
        else:
            config.use_elliptic_key_signer(private_key=self.private)
        config.sign(model, signature)

    def they_verify(self, model: Path, signature: Path, method: str, *, ignore_unsigned_files: bool = False) -> None:
        from model_signing import verifying

        config = verifying.Config().set_ignore_unsigned_files(ignore_unsigned_files)
        if method == "certificate":
            config.use_certificate_verifier(certificate_chain=[self.root_file])
        else:
            config.use_elliptic_key_verifier(public_key=self.public)
        config.verify(model, signature)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["key", "certificate"])
@pytest.mark.parametrize("algorithm", CURVES)
def test_each_verifies_what_the_other_signs(tmp_path: Path, algorithm: str, method: str, shape: str) -> None:
    model = write_tree(tmp_path / "model", SHAPES[shape])
    parties = Parties(tmp_path, algorithm)
    ours, theirs = tmp_path / "ours.sig", model / "model.sig"
    parties.we_sign(model, ours, method)
    parties.they_verify(model, ours, method)
    parties.they_sign(model, theirs, method)
    parties.we_verify(model, theirs, method)
    name = sorted(SHAPES[shape])[-1]
    (model / name).write_bytes(b"tampered")
    with pytest.raises(WeightmarkError, match="changed since it was signed"):
        parties.we_verify(model, theirs, method)
    theirs.unlink()
    with pytest.raises(ValueError, match="Hash mismatch"):
        parties.they_verify(model, ours, method)


def test_they_read_stated_digests_and_followed_links(tmp_path: Path) -> None:
    """What is ours in a statement (annotations, links that were followed) does not trouble them."""
    parties = Parties(tmp_path, P256)
    model = write_tree(tmp_path / "model", SHAPES["folders"])
    listing = tmp_path / "SHA256SUMS"
    listing.write_text(f"{hashlib.sha256(b'w').hexdigest()}  a/b/c/w.bin\n")
    signature = tmp_path / "stated.sig"
    signed = sign_model(model, parties.key, stated=read_stated_digests(listing), signature_path=signature)
    assert [one.name for one in signed.manifest.resources if one.stated_by] == ["a/b/c/w.bin"]
    signature.write_bytes(signed.bundle)
    parties.they_verify(model, signature, "key")
    linked = write_tree(tmp_path / "linked", {"own": b"o"})
    (linked / "link").symlink_to(model / "a-b")
    signed = sign_model(linked, parties.key, links_below=model, signature_path=signature)
    assert signed.manifest.serialization.allow_symlinks
    signature.write_bytes(signed.bundle)
    (linked / "link").unlink()
    (linked / "link").write_bytes(SHAPES["folders"]["a-b"])
    parties.they_verify(linked, signature, "key")


# --- what they take wrongly


def statement(resources: list[dict[str, str]], ignore_paths: list[str]) -> bytes:
    root = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": ignore_paths,
    }
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "m", "digest": {"sha256": root}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {"resources": resources, "serialization": serialization},
        }
    ).encode()


def listed(name: str, content: bytes) -> dict[str, str]:
    return {"name": name, "digest": hashlib.sha256(content).hexdigest(), "algorithm": "sha256"}


W = listed("w", b"abc")


def key_bundle(resources: list[dict[str, str]], ignore_paths: list[str]) -> bytes:
    envelope = dsse.sign(statement(resources, ignore_paths), dsse.IN_TOTO_PAYLOAD_TYPE, KEY_ONE)
    return write_bundle(Bundle(envelope, KeyMaterial(KEY_ONE.public.key_id)))


def certificate_bundle(start: int, end: int) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    leaf = ROOT.issue(
        "signer", ec_key(KEY_ONE).public_key(), code_signing=True, start=NOW + start * DAY, end=NOW + end * DAY
    )
    envelope = dsse.sign(statement([W], []), dsse.IN_TOTO_PAYLOAD_TYPE, KEY_ONE)
    return write_bundle(Bundle(envelope, CertificateMaterial((leaf.public_bytes(Encoding.DER),))))


Wrong = tuple[str, Callable[[], bytes], dict[str, bytes], str]
WRONG: dict[str, Wrong] = {
    "expired leaf": ("certificate", lambda: certificate_bundle(-2, -1), {"w": b"abc"}, "certificate-expired"),
    "leaf not yet valid": ("certificate", lambda: certificate_bundle(1, 2), {"w": b"abc"}, "certificate-not-yet-valid"),
    "empty model": ("key", lambda: key_bundle([], []), {}, "no-files"),
    "everything ignored": ("key", lambda: key_bundle([], ["."]), {"w": b"anything"}, "no-files"),
    "a name twice": ("key", lambda: key_bundle([W, W], []), {"w": b"abc"}, "listed-twice"),
    "a path outside": ("key", lambda: key_bundle([listed("../x", b"secret"), W], []), {"w": b"abc"}, "path-escape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_six_of_six_that_they_take_wrongly_are_refused(tmp_path: Path, name: str) -> None:
    method, make, files, code = WRONG[name]
    model = tmp_path / "m"
    model.mkdir()
    write_tree(model, files)
    write_tree(tmp_path, {"x": b"secret"})
    signature = tmp_path / "m.sig"
    signature.write_bytes(make())
    parties = Parties(tmp_path, P256)
    parties.public.write_text(KEY_ONE.public.pem)
    lenient = name == "a path outside"
    parties.they_verify(model, signature, method, ignore_unsigned_files=lenient)  # else this case shows nothing
    trust: dict[str, Any] = {"roots": [ROOT.certificate]} if method == "certificate" else {"key": KEY_ONE.public}
    with pytest.raises(WeightmarkError) as caught:
        verify_model(model, signature.read_bytes(), signature_path=signature, ignore_unsigned_files=lenient, **trust)
    assert caught.value.code == code


def test_an_ignored_root_is_refused_also_beside_files(tmp_path: Path) -> None:
    for ignored in (".", "./", "", "a/.."):
        model = write_tree(tmp_path / "m", {"w": b"abc"})
        bundle = key_bundle([W], [ignored])
        if ignored == "a/..":  # means the root for a shell, and here a path that nothing has
            verify_model(model, bundle, key=KEY_ONE.public)
            continue
        with pytest.raises(WeightmarkError) as caught:
            verify_model(model, bundle, key=KEY_ONE.public)
        assert caught.value.code == "ignores-all"
