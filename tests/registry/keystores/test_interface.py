from __future__ import annotations

from pathlib import Path

import pytest

from registry.keystores.interface import StoreSigner, file_of, kind_of, open_signer, open_wrapping, place_of
from registry.signing.keys import P256, generate, write_private_key
from registry.signing.signer import Signer
from watermark.errors import InputError, KeyStoreError, WeightmarkError


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("key.pem", "file"),
        ("/keys/a b.pem", "file"),
        ("file:key.pem", "file"),
        ("pkcs11:token=a;object=b", "pkcs11"),
        ("awskms:///alias/a", "awskms"),
    ],
)
def test_kind_follows_from_the_beginning(reference: str, kind: str) -> None:
    assert kind_of(reference) == kind


@pytest.mark.parametrize("reference", ["", "gcpkms://projects/x", "azurekms://vault/key", "hashivault://key"])
def test_other_stores_are_refused_with_what_is_known(reference: str) -> None:
    with pytest.raises(InputError) as raised:
        kind_of(reference)
    assert "awskms:///" in str(raised.value.hint)


def test_file_reference_is_a_path() -> None:
    assert file_of("file:///keys/a.pem") == file_of("file:/keys/a.pem") == Path("/keys/a.pem")
    assert file_of("a.pem") == Path("a.pem")


def test_places_are_told_without_opening_anything() -> None:
    assert place_of("pkcs11:token=acme;object=release") == "in PKCS#11 token acme (object release)"
    assert place_of("pkcs11:serial=77;id=%01%ab") == "in PKCS#11 token 77 (object id 01ab)"
    assert place_of("awskms:///alias/acme") == "in AWS KMS (alias/acme)"
    assert place_of("a.pem") == "in the file a.pem"


def test_key_file_asks_for_the_passphrase_only_when_encrypted(tmp_path: Path) -> None:
    key, asked = generate(P256), []

    def ask() -> bytes:
        asked.append(1)
        return b"pw"

    write_private_key(tmp_path / "plain.pem", key, None)
    write_private_key(tmp_path / "sealed.pem", key, b"pw")
    assert open_signer(str(tmp_path / "plain.pem"), passphrase=ask).public == key.public
    assert asked == []
    assert open_signer(f"file:{tmp_path / 'sealed.pem'}", passphrase=ask).public == key.public
    assert asked == [1]
    with pytest.raises(InputError, match="no passphrase was given"):
        open_signer(str(tmp_path / "sealed.pem"))


def test_file_wraps_no_secret(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not wrap"):
        open_wrapping(str(tmp_path / "key.pem"))


def test_private_key_is_a_signer() -> None:
    assert isinstance(generate(P256), Signer)


def test_bad_signature_never_leaves_the_signer() -> None:
    key, other = generate(P256), generate(P256)
    good = StoreSigner(P256, key.public, "in a test", key.sign)
    key.public.verify(good.sign(b"message"), b"message")
    for bad in (other.sign, lambda _: key.sign(b"another message"), lambda _: b"", lambda _: b"\x30\x00"):
        with pytest.raises(KeyStoreError, match="does not verify") as raised:
            StoreSigner(P256, key.public, "in a test", bad).sign(b"message")
        assert raised.value.exit_code == 4


def test_signer_shows_no_secret() -> None:
    key = generate(P256)
    assert "sign" not in repr(StoreSigner(P256, key.public, "in a test", key.sign)).replace("StoreSigner", "")


def test_every_refusal_has_a_hint() -> None:
    for reference in ("gcpkms://x", "pkcs11:object=a", "awskms://host/key", "awskms:///"):
        with pytest.raises(WeightmarkError) as raised:
            open_signer(reference)
        assert raised.value.hint
