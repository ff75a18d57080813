"""`weightmark export`: the same entry in three forms, each read back by what others would use."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from cli.home import Home
from registry.log.checkpoint import read_checkpoint
from registry.log.cose import verify_cose_receipt
from registry.log.note import read_vkey
from registry.log.proof import read_proof, verify_proof
from registry.signing import dsse
from registry.signing.bundle import read_bundle
from registry.signing.keys import public_key_from_der, public_key_from_raw
from registry.store.files import DATABASE
from tests.cli.command import Finished, weightmark
from tests.cli.owners import PASSPHRASE, make_home, make_release
from tests.watermark.marks.models import random_weights, write_model


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two released copies; read it only."""
    folder = tmp_path_factory.mktemp("export")
    home = make_home(folder / "home")
    model = write_model(folder / "model", random_weights(seed=5))
    make_release(home, model, folder / "out", recipients=("Globex", "Initech"), name="mini", version="1")
    return folder


def export(owner: Path, *arguments: str | Path) -> Finished:
    return weightmark("export", *arguments, home=owner / "home", passphrase=PASSPHRASE.decode())


def copy_folders(owner: Path) -> list[Path]:
    """The released copies, in the order of the log."""
    return sorted((owner / "out").iterdir(), key=index_of)


def index_of(folder: Path) -> int:
    return read_proof((folder / "release.tlog-proof").read_bytes()).index


def log_vkey(owner: Path) -> str:
    with Home.open(owner / "home").registry() as registry:
        return registry.vkey


def test_tlog_proof_of_a_copy_is_read_by_its_index_and_by_its_id(owner: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tlog-proof"
    for folder in copy_folders(owner):
        index = index_of(folder)
        done = export(owner, str(index), "--format", "tlog-proof", "--out", out)
        assert done.code == 0, done.err
        proof = read_proof(out.read_bytes())
        assert proof.extra is not None
        assert verify_proof(proof, proof.extra, [log_vkey(owner)]).index == index
        by_id = export(owner, folder.name, "--format", "tlog-proof")
        assert by_id.out.encode() == out.read_bytes()


def test_quiet_leaves_the_proof_whole(owner: Path) -> None:
    loud, quiet = export(owner, "0", "--format", "tlog-proof"), export(owner, "0", "--format", "tlog-proof", "--quiet")
    assert loud.out == quiet.out
    assert read_proof(loud.out.encode()).index == 0


def test_cose_receipt(owner: Path, tmp_path: Path) -> None:
    out = tmp_path / "receipt.cose"
    assert export(owner, "1", "--format", "cose", "--out", out).code == 0
    proof = read_proof(export(owner, "1", "--format", "tlog-proof").out.encode())
    vkey = log_vkey(owner)
    key = public_key_from_raw(read_vkey(vkey).public)
    assert proof.extra is not None
    found = verify_cose_receipt(
        out.read_bytes(), proof.extra, key, checkpoint=read_checkpoint(proof.checkpoint, [vkey])
    )
    assert found.index == 1
    document = export(owner, "1", "--format", "cose", "--json").document
    assert base64.b64decode(document["content_base64"]) == out.read_bytes()
    refused = export(owner, "1", "--format", "cose")
    assert refused.code == 2
    assert "--out" in refused.err


def test_rekor_bodies_are_about_the_shipped_signatures(owner: Path) -> None:
    folder = copy_folders(owner)[0]
    document = export(owner, folder.name, "--format", "rekor", "--json").document
    bundles = [(folder / "model.sig").read_bytes(), *(folder / "claims.jsonl").read_bytes().splitlines()]
    lines = document["content"].splitlines()
    assert document["about"] == ["model.sig", *(f"claims.jsonl:{number}" for number in range(1, len(bundles)))]
    assert document["left_out"] == []
    assert len(lines) == len(bundles)
    for line, data in zip(lines, bundles, strict=True):
        envelope = read_bundle(data).envelope
        stored = json.loads(line)["spec"]["hashedRekordV002"]
        key = public_key_from_der(base64.b64decode(stored["signature"]["verifier"]["publicKey"]["rawBytes"]))
        key.verify(base64.b64decode(stored["signature"]["content"]), envelope.pae)
        assert base64.b64decode(stored["data"]["digest"]) == envelope.pae_sha256
        assert dsse.verify(envelope, [key]).key == key


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("99", "--format", "tlog-proof"), "entry 99 is not in a log"),
        (("0", "--format", "rekor"), "about no released copy"),
        (("zz", "--format", "tlog-proof"), "begins with this"),
        (("1", "--format", "pdf"), "pdf"),
        (("1",), "--format"),
    ],
)
def test_what_cannot_be_exported(owner: Path, arguments: tuple[str, ...], said: str) -> None:
    done = export(owner, *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_a_release_of_several_copies_is_not_one_entry(owner: Path) -> None:
    with Home.open(owner / "home").registry() as registry:
        (release,) = registry.records.list_releases()
    done = export(owner, release.release_id[:8], "--format", "tlog-proof")
    assert done.code == 2
    assert "2 copies" in done.err


def test_nothing_is_written_into_the_home(owner: Path) -> None:
    done = export(owner, "0", "--format", "tlog-proof", "--out", owner / "home" / "trust.txt")
    assert done.code == 2
    assert "your home" in done.err


def test_a_wrong_passphrase_signs_no_receipt(owner: Path, tmp_path: Path) -> None:
    out = tmp_path / "receipt.cose"
    done = weightmark("export", "0", "--format", "cose", "--out", out, home=owner / "home", passphrase="wrong")
    assert done.code == 2
    assert not out.exists()


def test_a_damaged_entry_is_never_exported(owner: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(owner / "home", tmp_path / "home"))
    with sqlite3.connect(home / "registry" / DATABASE) as connection:
        connection.execute("UPDATE entry SET entry = zeroblob(8) WHERE log_index = 0")
    connection.close()
    out = tmp_path / "out"
    for form in ("cose", "tlog-proof"):
        done = weightmark("export", "0", "--format", form, "--out", out, home=home, passphrase=PASSPHRASE.decode())
        assert done.code == 4, done.out
        assert not out.exists()
