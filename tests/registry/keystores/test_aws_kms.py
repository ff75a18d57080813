from __future__ import annotations

import base64
import hashlib
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from registry import aws
from registry.keystores.aws_kms import parse_kms_uri
from registry.keystores.interface import open_signer, open_wrapping
from tests.registry.keystores.fake_kms import FakeKms, Refusal
from watermark.errors import InputError, KeyStoreError, UnavailableError

SHORT, LONG = b"short", b"x" * 100_000
HASHES = {"p256": hashes.SHA256(), "p384": hashes.SHA384(), "p521": hashes.SHA512()}
CONTEXT = {"weightmark": "owner secret", "owner": "acme"}


@pytest.mark.parametrize("kind", ["p256", "p384", "p521"])
def test_ecdsa_signs_the_digest_of_the_whole_message(kms: FakeKms, kind: str) -> None:
    signer = open_signer(kms.make("key", kind))
    assert signer.algorithm == kind
    key = load_der_public_key(signer.public.der)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    for message in (b"", SHORT, LONG):
        key.verify(signer.sign(message), message, ec.ECDSA(HASHES[kind]))
        request = kms.requests("Sign")[-1]
        digest = hashes.Hash(HASHES[kind])
        digest.update(message)
        assert base64.b64decode(request["Message"]) == digest.finalize()
        assert request["MessageType"] == "DIGEST"


def test_ed25519_is_pure_and_refused_before_kms_refuses_it(kms: FakeKms) -> None:
    signer = open_signer(kms.make("log", "ed25519"))
    for message in (SHORT, b"x" * 4096):
        load_der_public_key(signer.public.der).verify(signer.sign(message), message)  # type: ignore[union-attr,call-arg]
        request = kms.requests("Sign")[-1]
        assert (request["SigningAlgorithm"], request["MessageType"]) == ("ED25519_SHA_512", "RAW")
    asked = len(kms.asked)
    with pytest.raises(InputError, match="at most 4096 bytes"):
        signer.sign(b"x" * 4097)
    assert len(kms.asked) == asked


@pytest.mark.parametrize("kind", ["mldsa44", "mldsa65"])
def test_ml_dsa_takes_short_messages_raw_and_long_ones_by_mu(kms: FakeKms, kind: str) -> None:
    signer = open_signer(kms.make("second", kind))
    key = load_der_public_key(signer.public.der)
    for message, message_type in (
        (SHORT, "RAW"),
        (b"x" * 4096, "RAW"),
        (b"x" * 4097, "EXTERNAL_MU"),
        (LONG, "EXTERNAL_MU"),
    ):
        key.verify(signer.sign(message), message)  # type: ignore[union-attr,call-arg]
        request = kms.requests("Sign")[-1]
        assert (request["SigningAlgorithm"], request["MessageType"]) == ("ML_DSA_SHAKE_256", message_type)


def test_the_fake_refuses_what_aws_refuses(kms: FakeKms) -> None:
    """Else the tests above would prove nothing."""
    kms.make("p", "p256")
    kms.make("e", "ed25519")
    client = boto3.client("kms", region_name="eu-west-1", endpoint_url=kms.endpoint)
    digest = hashlib.sha256(LONG).digest()
    for alias, message, message_type, algorithm in (
        ("p", LONG[:4097], "RAW", "ECDSA_SHA_256"),
        ("p", SHORT, "DIGEST", "ECDSA_SHA_256"),
        ("p", digest, "DIGEST", "ECDSA_SHA_384"),
        ("e", digest, "DIGEST", "ED25519_PH_SHA_512"),
    ):
        with pytest.raises(client.exceptions.ClientError):
            client.sign(KeyId=f"alias/{alias}", Message=message, MessageType=message_type, SigningAlgorithm=algorithm)
    answer = client.sign(KeyId="alias/p", Message=digest, MessageType="RAW", SigningAlgorithm="ECDSA_SHA_256")
    key = kms.keys["p"][1].public_key()
    key.verify(answer["Signature"], digest, ec.ECDSA(hashes.SHA256()))  # RAW hashes once more: not our digest's


def test_remembered_public_key_saves_a_question_and_binds(kms: FakeKms) -> None:
    reference = kms.make("key", "p256")
    public = open_signer(reference).public
    kms.asked.clear()
    signer = open_signer(reference, public=public)
    public.verify(signer.sign(SHORT), SHORT)
    assert [operation for operation, _ in kms.asked] == ["Sign"]
    kms.make("key", "p256")  # the alias is moved to a new key
    with pytest.raises(KeyStoreError, match="does not verify"):
        signer.sign(SHORT)


def test_secret_comes_back_from_its_key_and_context_only(kms: FakeKms) -> None:
    wrapping = open_wrapping(kms.make("wrap", "symmetric"))
    wrapped = wrapping.wrap(bytes(range(32)), CONTEXT)
    assert wrapping.unwrap(wrapped, CONTEXT) == bytes(range(32))
    assert kms.requests("Encrypt")[0]["EncryptionContext"] == CONTEXT
    assert kms.requests("Decrypt")[0]["KeyId"] == "alias/wrap"
    with pytest.raises(KeyStoreError, match="bytes or their context were changed"):
        wrapping.unwrap(wrapped, {**CONTEXT, "owner": "eve"})
    with pytest.raises(KeyStoreError, match="bytes or their context were changed"):
        wrapping.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT)
    with pytest.raises(KeyStoreError, match="not the key that wrapped"):
        open_wrapping(kms.make("other", "symmetric")).unwrap(wrapped, CONTEXT)


def test_keys_for_another_use_are_refused(kms: FakeKms) -> None:
    with pytest.raises(KeyStoreError, match="made for another use"):
        open_signer(kms.make("wrap", "symmetric"))
    with pytest.raises(KeyStoreError, match="made for another use"):
        open_wrapping(kms.make("key", "p256")).wrap(b"secret", CONTEXT)


@pytest.mark.parametrize(
    ("code", "status", "kind", "told"),
    [
        ("AccessDeniedException", 400, KeyStoreError, "does not let you use"),
        ("NotFoundException", 400, KeyStoreError, "does not exist"),
        ("DisabledException", 400, KeyStoreError, "is disabled"),
        ("KMSInvalidStateException", 400, KeyStoreError, "in a state"),
        ("ExpiredTokenException", 400, KeyStoreError, "credentials"),
        ("UnrecognizedClientException", 400, KeyStoreError, "credentials"),
        ("com.amazonaws.kms#AccessDeniedException", 400, KeyStoreError, "does not let you use"),
        ("SomethingNew", 400, KeyStoreError, "refused"),
        ("KMSInternalException", 500, UnavailableError, "failure of its own in 3 tries"),
        ("KeyUnavailableException", 500, UnavailableError, "failure of its own"),
        ("ThrottlingException", 400, UnavailableError, "failure of its own"),
        ("SomethingBroken", 503, UnavailableError, "failure of its own"),
    ],
)
def test_refusals_are_translated(
    kms: FakeKms, monkeypatch: pytest.MonkeyPatch, code: str, status: int, kind: type[Exception], told: str
) -> None:
    no_waiting(monkeypatch)
    reference = kms.make("key", "p256")
    signer = open_signer(reference)
    kms.trouble = [Refusal(code, status) for _ in range(aws.TRIES)]
    with pytest.raises(kind, match=told) as raised:
        signer.sign(SHORT)
    assert raised.value.exit_code == 4
    assert raised.value.hint
    assert "alias/key" in str(raised.value)
    assert len(kms.requests("Sign")) == (aws.TRIES if kind is UnavailableError else 1)


def test_one_failure_in_the_middle_is_tried_again(kms: FakeKms, monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    signer = open_signer(kms.make("key", "p256"))
    kms.trouble = [Refusal("KMSInternalException", 500), None]
    signer.public.verify(signer.sign(SHORT), SHORT)
    assert len(kms.requests("Sign")) == 2


def test_silence_ends_in_unavailable(kms: FakeKms, monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    monkeypatch.setattr(aws, "READ_SECONDS", 0.1)
    signer = open_signer(kms.make("key", "p256"))
    kms.trouble = [0.3] * aws.TRIES
    with pytest.raises(UnavailableError, match="did not answer in 3 tries"):
        signer.sign(SHORT)


def test_nobody_there_and_nobody_known(kms: FakeKms, monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    with FakeKms() as gone:
        reference = gone.make("key", "p256")
    with pytest.raises(UnavailableError, match="EndpointConnectionError"):
        open_signer(reference)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(aws, "open_session", aws.open_session.__wrapped__)  # a session remembers its credentials
    with pytest.raises(KeyStoreError, match="no credentials"):
        open_signer(kms.make("key", "p256"))
    with pytest.raises(InputError, match="no AWS region"):
        open_signer("awskms:///alias/acme")


def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3's back-off pass at once; how often it tries stays as it is."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


def test_limits_are_those_that_are_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = aws.make_client("kms", region="eu-west-1", endpoint=None)
    config = client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (3, 10)
    assert config.retries == {"total_max_attempts": 3, "mode": "standard"}


def test_references_are_read() -> None:
    arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    uri = parse_kms_uri(f"awskms:///{arn}")
    assert (uri.key, uri.region, uri.endpoint) == (arn, "eu-west-1", None)
    uri = parse_kms_uri("awskms:///alias/acme?region=us-east-1&endpoint=https://kms.internal:8443")
    assert (uri.key, uri.region, uri.endpoint) == ("alias/acme", "us-east-1", "https://kms.internal:8443")


@pytest.mark.parametrize(
    "text",
    [
        "awskms://alias/acme",
        "awskms://localhost:4566/alias/acme",
        "awskms:///",
        "awskms:///alias/ac me",
        "awskms:///alias/acme?colour=red",
        "awskms:///alias/acme?endpoint=http://kms.example",
        "awskms:///alias/acme?endpoint=https://user:pw@kms.example",
        "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234?region=us-east-1",
    ],
)
def test_bad_references_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_kms_uri(text)
