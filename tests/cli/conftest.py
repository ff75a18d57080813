"""Fixtures: an owner's home (made once, copied for whoever changes it) and a small model folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.home import Home
from registry.store.records import CopyRecord, ReleaseRecord
from tests.cli.command import PASSPHRASE

RELEASE_ID, COPY_ID = "0123456789abcdef" * 2, "01ffffffffffffff" * 2


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "PASSPHRASE", "NEW_PASSPHRASE", "REGISTRY", "DEBUG"):
        monkeypatch.delenv(f"WEIGHTMARK_{name}", raising=False)


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: read it only."""
    path = tmp_path_factory.mktemp("owner") / "home"
    Home.create(path, "acme", PASSPHRASE.encode())
    return path


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    """A home of the test's own."""
    return Path(shutil.copytree(made_home, tmp_path / "home"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 4}')
    header = b'{"w":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}'
    header += b" " * (-len(header) % 8)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(64)))
    return folder


def remember_release(home: Path, reference: Path, digest: str, *, created_at: int) -> None:
    """Write the records of a release with two copies, as the job of `release` does."""
    opened = Home.open(home)
    release = ReleaseRecord(RELEASE_ID, "acme", "mini", "2.3", str(reference), digest, "ab" * 32, b"{}", created_at)
    with opened.registry(opened.log_key(PASSPHRASE.encode())) as registry:
        registry.records.put_release(release)
        for index, (copy_id, recipient) in enumerate([(RELEASE_ID, None), (COPY_ID, "Globex")], start=1):
            registry.records.put_copy(
                CopyRecord(
                    copy_id,
                    RELEASE_ID,
                    recipient,
                    None,
                    index,
                    "cd" * 32,
                    b"sig",
                    b"claims",
                    b"proof",
                    "[]",
                    created_at,
                )
            )
