"""The worked examples of our formats, byte for byte: DSSE, OMS, RFC 8785."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from registry.signing import dsse
from registry.signing.bundle import Bundle, KeyMaterial, write_bundle
from registry.signing.canonical import canonical
from registry.signing.encoding import to_base64
from registry.signing.files import ModelTree
from registry.signing.hashing import hash_spans, shards
from registry.signing.manifest import Resource, root_digest, to_payload
from registry.signing.oms import sign_model, verify_model
from registry.signing.strict_json import loads
from tests.registry.signing.models import KEY_ONE, TINY, write_tree

PAYLOAD_SHA256 = "8b513920730f9c2c3b78bce0b2e1b9a850fda2e6f3bfe7472165c50950e611a8"
PAE_SHA256 = "7ab4e107f7bca53987639e79559b5d4729c6f1ad047f0e91103a253a8ae76c63"
ROOT = "15d37da5d8681188e8afe0dcadbeeabd59cb95502cfbdb5ad2f097d59f22223a"
HINT = "0bcc8908c3cc5f2c08c1e1963e1b674e76aa2dfb7cd91c437b4081b25b7f9e03"
SIGNATURE = "MEQCIFoa2PUUlhQCtSzM2Wmftr20FPaXcuja012AsRoxjogFAiBlGQ6AAKCUBzbZHQT4lxUYqO9qu0e+DgCkddIfzlBKpw=="


def test_dsse_encoding() -> None:
    encoded = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert hashlib.sha256(encoded).hexdigest() == "217751fac2c4f14edb2c9297fbc34abcb016ba88e74757e875ec4ac16fb6b6a1"


def test_model_signature(tmp_path: Path) -> None:
    model = write_tree(tmp_path / "tiny", TINY)
    signed = sign_model(model, KEY_ONE, signature_path=tmp_path / "elsewhere.sig")
    payload = to_payload(signed.manifest)
    assert len(payload) == 846
    assert hashlib.sha256(payload).hexdigest() == PAYLOAD_SHA256
    encoded = dsse.pae(dsse.IN_TOTO_PAYLOAD_TYPE, payload)
    assert len(encoded) == 889
    assert encoded.startswith(b"DSSEv1 28 application/vnd.in-toto+json 846 {")
    assert signed.pae_sha256.hex() == PAE_SHA256
    assert signed.root.hex() == ROOT
    document = json.loads(signed.bundle)
    assert document == {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": HINT}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": to_base64(payload),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": SIGNATURE, "keyid": ""}],
        },
    }
    assert verify_model(model, signed.bundle, key=KEY_ONE.public).root.hex() == ROOT


def test_path_order_gives_another_root() -> None:
    digests = {name: hashlib.sha256(content).digest() for name, content in TINY.items()}
    by_component = sorted(digests, key=lambda name: name.split("/"))
    assert by_component == ["a/w.bin", "a-b", "config.json", "empty"]
    theirs = hashlib.sha256(b"".join(digests[name] for name in by_component)).hexdigest()
    assert theirs.startswith("7f17a4a8d08eaf7f")
    assert root_digest(Resource(name, digests[name]) for name in by_component).hex() == ROOT


def shard_digests(tmp_path: Path) -> dict[str, bytes]:
    write_tree(tmp_path, {"w": bytes(range(25))})
    with ModelTree(tmp_path) as tree:
        return hash_spans(tree, shards(tree.enumerate(()), 4))


def test_shards(tmp_path: Path) -> None:
    digests = shard_digests(tmp_path)
    assert len(digests) == 7
    root = root_digest(Resource(name, digest) for name, digest in digests.items())
    assert root.hex() == "ac978cffe4689b698cfdc088500ea10cf6f532a597185242601e37493b1a4f69"
    numeric = sorted(digests, key=lambda name: int(name.split(":")[1]))
    theirs = hashlib.sha256(b"".join(digests[name] for name in numeric)).hexdigest()
    assert theirs == "45734d3f087c06e89f41948e0f9d8f15158c157f34dd9de6c13858f24d975292"


def test_sharded_signatures_are_verified_in_both_dialects(tmp_path: Path) -> None:
    digests = shard_digests(tmp_path)
    by_name, numeric = sorted(digests), sorted(digests, key=lambda name: int(name.split(":")[1]))
    for order, algorithm, size in ((by_name, "sha256", 4), (numeric, "sha256-sharded-4", 4.0)):
        root = hashlib.sha256(b"".join(digests[name] for name in order)).hexdigest()
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "m", "digest": {"sha256": root}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {
                "resources": [{"name": n, "digest": digests[n].hex(), "algorithm": algorithm} for n in order],
                "serialization": {
                    "method": "shards",
                    "hash_type": algorithm,
                    "shard_size": size,
                    "allow_symlinks": False,
                    "ignore_paths": ["model.sig"],
                },
            },
        }
        envelope = dsse.sign(json.dumps(statement).encode(), dsse.IN_TOTO_PAYLOAD_TYPE, KEY_ONE)
        bundle = write_bundle(Bundle(envelope, KeyMaterial()))
        verified = verify_model(tmp_path, bundle, key=KEY_ONE.public)
        assert verified.root.hex().startswith("ac978cff")
        assert verified.listed_root is not None
        assert verified.listed_root.hex() == root


def test_canonical_json() -> None:
    text = '{"b":1.0,"a":[1e21,0.000001,-0.0,"€\\n"],"é":null,"A":true}'
    expected = '{"A":true,"a":[1e+21,0.000001,0,"€\\n"],"b":1,"é":null}'.encode()
    data = canonical(loads(text.encode(), what="the example"))
    assert data == expected
    assert hashlib.sha256(data).hexdigest() == "88451f7a9b2b8e6674be1f063fc6ecc32014b7071d9429cfb75dff22cdfad2f7"
