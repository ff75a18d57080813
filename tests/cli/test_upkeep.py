"""What an owner asks of his home: list, show, keys, doctor."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from cli.doctor import Check, DoctorRequest, doctor
from cli.home import Home
from cli.keys import export_trust, list_keys, show_key
from cli.listing import list_releases
from cli.show import show
from registry.signing.keys import generate
from registry.signing.trust import format_trust, parse_trust, trust_of
from tests.cli.command import weightmark
from tests.cli.conftest import COPY_ID, RELEASE_ID, remember_release
from watermark.errors import DocumentError, InputError
from watermark.model.digest import canonical_digest, digest_tensors
from watermark.model.directory import open_model


@pytest.fixture
def released(home: Path, model: Path) -> Path:
    """A home that remembers a release of `model`, with a copy for anyone and one for Globex."""
    with open_model(model) as opened:
        digest = canonical_digest(digest_tensors(opened).values()).hex()
    remember_release(home, model, digest, created_at=int(time.time()) + 5)
    return home


def failing(home: Path, name: str, *, deep: bool = False) -> list[Check]:
    return [one for one in doctor(DoctorRequest(home, deep)).checks if one.name == name and not one.well]


def test_list_names_each_copy_and_its_recipient(released: Path) -> None:
    (release,) = list_releases(released).releases
    assert (release.name, release.version, release.marked) == ("mini", "2.3", True)
    assert [(copy.copy_id, copy.recipient, copy.index) for copy in release.copies] == [
        (RELEASE_ID, None, 1),
        (COPY_ID, "Globex", 2),
    ]
    told = weightmark("list", home=released).out
    assert "mini 2.3" in told
    assert "Globex" in told
    document = weightmark("list", "--json", home=released).document
    assert [copy["recipient"] for copy in document["releases"][0]["copies"]] == [None, "Globex"]


def test_show_takes_the_beginning_of_a_release_or_copy(released: Path, model: Path) -> None:
    whole = show(released, RELEASE_ID[:6])
    assert [copy.copy_id for copy in whole.copies] == [RELEASE_ID, COPY_ID]
    assert whole.reference_is_there
    one = show(released, COPY_ID[:6])
    assert (one.release_id, [copy.recipient for copy in one.copies]) == (RELEASE_ID, ["Globex"])
    shutil.rmtree(model)
    assert not show(released, RELEASE_ID).reference_is_there
    assert "IS GONE" in weightmark("show", RELEASE_ID, home=released).out


@pytest.mark.parametrize(("identifier", "says"), [("01", "more than one"), ("ff", "no release"), ("", "more than one")])
def test_show_refuses_what_names_none_or_several(released: Path, identifier: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        show(released, identifier)


def test_keys_are_listed_without_a_passphrase(home: Path) -> None:
    assert all(key.sealed and key.problem is None for key in list_keys(home))
    os.chmod(home / "log.key", 0o644)
    (home / "secret.json").unlink()
    (home / "owner.key").write_text(generate("p256").to_pem(None).decode())
    problems = {key.name: key.problem for key in list_keys(home)}
    assert problems["owner.key"] == "is not encrypted"
    assert problems["secret.json"] == "is missing"
    assert "0644" in str(problems["log.key"])
    assert weightmark("keys", "list", home=home, passphrase=None).code == 1


def test_exported_trust_names_the_owner_and_nobody_whom_he_trusts(home: Path, tmp_path: Path) -> None:
    opened = Home.open(home)
    friend = generate("p256").public
    policy = trust_of({**opened.trust().owners, "friend": (friend,)}, opened.trust().log_vkeys)
    opened.trust_path.write_text(format_trust(policy))
    exported = export_trust(home, tmp_path / "acme.trust")
    assert parse_trust((tmp_path / "acme.trust").read_text()).owners == {"acme": (opened.public_key,)}
    assert parse_trust(exported.text).log_vkeys == opened.trust().log_vkeys
    assert parse_trust(exported.text).log_vkeys[0] == show_key(home).log_vkey
    with pytest.raises(InputError, match="lies in your home"):
        export_trust(home, home / "trust.txt")
    assert "friend" in opened.trust().owners


def test_export_without_the_own_log_says_what_is_missing(home: Path) -> None:
    Home.open(home).trust_path.write_text("quorum none\n")
    with pytest.raises(DocumentError, match="does not name the log"):
        export_trust(home)


def test_doctor_finds_a_new_home_well(home: Path) -> None:
    diagnosis = doctor(DoctorRequest(home))
    assert diagnosis.well
    names = {"home", "keys", "trust file", "registry", "references", "disk", "installation"}
    assert {check.name for check in diagnosis.checks} == names
    assert weightmark("doctor", "--json", home=home, passphrase=None).document["well"] is True


def test_doctor_finds_open_doors(home: Path) -> None:
    os.chmod(home, 0o755)
    os.chmod(home / "owner.key", 0o644)
    assert failing(home, "home")[0].hint.startswith("chmod 700")
    (key,) = failing(home, "keys")
    assert "owner.key" in key.text
    assert key.hint.startswith("chmod 600")
    assert weightmark("doctor", home=home).code == 1


def test_doctor_finds_a_trust_file_that_does_not_name_the_owner(home: Path) -> None:
    trust = home / "trust.txt"
    whole = trust.read_text()
    trust.write_text("".join(line + "\n" for line in whole.splitlines() if not line.startswith("owner")))
    assert failing(home, "trust file")
    trust.write_text(whole + "nonsense\n")
    assert "line" in failing(home, "trust file")[0].text


def test_doctor_finds_a_damaged_registry_and_goes_on(home: Path) -> None:
    (home / "registry/latest/checkpoint").unlink()
    assert failing(home, "registry")
    assert not failing(home, "disk")
    (home / "registry/registry.sqlite").unlink()
    assert failing(home, "registry")
    assert failing(home, "references")


def test_doctor_looks_where_references_were(released: Path, model: Path) -> None:
    assert not failing(released, "references")
    assert not failing(released, "references", deep=True)
    shutil.move(model, model.with_name("moved"))
    (gone,) = failing(released, "references")
    assert "is gone" in gone.text


def test_doctor_deep_reads_the_weights_where_times_tell_nothing(released: Path, model: Path) -> None:
    shard = model / "model.safetensors"
    before = shard.stat()
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not failing(released, "references")
    (changed,) = failing(released, "references", deep=True)
    assert "other weights" in changed.text
    os.utime(shard, (time.time() + 60, time.time() + 60))
    (touched,) = failing(released, "references")
    assert "changed after the release" in touched.text


def test_a_model_written_within_the_second_of_its_release_is_not_one_that_changed(released: Path, model: Path) -> None:
    shard = model / "model.safetensors"
    home = Home.open(released)
    with home.registry() as registry:
        (release,) = registry.records.list_releases()
    os.utime(shard, (release.created_at, release.created_at + 0.9))
    assert not failing(released, "references")
    os.utime(shard, (release.created_at, release.created_at + 1))
    (touched,) = failing(released, "references")
    assert "changed after the release" in touched.text
