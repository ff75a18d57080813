"""A copy's sketch: what finds the release that a suspect may come from. Copies from before have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    """Add the column; rows stay as they are, and so do their digests."""
    op.add_column("copy", sa.Column("sketch", sa.LargeBinary))
