from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from registry.keystores import pkcs11_token
from registry.keystores.interface import open_signer, open_wrapping
from tests.softhsm import LABEL, PIN, SPARE, SoftToken, pin, soft_token
from watermark.errors import InputError, KeyStoreError, UnavailableError

HASHES = {"p256": hashes.SHA256(), "p384": hashes.SHA384(), "p521": hashes.SHA512()}
MESSAGES = [b"", b"short", b"x" * 100_000]


@pytest.fixture(scope="module")
def token() -> SoftToken:
    return soft_token()


@pytest.mark.parametrize("name", ["p256", "p384", "p521", "ed25519"])
def test_signatures_verify_with_cryptography(token: SoftToken, name: str) -> None:
    signer = open_signer(token.uri(name), pin=pin)
    assert signer.algorithm == name
    key = load_der_public_key(signer.public.der)
    for message in MESSAGES:
        signature = signer.sign(message)
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(signature, message, ec.ECDSA(HASHES[name]))


def test_key_is_found_by_its_id(token: SoftToken) -> None:
    by_label = open_signer(token.uri("p384"), pin=pin)
    by_id = open_signer(token.uri("p384").replace("object=p384", f"id=%{b'p384'.hex('%')}"), pin=pin)
    assert by_id.public == by_label.public


def test_remembered_public_key_is_not_asked_for_and_holds_the_signer(token: SoftToken) -> None:
    public = open_signer(token.uri("p256"), pin=pin).public
    signer = open_signer(token.uri("p256"), pin=pin, public=public)
    public.verify(signer.sign(b"message"), b"message")
    moved = open_signer(token.uri("p256"), pin=pin, public=open_signer(token.uri("p256", SPARE), pin=pin).public)
    with pytest.raises(KeyStoreError, match="does not verify"):
        moved.sign(b"message")


def test_pin_is_asked_for_once_and_named(token: SoftToken) -> None:
    asked = []

    def ask(store: str) -> bytes:
        asked.append(store)
        return PIN.encode()

    signer = open_signer(token.uri("p256"), pin=ask)
    for _ in range(3):
        signer.sign(b"message")
    assert asked == [f"PKCS#11 token {LABEL}"]


def test_pin_comes_from_a_file_that_nobody_else_may_read(token: SoftToken, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text(f"{PIN}\nsecond line\n")
    os.chmod(tmp_path / "pin", 0o600)
    reference = f"{token.uri('p256')}&pin-source=file:{tmp_path / 'pin'}"
    open_signer(reference).sign(b"message")
    os.chmod(tmp_path / "pin", 0o644)
    with pytest.raises(InputError, match="others may read the PIN"):
        open_signer(reference)
    with pytest.raises(InputError, match="cannot be read"):
        open_signer(f"{token.uri('p256')}&pin-source=/nowhere/pin")


def test_wrong_pin_is_told_and_asked_for_again(token: SoftToken) -> None:
    with pytest.raises(KeyStoreError, match=r"PIN .* is wrong") as raised:
        open_signer(token.uri("p256"), pin=lambda _: b"canary-pin")
    assert "canary-pin" not in f"{raised.value} {raised.value.hint}"
    assert raised.value.exit_code == 4
    pins = [b"wrong one", PIN.encode()]
    public = open_signer(token.uri("p256"), pin=pin).public
    signer = open_signer(token.uri("p256"), pin=lambda _: pins.pop(0), public=public)
    with pytest.raises(KeyStoreError, match="PIN"):
        signer.sign(b"message")
    public.verify(signer.sign(b"message"), b"message")


def test_without_a_pin_the_token_stays_closed(token: SoftToken) -> None:
    with pytest.raises(KeyStoreError, match="asks for a PIN"):
        open_signer(token.uri("p256"))
    with pytest.raises(InputError, match="not UTF-8"):
        open_signer(token.uri("p256"), pin=lambda _: b"\xff\xfe")


@pytest.mark.parametrize(
    ("key", "kind", "told"),
    [
        ("nix", KeyStoreError, "no private key"),
        ("wrap", KeyStoreError, "no private key"),
        ("rsa", InputError, "no elliptic curve key"),
        ("koblitz", InputError, "curve that is not supported"),
    ],
)
def test_keys_that_cannot_sign_are_refused(token: SoftToken, key: str, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        open_signer(token.uri(key), pin=pin)


def test_missing_token_and_missing_module(token: SoftToken, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no PKCS#11 token nix"):
        open_signer(token.uri("p256", "nix"), pin=pin)
    with pytest.raises(InputError, match="is not there"):
        open_signer(f"pkcs11:token=a;object=b?module-path={tmp_path / 'none.so'}", pin=pin)
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(KeyStoreError, match="refused"):
        open_signer(f"pkcs11:token=a;object=b?module-path={tmp_path / 'text.so'}", pin=pin)


GONE = """
import shutil
from registry.keystores.interface import open_signer
from tests.softhsm import SPARE, pin, soft_token, token_folder
from watermark.errors import WeightmarkError
token = soft_token()
signer = open_signer(token.uri("p256", SPARE), pin=pin)
signer.sign(b"message")
shutil.rmtree(token_folder(token, SPARE))
try:
    signer.sign(b"message")
except WeightmarkError as error:
    print(error.code, error.exit_code, bool(error.hint))
"""


def test_token_gone_between_two_signatures() -> None:
    """In a process of its own: SoftHSM does not recover from the loss of a token."""
    done = subprocess.run([sys.executable, "-c", GONE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["key-store", "4", "True"]


def test_secret_comes_back_from_its_key_and_context_only(token: SoftToken) -> None:
    wrapping = open_wrapping(token.uri("wrap"), pin=pin)
    context = {"weightmark": "owner secret", "owner": "acme"}
    wrapped = wrapping.wrap(bytes(range(32)), context)
    assert wrapping.unwrap(wrapped, context) == bytes(range(32))
    assert wrapping.wrap(bytes(range(32)), context) != wrapped
    for key, bytes_, other in (
        ("wrap", wrapped, {**context, "owner": "eve"}),
        ("wrap", wrapped[:-1] + bytes([wrapped[-1] ^ 1]), context),
        ("wrap", wrapped[:20], context),
        ("other-wrap", wrapped, context),
    ):
        with pytest.raises(KeyStoreError, match="does not open the secret"):
            open_wrapping(token.uri(key), pin=pin).unwrap(bytes_, other)


def test_ambiguous_and_absent_wrapping_keys_are_refused(token: SoftToken) -> None:
    with pytest.raises(InputError, match="2 objects"):
        open_wrapping(token.uri("twice"), pin=pin).wrap(b"secret", {})
    with pytest.raises(KeyStoreError, match="no secret key"):
        open_wrapping(token.uri("nix"), pin=pin).wrap(b"secret", {})


def test_without_the_extra_it_says_what_to_install(token: SoftToken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkcs11_token, "find_spec", lambda _: None)
    for open_key in (open_signer, open_wrapping):
        with pytest.raises(KeyStoreError, match="not installed") as raised:
            open_key(token.uri("p256"), pin=pin)
        assert "weightmark[pkcs11]" in str(raised.value.hint)


def test_bare_public_points_are_read_too() -> None:
    point = b"\x04" + bytes(64)
    assert pkcs11_token._point(b"\x04\x41" + point) == point
    assert pkcs11_token._point(point) == point
    long = b"\x04" + bytes(132)
    assert pkcs11_token._point(b"\x04\x81\x85" + long) == long
    assert pkcs11_token._point(bytes(32)) == bytes(32)
