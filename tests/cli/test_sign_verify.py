from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.sign import SignRequest, sign
from cli.verify import VerifyRequest, verify
from registry.signing.keys import generate, write_private_key
from registry.signing.trust import format_trust, trust_of
from tests.registry.signing.authority import ec_key, new_root, write_certificates
from tests.registry.signing.models import KEY_ONE, SHARDED, write_tree
from tests.registry.signing.test_release import LOG, TRUST, prove, release
from watermark.errors import (
    DigestError,
    DocumentError,
    InclusionError,
    InputError,
    UntrustedKeyError,
    WeightmarkError,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", SHARDED)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    write_private_key(tmp_path / "key.pem", KEY_ONE, b"pw")
    (tmp_path / "key.pub").write_text(KEY_ONE.public.pem)
    return tmp_path / "key.pem"


def test_sign_and_verify_with_a_key(model: Path, key: Path) -> None:
    told: list[int] = []
    signed = sign(SignRequest(model, key, b"pw", progress=told.append))
    assert signed.signature == model / "model.sig"
    assert (signed.files, sum(told)) == (len(SHARDED), sum(map(len, SHARDED.values())))
    verified = verify(VerifyRequest(model, public_key=key.with_suffix(".pub")))
    assert (verified.verified, verified.key, verified.root) == (True, signed.key, signed.root)
    assert (verified.owner, verified.index, verified.signed_at) == (None, None, None)
    again = sign(SignRequest(model, key, b"pw"))
    assert again == signed
    (model / "config.json").write_bytes(b"{}")
    with pytest.raises(DigestError, match=r"config\.json"):
        verify(VerifyRequest(model, public_key=key.with_suffix(".pub")))


def test_sign_and_verify_with_certificates(model: Path, key: Path, tmp_path: Path) -> None:
    root = new_root()
    middle = root.subordinate("middle")
    leaf = write_certificates(tmp_path / "leaf.pem", middle.issue("signer", ec_key(KEY_ONE).public_key()))
    chain = write_certificates(tmp_path / "chain.pem", middle.certificate)
    roots = (write_certificates(tmp_path / "root.pem", root.certificate),)
    elsewhere = tmp_path / "elsewhere.sig"
    sign(SignRequest(model, key, b"pw", signature=elsewhere, certificate=leaf, chain=(chain,)))
    assert verify(VerifyRequest(model, signature=elsewhere, roots=roots)).signed_by == "CN=signer"
    with pytest.raises(InputError, match="chain"):
        sign(SignRequest(model, key, b"pw", chain=(chain,)))


def test_nothing_checked_is_never_verified(model: Path, key: Path, tmp_path: Path) -> None:
    sign(SignRequest(model, key, b"pw"))
    public = key.with_suffix(".pub")
    for request in (
        VerifyRequest(model),
        VerifyRequest(model, public_key=public, roots=(public,)),
        VerifyRequest(model, public_key=public, trust=public),
        VerifyRequest(model, public_key=public, signature=tmp_path / "absent"),
        VerifyRequest(model, public_key=tmp_path / "absent"),
        VerifyRequest(tmp_path / "absent", public_key=public),
        VerifyRequest(model, public_key=public, ignore=("config.json",)),
    ):
        with pytest.raises(InputError):
            verify(request)


@pytest.fixture
def released(tmp_path: Path) -> tuple[Path, Path]:
    """A released folder and the trust file of its owner."""
    folder = release(tmp_path, SHARDED)
    model = tmp_path / "m"
    (model / "model.sig").write_bytes(folder.bundle)
    (model / "claims.jsonl").write_bytes(folder.claims)
    (model / "release.tlog-proof").write_bytes(prove(folder.entry(signed_at="2026-11-24T00:00:00Z")))
    (tmp_path / "trust").write_text(format_trust(TRUST))
    return model, tmp_path / "trust"


def test_verify_a_release(released: tuple[Path, Path]) -> None:
    model, trust = released
    verified = verify(VerifyRequest(model, trust=trust))
    assert (verified.owner, verified.release, verified.copy) == ("acme", "r1", "c1")
    assert (verified.index, verified.origin, verified.key) == (2, LOG.name, KEY_ONE.public.key_id)
    assert (verified.signed_at, verified.time_source) == ("2026-11-24T00:00:00Z", "owner")


def test_a_release_needs_all_its_files(released: tuple[Path, Path]) -> None:
    model, trust = released
    claims = (model / "claims.jsonl").read_bytes()
    (model / "claims.jsonl").unlink()
    with pytest.raises(DigestError, match="2 of the 2 claims"):
        verify(VerifyRequest(model, trust=trust))
    (model / "claims.jsonl").write_bytes(claims)
    proof = (model / "release.tlog-proof").rename(model.parent / "aside")
    with pytest.raises(InclusionError, match="nothing shows that it was released"):
        verify(VerifyRequest(model, trust=trust))
    (model / "release.tlog-proof").mkdir()
    with pytest.raises(InputError):
        verify(VerifyRequest(model, trust=trust))
    (model / "release.tlog-proof").rmdir()
    (model / "release.tlog-proof").write_bytes(proof.read_bytes())
    verify(VerifyRequest(model, trust=trust))


@pytest.mark.parametrize("shard", sorted(SHARDED))
def test_a_tampered_release(released: tuple[Path, Path], shard: str) -> None:
    model, trust = released
    content = bytearray((model / shard).read_bytes())
    content[-1] ^= 1
    (model / shard).write_bytes(content)
    with pytest.raises(DigestError, match=shard):
        verify(VerifyRequest(model, trust=trust))


@pytest.mark.parametrize("name", ["release.tlog-proof", "claims.jsonl", "model.sig"])
def test_side_files_cut_short(released: tuple[Path, Path], name: str) -> None:
    model, trust = released
    content = (model / name).read_bytes()
    for size in (0, len(content) // 2, len(content) - 1):
        (model / name).write_bytes(content[:size])
        with pytest.raises(WeightmarkError):
            verify(VerifyRequest(model, trust=trust))


def test_trust_files_that_do_not_fit(released: tuple[Path, Path]) -> None:
    model, trust = released
    trust.write_text(format_trust(trust_of({"other": (generate().public,)}, (LOG.verifier.vkey,))))
    with pytest.raises(UntrustedKeyError):
        verify(VerifyRequest(model, trust=trust))
    for content in (b"\xff", b"owner x"):
        trust.write_bytes(content)
        with pytest.raises(DocumentError):
            verify(VerifyRequest(model, trust=trust))


def test_a_release_is_not_signed_over(released: tuple[Path, Path], key: Path) -> None:
    model, trust = released
    with pytest.raises(InputError, match="is a release"):
        sign(SignRequest(model, key, b"pw"))
    sign(SignRequest(model, key, b"pw", signature=model.parent / "extra.sig", ignore=("model.sig",)))
    verify(VerifyRequest(model, trust=trust))


def test_signing_and_verifying_load_nothing_heavy() -> None:
    code = (
        "import sys, cli.sign, cli.verify, registry.signing.release, registry.signing.trust\n"
        "heavy = {'torch', 'numpy', 'sqlmodel', 'sqlalchemy', 'pydantic', 'typer', 'boto3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
