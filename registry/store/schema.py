"""Bring a database to the present tables: the migrations, run inside one transaction and checked before it ends.

A migration once lost rows of a real log and nobody noticed for months; so after one the root over all entries is
computed again, and the transaction is given up if it is not the signed one.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from registry.log.merkle import leaf_hash, root_of
from registry.store.engine import reading, transaction
from registry.store.tables import SCHEMA_REVISION, EntryRow, HeadRow
from watermark.errors import LogHaltedError, RegistryError

_MIGRATIONS = Path(__file__).with_name("migrations")


def schema_revision(session: Session) -> str | None:
    """The number of the last migration that ran, or None in an empty database."""
    connection = session.connection()
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def require_current_schema(engine: Engine) -> None:
    """Raise RegistryError unless the database has the tables that this program knows."""
    with reading(engine) as session:
        revision = schema_revision(session)
    if revision != SCHEMA_REVISION:
        raise RegistryError(
            f"the registry's tables are at revision {revision}, this program knows {SCHEMA_REVISION}",
            hint="run a command that writes, with this version or a newer one",
        )


def upgrade(engine: Engine, revision: str = SCHEMA_REVISION) -> None:
    """Run the migrations that are missing, up to `revision`; all of them and the check after, or nothing.

    Raises RegistryError for a database of a newer program, LogHaltedError when the log is not whole afterwards.
    """
    with reading(engine) as session:
        if schema_revision(session) == revision:
            return
    with transaction(engine) as session:
        present = schema_revision(session)  # again, under the write lock: another process may have been faster
        if present is not None and present > SCHEMA_REVISION:
            raise RegistryError(
                f"the registry's tables are at revision {present}, newer than this program's {SCHEMA_REVISION}",
                hint="use the newer weightmark that wrote them",
            )
        _run_migrations(session, revision)
        if present is not None:
            check_whole(session)


def check_whole(session: Session) -> None:
    """Compute the root over every entry again and compare it with the signed one, or raise LogHaltedError."""
    head = session.exec(select(HeadRow)).one()
    entries = session.exec(select(EntryRow.entry).order_by(col(EntryRow.log_index))).all()
    if len(entries) != head.size or root_of(leaf_hash(entry) for entry in entries) != head.root:
        raise LogHaltedError(f"registry database: {len(entries)} entries do not give the root signed for {head.size}")


def _run_migrations(session: Session, revision: str) -> None:
    from alembic import command  # only a registry that changes its tables pays for the import
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = session.connection()
    command.upgrade(config, revision)
