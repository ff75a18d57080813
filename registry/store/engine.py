"""SQLite as the log needs it: write lock first, durable commits, foreign errors translated.

The defaults are wrong for a log. Python's driver opens a transaction only at the first write, after the reads that
decided it: two writers then read the same head, and both append at the same index. Here the driver never begins on its
own, and a writing engine begins with BEGIN IMMEDIATE, which takes the write lock before the first read. The rollback
journal keeps the database one plain file at rest, which a reader opens without leaving anything behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError
from sqlmodel import Session

from watermark.errors import LogHaltedError, OutcomeUnknownError, RegistryError, UnavailableError

BUSY_SECONDS = 60


def open_engine(database: Path, *, read_only: bool = False) -> Engine:
    """Open the database file; a writing engine takes the write lock at the begin of each transaction.

    `read_only` never writes a byte, and sees each transaction wholly or not at all. Commits are durable when they
    return: synchronous=EXTRA also syncs the folder after the journal is gone.
    """
    place = f"file:{quote(str(database.absolute()))}?mode={'ro' if read_only else 'rw'}&uri=true"
    engine = create_engine(f"sqlite:///{place}", connect_args={"timeout": BUSY_SECONDS})

    def connect(driver: Any, _record: object) -> None:
        driver.isolation_level = None  # the driver shall not begin transactions by its own lights
        for setting in ("foreign_keys = ON", "synchronous = EXTRA", "trusted_schema = OFF", "cell_size_check = ON"):
            driver.execute(f"PRAGMA {setting}")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One transaction on a writing engine: all of it durable at the end, or nothing of it.

    Raises UnavailableError when nothing happened (locked, full, I/O error), OutcomeUnknownError when the commit itself
    failed, LogHaltedError when the database is damaged or a row is already there.
    """
    with Session(engine, expire_on_commit=False, autoflush=False) as session:
        with _translated():
            yield session
            session.flush()
            connection = session.connection()
        try:
            session.commit()
        except SQLAlchemyError as error:
            connection.invalidate()  # a failed commit is not rolled back by itself: it would keep the write lock
            raise OutcomeUnknownError(f"registry database: the commit failed ({_reason(error)})") from error


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """One consistent view of the database, for reading."""
    with Session(engine, expire_on_commit=False, autoflush=False) as session, _translated():
        yield session


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise LogHaltedError(f"registry database: a row breaks the rules of its table ({_reason(error)})") from error
    except OperationalError as error:
        raise UnavailableError(f"registry database: {_reason(error)}") from error
    except DatabaseError as error:
        raise LogHaltedError(f"registry database is damaged: {_reason(error)}") from error
    except SQLAlchemyError as error:
        raise RegistryError(f"registry database: {_reason(error)}") from error


def _reason(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]
