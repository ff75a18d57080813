"""A part of the registry restored from a backup: found before anything is signed, with both sizes named."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from registry.monitor import audit
from registry.store.embedded import EmbeddedRegistry
from registry.store.files import CHECKPOINT, DATABASE, LATEST
from tests.registry.example_log import LOG_KEY, make_folder, release_entry, some_entries
from watermark.errors import LogHaltedError, RollbackError

PARTS = {"database": [DATABASE], "files": ["log"], "tiles": ["log/tile"], "latest": ["latest"]}


def put_back(backup: Path, folder: Path, names: list[str]) -> None:
    for name in names:
        target = folder / name
        if target.is_dir():
            shutil.rmtree(target)
            shutil.copytree(backup / name, target)
        else:
            shutil.copyfile(backup / name, target)


def grown(tmp_path: Path) -> tuple[Path, Path, EmbeddedRegistry]:
    """A log of 60 entries, still open, and its backup from when it had 10."""
    folder = make_folder(tmp_path / "log", some_entries(10))
    backup = Path(shutil.copytree(folder, tmp_path / "backup"))
    registry = EmbeddedRegistry.open(folder, LOG_KEY)
    for at in range(100, 150, 10):
        registry.append([release_entry(number) for number in range(at, at + 10)])
    return folder, backup, registry


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_restored_part_stops_the_log(tmp_path: Path, part: str) -> None:
    folder, backup, registry = grown(tmp_path)
    put_back(backup, folder, PARTS[part])
    restored = contents(folder)
    with pytest.raises(RollbackError) as running:
        registry.append([release_entry(7777)])
    registry.close()
    with pytest.raises(RollbackError) as restarted:
        EmbeddedRegistry.open(folder, LOG_KEY)
    for error in (running, restarted):
        assert "60" in str(error.value)
        assert "10" in str(error.value) or part == "tiles"
    assert contents(folder) == restored
    with EmbeddedRegistry.open(backup, None) as reader:
        assert not audit(folder, [reader.vkey]).whole


def test_the_database_with_latest_record_and_checkpoint_restored_is_behind_its_tiles(tmp_path: Path) -> None:
    folder, backup, registry = grown(tmp_path)
    registry.close()
    put_back(backup, folder, [DATABASE, LATEST, CHECKPOINT])
    with pytest.raises(RollbackError, match=r"holds 10 entries.* at least 60"):
        EmbeddedRegistry.open(folder, LOG_KEY)


def test_a_folder_restored_as_a_whole_is_seen_by_who_remembers_a_checkpoint(tmp_path: Path) -> None:
    _, backup, registry = grown(tmp_path)
    trusted = registry.checkpoint()
    registry.close()
    assert audit(backup, [registry.vkey]).whole
    assert [finding.code for finding in audit(backup, [registry.vkey], trusted).findings] == ["rollback"]


@pytest.mark.parametrize("parts", [[DATABASE], ["log"], ["latest"]])
def test_two_histories_of_one_size_do_not_mix(tmp_path: Path, parts: list[str]) -> None:
    one = make_folder(tmp_path / "one", [*some_entries(5), release_entry(100)])
    other = make_folder(tmp_path / "other", [*some_entries(5), release_entry(200)])
    put_back(other, one, parts)
    mixed = contents(one)
    with pytest.raises(LogHaltedError, match="root for size 6"):
        EmbeddedRegistry.open(one, LOG_KEY)
    assert contents(one) == mixed
    with EmbeddedRegistry.open(other, None) as reader:
        assert not audit(one, [reader.vkey]).whole


@pytest.mark.parametrize("place", [LATEST, CHECKPOINT])
def test_a_lost_or_damaged_record_stops_the_log(tmp_path: Path, place: str) -> None:
    folder = make_folder(tmp_path / "log", some_entries(5))
    content = (folder / place).read_bytes()
    (folder / place).write_bytes(content[:-9] + b"AAAAAAA=\n")
    with pytest.raises(LogHaltedError, match=place):
        EmbeddedRegistry.open(folder, LOG_KEY)
    (folder / place).unlink()
    with pytest.raises(RollbackError, match=place):
        EmbeddedRegistry.open(folder, LOG_KEY)


def test_a_wrong_row_at_the_edge_stops_the_log(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "log", some_entries(5))
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute("UPDATE entry SET leaf_hash = x'00' WHERE log_index = 1")
    connection.close()
    with pytest.raises(LogHaltedError, match="not the root of the entries"):
        EmbeddedRegistry.open(folder, LOG_KEY)


def test_a_tile_with_other_bytes_is_never_replaced(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "log", some_entries(5))
    with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
        foreign = folder / "log/tile/entries/000.p/6"
        foreign.write_bytes(b"not what the log will say")
        with pytest.raises(LogHaltedError, match=r"tile/entries/000\.p/6"):
            registry.append([release_entry(100)])
        assert registry.size == 5
        with pytest.raises(LogHaltedError):
            registry.append([release_entry(101)])
        foreign.unlink()
        assert registry.append([release_entry(101)])[0].index == 6
        assert audit(folder, [registry.vkey]).whole
