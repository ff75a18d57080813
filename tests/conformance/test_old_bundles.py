"""Signatures as earlier OMS tools left them in the field, made here as those tools made them, without our code.

Eight kinds: model-signing 0.2, 1.0 (which is also 0.3) and 1.1 and the Go tool, each by key and by certificate. Their
certificates are odd as well: an RSA intermediate, and a signer that bears its issuer's name and calls itself a CA.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from registry.signing.keys import enrol
from registry.signing.oms import verify_model
from tests.registry.signing.models import write_tree
from watermark.errors import DigestError, DocumentError, ExpiredKeyError, SignatureError, WeightmarkError

FILES = {"signme-1": b"signme-1\n", "signme-2": b"signme-2\n", "sub/w.bin": b"w", "sub-w": b"v"}
KEY = ec.generate_private_key(ec.SECP384R1())
IN_TOTO = "application/vnd.in-toto+json"
Json = dict[str, Any]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sign(payload: bytes) -> bytes:
    pae = b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)
    return KEY.sign(pae, ec.ECDSA(hashes.SHA384()))


def sign_as_0_2(payload: bytes) -> bytes:
    """The faulty encoding of model-signing 0.2, and SHA-256 whatever the curve."""
    text = f"DSSEV1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} {payload}"
    return KEY.sign(text.encode(), ec.ECDSA(hashes.SHA256()))


# --- key material


def pem() -> bytes:
    return KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def raw_key() -> Json:
    """Before 1.1: the PEM text itself."""
    return {"publicKey": {"rawBytes": b64(pem()), "keyDetails": "PKIX_ECDSA_P384_SHA_384"}}


def hinted_key() -> Json:
    return {"publicKey": {"hint": sha256(pem())}, "tlogEntries": []}


def hinted_key_of_go() -> Json:
    return {"publicKey": {"hint": sha256(pem())}}


@dataclass(frozen=True)
class Chain:
    root: x509.Certificate
    intermediate: x509.Certificate
    leaf: x509.Certificate


def make_chain() -> Chain:
    root_key, middle_key = (rsa.generate_private_key(65537, 3072) for _ in range(2))
    root = _certificate("root-ca", "root-ca", root_key.public_key(), root_key, issuer_usage=True)
    middle = _certificate("intermediate-ca", "root-ca", middle_key.public_key(), root_key, issuer_usage=True)
    leaf = _certificate("intermediate-ca", "intermediate-ca", KEY.public_key(), middle_key, issuer_usage=False)
    return Chain(root, middle, leaf)


def _certificate(
    subject: str, issuer: str, public: Any, issuer_key: rsa.RSAPrivateKey, *, issuer_usage: bool
) -> x509.Certificate:
    name = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (subject, issuer)]
    usage = x509.KeyUsage(not issuer_usage, False, False, False, False, issuer_usage, False, False, False)
    builder = x509.CertificateBuilder(subject_name=name[0], issuer_name=name[1], public_key=public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(datetime(2025, 5, 2, tzinfo=UTC))
    builder = builder.not_valid_after(datetime(2035, 4, 30, tzinfo=UTC))
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    if not issuer_usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


CHAIN = make_chain()


def certificates() -> Json:
    ders = [one.public_bytes(Encoding.DER) for one in (CHAIN.leaf, CHAIN.intermediate)]
    return {"x509CertificateChain": {"certificates": [{"rawBytes": b64(der)} for der in ders]}, "tlogEntries": []}


def certificates_before_1_1() -> Json:
    return {"x509CertificateChain": certificates()["x509CertificateChain"]}


# --- statements


def by_component(files: dict[str, bytes]) -> list[str]:
    """The order of the released tool: by path component, `sub/w.bin` before `sub-w`."""
    return sorted(files, key=lambda name: name.split("/"))


def statement(name: str, resources: list[Json], serialization: Json, algorithm: str = "sha256") -> Json:
    root = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": {"method": "files", "hash_type": algorithm, **serialization}}
        | {"resources": [{**one, "algorithm": algorithm} for one in resources]},
    }


def listed(files: dict[str, bytes], order: Callable[[dict[str, bytes]], list[str]] = by_component) -> list[Json]:
    return [{"name": name, "digest": sha256(files[name])} for name in order(files)]


def of_0_2(files: dict[str, bytes]) -> Json:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": name,
                "digest": {"sha256": sha256(files[name])},
                "annotations": {"actual_hash_algorithm": "file-sha256"},
            }
            for name in sorted(files)
        ],
        "predicateType": "https://model_signing/Digests/v0.1",
        "predicate": {"unused": "Unused, just passed due to API requirements"},
    }


def of_1_0(files: dict[str, bytes]) -> Json:
    """No ignore_paths yet."""
    return statement("model", listed(files), {"allow_symlinks": False})


def of_1_1(files: dict[str, bytes]) -> Json:
    ignored = [".git", "model.sig", "ignore-me", ".gitattributes", ".gitignore", ".github"]
    return statement("m", listed(files), {"allow_symlinks": False, "ignore_paths": ignored})


def of_go(files: dict[str, bytes]) -> Json:
    """The Go tool: code-point order, and ignored paths of the signer's disk."""
    ignored = [".git", ".github", "/home/signer/models/m/ignore-me", "/tmp/x/model.sig", "../elsewhere"]
    return statement("m", listed(files, sorted), {"allow_symlinks": False, "ignore_paths": ignored})


def bundle_of(
    made: Json, material: Json, keyid: Json, signer: Callable[[bytes], bytes] = sign, indent: int | None = 2
) -> bytes:
    payload = json.dumps(made, indent=indent).encode()
    envelope = {"payload": b64(payload), "payloadType": IN_TOTO, "signatures": [{"sig": b64(signer(payload)), **keyid}]}
    media_type = "application/vnd.dev.sigstore.bundle.v0.3+json"
    document = {"mediaType": media_type, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(document).encode()


BY_KEY, BY_CERTIFICATE = {"key": enrol(KEY.public_key())}, {"roots": [CHAIN.root]}
NULL, EMPTY, ABSENT = {"keyid": None}, {"keyid": ""}, {}  # type: Json, Json, Json
OLD = {
    "0.2 by certificate": (bundle_of(of_0_2(FILES), certificates_before_1_1(), NULL, sign_as_0_2), BY_CERTIFICATE),
    "0.2 by key": (bundle_of(of_0_2(FILES), raw_key(), NULL, sign_as_0_2), BY_KEY),
    "1.0 by key": (bundle_of(of_1_0(FILES), raw_key(), NULL), BY_KEY),
    "1.0 by certificate": (bundle_of(of_1_0(FILES), certificates_before_1_1(), NULL), BY_CERTIFICATE),
    "1.1 by key": (bundle_of(of_1_1(FILES), hinted_key(), EMPTY), BY_KEY),
    "1.1 by certificate": (bundle_of(of_1_1(FILES), certificates(), EMPTY), BY_CERTIFICATE),
    "Go by key": (bundle_of(of_go(FILES), hinted_key_of_go(), ABSENT, indent=None), BY_KEY),
    "Go by certificate": (bundle_of(of_go(FILES), certificates_before_1_1(), ABSENT, indent=None), BY_CERTIFICATE),
}
EACH = pytest.mark.parametrize("name", OLD)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "m", FILES)


def verify(model: Path, name: str, **options: Any) -> None:
    bundle, trust = OLD[name]
    verify_model(model, bundle, **trust, **{"allow_legacy": True, **options})


@EACH
def test_old_bundles_are_read(model: Path, name: str) -> None:
    verify(model, name)
    verify(model, name, ignore_unsigned_files=True)


@EACH
def test_an_ignored_file_is_named_by_the_reader_or_by_the_bundle(model: Path, name: str) -> None:
    write_tree(model, {"ignore-me": b"anything"})
    verify(model, name, ignore=["ignore-me"])
    if not name.startswith("1.1"):  # the Go bundle names it where it lay on the signer's disk, which means nothing here
        with pytest.raises(DigestError, match="not in the signature: ignore-me"):
            verify(model, name)
    else:
        verify(model, name)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda model: (model / "sub/w.bin").write_bytes(b"W"),
    "added": lambda model: (model / "sub/new").write_bytes(b""),
    "dropped": lambda model: (model / "signme-2").unlink(),
    "renamed": lambda model: (model / "signme-1").rename(model / "signme-3"),
}


@EACH
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_models_are_refused(model: Path, name: str, change: Callable[[Path], object]) -> None:
    change(model)
    with pytest.raises(DigestError):
        verify(model, name)


@EACH
def test_the_old_faulty_form_is_taken_on_request_only(model: Path, name: str) -> None:
    if not name.startswith("0.2"):
        verify(model, name, allow_legacy=False)
        return
    with pytest.raises(SignatureError, match=r"model-signing 0\.2") as caught:
        verify(model, name, allow_legacy=False)
    assert caught.value.code == "old-form"


@pytest.mark.parametrize("name", [name for name in OLD if "certificate" in name])
def test_their_certificates_end_in_2035(model: Path, name: str) -> None:
    verify(model, name, at=datetime(2035, 4, 29, tzinfo=UTC))
    for at in (datetime(2035, 5, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)):
        with pytest.raises(ExpiredKeyError):
            verify(model, name, at=at)


def test_a_single_file_as_the_released_tool_names_it(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "m", {"signme-1": b"signme-1\n"}) / "signme-1"
    made = statement("signme-1", [{"name": ".", "digest": sha256(b"signme-1\n")}], {"allow_symlinks": False})
    for material, trust in ((raw_key(), BY_KEY), (certificates_before_1_1(), BY_CERTIFICATE)):
        bundle = bundle_of(made, material, NULL)
        verify_model(path, bundle, **trust)  # type: ignore[arg-type]
        path.write_bytes(b"changed")
        with pytest.raises(DigestError):
            verify_model(path, bundle, **trust)  # type: ignore[arg-type]
        path.write_bytes(b"signme-1\n")


@pytest.mark.parametrize("how", ["sha256-sharded-1000", "file-blake2b", "dir-sha256", None, 1])
def test_old_digests_of_anything_but_whole_files_are_refused_by_name(model: Path, how: object) -> None:
    made = of_0_2(FILES)
    made["subject"][1]["annotations"]["actual_hash_algorithm"] = how
    with pytest.raises(DocumentError, match="signme-2") as caught:
        verify_model(model, bundle_of(made, raw_key(), NULL, sign_as_0_2), **BY_KEY, allow_legacy=True)  # type: ignore[arg-type]
    assert caught.value.code == "resource-form"


OTHER_OLD = {
    "predicate": lambda made: made.update(predicateType="https://model_signing/Digests/v0.2"),
    "statement": lambda made: made.update(_type="https://in-toto.io/Statement/v0.1"),
    "no file": lambda made: made.update(subject=[]),
    "a file twice": lambda made: made["subject"].append(made["subject"][0]),
    "a path outside": lambda made: made["subject"][0].update(name="../signme-1"),
    "a short digest": lambda made: made["subject"][0].update(digest={"sha256": "ab"}),
    "no digest": lambda made: made["subject"][0].pop("digest"),
    "no subject": lambda made: made.pop("subject"),
}


@pytest.mark.parametrize("change", OTHER_OLD.values(), ids=OTHER_OLD.keys())
def test_nothing_else_is_read_more_leniently(model: Path, change: Callable[[Json], object]) -> None:
    made = of_0_2(FILES)
    change(made)
    with pytest.raises(WeightmarkError):
        verify_model(model, bundle_of(made, raw_key(), NULL, sign_as_0_2), **BY_KEY, allow_legacy=True)  # type: ignore[arg-type]


def sharded(files: dict[str, bytes], size: int, new_hash: Callable[[bytes], bytes], algorithm: str) -> bytes:
    """The released tool's shards: numeric order within a file, a float for the size, its own name for the hash."""
    resources = [
        {"name": f"{name}:{start}:{min(start + size, len(files[name]))}", "digest": new_hash(part).hex()}
        for name in by_component(files)
        for start in range(0, len(files[name]), size)
        for part in (files[name][start : start + size],)
    ]
    written = f"{algorithm}-sharded-{size}"
    serialization = {"method": "shards", "allow_symlinks": False, "shard_size": float(size)}
    return bundle_of(statement("m", resources, serialization, written), hinted_key(), EMPTY)


def blake3(data: bytes) -> bytes:
    import blake3 as library

    return library.blake3(data).digest()


HASHES: dict[str, Callable[[bytes], bytes]] = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
    "blake3": blake3,
}


@pytest.mark.parametrize("algorithm", HASHES)
def test_shards_and_other_hashes_of_the_released_tool(tmp_path: Path, algorithm: str) -> None:
    files = {**FILES, "big": bytes(range(250)), "with:colon:in:it": b"abcdefghij"}
    model = write_tree(tmp_path / "m", files)
    whole = [{"name": name, "digest": HASHES[algorithm](files[name]).hex()} for name in by_component(files)]
    serialization = {"allow_symlinks": False}
    for bundle in (
        sharded(files, 4, HASHES[algorithm], algorithm),
        bundle_of(statement("m", whole, serialization, algorithm), hinted_key(), EMPTY),
    ):
        verify_model(model, bundle, **BY_KEY)  # type: ignore[arg-type]
        (model / "big").write_bytes(bytes(250))
        with pytest.raises(DigestError, match="big"):
            verify_model(model, bundle, **BY_KEY)  # type: ignore[arg-type]
        (model / "big").write_bytes(files["big"])
