"""The owner's records: releases, copies, the tensors they hold, and cases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Make the tables of the owner's records."""
    op.create_table(
        "release",
        sa.Column("release_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("reference_place", sa.String, nullable=False),
        sa.Column("reference_digest", sa.String, nullable=False),
        sa.Column("mark_root", sa.String),
        sa.Column("mark_document", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("row_sha256", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("owner", "name", "version"),
    )
    op.create_table(
        "copy",
        sa.Column("copy_id", sa.String, primary_key=True),
        sa.Column("release_id", sa.String, sa.ForeignKey("release.release_id"), nullable=False),
        sa.Column("recipient", sa.String),
        sa.Column("commitment", sa.String),
        sa.Column("log_index", sa.Integer, nullable=False),
        sa.Column("root_digest", sa.String, nullable=False),
        sa.Column("model_sig", sa.LargeBinary, nullable=False),
        sa.Column("claims", sa.LargeBinary, nullable=False),
        sa.Column("proof", sa.LargeBinary, nullable=False),
        sa.Column("tensor_digests", sa.String, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("row_sha256", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_copy_release_id", "copy", ["release_id"])
    op.create_index("ix_copy_root_digest", "copy", ["root_digest"])
    op.create_table(
        "tensor_digest",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("copy_id", sa.String, sa.ForeignKey("copy.copy_id"), primary_key=True),
    )
    op.create_table(
        "case_record",
        sa.Column("log_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("release_id", sa.String, sa.ForeignKey("release.release_id"), nullable=False),
        sa.Column("copy_id", sa.String, sa.ForeignKey("copy.copy_id")),
        sa.Column("suspect_digest", sa.String, nullable=False),
        sa.Column("layer", sa.String, nullable=False),
        sa.Column("blocks_wanted", sa.Integer, nullable=False),
        sa.Column("opened", sa.String),
        sa.Column("challenge", sa.String),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("row_sha256", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_case_record_release_id", "case_record", ["release_id"])
