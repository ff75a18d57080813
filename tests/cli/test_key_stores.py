"""Homes whose keys are in a token or in AWS KMS: made, used, listed, and refused with a reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.home import Home
from cli.key_stores import KeyStores
from registry.keystores.wrapped_secret import wrapping_key_of
from registry.signing.keys import read_public_key
from tests.amazon import set_credentials
from tests.cli.command import PASSPHRASE, weightmark, weightmark_process
from tests.registry.keystores.fake_kms import FakeKms, Refusal
from tests.softhsm import PIN, soft_token
from watermark.errors import ConflictError, InputError, KeyStoreError

BY_PIN = {"WEIGHTMARK_PIN": PIN}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_credentials(monkeypatch)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


@pytest.fixture
def kms() -> Iterator[FakeKms]:
    with FakeKms() as service:
        yield service


def test_home_in_a_token_has_no_key_file_and_needs_no_passphrase(tmp_path: Path, model: Path) -> None:
    token, home = soft_token(), tmp_path / "home"
    made = weightmark(
        *("init", "--owner", "acme", "--key", token.uri("p256"), "--log-key", token.uri("ed25519")),
        *("--secret-kms", token.uri("wrap"), "--json"),
        home=home,
        passphrase=None,
        environment=BY_PIN,
    )
    assert made.code == 0, made.out
    assert not list(home.glob("*.key"))
    assert read_public_key(home / "owner.pub").key_id == made.document["key"]
    assert wrapping_key_of((home / "secret.json").read_bytes()) == token.uri("wrap")
    out = tmp_path / "out"
    released = weightmark("release", model, "--out", out, "--no-mark", home=home, passphrase=None, environment=BY_PIN)
    assert released.code == 0, released.err
    assert weightmark("verify", out, "--trust", home / "trust.txt").code == 0
    assert weightmark("audit", home=home).code == 0
    assert weightmark("doctor", home=home).code == 0
    listed = {key["name"]: key for key in weightmark("keys", "list", "--json", home=home).document["keys"]}
    assert listed["owner.key"]["place"] == "in PKCS#11 token weightmark test (object p256)"
    assert listed["secret.json"]["place"] == "opened by the key in PKCS#11 token weightmark test (object wrap)"
    assert all(key["problem"] is None for key in listed.values())


def test_home_in_kms_is_shared_by_whoever_kms_lets(tmp_path: Path, kms: FakeKms, model: Path) -> None:
    home = tmp_path / "home"
    stores = ("--key", kms.make("release", "p384"), "--log-key", kms.make("log", "ed25519"))
    made = weightmark(
        "init", "--owner", "acme", *stores, "--secret-kms", kms.make("wrap", "symmetric"), home=home, passphrase=None
    )
    assert made.code == 0, made.err
    released = weightmark("release", model, "--out", tmp_path / "out", "--no-mark", home=home, passphrase=None)
    assert released.code == 0, released.err
    assert weightmark("verify", tmp_path / "out", "--trust", home / "trust.txt").code == 0
    assert {tuple(one["EncryptionContext"].values()) for one in kms.requests("Decrypt")} == {("owner secret", "acme")}
    kms.trouble = [Refusal("AccessDeniedException")]
    refused = weightmark(
        "release", model, "--out", tmp_path / "out2", "--no-mark", "--json", home=home, passphrase=None
    )
    assert (refused.code, refused.error["code"]) == (4, "key-store")
    assert not (tmp_path / "out2").exists()


@pytest.mark.slow
def test_key_of_the_home_can_be_moved_to_a_store_one_by_one(tmp_path: Path, kms: FakeKms) -> None:
    """A key in a store, and the rest sealed by the passphrase as ever."""
    home = tmp_path / "home"
    made = weightmark("init", "--owner", "acme", "--key", kms.make("release", "p256"), home=home)
    assert made.code == 0, made.err
    assert sorted(path.name for path in home.glob("*.key")) == ["log.key"]
    assert weightmark("doctor", home=home).code == 0
    changed = weightmark(
        "keys", "change-passphrase", "--json", home=home, environment={"WEIGHTMARK_NEW_PASSPHRASE": "new"}
    )
    assert changed.document == {"changed": ["secret.json", "log.key"]}
    opened = Home.open(home)
    assert len(opened.owner_secret(b"new")) == 32
    assert opened.log_key(b"new").algorithm == "ed25519"


def test_plain_signatures_by_reference(tmp_path: Path, kms: FakeKms, model: Path) -> None:
    token = soft_token()
    for number, reference in enumerate((token.uri("p521"), kms.make("key", "p256"))):
        signature = tmp_path / f"{number}.sig"
        signed = weightmark(
            *("sign", model, "--key", reference, "--signature", signature, "--json"),
            passphrase=None,
            environment=BY_PIN,
        )
        assert signed.code == 0, signed.out
        from registry.keystores.interface import open_signer

        public = tmp_path / f"{number}.pub"
        public.write_text(open_signer(reference, pin=lambda _: PIN.encode()).public.pem)
        assert weightmark("verify", model, "--public-key", public, "--signature", signature).code == 0


def test_pin_by_file_descriptor(tmp_path: Path, model: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, f"{PIN}\n".encode())
    os.close(writing)
    signed = weightmark_process(
        *("sign", model, "--key", soft_token().uri("p256"), "--pin-fd", str(reading)),
        passphrase=None,
        pass_fds=[reading],
    )
    os.close(reading)
    assert signed.code == 0, signed.err


def test_pin_and_passphrase_never_stand_for_each_other(model: Path) -> None:
    """The passphrase of a home, sent to a token as its PIN a few times, would lock it."""
    told = weightmark("sign", model, "--key", soft_token().uri("p256"), "--json")
    assert (told.code, told.error["code"]) == (2, "input")
    assert "--pin-fd" in told.error["hint"]
    wrong = weightmark(
        *("sign", model, "--key", soft_token().uri("p256"), "--json"), environment={"WEIGHTMARK_PIN": "canary-pin"}
    )
    assert (wrong.code, wrong.error["code"]) == (4, "key-store")
    assert "canary-pin" not in wrong.out + wrong.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--key", "owner.pem"], "is a key file"),
        (["--key", "gcpkms://x"], "not known"),
        (["--log-key", "log.pem"], "is a key file"),
        (["--secret-kms", "wrap.key"], "does not wrap"),
        (["--key", "pkcs11:token=x"], "names no key"),
    ],
)
def test_init_refuses_references_before_asking_for_anything(tmp_path: Path, flags: list[str], told: str) -> None:
    made = weightmark("init", "--owner", "acme", *flags, "--json", home=tmp_path / "home")
    assert (made.code, told in made.error["message"]) == (2, True), made.out
    assert not (tmp_path / "home").exists()


def test_init_refuses_keys_of_the_wrong_algorithm_and_leaves_nothing(tmp_path: Path, kms: FakeKms) -> None:
    for stores in (
        KeyStores(owner_key=kms.make("ed", "ed25519")),
        KeyStores(owner_key=kms.make("pq", "mldsa44")),
        KeyStores(log_key=kms.make("ec", "p256")),
    ):
        with pytest.raises(InputError, match=r"is (ed25519|mldsa44|p256)"):
            Home.create(tmp_path / "home", "acme", PASSPHRASE.encode(), stores=stores)
    with pytest.raises(KeyStoreError):
        Home.create(tmp_path / "home", "acme", b"pw", stores=KeyStores(secret=kms.make("sign", "p256")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_secret_is_wrapped_and_sealed_again(home: Path, kms: FakeKms) -> None:
    secret = Home.open(home).owner_secret(PASSPHRASE.encode())
    reference = kms.make("wrap", "symmetric")
    wrapped = weightmark("keys", "wrap-secret", reference, "--json", home=home)
    assert wrapped.document == {"secret": "wrapped by the key in AWS KMS (alias/wrap)", "needs_passphrase": True}
    assert Home.open(home).wrapping_key() == reference
    assert Home.open(home).owner_secret(b"not needed") == secret
    assert weightmark("keys", "list", home=home).code == 0
    kms.disabled.add("wrap")
    refused = weightmark("keys", "seal-secret", "--json", home=home)
    assert (refused.code, refused.error["code"]) == (4, "key-store")
    kms.disabled.clear()
    assert weightmark("keys", "seal-secret", home=home, passphrase="wrong").code == 2
    assert weightmark("keys", "seal-secret", home=home).code == 0
    assert Home.open(home).owner_secret(PASSPHRASE.encode()) == secret
    assert not list(home.glob(".secret*"))


def test_a_home_that_exists_is_not_asked_about_stores(home: Path) -> None:
    with pytest.raises(ConflictError):
        Home.create(home, "acme", b"pw", stores=KeyStores(owner_key="pkcs11:token=x;object=y?module-path=/none"))
