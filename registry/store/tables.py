"""The tables of the embedded registry: the log's own, and the owner's private records.

The log's tables hold what the sequencer needs to derive every public file again. Each row carries a digest of its own
content, so that an audit finds a flipped bit also where nothing in the log speaks of the column. Knows no rules: what
may be written when is the affair of `sequencer` and `records`. The columns change by migrations only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import UniqueConstraint
from sqlmodel import Field, SQLModel

SCHEMA_REVISION = "0003"
"""The migration that these classes describe."""

_DIGEST = "row_sha256"


def row_digest(values: Mapping[str, Any]) -> bytes:
    """Digest the content of a row: sha256 over its columns by name, each framed with its type and length.

    A column that is null counts for nothing, so that a later migration can add one without touching old rows. Guards
    against damage, not against a forger: those are held by the log.
    """
    digest = hashlib.sha256()
    for name in sorted(values):
        value = values[name]
        if name == _DIGEST or value is None:
            continue
        raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        kind = "b" if isinstance(value, bytes) else "i" if isinstance(value, int) else "s"
        digest.update(f"{name}:{kind}:{len(raw)}:".encode() + raw)
    return digest.digest()


class EntryRow(SQLModel, table=True):
    """A log entry at its place. The unique digest makes a repeated append find its first place again."""

    __tablename__ = "entry"

    log_index: int = Field(primary_key=True)
    entry: bytes
    entry_sha256: bytes = Field(unique=True)
    leaf_hash: bytes
    appended_at: int
    row_sha256: bytes


class TileHashRow(SQLModel, table=True):
    """The hash of a full tile: hash `position` of tile level `level` >= 1, so that no proof reads the whole log."""

    __tablename__ = "tile_hash"

    level: int = Field(primary_key=True)
    position: int = Field(primary_key=True)
    hash: bytes
    row_sha256: bytes


class HeadRow(SQLModel, table=True):
    """The one row that says how far the log is: swapped, never merely written.

    `published_size` is the size that had been published when this head was signed: files that are behind it were
    restored from a backup.
    """

    __tablename__ = "head"

    id: int = Field(default=1, primary_key=True)
    origin: str
    vkey: str
    size: int
    root: bytes
    checkpoint: bytes
    published_size: int
    signed_at: int
    row_sha256: bytes


class CheckpointRow(SQLModel, table=True):
    """A checkpoint that was signed, by its size: what a proof for an earlier size ends in."""

    __tablename__ = "checkpoint"

    size: int = Field(primary_key=True)
    checkpoint: bytes
    row_sha256: bytes


class ReleaseRow(SQLModel, table=True):
    """A released model: its owner's private knowledge of the unmarked reference and of the mark."""

    __tablename__ = "release"
    __table_args__ = (UniqueConstraint("owner", "name", "version"),)

    release_id: str = Field(primary_key=True)
    owner: str
    name: str
    version: str
    reference_place: str
    reference_digest: str
    mark_root: str | None = None
    mark_document: bytes
    created_at: int
    row_sha256: bytes


class CopyRow(SQLModel, table=True):
    """One copy of a release: to whom it went, and the statements, signature and proof that went with it."""

    __tablename__ = "copy"

    copy_id: str = Field(primary_key=True)
    release_id: str = Field(foreign_key="release.release_id", index=True)
    recipient: str | None = None
    commitment: str | None = None
    log_index: int
    root_digest: str = Field(index=True)
    model_sig: bytes
    claims: bytes
    proof: bytes
    tensor_digests: str
    created_at: int
    row_sha256: bytes
    sketch: bytes | None = None


class TensorDigestRow(SQLModel, table=True):
    """Which copies hold a tensor: the way from a suspect's tensors to the copies that ship them."""

    __tablename__ = "tensor_digest"

    digest: str = Field(primary_key=True)
    copy_id: str = Field(primary_key=True, foreign_key="copy.copy_id")


class CaseRow(SQLModel, table=True):
    """A case against a suspect: what was registered before its blocks were drawn, and which were opened."""

    __tablename__ = "case_record"

    log_index: int = Field(primary_key=True)
    release_id: str = Field(foreign_key="release.release_id", index=True)
    copy_id: str | None = Field(default=None, foreign_key="copy.copy_id")
    suspect_digest: str
    layer: str
    blocks_wanted: int
    opened: str | None = None
    challenge: str | None = None
    created_at: int
    row_sha256: bytes
