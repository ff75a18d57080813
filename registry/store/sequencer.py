"""The sequencer: the one order in which anything is written, and the same order again after a crash.

    1 validate                       no write
    2 one transaction, write lock    index, entry, root, consistency with the last root, signature, head swapped
    3 latest record                  swapped likewise, kept apart from the database
    4 tiles and bundles              put if absent; what is there must be byte-equal
    5 published checkpoint           replaced last, so that readers only see what is complete
    6 acknowledge

After 2 everything else can be derived again, so start-up and every append run the same `publish` for 3 to 5. Before
anything is signed or published the three views (database, latest record, published checkpoint) are compared: real logs
were lost when a restored backup went on signing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine, insert, update
from sqlmodel import Session, col, select

from registry.log.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint, verify_second_lines
from registry.log.merkle import consistency_proof, leaf_hash, node_hash, root_from, verify_consistency
from registry.log.note import NoteSigner, NoteVerifier, RawSigner, parse_note
from registry.log.tiles import MAX_ENTRY_BYTES, TILE_HEIGHT, TILE_WIDTH, TileHashes, tiles_between
from registry.store.admission import KeyAdmission
from registry.store.clock import Clock
from registry.store.engine import reading, transaction
from registry.store.files import CHECKPOINT, LATEST, LogFiles
from registry.store.stored_log import read_head, stored_entries, stored_hashes, tile_content
from registry.store.tables import CheckpointRow, EntryRow, HeadRow, TileHashRow, row_digest
from watermark.errors import (
    InputError,
    LimitError,
    LogHaltedError,
    OutcomeUnknownError,
    RollbackError,
    UnavailableError,
    WeightmarkError,
)


@dataclass(frozen=True)
class View:
    """One place's idea of the log: the checkpoint it holds, and that checkpoint read."""

    place: str
    data: bytes
    checkpoint: Checkpoint


class Sequencer:
    """Appends entries to the log of one folder. Many processes may hold one; each waits for the other's write lock."""

    def __init__(
        self,
        writer: Engine,
        reader: Engine,
        files: LogFiles,
        signer: NoteSigner,
        clock: Clock,
        *,
        second: RawSigner | None = None,
        second_verifiers: Sequence[NoteVerifier] = (),
        admission: KeyAdmission | None = None,
    ) -> None:
        """Two engines on one database, the first a writing one; nothing is read or written yet.

        `admission` judges entries before they are taken in; without one any bytes are.
        `second` is the log's ML-DSA-44 key, which signs each checkpoint beside `signer`; `second_verifiers` know it.
        """
        self._second, self._second_verifiers, self._admission = second, second_verifiers, admission
        self._writer, self._reader = writer, reader
        self._files, self._signer, self._clock = files, signer, clock
        self._published = False

    def append(self, entries: Sequence[bytes]) -> list[int]:
        """Append entries and return their indices, once they are durable and published.

        An entry whose bytes are in the log already keeps its first index. The whole batch is one transaction. Errors
        say what happened: UnavailableError nothing, OutcomeUnknownError ask again (the same call does), LogHaltedError
        and RollbackError that a person must look.
        """
        digests = self._validate(entries)  # 1
        if not self._published:
            self.publish()  # an earlier 3, 4 or 5 failed or was cut off: go on only after it succeeds
        indices = self._commit(dict(zip(digests, entries, strict=True)))  # 2
        try:
            self.publish()  # 3, 4, 5
        except UnavailableError as error:
            raise OutcomeUnknownError(
                f"the entries are in the log but not published: {error}",
                hint="when the cause is gone, run the same command again: it finds the entries and publishes them",
            ) from error
        return [indices[digest] for digest in digests]  # 6

    def publish(self) -> None:
        """Bring latest record, tiles and published checkpoint up to the database; the whole of start-up recovery.

        Raises RollbackError when the database is behind a place that it once filled, LogHaltedError when they
        contradict each other; nothing is written then.
        """
        self._published = False
        with self._files.publication_lock():
            with reading(self._reader) as session:
                head = read_head(session)
                published, latest = self._views()
                refuse_contradiction(head, published, latest, stored_hashes(session), self._files)
                new = list(tiles_between(published.checkpoint.size, head.size))
                contents = [tile_content(session, tile) for tile in new]
            self._files.clear_staging()
            self._files.swap(LATEST, latest.data, head.checkpoint)  # 3
            for tile, content in zip(new, contents, strict=True):  # 4
                self._files.put_if_absent(tile, content)
            self._files.swap(CHECKPOINT, published.data, head.checkpoint)  # 5
        for tile in new:
            if tile.width == TILE_WIDTH:
                self._files.drop_partial(tile)
        self._published = True

    def _validate(self, entries: Sequence[bytes]) -> list[bytes]:
        """Step 1: sizes and disk space, before anything is touched; returns each entry's SHA-256."""
        for entry in entries:
            if not entry:
                raise InputError("log entry: empty")
            if len(entry) > MAX_ENTRY_BYTES:
                raise LimitError(f"log entry: {len(entry)} bytes, more than {MAX_ENTRY_BYTES}")
        self._files.refuse_when_full(4 * sum(map(len, entries)))  # row, journal, bundle, and room to stage it
        return [hashlib.sha256(entry).digest() for entry in entries]

    def _commit(self, batch: dict[bytes, bytes]) -> dict[bytes, int]:
        """Step 2, one transaction that holds the write lock from its first read: give indices, sign the new head."""
        with transaction(self._writer) as session:
            head = read_head(session)
            published, latest = self._views()
            refuse_contradiction(head, published, latest, stored_hashes(session), self._files)
            indices = _find(session, batch)
            fresh = [digest for digest in batch if digest not in indices]
            if not fresh:
                return indices
            if self._admission is not None:
                entries = partial(stored_entries, session)
                self._admission.admit(head.size, entries, [batch[digest] for digest in fresh])
            now = self._clock.after(head.signed_at)
            for offset, digest in enumerate(fresh):
                indices[digest] = head.size + offset
            _insert_entries(session, {indices[digest]: (digest, batch[digest]) for digest in fresh}, now)
            size = head.size + len(fresh)
            hashes = stored_hashes(session)
            _insert_tile_hashes(session, head.size, size, hashes)
            root = root_from(size, hashes)
            if head.size:
                verify_consistency(head.size, size, consistency_proof(head.size, size, hashes), head.root, root)
            checkpoint = Checkpoint(self._signer.name, size, root)
            note = sign_checkpoint(checkpoint, self._signer, second=self._second, time=now)
            _swap_head(session, head, size, root, note, published.checkpoint.size, now)
        return indices

    def _views(self) -> tuple[View, View]:
        """The published checkpoint and the latest record. In this order: the latest is never behind what it led to."""
        return self._view(CHECKPOINT), self._view(LATEST)

    def _view(self, place: str) -> View:
        data = self._files.read(place)
        if data is None:
            raise RollbackError(f"{place}: missing, although this log has signed checkpoints")
        try:
            note = parse_note(data)
            checkpoint = verify_checkpoint(note, [self._signer.verifier])
            # Not demanded: the checkpoints of a log from before there was a second key have one line.
            verify_second_lines(note, checkpoint, self._second_verifiers)
            return View(place, data, checkpoint)
        except WeightmarkError as error:
            raise LogHaltedError(f"{place}: damaged ({error})") from error


def refuse_contradiction(head: HeadRow, published: View, latest: View, hashes: TileHashes, files: LogFiles) -> None:
    """Compare database, latest record, published checkpoint and tiles; raise before anything can be signed.

    RollbackError names both sizes when one place is behind another that it must lead; LogHaltedError when two places
    agree in size and differ in root, or the rows do not give the signed root.
    """
    _refuse_rollback(head, published.checkpoint.size, latest.checkpoint.size, files)
    for place, size, root in (
        ("the head row", head.size, head.root),
        (latest.place, latest.checkpoint.size, latest.checkpoint.root),
        (published.place, published.checkpoint.size, published.checkpoint.root),
    ):
        if root_from(size, hashes) != root:
            raise LogHaltedError(f"{place}: its root for size {size} is not the root of the entries in the database")


def _refuse_rollback(head: HeadRow, published: int, latest: int, files: LogFiles) -> None:
    """Database first, then the latest record, then tiles, then what is published: none is ahead of its source."""
    for place, size in ((LATEST, latest), (CHECKPOINT, published)):
        if size > head.size:
            raise RollbackError(
                f"the database holds {head.size} entries, {place} has {size}: the database was restored from a backup"
            )
    if published > latest:
        raise RollbackError(
            f"{LATEST} is at size {latest}, {CHECKPOINT} at {published}: the latest record was restored from a backup"
        )
    if published < head.published_size:
        raise RollbackError(
            f"{CHECKPOINT} is at size {published}, the database holds {head.size} entries, of which "
            f"{head.published_size} had been published: the files were restored from a backup"
        )
    beyond = files.tiles_beyond(head.size)
    if beyond is not None:
        known = beyond.stop if beyond.width < TILE_WIDTH else beyond.start + 1
        raise RollbackError(
            f"the database holds {head.size} entries, {beyond.path} is of a log of at least {known}: "
            "the database was restored from a backup"
        )
    missing = files.missing_at_edge(published)
    if missing is not None:
        raise RollbackError(
            f"{CHECKPOINT} is at size {published}, but {missing.path} is not there: "
            f"the tiles were lost, or restored from a backup of fewer than {missing.stop} entries"
        )


def _find(session: Session, digests: dict[bytes, bytes]) -> dict[bytes, int]:
    """Indices of the entries that are in the log already."""
    wanted = list(digests)
    found: dict[bytes, int] = {}
    for at in range(0, len(wanted), 500):  # below SQLite's limit on bound parameters
        rows = select(EntryRow.entry_sha256, EntryRow.log_index).where(
            col(EntryRow.entry_sha256).in_(wanted[at : at + 500])
        )
        found.update(session.exec(rows).all())
    return found


def _insert_entries(session: Session, batch: dict[int, tuple[bytes, bytes]], now: int) -> None:
    rows = []
    for index, (digest, entry) in batch.items():
        row = {
            "log_index": index,
            "entry": entry,
            "entry_sha256": digest,
            "leaf_hash": leaf_hash(entry),
            "appended_at": now,
        }
        rows.append({**row, "row_sha256": row_digest(row)})
    session.connection().execute(insert(EntryRow), rows)


def _insert_tile_hashes(session: Session, old_size: int, new_size: int, hashes: TileHashes) -> None:
    """Keep the hash of each tile that became full, level by level."""
    level, old, new = 1, old_size // TILE_WIDTH, new_size // TILE_WIDTH
    while new > old:
        rows = []
        for position in range(old, new):
            row = {"level": level, "position": position, "hash": _tile_hash(level, position, hashes)}
            rows.append({**row, "row_sha256": row_digest(row)})
        session.connection().execute(insert(TileHashRow), rows)
        level, old, new = level + 1, old // TILE_WIDTH, new // TILE_WIDTH


def _tile_hash(level: int, position: int, hashes: TileHashes) -> bytes:
    """The hash of a full tile, from the two halves below it: the row that would answer at once is not there yet."""
    below = level * TILE_HEIGHT - 1
    return node_hash(hashes(below, 2 * position), hashes(below, 2 * position + 1))


def _swap_head(
    session: Session, old: HeadRow, size: int, root: bytes, checkpoint: bytes, published_size: int, now: int
) -> None:
    """Compare-and-swap: the head moves only from exactly the state that the new one was computed from."""
    values = {
        **old.model_dump(),
        "size": size,
        "root": root,
        "checkpoint": checkpoint,
        "published_size": published_size,
        "signed_at": now,
    }
    swapped = session.connection().execute(
        update(HeadRow)
        .where(col(HeadRow.size) == old.size, col(HeadRow.root) == old.root)
        .values(**{**values, "row_sha256": row_digest(values)})
    )
    if swapped.rowcount != 1:
        raise LogHaltedError(f"the head moved from size {old.size} while this process held the write lock")
    row = {"size": size, "checkpoint": checkpoint}
    session.connection().execute(insert(CheckpointRow), [{**row, "row_sha256": row_digest(row)}])
