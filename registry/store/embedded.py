"""The embedded registry: a whole transparency log in one folder, over SQLite and files.

Anyone may open it to read; who holds the log key may append. What is read is served only after it was proved against
the signed checkpoint, so that a flipped bit on disk becomes an error, never a wrong answer. The order of writes is
`sequencer`'s, the owner's private records are `records`'.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlmodel import select

from registry.log.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from registry.log.log_keys import LogKeys
from registry.log.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_from,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from registry.log.note import Ed25519Key, NoteSigner, parse_note, read_vkey
from registry.log.proof import TlogProof, write_proof
from registry.log.tiles import TileHashes
from registry.signing.keyring import Keyring
from registry.store.admission import KeyAdmission, follow_changes
from registry.store.clock import Clock
from registry.store.engine import open_engine, reading, transaction
from registry.store.files import CHECKPOINT, DATABASE, LATEST, LogFiles, sync_folder
from registry.store.records import OwnerRecords
from registry.store.schema import require_current_schema, upgrade
from registry.store.sequencer import Sequencer
from registry.store.stored_log import read_head, stored_entries, stored_hashes
from registry.store.tables import CheckpointRow, EntryRow, HeadRow, row_digest
from watermark.errors import (
    ConflictError,
    InclusionError,
    InputError,
    LogHaltedError,
    NotAuthorizedError,
    RegistryError,
    UnavailableError,
)


@dataclass(frozen=True)
class Receipt:
    """The log's word for one entry: its index, the log's size then, and a `.tlog-proof` with the entry as `extra`."""

    index: int
    size: int
    proof: bytes


class EmbeddedRegistry:
    """A log with the owner's records in one folder. Make one with `create`, use it with `open`."""

    def __init__(
        self, folder: Path, log_key: Ed25519Key | None, clock: Clock, admission: KeyAdmission | None = None
    ) -> None:
        """Use `open`: this neither checks nor recovers."""
        self.folder = folder
        self._admission = admission
        self._files = LogFiles(folder)
        self._reader = open_engine(folder / DATABASE, read_only=True)
        self._writer = None if log_key is None else open_engine(folder / DATABASE)
        self._sequencer: Sequencer | None = None
        try:
            if self._writer is not None:
                upgrade(self._writer)
            require_current_schema(self._reader)
            with reading(self._reader) as session:
                head = read_head(session)
            self.origin, self.vkey = head.origin, head.vkey
            #: All that verify this log's checkpoints; with the second one only where the log key was given.
            self.vkeys: tuple[str, ...] = (head.vkey,)
            self._verifier = read_vkey(head.vkey)
            if log_key is not None and self._writer is not None:
                self._sequencer = self._start(head.origin, LogKeys.of(log_key), self._writer, clock)
        except BaseException:
            self.close()
            raise

    def _start(self, origin: str, keys: LogKeys, writer: Engine, clock: Clock) -> Sequencer:
        """The sequencer, after it has brought all places up to the database."""
        signer, second = NoteSigner(origin, keys), keys.second_verifier(origin)
        if signer.verifier.vkey != self.vkey:
            raise RegistryError(
                f"{self.folder}: the log key is not the one of {self.origin}", hint="use this log's key"
            )
        sequencer = Sequencer(
            writer,
            self._reader,
            self._files,
            signer,
            clock,
            second=keys.second,
            second_verifiers=() if second is None else (second,),
            admission=self._admission,
        )
        sequencer.publish()
        self.vkeys = (self.vkey,) if second is None else (self.vkey, second.vkey)
        return sequencer

    @classmethod
    def create(cls, folder: Path, origin: str, log_key: Ed25519Key, *, clock: Clock | None = None) -> EmbeddedRegistry:
        """Make an empty log and open it; the folder appears complete or not at all.

        `origin` is the log's public name for ever: an address without scheme and final slash (C2SP tlog-checkpoint).
        Raises ConflictError when the folder is there and not empty.
        """
        clock = clock or Clock()
        if folder.exists() and any(folder.iterdir()):
            raise ConflictError(
                f"{folder}: is not empty", hint="open the registry that is there, or use another folder"
            )
        keys = LogKeys.of(log_key)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            _fill(draft, NoteSigner(origin, keys), keys, clock)
            os.replace(draft, folder)
            sync_folder(folder.parent)
        except OSError as error:
            raise UnavailableError(f"{folder}: the registry cannot be made: {error.strerror}") from error
        return cls.open(folder, keys, clock=clock)

    @classmethod
    def open(
        cls,
        folder: Path,
        log_key: Ed25519Key | None,
        *,
        clock: Clock | None = None,
        admission: KeyAdmission | None = None,
    ) -> EmbeddedRegistry:
        """Open a log; with its key for appending, after recovery, with None for reading only, writing nothing.

        With `admission` an entry is taken in only if the keys at its index allow it; without, any bytes are.
        Raises RegistryError when there is no registry, LogHaltedError or RollbackError when its places contradict
        each other, before anything is signed.
        """
        if not (folder / DATABASE).is_file():
            raise RegistryError(f"{folder}: no registry here", hint="run `weightmark init` first")
        return cls(folder, log_key, clock or Clock(), admission)

    def close(self) -> None:
        """Let go of the database; the object is of no use afterwards."""
        self._reader.dispose()
        if self._writer is not None:
            self._writer.dispose()

    def __enter__(self) -> EmbeddedRegistry:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @property
    def records(self) -> OwnerRecords:
        """The owner's private records; read-only when the registry is."""
        return OwnerRecords(self._reader, self._writer)

    @property
    def size(self) -> int:
        """How many entries the published checkpoint covers."""
        return self._published()[1].size

    def checkpoint(self) -> bytes:
        """The published checkpoint, its signature verified."""
        return self._published()[0]

    def append(self, entries: Sequence[bytes]) -> list[Receipt]:
        """Append entries and return a receipt for each, once all are durable, published and proved.

        Bytes that are in the log already keep their first index: a repeated call changes nothing. Raises
        NotAuthorizedError without the log key, UnavailableError when nothing happened, OutcomeUnknownError when the
        same call must be made again, LogHaltedError or RollbackError when a person must look.
        """
        if self._sequencer is None:
            raise NotAuthorizedError(f"{self.folder}: opened without the log key, for reading only")
        indices = self._sequencer.append(entries)
        data, checkpoint = self._published()
        with reading(self._reader) as session:
            hashes = stored_hashes(session)
            return [
                Receipt(index, checkpoint.size, _prove(hashes, index, entry, checkpoint, data))
                for index, entry in zip(indices, entries, strict=True)
            ]

    def entry(self, index: int) -> bytes:
        """The entry at an index, proved against the published checkpoint."""
        return next(self.entries(index, index + 1))

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Entries [start, stop), each proved against the published checkpoint before it is given out."""
        data, checkpoint = self._published()
        if not 0 <= start <= stop <= checkpoint.size:
            raise InputError(f"entries {start} to {stop} are not in a log of {checkpoint.size}")
        with reading(self._reader) as session:
            hashes = stored_hashes(session)
            for first in range(start, stop, 256):
                last = min(stop, first + 256)
                for index, entry in zip(range(first, last), stored_entries(session, first, last), strict=True):
                    _prove(hashes, index, entry, checkpoint, data)
                    yield entry

    def keyring(self) -> Keyring:
        """Every owner's keys, as the log tells of them; LogHaltedError when the rows are not what it signed."""
        _, checkpoint = self._published()
        ring, leaves = Keyring(), []
        with reading(self._reader) as session:
            for first in range(0, checkpoint.size, 256):
                entries = stored_entries(session, first, min(checkpoint.size, first + 256))
                leaves += [leaf_hash(entry) for entry in entries]
                follow_changes(ring, first, entries)
        if root_of(leaves) != checkpoint.root:
            raise LogHaltedError(f"registry database: its {len(leaves)} entries are not what was signed")
        return ring

    def find(self, entry_sha256: bytes) -> int | None:
        """The index of the entry with this SHA-256, or None; 32 bytes in."""
        with reading(self._reader) as session:
            return session.exec(select(EntryRow.log_index).where(EntryRow.entry_sha256 == entry_sha256)).one_or_none()

    def prove(self, index: int, size: int | None = None) -> bytes:
        """A `.tlog-proof` of the entry at an index, with the entry as `extra`, verified before it is given out.

        `size` asks for an earlier checkpoint that this log signed; InputError when it never signed one of that size.
        """
        data, checkpoint = self._published() if size is None else self._signed(size)
        if not 0 <= index < checkpoint.size:
            raise InputError(f"entry {index} is not in a log of {checkpoint.size}")
        with reading(self._reader) as session:
            entries = stored_entries(session, index, index + 1)
            if not entries:
                raise LogHaltedError(f"registry database: entry {index} is missing")
            return _prove(stored_hashes(session), index, entries[0], checkpoint, data)

    def consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """The hashes that prove the log at `new_size` continues the one at `old_size` (RFC 6962 2.1.2), verified."""
        if not 0 < old_size <= new_size <= self.size:
            raise InputError(f"no consistency proof from {old_size} to {new_size} in a log of {self.size}")
        with reading(self._reader) as session:
            hashes = stored_hashes(session)
            proof = consistency_proof(old_size, new_size, hashes)
            old_root, new_root = root_from(old_size, hashes), root_from(new_size, hashes)
        verify_consistency(old_size, new_size, proof, old_root, new_root)
        return proof

    def _published(self) -> tuple[bytes, Checkpoint]:
        data = self._files.read(CHECKPOINT)
        if data is None:
            raise LogHaltedError(f"{self.folder / CHECKPOINT}: missing")
        return data, verify_checkpoint(parse_note(data), [self._verifier])

    def _signed(self, size: int) -> tuple[bytes, Checkpoint]:
        with reading(self._reader) as session:
            row = session.get(CheckpointRow, size)
        if row is None or size > self.size:
            raise InputError(f"{self.origin} published no checkpoint of size {size}")
        return row.checkpoint, verify_checkpoint(parse_note(row.checkpoint), [self._verifier])


def _prove(hashes: TileHashes, index: int, entry: bytes, checkpoint: Checkpoint, data: bytes) -> bytes:
    """Prove an entry and verify the proof: damage in the database ends here, named."""
    proof = inclusion_proof(index, checkpoint.size, hashes)
    try:
        verify_inclusion(index, checkpoint.size, leaf_hash(entry), proof, checkpoint.root)
    except InclusionError as error:
        raise LogHaltedError(f"registry database: what it holds for entry {index} is not what was signed") from error
    return write_proof(TlogProof(index, proof, data, entry))


def _fill(folder: Path, signer: NoteSigner, keys: LogKeys, clock: Clock) -> None:
    """Make the database, the first checkpoint (size 0) and both files that hold it."""
    now = clock.now()
    note = sign_checkpoint(Checkpoint(signer.name, 0, EMPTY_ROOT), signer, second=keys.second, time=now)
    os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    engine = open_engine(folder / DATABASE)
    upgrade(engine)
    head: dict[str, Any] = {
        "id": 1,
        "origin": signer.name,
        "vkey": signer.verifier.vkey,
        "size": 0,
        "root": EMPTY_ROOT,
        "checkpoint": note,
        "published_size": 0,
        "signed_at": now,
    }
    first: dict[str, Any] = {"size": 0, "checkpoint": note}
    with transaction(engine) as session:
        session.add(HeadRow(**head, row_sha256=row_digest(head)))
        session.add(CheckpointRow(**first, row_sha256=row_digest(first)))
    engine.dispose()
    files = LogFiles(folder)
    files.make_folders()
    files.swap(LATEST, None, note)
    files.swap(CHECKPOINT, None, note)
