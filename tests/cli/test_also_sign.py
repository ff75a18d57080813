"""Second signatures at the command line: `keys make`, `sign --also-sign`, `release --also-sign`, and `verify`."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from registry.signing.claims import make_claim, read_claims, write_claims
from registry.signing.countersignature import COUNTERSIGNATURE
from registry.signing.keys import generate, read_private_key, read_public_key
from registry.signing.statement import Statement
from tests.cli.command import PASSPHRASE, weightmark


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    for algorithm in ("p256", "ed25519", "mldsa44", "mldsa65"):
        done = weightmark("keys", "make", "--algorithm", algorithm, "--out", folder / algorithm)
        assert done.code == 0, done.err
    return {path.name: path for path in folder.iterdir()}


def test_made_keys_are_encrypted_private_and_never_overwritten(keys: dict[str, Path], tmp_path: Path) -> None:
    for algorithm in ("ed25519", "mldsa65"):
        assert stat.S_IMODE(keys[algorithm].stat().st_mode) == 0o600
        private = read_private_key(keys[algorithm], PASSPHRASE.encode())
        assert private.algorithm == algorithm
        assert read_public_key(keys[f"{algorithm}.pub"]) == private.public
    before = keys["mldsa65"].read_bytes()
    again = weightmark("keys", "make", "--out", keys["mldsa65"])
    assert again.code == 2
    assert keys["mldsa65"].read_bytes() == before
    (tmp_path / "half.pub").write_text("x")
    assert weightmark("keys", "make", "--out", tmp_path / "half").code == 2
    assert not (tmp_path / "half").exists()
    shown = weightmark("keys", "make", "--algorithm", "mldsa87", "--out", tmp_path / "k", "--json").document
    assert (shown["algorithm"], shown["can_sign_models"]) == ("ML-DSA-87", False)


def test_a_plain_signature_with_two_more(model: Path, keys: dict[str, Path]) -> None:
    arguments = ("--also-sign", keys["ed25519"], "--also-sign", keys["mldsa44"])
    signed = weightmark("sign", model, "--key", keys["p256"], *arguments, "--json")
    assert signed.code == 0, signed.err
    assert len(signed.document["also_signed"]) == 2
    demanded = ("--also-public-key", keys["ed25519.pub"], "--also-public-key", keys["mldsa44.pub"])
    done = weightmark("verify", model, "--public-key", keys["p256.pub"], *demanded, "--json")
    assert done.code == 0, done.out
    assert [one["algorithm"] for one in done.document["countersignatures"]] == ["Ed25519", "ML-DSA-44"]
    assert weightmark("verify", model, "--public-key", keys["p256.pub"]).code == 0
    text = weightmark("verify", model, "--public-key", keys["p256.pub"], *demanded)
    assert "ML-DSA-44 key" in text.out

    absent = weightmark(
        "verify", model, "--public-key", keys["p256.pub"], "--also-public-key", keys["mldsa65.pub"], "--json"
    )
    assert (absent.code, absent.error["code"]) == (1, "signature")
    (model / "config.json").write_text("{}")
    assert weightmark("verify", model, "--public-key", keys["p256.pub"], *demanded).code == 1


def test_signing_again_keeps_other_claims_and_replaces_old_countersignatures(
    model: Path, keys: dict[str, Path]
) -> None:
    assert weightmark("sign", model, "--key", keys["p256"], "--also-sign", keys["ed25519"]).code == 0
    claims = model / "claims.jsonl"
    own = generate("p256")
    claims.write_bytes(
        claims.read_bytes() + write_claims([make_claim(Statement("m", bytes(32), "https://x.example", {}), own)])
    )
    (model / "config.json").write_text("{}")
    assert weightmark("sign", model, "--key", keys["p256"], "--also-sign", keys["mldsa44"]).code == 0
    kinds = [json.loads(claim.bundle.envelope.payload)["predicateType"] for claim in read_claims(claims.read_bytes())]
    assert kinds == ["https://x.example", COUNTERSIGNATURE]
    demanded = ("--also-public-key", keys["mldsa44.pub"])
    assert weightmark("verify", model, "--public-key", keys["p256.pub"], *demanded).code == 0
    before = (model / "model.sig").read_bytes()
    claims.write_bytes(b"no claims")
    assert weightmark("sign", model, "--key", keys["p256"], "--also-sign", keys["mldsa44"]).code == 2
    assert (model / "model.sig").read_bytes() == before


def test_other_keys_sign_no_model_and_no_key_signs_twice(model: Path, keys: dict[str, Path]) -> None:
    refused = weightmark("sign", model, "--key", keys["mldsa65"], "--json")
    assert refused.code == 2
    assert "--also-sign" in refused.error["hint"]
    twice = ("--also-sign", keys["ed25519"], "--also-sign", keys["ed25519"])
    assert weightmark("sign", model, "--key", keys["p256"], *twice).code == 2
    assert not (model / "model.sig").exists()


def test_a_release_signed_by_a_second_key_of_its_owner(
    home: Path, model: Path, keys: dict[str, Path], tmp_path: Path
) -> None:
    out, release = tmp_path / "out", ("release", model, "--no-mark", "--name", "m", "--json")
    stranger = weightmark(*release, "--out", out, "--also-sign", keys["mldsa65"], home=home)
    assert (stranger.code, stranger.error["code"]) == (1, "untrusted-key")
    assert not out.exists()
    enrolled = weightmark("keys", "enrol", "--algorithm", "mldsa65", home=home)
    assert enrolled.code == 0, enrolled.err
    (second,) = home.glob("owner-*.key")
    done = weightmark(*release, "--out", out, "--also-sign", second, home=home)
    assert done.code == 0, done.out
    shown = weightmark("verify", out, "--json", home=home).document
    assert [(one["algorithm"], one["owner"]) for one in shown["countersignatures"]] == [("ML-DSA-65", "acme")]

    again = weightmark(*release, "--out", tmp_path / "again", "--also-sign", second, home=home)
    assert again.code == 0, again.out
    for name in ("model.sig", "claims.jsonl", "release.tlog-proof"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name

    claims = (out / "claims.jsonl").read_bytes().splitlines(keepends=True)
    (out / "claims.jsonl").write_bytes(b"".join(claims[:-1]))
    assert weightmark("verify", out, home=home).code == 1  # the log lists the signature that is gone


def test_a_signature_that_came_later_is_not_taken_for_one_from_the_start(
    home: Path, model: Path, tmp_path: Path
) -> None:
    release = ("release", model, "--no-mark", "--name", "m")
    assert weightmark(*release, "--out", tmp_path / "out", home=home).code == 0
    assert weightmark("keys", "enrol", "--algorithm", "ed25519", home=home).code == 0
    (second,) = home.glob("owner-*.key")
    late = weightmark(*release, "--out", tmp_path / "late", "--also-sign", second, "--json", home=home)
    assert (late.code, late.error["code"]) == (1, "conflict")
    assert "keys cosign" in late.error["hint"]
    shutil.copytree(tmp_path / "out", tmp_path / "cosigned")
    assert weightmark("keys", "cosign", tmp_path / "cosigned", "--key", second, home=home).code == 0
    shown = weightmark("verify", tmp_path / "cosigned", "--json", home=home).document
    assert [one["algorithm"] for one in shown["countersignatures"]] == ["Ed25519"]
