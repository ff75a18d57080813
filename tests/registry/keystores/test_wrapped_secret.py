from __future__ import annotations

import json

import pytest

from registry.keystores.wrapped_secret import open_wrapped_secret, wrap_secret, wrapping_key_of
from registry.signing.canonical import canonical
from registry.signing.secret import seal_secret
from tests.registry.keystores.fake_kms import FakeKms, Refusal
from tests.softhsm import pin, soft_token
from watermark.errors import DocumentError, KeyStoreError, UnavailableError

SECRET = bytes(range(32))


def test_secret_is_wrapped_by_kms_and_names_its_key(kms: FakeKms) -> None:
    reference = kms.make("wrap", "symmetric")
    document = wrap_secret(SECRET, reference, "acme")
    assert wrapping_key_of(document) == reference
    assert open_wrapped_secret(document) == SECRET
    assert SECRET.hex() not in document.hex()
    assert {tuple(request["EncryptionContext"].items()) for request in kms.requests("Decrypt")} == {
        (("weightmark", "owner secret"), ("owner", "acme"))
    }


def test_secret_is_wrapped_by_a_token() -> None:
    reference = soft_token().uri("wrap")
    document = wrap_secret(SECRET, reference, "acme", pin)
    assert wrapping_key_of(document) == reference
    assert open_wrapped_secret(document, pin) == SECRET
    with pytest.raises(KeyStoreError, match="asks for a PIN"):
        open_wrapped_secret(document)


def test_secret_of_another_owner_does_not_open(kms: FakeKms) -> None:
    fields = json.loads(wrap_secret(SECRET, kms.make("wrap", "symmetric"), "acme"))
    with pytest.raises(KeyStoreError):
        open_wrapped_secret(canonical({**fields, "owner": "eve"}))


def test_a_secret_that_does_not_come_back_is_never_written(kms: FakeKms) -> None:
    reference = kms.make("wrap", "symmetric")
    kms.trouble = [None, Refusal("AccessDeniedException")]  # may encrypt, may not decrypt
    with pytest.raises(KeyStoreError, match="does not let you use"):
        wrap_secret(SECRET, reference, "acme")


def test_store_out_of_reach_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    with FakeKms() as gone:
        document = wrap_secret(SECRET, gone.make("wrap", "symmetric"), "acme")
    with pytest.raises(UnavailableError):
        open_wrapped_secret(document)


def test_sealed_secret_names_no_key() -> None:
    assert wrapping_key_of(seal_secret(SECRET, b"pw")) is None


@pytest.mark.parametrize("changes", [{"v": 2}, {"kind": "other"}, {"extra": 1}, {"key": 1}, {"wrapped": "!"}])
def test_other_documents_are_refused(kms: FakeKms, changes: dict[str, object]) -> None:
    fields = json.loads(wrap_secret(SECRET, kms.make("wrap", "symmetric"), "acme"))
    with pytest.raises(DocumentError):
        open_wrapped_secret(canonical({**fields, **changes}))
