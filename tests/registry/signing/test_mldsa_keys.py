from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from registry.signing.entry import MAX_ENTRY_BYTES, make_entry, read_entry
from registry.signing.keys import (
    MLDSA44,
    MLDSA65,
    MLDSA87,
    MLDSA_ALGORITHMS,
    OMS_ALGORITHMS,
    PrivateKey,
    PublicKey,
    generate,
    mldsa_from_seed,
    public_key_from_raw,
    read_private_key,
    read_public_key,
    write_private_key,
)
from registry.signing.oms import sign_model
from watermark.errors import InputError, SignatureError

SIZES = {MLDSA44: (1312, 2420), MLDSA65: (1952, 3309), MLDSA87: (2592, 4627)}


@pytest.mark.parametrize("algorithm", MLDSA_ALGORITHMS)
def test_lengths_are_those_of_fips_204(algorithm: str) -> None:
    key = generate(algorithm)
    assert (len(key.public.raw), len(key.sign(b"x"))) == SIZES[algorithm]
    assert public_key_from_raw(key.public.raw, algorithm) == key.public
    for wrong in (key.public.raw[:-1], key.public.raw + b"\0", b""):
        with pytest.raises(InputError, match="bytes"):
            public_key_from_raw(wrong, algorithm)
    with pytest.raises(InputError):
        public_key_from_raw(key.public.raw, "p256")


@pytest.mark.parametrize("algorithm", MLDSA_ALGORITHMS)
def test_signatures_agree_with_the_library_and_break_with_any_byte(algorithm: str) -> None:
    key = mldsa_from_seed(algorithm, bytes(range(32)))
    theirs = load_pem_public_key(key.public.pem.encode())
    signature = key.sign(b"message")
    theirs.verify(signature, b"message")  # type: ignore[union-attr, call-arg, arg-type]
    for at in (0, len(signature) // 2, len(signature) - 1):
        broken = bytearray(signature)
        broken[at] ^= 1
        with pytest.raises(SignatureError):
            key.public.verify(bytes(broken), b"message")
    with pytest.raises(SignatureError):
        key.public.verify(signature + b"\0", b"message")


def test_a_context_makes_another_signature() -> None:
    """Pure ML-DSA with empty context: what somebody signed for another purpose does not count here."""
    theirs = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32))
    ours = mldsa_from_seed(MLDSA44, bytes(32))
    assert ours.public.raw == theirs.public_key().public_bytes_raw()
    ours.public.verify(theirs.sign(b"m"), b"m")
    with pytest.raises(SignatureError):
        ours.public.verify(theirs.sign(b"m", b"context"), b"m")


@pytest.mark.parametrize("algorithm", MLDSA_ALGORITHMS)
def test_files_are_encrypted_and_come_back(algorithm: str, tmp_path: Path) -> None:
    key, path = generate(algorithm), tmp_path / "key.pem"
    write_private_key(path, key, b"correct horse")
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    again = read_private_key(path, b"correct horse")
    assert (again.algorithm, again.public) == (algorithm, key.public)
    theirs = load_pem_private_key(path.read_bytes(), b"correct horse")
    assert theirs.private_bytes_raw() == key.seed  # type: ignore[union-attr]
    with pytest.raises(InputError, match="wrong passphrase"):
        read_private_key(path, b"wrong")
    (tmp_path / "key.pub").write_text(key.public.pem)
    assert read_public_key(tmp_path / "key.pub") == key.public
    assert key.public.key_id == hashlib.sha256(key.public.pem.encode()).hexdigest()


def test_texts_name_the_algorithm_and_no_secret() -> None:
    key = generate(MLDSA65)
    assert repr(key) == f"PrivateKey(mldsa65, public {key.public.key_id[:16]})"
    assert key.public.algorithm_name == "ML-DSA-65"
    assert key.seed.hex() not in repr(key) + str(key.public)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    with pytest.raises(InputError):
        mldsa_from_seed(MLDSA44, seed)


def test_only_what_grows_from_a_seed_has_one() -> None:
    with pytest.raises(InputError, match="p256"):
        _ = generate("p256").seed
    with pytest.raises(InputError):
        mldsa_from_seed("ed25519", bytes(32))
    assert isinstance(generate("ed25519"), PrivateKey)


@pytest.mark.parametrize("algorithm", [*MLDSA_ALGORITHMS, "ed25519"])
def test_oms_takes_the_curves_only(algorithm: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"x")
    assert algorithm not in OMS_ALGORITHMS
    with pytest.raises(InputError, match="OMS") as refused:
        sign_model(tmp_path, generate(algorithm))
    assert "--also-sign" in refused.value.hint


@pytest.mark.parametrize("algorithm", MLDSA_ALGORITHMS)
def test_a_log_entry_has_room_for_the_signature(algorithm: str) -> None:
    key = generate(algorithm)
    data = make_entry("release", {"owner": "acme", "key": key.public.pem}, key)
    assert len(data) < MAX_ENTRY_BYTES // 4
    read_entry(data).verify(key.public)
    stranger: PublicKey = generate(algorithm).public
    with pytest.raises(Exception, match="signed by key"):
        read_entry(data).verify(stranger)
