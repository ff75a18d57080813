"""Look into a registry's database without trusting it and without leaving a trace.

For the auditor: rows come out as plain values whatever their types, damage as LogHaltedError, and the
file is opened read-only. A journal that a killed process left is rolled back in a private copy, never in place. Knows
no meaning of any row.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlmodel import SQLModel

from registry.store.engine import BUSY_SECONDS
from registry.store.files import DATABASE
from watermark.errors import LogHaltedError

_FETCH = 256


class DatabaseView:
    """One open, read-only view of a database file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use `inspect_database`."""
        self._connection = connection

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep the database as it is while several tables are read: writers wait with their commits meanwhile."""
        with _damage():
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the read lock
        try:
            yield
        finally:
            with suppress(sqlite3.Error):  # of a reader nothing can be lost
                self._connection.execute("ROLLBACK")

    def complaints(self) -> list[str]:
        """What SQLite itself finds wrong with the file's structure: at most ten lines, none when it is sound."""
        with _damage():
            lines = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check(10)")]
        return [] if lines == ["ok"] else lines

    def rows(
        self, table: type[SQLModel], *, first: int | None = None, stop: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows of a table in the order of its primary key, as plain values by column.

        `first` and `stop` bound an integer primary key: [first, stop).
        """
        columns = list(table.model_fields)
        keys = [name for name in columns if getattr(table.model_fields[name], "primary_key", None) is True]
        names = ", ".join(f'"{name}"' for name in columns)
        order = ", ".join(f'"{name}"' for name in keys)
        bounds = ""
        values: tuple[int | None, ...] = ()
        if first is not None:
            bounds, values = f' WHERE "{keys[0]}" >= ? AND "{keys[0]}" < ?', (first, stop)
        query = f'SELECT {names} FROM "{table.__tablename__}"{bounds} ORDER BY {order}'  # noqa: S608  names are ours
        with _damage():
            cursor = self._connection.execute(query, values)
        while True:
            with _damage():
                part = cursor.fetchmany(_FETCH)
            if not part:
                return
            for row in part:
                yield dict(zip(columns, row, strict=True))


@contextmanager
def inspect_database(folder: Path) -> Iterator[DatabaseView]:
    """Open the database of a registry folder to look at it; LogHaltedError when it cannot be opened at all."""
    database = folder / DATABASE
    if not database.is_file():
        raise LogHaltedError(f"{database}: missing")
    with ExitStack() as stack:
        connection = stack.enter_context(closing(_connect(database, "ro")))
        if not _readable(connection) and Path(f"{database}-journal").exists():
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for suffix in ("", "-journal"):
                shutil.copyfile(f"{database}{suffix}", place / f"{DATABASE}{suffix}")
            connection = stack.enter_context(closing(_connect(place / DATABASE, "rw")))
        yield DatabaseView(connection)


def _connect(database: Path, mode: str) -> sqlite3.Connection:
    place = f"file:{quote(str(database.absolute()))}?mode={mode}"
    connection = sqlite3.connect(place, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # a flipped bit shall not stop us
    return connection


def _readable(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        return False
    return True


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeError, OverflowError) as error:
        raise LogHaltedError(f"registry database is damaged: {error}") from error
