from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from registry.store.files import CHECKPOINT, DATABASE, LATEST
from registry.store.record_file import RecordFile, dump_records
from registry.store.records import CopyRecord, ReleaseRecord
from registry.store.snapshot import take_snapshot
from watermark.errors import DocumentError, InputError, LimitError, RegistryError

RELEASES = [
    ReleaseRecord("ab" * 16, "acme", "mini", "1", "/models/mini", "cd" * 32, "ef" * 32, b'{"mark":1}\x00\xff', 1),
    ReleaseRecord("ac" * 16, "acme", "mini", "2", "s3://b/mini", "cd" * 32, None, b"", 2),
]
COPIES = [
    CopyRecord("01" * 16, "ab" * 16, "Globex", "02" * 32, 3, "03" * 32, b"sig", b"claims", b"proof\xff", "[]", 1),
    CopyRecord("ab" * 16, "ab" * 16, None, None, 4, "03" * 32, b"", b"", b"", "[]", 1),
]
BOOK = RecordFile(RELEASES, COPIES)


def test_records_come_back_as_they_were() -> None:
    read = RecordFile.read(dump_records(BOOK))
    assert read.list_releases() == RELEASES
    assert list(read.each_copy("ab" * 16)) == COPIES
    assert list(read.each_copy("ac" * 16)) == []
    assert dump_records(read) == dump_records(BOOK)


def test_a_release_is_found_by_a_unique_beginning() -> None:
    assert BOOK.release("ab") == RELEASES[0]
    for beginning in ("a", "", "ff"):
        with pytest.raises(InputError):
            BOOK.release(beginning)


@pytest.mark.parametrize(
    "change", [{"kind": "x"}, {"v": 2}, {"releases": 1}, {"releases": [{"a": 1}]}, {"copies": [{}]}]
)
def test_damaged_files_are_refused(change: dict[str, object]) -> None:
    fields = json.loads(dump_records(BOOK))
    with pytest.raises(DocumentError):
        RecordFile.read(json.dumps({**fields, **change}).encode())
    fields["copies"][0]["proof"] = {"base64": "!"}
    with pytest.raises(DocumentError):
        RecordFile.read(json.dumps(fields).encode())


def small_registry(folder: Path) -> Path:
    for name in (CHECKPOINT, LATEST, "log/tile/0/000.p/3"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.executescript("create table t (a); insert into t values (42);")
    return folder


def test_snapshot_holds_every_file_and_a_whole_database(tmp_path: Path) -> None:
    files = take_snapshot(small_registry(tmp_path))
    assert {name for name in files if name != DATABASE} == {CHECKPOINT, LATEST, "log/tile/0/000.p/3"}
    (tmp_path / "copy.sqlite").write_bytes(files[DATABASE])
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as database:
        assert database.execute("select a from t").fetchall() == [(42,)]


def test_snapshot_of_nothing_and_of_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegistryError, match="no registry"):
        take_snapshot(tmp_path)
    monkeypatch.setattr("registry.store.snapshot.MAX_SNAPSHOT_BYTES", 100)
    with pytest.raises(LimitError):
        take_snapshot(small_registry(tmp_path))
