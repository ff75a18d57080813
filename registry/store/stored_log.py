"""Read the log out of the database: the head, hashes for proofs, and the content of tiles.

Everything here is read within a session that the caller holds, so that it belongs to one state of the log. Rows are
trusted only as far as the roots computed from them agree with a signed one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from registry.log.tiles import ENTRIES, Tile, TileHashes, encode_bundle
from registry.store.tables import EntryRow, HeadRow, TileHashRow, row_digest
from watermark.errors import LogHaltedError


def read_head(session: Session) -> HeadRow:
    """The head row, its own digest checked; LogHaltedError when it is damaged or not there."""
    head = session.exec(select(HeadRow)).one_or_none()
    if head is None or head.row_sha256 != row_digest(head.model_dump()):
        raise LogHaltedError("registry database: the head row is damaged or missing")
    return head


def stored_hashes(session: Session) -> TileHashes:
    """Answer for subtrees of the log out of this session's view of the database."""
    return TileHashes(lambda level, start, stop: stored_row(session, level, start, stop))


def stored_row(session: Session, level: int, start: int, stop: int) -> Sequence[bytes]:
    """Hashes [start, stop) of a tile level, as many as there are: leaf hashes at level 0, full tiles' above."""
    if level == 0:
        leaves = select(EntryRow.leaf_hash).where(col(EntryRow.log_index) >= start, col(EntryRow.log_index) < stop)
        return session.exec(leaves.order_by(col(EntryRow.log_index))).all()
    above = select(TileHashRow.hash).where(
        TileHashRow.level == level, col(TileHashRow.position) >= start, col(TileHashRow.position) < stop
    )
    return session.exec(above.order_by(col(TileHashRow.position))).all()


def stored_entries(session: Session, start: int, stop: int) -> Sequence[bytes]:
    """Entries [start, stop) as they were appended."""
    wanted = select(EntryRow.entry).where(col(EntryRow.log_index) >= start, col(EntryRow.log_index) < stop)
    return session.exec(wanted.order_by(col(EntryRow.log_index))).all()


def tile_content(session: Session, tile: Tile) -> bytes:
    """The bytes that a tile or entry bundle must hold; LogHaltedError when rows for it are missing."""
    if tile.level == ENTRIES:
        parts = stored_entries(session, tile.start, tile.stop)
        content = encode_bundle(parts)
    else:
        parts = stored_row(session, tile.level, tile.start, tile.stop)
        content = b"".join(parts)
    if len(parts) != tile.width:
        raise LogHaltedError(f"registry database: {len(parts)} rows for {tile.path}, {tile.width} wanted")
    return content
