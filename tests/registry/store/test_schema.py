"""Databases of every earlier revision are brought up with their rows, or left alone."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import MetaData, inspect
from sqlmodel import SQLModel

from registry.log.checkpoint import Checkpoint, sign_checkpoint
from registry.log.merkle import leaf_hash, root_of
from registry.log.note import NoteSigner
from registry.monitor import audit
from registry.store.embedded import EmbeddedRegistry
from registry.store.engine import open_engine
from registry.store.files import CHECKPOINT, DATABASE, LATEST, LogFiles
from registry.store.schema import upgrade
from registry.store.tables import SCHEMA_REVISION, row_digest
from tests.registry.example_log import LOG_KEY, ORIGIN, make_registry, some_entries
from watermark.errors import LogHaltedError, RegistryError

SIGNER = NoteSigner(ORIGIN, LOG_KEY)


def first_version(folder: Path, entries: list[bytes], *, signed: int) -> None:
    """A registry as revision 0001 left it, written by hand: its head signs for `signed` entries."""
    folder.mkdir()
    os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_EXCL))
    engine = open_engine(folder / DATABASE)
    upgrade(engine, "0001")
    engine.dispose()
    root = root_of(leaf_hash(entry) for entry in some_entries(signed))
    empty = sign_checkpoint(Checkpoint(ORIGIN, 0, root_of([])), SIGNER)
    note = sign_checkpoint(Checkpoint(ORIGIN, signed, root), SIGNER)
    with sqlite3.connect(folder / DATABASE) as connection:
        for index, entry in enumerate(entries):
            insert(connection, "entry", log_index=index, entry=entry, entry_sha256=sha(entry),
                   leaf_hash=leaf_hash(entry), appended_at=1000)  # fmt: skip
        for size, checkpoint in ((0, empty), (signed, note)):
            insert(connection, "checkpoint", size=size, checkpoint=checkpoint)
        insert(connection, "head", id=1, origin=ORIGIN, vkey=SIGNER.verifier.vkey, size=signed, root=root,
               checkpoint=note, published_size=0, signed_at=1000)  # fmt: skip
    connection.close()
    files = LogFiles(folder)
    files.make_folders()
    files.swap(LATEST, None, empty)
    files.swap(CHECKPOINT, None, empty)


def sha(entry: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(entry).digest()


def insert(connection: sqlite3.Connection, table: str, **values: object) -> None:
    row = {**values, "row_sha256": row_digest(values)}
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def test_the_first_version_comes_up_with_its_rows(tmp_path: Path) -> None:
    folder, entries = tmp_path / "log", some_entries(10)
    first_version(folder, entries, signed=10)
    with pytest.raises(RegistryError, match="revision 0001"):
        EmbeddedRegistry.open(folder, None)
    with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
        assert list(registry.entries(0, 10)) == entries
        assert registry.records.list_releases() == []
        assert registry.append(some_entries(11)[10:])[0].index == 10
        assert audit(folder, [registry.vkey]).whole


def test_a_migration_that_finds_rows_missing_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    first_version(folder, some_entries(10)[:9], signed=10)
    before = (folder / DATABASE).read_bytes()
    with pytest.raises(LogHaltedError, match="9 entries"):
        EmbeddedRegistry.open(folder, LOG_KEY)
    assert (folder / DATABASE).read_bytes() == before


def test_copies_from_before_sketches_stay_as_they_are(tmp_path: Path) -> None:
    """Revision 0002 knew no sketch: its rows keep their digests, and their copies have none."""
    folder, entries = tmp_path / "log", some_entries(10)
    first_version(folder, entries, signed=10)
    engine = open_engine(folder / DATABASE)
    upgrade(engine, "0002")
    engine.dispose()
    with sqlite3.connect(folder / DATABASE) as connection:
        insert(connection, "release", release_id="a1", owner="acme", name="mini", version="1", reference_place="/model",
               reference_digest="ab", mark_document=b"{}", created_at=1)  # fmt: skip
        insert(connection, "copy", copy_id="a1", release_id="a1", log_index=1, root_digest="cd", model_sig=b"",
               claims=b"", proof=b"", tensor_digests="[]", created_at=1)  # fmt: skip
    connection.close()
    with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
        (copy,) = registry.records.copies("a1")
        assert copy.sketch is None
        assert registry.records.sketches() == {}


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_registry(folder, []).close()
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for key in (LOG_KEY, None):
        with pytest.raises(RegistryError, match="9999"):
            EmbeddedRegistry.open(folder, key)


def test_migrations_make_the_tables_that_the_classes_describe(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_registry(folder, []).close()
    engine = open_engine(folder / DATABASE, read_only=True)
    found = MetaData()
    found.reflect(engine)
    for name, table in SQLModel.metadata.tables.items():
        present = found.tables[name]
        assert {(c.name, c.nullable, c.primary_key, str(c.type)) for c in table.columns} == {
            (c.name, c.nullable, c.primary_key, str(c.type)) for c in present.columns
        }
        assert {i.name for i in table.indexes} == {i["name"] for i in inspect(engine).get_indexes(name)}
    assert set(found.tables) == {*SQLModel.metadata.tables, "alembic_version"}
    engine.dispose()


def test_the_known_revision_is_the_last_step() -> None:
    steps = Path(__file__).parents[3] / "registry/store/migrations/versions"
    assert max(path.name[:4] for path in steps.glob("[0-9]*.py")) == SCHEMA_REVISION
