"""Both ways against model-signing 1.1.1, the released OMS tool; and what it takes wrongly is refused by us."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cli.home import Home
from registry.signing import dsse
from registry.signing.bundle import Bundle, KeyMaterial, read_bundle, write_bundle
from registry.signing.keys import P256, P384, P521, PrivateKey, generate
from registry.signing.oms import sign_model, verify_model
from tests.cli.owners import PASSPHRASE, make_release
from tests.registry.signing.authority import DAY, NOW, ec_key, new_root, write_certificates
from tests.registry.signing.models import KEY_ONE, SHARDED, TINY, write_tree
from tests.watermark.marks.models import random_weights, write_model
from watermark.errors import ExpiredKeyError, WeightmarkError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

CURVES = pytest.mark.parametrize("algorithm", [P256, P384, P521])
ROOT = new_root()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", {**SHARDED, **TINY, "a-b.bin": b"-", "é/ü": b"u"})


def key_files(folder: Path, key: PrivateKey) -> tuple[Path, Path]:
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(key.to_pem(None))
    public.write_text(key.public.pem)
    return private, public


def their_verify_by_key(model: Path, signature: Path, public: Path) -> None:
    from model_signing import verifying

    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, signature)


def their_verify_by_certificate(model: Path, signature: Path, *roots: Path) -> None:
    from model_signing import verifying

    verifying.Config().use_certificate_verifier(certificate_chain=roots).verify(model, signature)


def their_config(model: Path, signature: Path):  # type: ignore[no-untyped-def]
    from model_signing import hashing, signing

    ignored = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
    return signing.Config().set_hashing_config(ignored)


@CURVES
def test_they_verify_what_we_sign_by_key(model: Path, tmp_path: Path, algorithm: str) -> None:
    key = generate(algorithm)
    _, public = key_files(tmp_path, key)
    write_tree(model, {".gitignore": b"x", "claims.jsonl": b"", "release.tlog-proof": b"", "sub/.git/x": b"y"})
    bundle = sign_model(model, key, ignore=("claims.jsonl", "release.tlog-proof")).bundle
    signature = model / "model.sig"
    signature.write_bytes(bundle)
    their_verify_by_key(model, signature, public)
    write_tree(model, {"claims.jsonl": b"added later"})
    their_verify_by_key(model, signature, public)
    write_tree(model, {"config.json": b"tampered"})
    with pytest.raises(ValueError, match="Hash mismatch"):
        their_verify_by_key(model, signature, public)


@CURVES
@pytest.mark.slow
def test_they_verify_what_release_writes(tmp_path: Path, algorithm: str) -> None:
    home = Home.create(tmp_path / "home", "acme", PASSPHRASE, algorithm=algorithm)
    source = write_model(tmp_path / "source", random_weights(seed=81))
    make_release(home, source, tmp_path / "out", recipients=("Globex",))
    signature = tmp_path / "out" / "model.sig"
    their_verify_by_key(tmp_path / "out", signature, home.path / "owner.pub")
    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="Hash mismatch"):
        their_verify_by_key(tmp_path / "out", signature, home.path / "owner.pub")


@CURVES
@pytest.mark.parametrize("intermediates", [0, 1])
def test_they_verify_what_we_sign_by_certificate(
    model: Path, tmp_path: Path, algorithm: str, intermediates: int
) -> None:
    key = generate(algorithm)
    issuer = ROOT.subordinate("intermediate") if intermediates else ROOT
    chain = [issuer.issue("signer", ec_key(key).public_key()), *([issuer.certificate] * intermediates)]
    signature = model / "model.sig"
    signature.write_bytes(sign_model(model, key, certificates=chain).bundle)
    root = write_certificates(tmp_path / "root.pem", ROOT.certificate)
    their_verify_by_certificate(model, signature, root)
    with pytest.raises(Exception, match="certificate"):
        their_verify_by_certificate(model, signature, write_certificates(tmp_path / "x.pem", new_root().certificate))


@CURVES
def test_we_verify_what_they_sign_by_key(model: Path, tmp_path: Path, algorithm: str) -> None:
    key = generate(algorithm)
    private, _ = key_files(tmp_path, key)
    signature = model / "model.sig"
    write_tree(model, {".gitignore": b"x"})
    their_config(model, signature).use_elliptic_key_signer(private_key=private).sign(model, signature)
    verified = verify_model(model, signature.read_bytes(), key=key.public)
    assert verified.root == sign_model(model, key).root
    assert verified.root != verified.listed_root  # they order by path component
    write_tree(model, {"config.json": b"tampered"})
    with pytest.raises(WeightmarkError, match=r"changed since it was signed: config\.json"):
        verify_model(model, signature.read_bytes(), key=key.public)


@CURVES
def test_we_verify_what_they_sign_by_certificate(model: Path, tmp_path: Path, algorithm: str) -> None:
    key = generate(algorithm)
    private, _ = key_files(tmp_path, key)
    issuer = ROOT.subordinate("intermediate")
    leaf = write_certificates(tmp_path / "leaf.pem", issuer.issue("signer", ec_key(key).public_key()))
    chain = write_certificates(tmp_path / "chain.pem", issuer.certificate)
    signature = model / "model.sig"
    config = their_config(model, signature)
    config.use_certificate_signer(private_key=private, signing_certificate=leaf, certificate_chain=[chain])
    config.sign(model, signature)
    assert verify_model(model, signature.read_bytes(), roots=[ROOT.certificate]).key == key.public
    write_tree(model, {"new": b""})
    with pytest.raises(WeightmarkError, match="not in the signature: new"):
        verify_model(model, signature.read_bytes(), roots=[ROOT.certificate])


def test_we_verify_their_single_file(tmp_path: Path) -> None:
    private, _ = key_files(tmp_path, KEY_ONE)
    path = write_tree(tmp_path / "m", {"w.bin": b"abc"}) / "w.bin"
    signature = tmp_path / "w.sig"
    their_config(path, signature).use_elliptic_key_signer(private_key=private).sign(path, signature)
    names = [one["name"] for one in predicate_of(signature.read_bytes())["resources"]]
    assert names == ["."]
    verify_model(path, signature.read_bytes(), key=KEY_ONE.public)


@pytest.mark.parametrize("hash_type", ["blake2", "blake3"])
def test_we_verify_their_other_hashes(model: Path, tmp_path: Path, hash_type: str) -> None:
    from model_signing import hashing, signing

    private, _ = key_files(tmp_path, KEY_ONE)
    signature = model / "model.sig"
    config = hashing.Config().use_file_serialization(hashing_algorithm=hash_type)
    config.set_ignored_paths(paths=[signature], ignore_git_paths=True)
    signing.Config().set_hashing_config(config).use_elliptic_key_signer(private_key=private).sign(model, signature)
    verify_model(model, signature.read_bytes(), key=KEY_ONE.public)
    write_tree(model, {"a-b": b"xyy"})
    with pytest.raises(WeightmarkError, match="a-b"):
        verify_model(model, signature.read_bytes(), key=KEY_ONE.public)


def test_we_verify_their_shards(model: Path, tmp_path: Path) -> None:
    from model_signing import hashing, signing

    private, _ = key_files(tmp_path, KEY_ONE)
    signature = model / "model.sig"
    config = hashing.Config().use_shard_serialization(shard_size=1000)
    config.set_ignored_paths(paths=[signature], ignore_git_paths=True)
    signing.Config().set_hashing_config(config).use_elliptic_key_signer(private_key=private).sign(model, signature)
    predicate = predicate_of(signature.read_bytes())
    assert predicate["resources"][0]["algorithm"] == "sha256-sharded-1000"
    assert predicate["serialization"]["shard_size"] == 1000.0
    verified = verify_model(model, signature.read_bytes(), key=KEY_ONE.public)
    assert len(verified.resources) > len(SHARDED)
    with open(model / "model-00003-of-00003.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(WeightmarkError, match="00003-of"):
        verify_model(model, signature.read_bytes(), key=KEY_ONE.public)


def predicate_of(bundle: bytes) -> dict[str, Any]:
    predicate = json.loads(read_bundle(bundle).envelope.payload)["predicate"]
    assert isinstance(predicate, dict)
    return predicate


def forge(model: Path, resources: list[dict[str, str]], ignore_paths: list[str]) -> bytes:
    """A bundle with a good signature over a statement that OMS does not allow."""
    root = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": model.name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "resources": resources,
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ignore_paths,
            },
        },
    }
    envelope = dsse.sign(json.dumps(statement).encode(), dsse.IN_TOTO_PAYLOAD_TYPE, KEY_ONE)
    return write_bundle(Bundle(envelope, KeyMaterial(KEY_ONE.public.key_id)))


def listed(name: str, content: bytes) -> dict[str, str]:
    return {"name": name, "digest": hashlib.sha256(content).hexdigest(), "algorithm": "sha256"}


WRONG = {
    "nothing signed, all ignored": ([], ["."]),
    "a name twice": ([listed("w", b"abc"), listed("w", b"abc")], []),
    "a name with ./": ([listed("./w", b"abc")], []),
}


@pytest.mark.parametrize(("resources", "ignore_paths"), WRONG.values(), ids=WRONG.keys())
def test_what_they_take_wrongly_we_refuse(
    tmp_path: Path, resources: list[dict[str, str]], ignore_paths: list[str]
) -> None:
    model = write_tree(tmp_path / "m", {"w": b"abc"})
    _, public = key_files(tmp_path, KEY_ONE)
    signature = tmp_path / "m.sig"
    signature.write_bytes(forge(model, resources, ignore_paths))
    their_verify_by_key(model, signature, public)  # else this case shows nothing
    with pytest.raises(WeightmarkError):
        verify_model(model, signature.read_bytes(), key=KEY_ONE.public, signature_path=signature)


@pytest.mark.parametrize(("start", "end"), [(-2, -1), (1, 2)])
def test_they_take_certificates_outside_their_time_we_do_not(model: Path, tmp_path: Path, start: int, end: int) -> None:
    key = generate()
    leaf: x509.Certificate = ROOT.issue(
        "signer", ec_key(key).public_key(), start=NOW + start * DAY, end=NOW + end * DAY
    )
    signature = model / "model.sig"
    signature.write_bytes(sign_model(model, key, certificates=[leaf]).bundle)
    their_verify_by_certificate(model, signature, write_certificates(tmp_path / "root.pem", ROOT.certificate))
    with pytest.raises(ExpiredKeyError):
        verify_model(model, signature.read_bytes(), roots=[ROOT.certificate])


def test_their_path_traversal_is_refused(tmp_path: Path) -> None:
    model = write_tree(tmp_path / "m", {"w": b"abc"})
    write_tree(tmp_path, {"outside": b"secret"})
    bundle = forge(model, [listed("../outside", b"secret"), listed("w", b"abc")], [])
    with pytest.raises(WeightmarkError, match="stay below"):
        verify_model(model, bundle, key=KEY_ONE.public, ignore_unsigned_files=True)
