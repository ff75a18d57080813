"""The log: entries, tile hashes, the head, and the checkpoints that were signed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Make the log's tables."""
    op.create_table(
        "entry",
        sa.Column("log_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sa.Column("entry_sha256", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
        sa.Column("appended_at", sa.Integer, nullable=False),
        sa.Column("row_sha256", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "tile_hash",
        sa.Column("level", sa.Integer, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("row_sha256", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "head",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("vkey", sa.String, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("checkpoint", sa.LargeBinary, nullable=False),
        sa.Column("published_size", sa.Integer, nullable=False),
        sa.Column("signed_at", sa.Integer, nullable=False),
        sa.Column("row_sha256", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "checkpoint",
        sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("checkpoint", sa.LargeBinary, nullable=False),
        sa.Column("row_sha256", sa.LargeBinary, nullable=False),
    )
