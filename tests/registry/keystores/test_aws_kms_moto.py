"""The same requests against moto, which others wrote: what it knows of KMS agrees, up to a bug of its own."""

from __future__ import annotations

import hashlib
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from registry.keystores.interface import open_signer, open_wrapping
from watermark.errors import KeyStoreError

CONTEXT = {"weightmark": "owner secret", "owner": "acme"}
SPECS = {"p256": "ECC_NIST_P256", "p384": "ECC_NIST_P384", "p521": "ECC_NIST_P521"}
HASHES = {"p256": (hashlib.sha256, hashes.SHA256()), "p384": (hashlib.sha384, hashes.SHA384())}
HASHES["p521"] = (hashlib.sha512, hashes.SHA512())


@pytest.fixture
def client(moto: str) -> Any:
    return boto3.client("kms", region_name="eu-west-1", endpoint_url=moto)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_public_key_comes_and_a_digest_hashed_twice_is_not_let_through(client: Any, moto: str, name: str) -> None:
    """moto 5.2 hashes what MessageType DIGEST says is hashed already, unlike AWS: its signature must not get out."""
    made = client.create_key(KeySpec=SPECS[name], KeyUsage="SIGN_VERIFY")["KeyMetadata"]
    reference = f"awskms:///{made['Arn']}?endpoint={moto}"
    signer = open_signer(reference)
    assert signer.algorithm == name
    with pytest.raises(KeyStoreError, match="does not verify"):
        signer.sign(b"message")
    digest, algorithm = HASHES[name]
    ask_store: Any = signer.ask_store  # type: ignore[attr-defined]
    key = load_der_public_key(signer.public.der)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(ask_store(b"message"), digest(b"message").digest(), ec.ECDSA(algorithm))


def test_wrapping(client: Any, moto: str) -> None:
    key = client.create_key()["KeyMetadata"]["KeyId"]
    client.create_alias(AliasName="alias/acme-wrap", TargetKeyId=key)
    for name in (key, "alias/acme-wrap"):
        wrapping = open_wrapping(f"awskms:///{name}?region=eu-west-1&endpoint={moto}")
        wrapped = wrapping.wrap(bytes(range(32)), CONTEXT)
        assert wrapping.unwrap(wrapped, CONTEXT) == bytes(range(32))
        with pytest.raises(KeyStoreError, match="bytes or their context were changed"):
            wrapping.unwrap(wrapped, {"owner": "eve"})


def test_refusals(client: Any, moto: str) -> None:
    key = client.create_key()["KeyMetadata"]["KeyId"]
    with pytest.raises(KeyStoreError, match="not made for signing"):
        open_signer(f"awskms:///{key}?region=eu-west-1&endpoint={moto}")
    with pytest.raises(KeyStoreError, match="does not exist"):
        open_signer(f"awskms:///alias/nobody?region=eu-west-1&endpoint={moto}")
