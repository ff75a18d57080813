from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from registry.signing import dsse
from registry.signing.bundle import Bundle, KeyMaterial, read_bundle, write_bundle
from registry.signing.encoding import to_base64
from registry.signing.keys import PrivateKey, generate
from registry.signing.legacy import legacy_pae
from registry.signing.oms import sign_model, verify_model
from tests.registry.signing.models import KEY_ONE, SHARDED, write_tree
from watermark.errors import (
    DigestError,
    DocumentError,
    InputError,
    PathEscapeError,
    SignatureError,
    UntrustedKeyError,
    VerificationError,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", SHARDED)


def sign_in_place(model: Path, key: PrivateKey = KEY_ONE, **options: object) -> bytes:
    bundle = sign_model(model, key, **options).bundle  # type: ignore[arg-type]
    (model / "model.sig").write_bytes(bundle)
    return bundle


@pytest.mark.parametrize("algorithm", ["p256", "p384", "p521"])
def test_round_trip(model: Path, algorithm: str) -> None:
    key = generate(algorithm)
    signed = sign_model(model, key)
    (model / "model.sig").write_bytes(signed.bundle)
    verified = verify_model(model, signed.bundle, key=[generate().public, key.public])
    assert (verified.root, verified.listed_root) == (signed.root, signed.root)
    assert (verified.key, verified.key_id) == (key.public, key.public.key_id)
    assert (verified.subject_name, verified.pae_sha256) == ("model", signed.pae_sha256)
    assert [one.name for one in verified.resources] == sorted(SHARDED)
    assert sign_model(model, key).bundle == signed.bundle


def test_a_renamed_folder_stays_verified(model: Path) -> None:
    bundle = sign_in_place(model)
    moved = model.rename(model.parent / "another name")
    assert verify_model(moved, bundle, key=KEY_ONE.public).subject_name == "model"


@pytest.mark.parametrize("shard", sorted(SHARDED))
def test_one_flipped_byte_in_any_file(model: Path, shard: str) -> None:
    bundle = sign_in_place(model)
    content = bytearray((model / shard).read_bytes())
    for position in {0, len(content) // 2, len(content) - 1}:
        flipped = bytearray(content)
        flipped[position] ^= 1
        (model / shard).write_bytes(flipped)
        with pytest.raises(DigestError, match=shard):
            verify_model(model, bundle, key=KEY_ONE.public)
    (model / shard).write_bytes(content)
    verify_model(model, bundle, key=KEY_ONE.public)


@pytest.mark.parametrize("shard", sorted(SHARDED))
def test_a_file_removed_renamed_cut_or_swapped(model: Path, shard: str) -> None:
    bundle = sign_in_place(model)
    path, aside = model / shard, model.parent / "aside"
    path.rename(aside)
    with pytest.raises(DigestError, match=f"missing: {shard}"):
        verify_model(model, bundle, key=KEY_ONE.public)
    with pytest.raises(DigestError, match=f"missing: {shard}"):
        verify_model(model, bundle, key=KEY_ONE.public, ignore_unsigned_files=True)
    shutil.copy(aside, path.with_name("renamed"))
    with pytest.raises(DigestError, match=r"missing: .*; not in the signature: .*renamed"):
        verify_model(model, bundle, key=KEY_ONE.public)
    path.with_name("renamed").unlink()
    path.write_bytes(aside.read_bytes()[:-1])
    with pytest.raises(DigestError, match="changed"):
        verify_model(model, bundle, key=KEY_ONE.public)
    path.unlink()
    path.mkdir()
    with pytest.raises((DigestError, PathEscapeError)):
        verify_model(model, bundle, key=KEY_ONE.public, ignore_unsigned_files=True)


def test_two_files_swapped(model: Path) -> None:
    bundle = sign_in_place(model)
    one, two, _ = sorted(model.glob("*.safetensors"))
    one.rename(model / "x")
    two.rename(one)
    (model / "x").rename(two)
    with pytest.raises(DigestError, match=r"00001-of.*00002-of"):
        verify_model(model, bundle, key=KEY_ONE.public)


@pytest.mark.parametrize(
    "name", ["new", "tokenizer/new", "sub/.git/x", ".gitmodules", "model.sig.bak", "a b", ".hidden"]
)
def test_a_file_added(model: Path, name: str) -> None:
    bundle = sign_in_place(model)
    write_tree(model, {name: b""})
    with pytest.raises(DigestError, match="not in the signature"):
        verify_model(model, bundle, key=KEY_ONE.public)
    verify_model(model, bundle, key=KEY_ONE.public, ignore=[name])
    verify_model(model, bundle, key=KEY_ONE.public, ignore_unsigned_files=True)


@pytest.mark.parametrize("name", [".git/config", ".gitignore", ".gitattributes", ".github/x", "hollow"])
def test_what_never_belongs_to_a_model(model: Path, name: str) -> None:
    bundle = sign_in_place(model)
    if name == "hollow":
        (model / name).mkdir()
    else:
        write_tree(model, {name: b"x"})
    verify_model(model, bundle, key=KEY_ONE.public)


def test_ignored_paths_are_recorded_and_stay_ignored(model: Path) -> None:
    bundle = sign_in_place(model, ignore=("claims.jsonl", "tokenizer"))
    payload = json.loads(read_bundle(bundle).envelope.payload)
    expected = [".git", ".gitattributes", ".github", ".gitignore", "claims.jsonl", "model.sig", "tokenizer"]
    assert payload["predicate"]["serialization"]["ignore_paths"] == expected
    write_tree(model, {"claims.jsonl": b"later", "tokenizer/more": b""})
    verify_model(model, bundle, key=KEY_ONE.public)


def test_signed_files_cannot_be_ignored(model: Path) -> None:
    bundle = sign_in_place(model)
    for path in ("config.json", "tokenizer", "tokenizer/vocab.txt"):
        with pytest.raises(InputError, match="the signature covers"):
            verify_model(model, bundle, key=KEY_ONE.public, ignore=[path])


def test_signature_elsewhere(model: Path, tmp_path: Path) -> None:
    outside, inside = tmp_path / "m.sig", model / "tokenizer/m.sig"
    signed = sign_model(model, KEY_ONE, signature_path=outside)
    assert "model.sig" not in signed.manifest.serialization.ignore_paths
    verify_model(model, signed.bundle, key=KEY_ONE.public, signature_path=outside)
    signed = sign_model(model, KEY_ONE, signature_path=inside)
    assert "tokenizer/m.sig" in signed.manifest.serialization.ignore_paths
    inside.write_bytes(signed.bundle)
    verify_model(model, signed.bundle, key=KEY_ONE.public, signature_path=inside)


def test_a_model_through_a_link_and_from_inside(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = sign_in_place(model)
    (model.parent / "link").symlink_to(model)
    verify_model(model.parent / "link", bundle, key=KEY_ONE.public)
    monkeypatch.chdir(model)
    signed = sign_model(Path("."), KEY_ONE)
    assert signed.bundle == bundle
    verify_model(Path("."), bundle, key=KEY_ONE.public)


def test_single_file_in_both_spellings(tmp_path: Path) -> None:
    path = write_tree(tmp_path, {"w.bin": b"abc"}) / "w.bin"
    signed = sign_model(path, KEY_ONE)
    assert [one.name for one in signed.manifest.resources] == ["w.bin"]
    assert "model.sig" not in signed.manifest.serialization.ignore_paths
    verify_model(path, signed.bundle, key=KEY_ONE.public)
    theirs = rewrite(signed.bundle, lambda text: text.replace(b'"name":"w.bin"}],', b'"name":"."}],'))
    verify_model(path, theirs, key=KEY_ONE.public)
    with pytest.raises(DocumentError, match=r"'\.'"):
        verify_model(tmp_path, theirs, key=KEY_ONE.public)
    path.write_bytes(b"abd")
    for bundle in (signed.bundle, theirs):
        with pytest.raises(DigestError):
            verify_model(path, bundle, key=KEY_ONE.public)


def rewrite(bundle: bytes, change: object, key: PrivateKey = KEY_ONE) -> bytes:
    """The same bundle with a changed payload, signed again: what a holder of the key could have written."""
    payload = change(read_bundle(bundle).envelope.payload)  # type: ignore[operator]
    envelope = dsse.sign(payload, dsse.IN_TOTO_PAYLOAD_TYPE, key)
    return write_bundle(Bundle(envelope, KeyMaterial(key.public.key_id)))


def test_known_digests_are_not_read_again(model: Path) -> None:
    name = "model-00001-of-00003.safetensors"
    known = {name: hashlib.sha256(SHARDED[name]).digest()}
    told: list[int] = []
    signed = sign_model(model, KEY_ONE, digests=known, progress=told.append)
    assert signed.bundle == sign_model(model, KEY_ONE).bundle
    assert sum(told) == sum(map(len, SHARDED.values())) - len(SHARDED[name])
    with pytest.raises(InputError, match="nowhere"):
        sign_model(model, KEY_ONE, digests={"nowhere": bytes(32)})


def test_wrong_keys_and_kinds(model: Path) -> None:
    bundle = sign_in_place(model)
    with pytest.raises(UntrustedKeyError):
        verify_model(model, bundle, key=generate().public)
    with pytest.raises(UntrustedKeyError):
        verify_model(model, bundle, key=[])
    with pytest.raises(SignatureError, match="not by a certificate"):
        verify_model(model, bundle, roots=[])
    with pytest.raises(InputError):
        verify_model(model, bundle)
    with pytest.raises(InputError):
        verify_model(model, bundle, key=KEY_ONE.public, roots=[])
    no_hint = json.loads(bundle)
    no_hint["verificationMaterial"]["publicKey"] = {}
    with pytest.raises(SignatureError):
        verify_model(model, json.dumps(no_hint).encode(), key=generate().public)
    verify_model(model, json.dumps(no_hint).encode(), key=KEY_ONE.public)


def test_hints_of_other_clients(model: Path) -> None:
    document = json.loads(sign_in_place(model))
    pem = KEY_ONE.public.pem.encode()
    for material in (
        {"hint": to_base64(hashlib.sha256(KEY_ONE.public.der).digest())},
        {"rawBytes": to_base64(pem)},
        {"rawBytes": to_base64(pem), "keyDetails": "PKIX_ECDSA_P256_SHA_256"},
        {"hint": None},
    ):
        document["verificationMaterial"] = {"publicKey": material}
        verify_model(model, json.dumps(document).encode(), key=KEY_ONE.public)
    for material in ({"hint": "0" * 64}, {"rawBytes": to_base64(generate().public.pem.encode())}):
        document["verificationMaterial"] = {"publicKey": material}
        with pytest.raises(UntrustedKeyError):
            verify_model(model, json.dumps(document).encode(), key=KEY_ONE.public)


def test_keyless_bundles_are_named(model: Path) -> None:
    document = json.loads(sign_in_place(model))
    document["verificationMaterial"] = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}
    with pytest.raises(SignatureError, match="keyless"):
        verify_model(model, json.dumps(document).encode(), key=KEY_ONE.public)


def test_ed25519_has_no_place_in_oms(model: Path) -> None:
    key = generate("ed25519")
    with pytest.raises(InputError, match="Ed25519"):
        sign_model(model, key)
    forged = rewrite(sign_in_place(model), bytes, key)
    with pytest.raises(InputError, match="Ed25519"):
        verify_model(model, forged, key=key.public)


def test_empty_models(tmp_path: Path, model: Path) -> None:
    bundle = sign_in_place(model)
    empty = tmp_path / "empty"
    (empty / "folder").mkdir(parents=True)
    with pytest.raises(InputError, match="no file"):
        sign_model(empty, KEY_ONE)
    for options in ({}, {"ignore_unsigned_files": True}):
        with pytest.raises(DigestError, match="missing"):
            verify_model(empty, bundle, key=KEY_ONE.public, **options)


def test_payload_is_not_read_before_its_signature_holds(model: Path) -> None:
    document = json.loads(sign_in_place(model))
    document["dsseEnvelope"]["payload"] = to_base64(b"not json")
    with pytest.raises(SignatureError):
        verify_model(model, json.dumps(document).encode(), key=KEY_ONE.public)
    with pytest.raises(DocumentError):
        verify_model(model, rewrite(sign_in_place(model), lambda _: b"not json"), key=KEY_ONE.public)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "tokenizer/../config.json", "./config.json"])
@pytest.mark.parametrize("ignore_unsigned_files", [False, True])
def test_no_path_leaves_the_model(model: Path, name: str, ignore_unsigned_files: bool) -> None:
    content = SHARDED["config.json"]
    write_tree(model.parent, {"outside": content})
    bundle = rewrite(
        sign_in_place(model),
        lambda p: p.replace(b'"name":"config.json"', json.dumps({"name": name}).encode()[1:-1].replace(b": ", b":")),
    )
    with pytest.raises(PathEscapeError):
        verify_model(model, bundle, key=KEY_ONE.public, ignore_unsigned_files=ignore_unsigned_files)


def test_links_are_followed_only_where_the_signer_allowed_it(model: Path) -> None:
    (model / "link").symlink_to("config.json")
    with pytest.raises(PathEscapeError, match="link"):
        sign_model(model, KEY_ONE)
    (model / "link").unlink()
    (model / "link").write_bytes(SHARDED["config.json"])
    bundle = sign_in_place(model)
    (model / "link").unlink()
    (model / "link").symlink_to("config.json")
    with pytest.raises(PathEscapeError, match="link"):
        verify_model(model, bundle, key=KEY_ONE.public)
    allowing = rewrite(bundle, lambda p: p.replace(b'"allow_symlinks":false', b'"allow_symlinks":true'))
    verify_model(model, allowing, key=KEY_ONE.public)
    verify_model(model, allowing, key=KEY_ONE.public, ignore_unsigned_files=True)
    (model / "link").unlink()
    (model / "link").symlink_to(os.devnull)
    with pytest.raises(PathEscapeError):
        verify_model(model, allowing, key=KEY_ONE.public)


@pytest.mark.parametrize("algorithm", ["p256", "p384"])
def test_the_old_faulty_form_is_named_and_read_on_request(model: Path, algorithm: str) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.registry.signing.authority import ec_key

    key = generate(algorithm)
    payload = json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [
                {"name": name, "digest": {"sha256": hashlib.sha256(content).hexdigest()}}
                for name, content in SHARDED.items()
            ],
            "predicateType": "https://model_signing/Digests/v0.1",
            "predicate": {"unused": "it's"},
        }
    ).encode()
    raw = ec_key(key).sign(legacy_pae(dsse.IN_TOTO_PAYLOAD_TYPE, payload), ec.ECDSA(hashes.SHA256()))
    envelope = dsse.Envelope(payload, dsse.IN_TOTO_PAYLOAD_TYPE, (dsse.Signature(raw),))
    bundle = write_bundle(Bundle(envelope, KeyMaterial()))
    with pytest.raises(SignatureError, match=r"model-signing 0\.2"):
        verify_model(model, bundle, key=key.public)
    assert verify_model(model, bundle, key=key.public, allow_legacy=True).listed_root is None
    with pytest.raises(SignatureError):
        verify_model(model, bundle, key=generate(algorithm).public, allow_legacy=True)
    write_tree(model, {"new": b""})
    with pytest.raises(DigestError):
        verify_model(model, bundle, key=key.public, allow_legacy=True)
    (model / "new").unlink()
    write_tree(model, {"config.json": b"changed"})
    with pytest.raises(VerificationError):
        verify_model(model, bundle, key=key.public, allow_legacy=True)
