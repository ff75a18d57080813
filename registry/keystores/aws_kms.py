"""Keys in AWS KMS, by boto3: ECDSA, Ed25519 and ML-DSA signatures, and secrets wrapped by a symmetric key.

    awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab
    awskms:///alias/acme-release?region=eu-west-1

ECDSA is asked for with MessageType DIGEST and the digest of the whole message, since KMS takes at most 4096 bytes and
most statements are longer; Ed25519 is pure (RAW, never the pre-hashed form, whose signatures no note verifier takes);
ML-DSA takes RAW or, for longer messages, EXTERNAL_MU (FIPS 204 section 6.2). Three tries, 3 s to connect and 10 s to
answer each: a call that fails has failed within a minute. Errors of boto3 are translated here. Knows nothing of what is
signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from registry.aws import check_endpoint, make_client, translated_aws_errors
from registry.keystores.interface import StoreSigner
from registry.signing.keys import ED25519, P256, P384, P521, PublicKey, public_key_from_der
from watermark.errors import InputError, KeyStoreError

MAX_RAW_BYTES: Final = 4096
_PREFIX = "awskms://"
_FORM = "write awskms:///ARN, awskms:///KEY-ID or awskms:///alias/NAME, then if need be ?region=eu-west-1"
_DIGESTS: Final[Mapping[str, tuple[str, Callable[[bytes], Any]]]] = {
    P256: ("ECDSA_SHA_256", hashlib.sha256),
    P384: ("ECDSA_SHA_384", hashlib.sha384),
    P521: ("ECDSA_SHA_512", hashlib.sha512),
}
_ML_DSA_KEY_BYTES: Final = {"mldsa44": 1312, "mldsa65": 1952, "mldsa87": 2592}


@dataclass(frozen=True)
class KmsUri:
    """A parsed reference: key ARN, id or alias; region and endpoint where the text says them."""

    key: str
    region: str | None
    endpoint: str | None

    @property
    def place(self) -> str:
        """Where the key is, in words."""
        return f"in AWS KMS ({self.key})"


def parse_kms_uri(text: str) -> KmsUri:
    """Read an `awskms:///` reference; InputError naming what is wrong in it."""
    if not text.startswith(_PREFIX):
        raise InputError(f"{text[:80]!a} is no reference to a KMS key", hint=_FORM)
    authority, slash, rest = text.removeprefix(_PREFIX).partition("/")
    key, _, query = rest.partition("?")
    if authority or not slash or not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{text[:80]!a} names no key, or a host before it", hint=f"{_FORM}, &endpoint=https://...")
    options = dict(parse_qsl(query, keep_blank_values=True))
    strangers = sorted(set(options) - {"region", "endpoint"})
    if strangers:
        raise InputError(f"the KMS reference has the option {strangers[0][:40]!a}", hint="known: region, endpoint")
    if "endpoint" in options:
        check_endpoint(options["endpoint"])
    words = key.split(":")
    region = words[3] if words[0] == "arn" and len(words) > 5 else None
    if region and options.get("region", region) != region:
        raise InputError("the KMS reference names one region in its ARN and another after it", hint=_FORM)
    return KmsUri(key, region or options.get("region"), options.get("endpoint"))


def open_kms_signer(reference: str, public: PublicKey | None) -> StoreSigner:
    """Open the KMS key that a reference names; KMS is asked for its public half unless that is given.

    Raises InputError for the reference or an unsupported kind of key, KeyStoreError when KMS refuses,
    UnavailableError when it is out of reach.
    """
    uri = parse_kms_uri(reference)
    client = _client(uri)
    if public is None:
        with _asking(uri, "kms:GetPublicKey"):
            answer = client.get_public_key(KeyId=uri.key)
        if answer.get("KeyUsage") != "SIGN_VERIFY":
            raise KeyStoreError(f"the key {uri.place} is not made for signing", hint="name a key for SIGN_VERIFY")
        public = public_key_from_der(answer["PublicKey"], what=f"the key {uri.place}")
    request = _request_for(public, uri)

    def sign(message: bytes) -> bytes:
        with _asking(uri, "kms:Sign"):
            return bytes(client.sign(KeyId=uri.key, **request(message))["Signature"])

    return StoreSigner(public.algorithm, public, uri.place, sign)


class KmsWrapping:
    """A symmetric KMS key that encrypts small secrets, bound to an encryption context that KMS logs with each use."""

    def __init__(self, uri: KmsUri) -> None:
        """Use `open_kms_wrapping`."""
        self._uri = uri
        self._client = _client(uri)

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt a secret of at most 4096 bytes (kms:Encrypt)."""
        with _asking(self._uri, "kms:Encrypt"):
            answer = self._client.encrypt(KeyId=self._uri.key, Plaintext=secret, EncryptionContext=dict(context))
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt what `wrap` made (kms:Decrypt), by this key and no other."""
        with _asking(self._uri, "kms:Decrypt"):
            answer = self._client.decrypt(KeyId=self._uri.key, CiphertextBlob=wrapped, EncryptionContext=dict(context))
        return bytes(answer["Plaintext"])


def open_kms_wrapping(reference: str) -> KmsWrapping:
    """Open the symmetric key that a reference names; KMS is asked when it is used."""
    return KmsWrapping(parse_kms_uri(reference))


def _request_for(public: PublicKey, uri: KmsUri) -> Callable[[bytes], dict[str, Any]]:
    """What to ask of KMS for a message, by the kind of key (formats: KMS Sign API)."""
    if public.algorithm in _DIGESTS:
        name, digest = _DIGESTS[public.algorithm]
        return lambda message: {
            "SigningAlgorithm": name,
            "MessageType": "DIGEST",
            "Message": digest(message).digest(),
        }
    if public.algorithm == ED25519:
        return lambda message: {
            "SigningAlgorithm": "ED25519_SHA_512",
            "MessageType": "RAW",
            "Message": _short_enough(message, uri),
        }
    if public.algorithm in _ML_DSA_KEY_BYTES:
        raw = public.der[-_ML_DSA_KEY_BYTES[public.algorithm] :]  # a BIT STRING ends the SubjectPublicKeyInfo
        return lambda message: {"SigningAlgorithm": "ML_DSA_SHAKE_256", **_ml_dsa_message(raw, message)}
    raise InputError(f"the key {uri.place} is {public.algorithm}, which is not used here")


def _short_enough(message: bytes, uri: KmsUri) -> bytes:
    if len(message) > MAX_RAW_BYTES:
        raise InputError(
            f"AWS KMS signs at most {MAX_RAW_BYTES} bytes with Ed25519, and this has {len(message)}",
            hint=f"use an ECDSA key for statements; the key {uri.place} can sign checkpoints",
        )
    return message


def _ml_dsa_message(raw_public_key: bytes, message: bytes) -> dict[str, Any]:
    if len(message) <= MAX_RAW_BYTES:
        return {"MessageType": "RAW", "Message": message}
    # FIPS 204 algorithms 2 and 7: mu = H(H(pk, 64) || 0 || |ctx| || ctx || M, 64), with an empty context.
    mu = hashlib.shake_256(hashlib.shake_256(raw_public_key).digest(64) + b"\x00\x00" + message).digest(64)
    return {"MessageType": "EXTERNAL_MU", "Message": mu}


def _client(uri: KmsUri) -> Any:
    with _asking(uri, "kms:DescribeKey"):
        return make_client("kms", region=uri.region, endpoint=uri.endpoint)


@contextmanager
def _asking(uri: KmsUri, permission: str) -> Iterator[None]:
    with translated_aws_errors(f"the key {uri.place}", permission):
        yield
