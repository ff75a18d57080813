"""Small models and fixed keys that the signing tests share."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from registry.signing.keys import PrivateKey

#: P-256 with private value 1: the key of the worked examples. Never use it elsewhere.
KEY_ONE = PrivateKey("p256", ec.derive_private_key(1, ec.SECP256R1()))

TINY = {"a-b": b"xyz", "a/w.bin": b"abc", "config.json": b"{}", "empty": b""}
SHARDED = {
    "config.json": b'{"model_type": "test"}',
    "model-00001-of-00003.safetensors": bytes(range(256)) * 40,
    "model-00002-of-00003.safetensors": bytes(range(255, -1, -1)) * 40,
    "model-00003-of-00003.safetensors": b"\x07" * 5000,
    "tokenizer/vocab.txt": b"a\nb\n",
}


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root
