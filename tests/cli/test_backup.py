"""Backup and restore: one file, one passphrase, one fingerprint; and what still works when the registry is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.backup import BackupRequest, back_up
from cli.home import Home
from cli.release import ReleaseRequest, release
from cli.restore import RestoreRequest, restore
from tests.amazon import set_credentials
from tests.cli.command import PASSPHRASE, weightmark, weightmark_process
from tests.cli.conftest import RELEASE_ID, remember_release
from tests.cli.owners import check_suspect
from tests.registry.keystores.fake_kms import FakeKms
from tests.watermark.marks.models import random_weights, write_model
from watermark.errors import ConflictError, DigestError, DocumentError, InputError, KeyStoreError, RegistryError
from watermark.marks.plan import plan_mark

BACKUP_PASSPHRASE = b"another passphrase"
BY_ENVIRONMENT = {"WEIGHTMARK_BACKUP_PASSPHRASE": BACKUP_PASSPHRASE.decode()}


def phrase() -> bytes:
    return PASSPHRASE.encode()


def backup_phrase() -> bytes:
    return BACKUP_PASSPHRASE


def never() -> bytes:
    raise AssertionError("a passphrase was asked for")


@pytest.fixture(scope="module")
def backed_up(made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("backup") / "acme.backup"
    back_up(BackupRequest(made_home, file), phrase, backup_phrase)
    return file


def test_home_comes_back_under_the_backup_passphrase(made_home: Path, backed_up: Path, tmp_path: Path) -> None:
    shown: list[str] = []
    result = restore(RestoreRequest(backed_up, tmp_path / "new"), backup_phrase, shown.append)
    assert shown == [result.fingerprint] == [hashlib.sha256(backed_up.read_bytes()).hexdigest()]
    old, new = Home.open(made_home), Home.open(tmp_path / "new")
    assert (new.owner, new.origin, new.public_key) == (old.owner, old.origin, old.public_key)
    assert new.owner_secret(BACKUP_PASSPHRASE) == old.owner_secret(PASSPHRASE.encode())
    assert new.private_key(BACKUP_PASSPHRASE).public == old.public_key
    assert new.log_key(BACKUP_PASSPHRASE).public == old.log_key(PASSPHRASE.encode()).public
    assert new.trust_path.read_bytes() == old.trust_path.read_bytes()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "new").iterdir())
    assert weightmark("keys", "list", home=tmp_path / "new").code == 0


def test_the_file_is_sealed_and_only_its_owners(made_home: Path, backed_up: Path) -> None:
    assert backed_up.stat().st_mode & 0o777 == 0o600
    data = backed_up.read_bytes()
    secret = Home.open(made_home).owner_secret(PASSPHRASE.encode())
    assert secret not in data
    assert b"PRIVATE KEY" not in data


def test_nothing_is_written_over(home: Path, backed_up: Path, tmp_path: Path) -> None:
    before = backed_up.read_bytes()
    with pytest.raises(ConflictError):
        back_up(BackupRequest(home, backed_up), never, never)
    assert backed_up.read_bytes() == before
    with pytest.raises(InputError, match="lies in the home"):
        back_up(BackupRequest(home, home / "backup"), never, never)
    with pytest.raises(ConflictError, match="is there already"):
        restore(RestoreRequest(backed_up, home), never)
    assert Home.open(home).owner_secret(PASSPHRASE.encode())


def test_wrong_passphrases_leave_nothing(home: Path, backed_up: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        back_up(BackupRequest(home, tmp_path / "file"), lambda: b"wrong", never)
    with pytest.raises(InputError, match="wrong passphrase"):
        restore(RestoreRequest(backed_up, tmp_path / "new"), lambda: b"wrong")
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "new").exists()


def test_fingerprint_is_compared_before_the_passphrase_is_asked_for(backed_up: Path, tmp_path: Path) -> None:
    good = hashlib.sha256(backed_up.read_bytes()).hexdigest()
    with pytest.raises(DigestError, match=good):
        restore(RestoreRequest(backed_up, tmp_path / "new", "0" * 64), never)
    with pytest.raises(InputError, match="16 hex digits"):
        restore(RestoreRequest(backed_up, tmp_path / "new", good[:8]), never)
    spaced = " ".join(good[at : at + 4] for at in range(0, 64, 4)).upper()
    restore(RestoreRequest(backed_up, tmp_path / "new", spaced), backup_phrase)
    with pytest.raises(DocumentError, match="no backup"):
        restore(RestoreRequest(tmp_path / "new/trust.txt", tmp_path / "other"), never)


def test_commands_and_the_fingerprint_that_people_see(home: Path, tmp_path: Path) -> None:
    remember_release(home, tmp_path / "reference", "ef" * 32, created_at=1)
    made = weightmark("keys", "backup", tmp_path / "file", "--json", home=home, environment=BY_ENVIRONMENT)
    assert made.code == 0, made.out
    fingerprint = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    assert made.document["fingerprint"] == fingerprint
    assert (made.document["releases"], made.document["with_registry"]) == (1, False)
    reading, writing = os.pipe()
    os.write(writing, BACKUP_PASSPHRASE + b"\n")
    os.close(writing)
    back = weightmark_process(
        *("keys", "restore", tmp_path / "file", "--backup-passphrase-fd", str(reading)),
        home=tmp_path / "new",
        passphrase=None,
        pass_fds=[reading],
    )
    os.close(reading)
    assert back.code == 0, back.err
    assert back.err == f"fingerprint {fingerprint}\n"
    assert "the registry: nothing can be logged" in back.out
    assert str(tmp_path / "reference") in back.out
    listed = weightmark("list", "--json", home=tmp_path / "new")
    assert listed.document["releases"][0]["release"] == RELEASE_ID
    assert [copy["recipient"] for copy in listed.document["releases"][0]["copies"]] == [None, "Globex"]
    shown = weightmark("show", RELEASE_ID, "--json", home=tmp_path / "new")
    assert (shown.code, "without its registry" in shown.error["message"]) == (4, True)


@pytest.mark.slow
def test_backup_with_the_registry_goes_on_where_it_was(home: Path, model: Path, tmp_path: Path) -> None:
    assert weightmark("release", model, "--out", tmp_path / "out", "--no-mark", home=home).code == 0
    back_up(BackupRequest(home, tmp_path / "file", with_registry=True), phrase, backup_phrase)
    result = restore(RestoreRequest(tmp_path / "file", tmp_path / "new"), backup_phrase)
    assert result.with_registry
    assert weightmark("audit", "--since", home / "registry/log/checkpoint", home=tmp_path / "new").code == 0
    again = weightmark(
        *("release", model, "--out", tmp_path / "out2", "--no-mark", "--json"),
        home=tmp_path / "new",
        passphrase=BACKUP_PASSPHRASE.decode(),
    )
    assert again.code == 0, again.out
    for side in ("model.sig", "claims.jsonl", "release.tlog-proof"):  # what was signed and logged before, byte for byte
        assert (tmp_path / "out" / side).read_bytes() == (tmp_path / "out2" / side).read_bytes()
    assert weightmark("doctor", home=tmp_path / "new").code == 0


@pytest.mark.slow
def test_an_older_registry_is_found_out_by_a_checkpoint_kept_elsewhere(home: Path, model: Path, tmp_path: Path) -> None:
    back_up(BackupRequest(home, tmp_path / "file", with_registry=True), phrase, backup_phrase)
    assert weightmark("release", model, "--out", tmp_path / "out", "--no-mark", home=home).code == 0
    restore(RestoreRequest(tmp_path / "file", tmp_path / "new"), backup_phrase)
    audited = weightmark("audit", "--since", home / "registry/log/checkpoint", home=tmp_path / "new")
    assert audited.code == 1, audited.out


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKms]:
    set_credentials(monkeypatch)
    with FakeKms() as service:
        yield service


def test_secret_in_kms_survives_the_loss_of_kms(home: Path, kms: FakeKms, tmp_path: Path) -> None:
    secret = Home.open(home).owner_secret(PASSPHRASE.encode())
    assert weightmark("keys", "wrap-secret", kms.make("wrap", "symmetric"), home=home).code == 0
    back_up(BackupRequest(home, tmp_path / "file"), phrase, backup_phrase)
    del kms.keys["wrap"]
    result = restore(RestoreRequest(tmp_path / "file", tmp_path / "new"), backup_phrase)
    assert result.unwrapped == ("secret.json",)
    assert Home.open(tmp_path / "new").owner_secret(BACKUP_PASSPHRASE) == secret
    with pytest.raises(KeyStoreError, match="does not exist"):
        Home.open(home).owner_secret(PASSPHRASE.encode())


@pytest.mark.slow
def test_keys_that_stay_in_their_store_are_named(kms: FakeKms, tmp_path: Path) -> None:
    made = weightmark("init", "--owner", "acme", "--key", kms.make("release", "p256"), home=tmp_path / "home")
    assert made.code == 0, made.err
    result = back_up(BackupRequest(tmp_path / "home", tmp_path / "file"), phrase, backup_phrase)
    assert result.outside == ("owner.key is in AWS KMS (alias/release)",)
    back = restore(RestoreRequest(tmp_path / "file", tmp_path / "new"), backup_phrase)
    assert back.outside == result.outside
    new = Home.open(tmp_path / "new")
    new.public_key.verify(new.private_key(BACKUP_PASSPHRASE).sign(b"message"), b"message")


@pytest.mark.slow
def test_a_suspect_is_recognised_without_the_registry(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the records of the backup, recipients too; and by secret and reference alone for what no backup knows.

    The one that no backup knows is from before R named its owner.
    """
    opened = Home.open(home)
    opened.change_passphrase(PASSPHRASE.encode(), BACKUP_PASSPHRASE)
    reference = write_model(tmp_path / "model", random_weights(seed=31))
    other = write_model(tmp_path / "other", random_weights(seed=32))
    release(ReleaseRequest(home, reference, tmp_path / "out", recipients=("Globex",)), backup_phrase)
    back_up(BackupRequest(home, tmp_path / "file"), backup_phrase, backup_phrase)
    with monkeypatch.context() as earlier:
        earlier.setattr("cli.release.plan_mark", lambda *args, owner, **kept: plan_mark(*args, **kept))
        release(ReleaseRequest(home, other, tmp_path / "later", recipients=("Initech",)), backup_phrase)
    shutil.rmtree(home)
    restore(RestoreRequest(tmp_path / "file", home), backup_phrase)
    opened = Home.open(home)
    found = check_suspect(opened, tmp_path / "out", backup_phrase)
    assert (found.verdict, found.recipient) == ("ours", "Globex")
    assert any("private answer" in reason for reason in found.reasons)
    found = check_suspect(opened, tmp_path / "later", backup_phrase)
    assert found.verdict == "not-shown"
    found = check_suspect(opened, tmp_path / "later", backup_phrase, reference=other)
    assert (found.verdict, found.recipient) == ("ours", None)
    with pytest.raises(RegistryError, match="without its registry"):
        check_suspect(opened, tmp_path / "out", backup_phrase, evidence=tmp_path / "evidence.json")
    with pytest.raises(RegistryError, match="without its registry"):
        release(ReleaseRequest(home, reference, tmp_path / "out3"), backup_phrase)
    (home / "records.json").unlink()
    with pytest.raises(RegistryError, match="no registry here"):
        check_suspect(opened, tmp_path / "out", backup_phrase)
    found = check_suspect(opened, tmp_path / "out", backup_phrase, reference=reference)  # of today's form
    assert (found.verdict, dict(found.multiplicity)["releases"]) == ("ours", 2)
    of_another = check_suspect(opened, tmp_path / "later", backup_phrase, reference=reference)
    assert of_another.verdict == "not-shown"
    again = check_suspect(opened, tmp_path / "out", backup_phrase, reference=reference, releases=(str(found.release),))
    assert (again.log2_p, again.multiplicity) == (found.log2_p, found.multiplicity)
