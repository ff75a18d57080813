from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from registry.signing.ed25519_points import check_ed25519_point
from registry.signing.keys import (
    ALGORITHMS,
    MLDSA_ALGORITHMS,
    PrivateKey,
    generate,
    private_key_from_pem,
    public_key_from_der,
    public_key_from_pem,
    public_key_from_raw,
    read_private_key,
    read_public_key,
    write_private_key,
)
from registry.signing.pkcs8 import PBKDF2_ROUNDS
from tests.registry.signing.models import KEY_ONE
from watermark.errors import InputError, SignatureError

P = 2**255 - 19


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_signs_and_verifies(algorithm: str) -> None:
    key = generate(algorithm)
    signature = key.sign(b"message")
    assert (signature == key.sign(b"message")) is (algorithm not in MLDSA_ALGORITHMS)  # ML-DSA is hedged
    key.public.verify(signature, b"message")
    with pytest.raises(SignatureError):
        key.public.verify(signature, b"massage")
    with pytest.raises(SignatureError):
        generate(algorithm).public.verify(signature, b"message")
    with pytest.raises(SignatureError):
        key.public.verify(b"", b"message")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_public_key_forms_agree(algorithm: str) -> None:
    public = generate(algorithm).public
    assert public_key_from_pem(public.pem.encode()) == public == public_key_from_der(public.der)
    assert len({public, public_key_from_der(public.der)}) == 1
    assert public.key_id == hashlib.sha256(public.pem.encode()).hexdigest()
    assert public.pem.endswith("-----END PUBLIC KEY-----\n")
    assert max(map(len, public.pem.splitlines())) <= 64
    assert public != generate(algorithm).public


def test_raw_form_is_for_ed25519() -> None:
    public = generate("ed25519").public
    assert public_key_from_raw(public.raw) == public
    with pytest.raises(InputError):
        _ = KEY_ONE.public.raw


def test_texts_never_show_the_private_key() -> None:
    key = generate("ed25519")
    assert repr(key) == str(key) == f"PrivateKey(ed25519, public {key.public.key_id[:16]})"


def test_key_file_is_private_new_and_encrypted(tmp_path: Path) -> None:
    key, path = generate("p384"), tmp_path / "key.pem"
    os.umask(os.umask(0o022))
    write_private_key(path, key, b"correct horse")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert PBKDF2_ROUNDS.to_bytes(3, "big").hex() in _der(path).hex()
    assert read_private_key(path, b"correct horse").public == key.public
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write_private_key(path, generate(), b"x")
    assert path.read_bytes() == before
    for passphrase, reason in ((b"wrong", "wrong passphrase"), (None, "encrypted"), (b"", "wrong passphrase")):
        with pytest.raises(InputError, match=reason):
            read_private_key(path, passphrase)
    with pytest.raises(InputError, match="empty"):
        write_private_key(tmp_path / "other", key, b"")
    assert not (tmp_path / "other").exists()


def test_key_file_without_password_must_be_private(tmp_path: Path) -> None:
    key, path = generate(), tmp_path / "key.pem"
    write_private_key(path, key, None)
    assert read_private_key(path, None).public == key.public
    assert read_private_key(path, b"set for the session").public == key.public
    for mode in (0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        with pytest.raises(InputError, match=f"{mode:04o}"):
            read_private_key(path, None)


def test_encrypted_key_file_may_be_readable(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_private_key(path, KEY_ONE, b"pw")
    path.chmod(0o644)
    assert read_private_key(path, b"pw").public == KEY_ONE.public


def test_failures_name_the_file(tmp_path: Path) -> None:
    cases = {"nothing": b"", "text": b"hello", "cut": KEY_ONE.to_pem(None)[:100], "big": b"-" * 70_000}
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(InputError, match=name):
            read_private_key(path, None)
        with pytest.raises(InputError, match=name):
            read_public_key(path)
    with pytest.raises(InputError, match="absent"):
        read_private_key(tmp_path / "absent", None)
    with pytest.raises(InputError, match="no/such"):
        write_private_key(tmp_path / "no/such", KEY_ONE, None)


@pytest.mark.parametrize("kind", ["rsa", "secp256k1", "secp224r1"])
def test_other_kinds_of_key_are_refused(kind: str) -> None:
    if kind == "rsa":
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = rsa.generate_private_key(65537, 3072)
    else:
        key = ec.generate_private_key(ec.SECP256K1() if kind == "secp256k1" else ec.SECP224R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InputError, match=r"unsupported|curve"):
        private_key_from_pem(private, None)
    with pytest.raises(InputError, match=r"unsupported|curve"):
        public_key_from_pem(public)
    with pytest.raises(InputError, match="unknown"):
        generate(kind)


def small_order_encodings() -> set[bytes]:
    """Every encoding of the 8 points of small order, by independent arithmetic on the curve (RFC 8032 section 5.1)."""
    d = -121665 * pow(121666, -1, P) % P
    sqrt_minus_one = pow(2, (P - 1) // 4, P)

    def add(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
        (x1, y1), (x2, y2) = one, two
        product = d * x1 * x2 * y1 * y2
        x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
        return x % P, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P

    group_order = 2**252 + 27742317777372353535851937790883648493
    point, y = (0, 1), 2
    while True:  # some point of full order, times the large prime, is a generator of the small group
        x_squared = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(x_squared, (P + 3) // 8, P)
        x = x if x * x % P == x_squared else x * sqrt_minus_one % P
        if x * x % P == x_squared:
            point = multiply((x, y), group_order, add)
            if multiply(point, 4, add) != (0, 1):
                break
        y += 1
    encodings = set()
    for factor in range(8):
        _, y = multiply(point, factor, add)
        for alias in (y, y + P):
            if alias < 2**255:
                encodings |= {(alias | sign << 255).to_bytes(32, "little") for sign in (0, 1)}
    return encodings


def multiply(point, factor, add):  # type: ignore[no-untyped-def]
    result = (0, 1)
    while factor:
        if factor & 1:
            result = add(result, point)
        point, factor = add(point, point), factor >> 1
    return result


def test_small_order_points_are_refused_in_every_encoding() -> None:
    encodings = small_order_encodings()
    assert len(encodings) == 14
    for raw in encodings:
        with pytest.raises(InputError, match="small order"):
            public_key_from_raw(raw)


def test_non_canonical_points_are_refused() -> None:
    refused = 0
    for y in range(P, 2**255):  # all 19 of them
        for sign in (0, 1):
            with pytest.raises(InputError, match=r"small order|canonical"):
                check_ed25519_point((y | sign << 255).to_bytes(32, "little"))
            refused += 1
    assert refused == 38


def test_points_off_the_curve_and_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="curve"):
        check_ed25519_point((2).to_bytes(32, "little"))
    for size in (0, 31, 33):
        with pytest.raises(InputError, match="32 bytes"):
            public_key_from_raw(b"\x01" * size)
    for _ in range(50):
        check_ed25519_point(generate("ed25519").public.raw)


def test_weak_ed25519_keys_are_refused_on_every_way_in() -> None:
    raw = next(iter(small_order_encodings()))
    der = bytes.fromhex("302a300506032b6570032100") + raw
    with pytest.raises(InputError, match="small order"):
        public_key_from_der(der)


def _der(path: Path) -> bytes:
    import base64

    return base64.b64decode("".join(path.read_text().splitlines()[1:-1]))


def test_old_sha256_signatures_are_verified_apart() -> None:
    from cryptography.hazmat.primitives import hashes

    raw = ec.generate_private_key(ec.SECP384R1())
    key = PrivateKey("p384", raw)
    signature = raw.sign(b"m", ec.ECDSA(hashes.SHA256()))
    key.public.verify_with_sha256(signature, b"m")
    with pytest.raises(SignatureError):
        key.public.verify(signature, b"m")
    with pytest.raises(SignatureError):
        key.public.verify_with_sha256(signature, b"n")
    with pytest.raises(SignatureError):
        generate("ed25519").public.verify_with_sha256(signature, b"m")
