"""The owner's private records: what was released, which copies went to whom, and the cases since.

They live in the registry's database and are nobody else's business: the log holds only commitments to them. A record
is written once. The same content again is fine; other content under the same name is a conflict. Knows no model and no
signature: digests are text, documents are bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from sqlalchemy import Engine, func, insert
from sqlmodel import SQLModel, col, select

from registry.store.engine import reading, transaction
from registry.store.tables import CaseRow, CopyRow, ReleaseRow, TensorDigestRow, row_digest
from watermark.errors import ConflictError, InputError, LogHaltedError, NotAuthorizedError

_PARAMETERS = 500  # below SQLite's limit on bound parameters
_ROWS_AT_ONCE = 256
#: A tensor that so many copies hold is no way to one of them.
_FEW_HOLDERS = 64


@dataclass(frozen=True)
class ReleaseRecord:
    """A released model. Digests are lower-case hex, times POSIX seconds.

    `reference_place` and `reference_digest` (canonical tensor digest) say where the unmarked reference was; `mark_root`
    is R, None for a release without a mark; `mark_document` is canonical JSON with the mark's geometry and parameters.
    """

    release_id: str
    owner: str
    name: str
    version: str
    reference_place: str
    reference_digest: str
    mark_root: str | None
    mark_document: bytes
    created_at: int


@dataclass(frozen=True)
class CopyRecord:
    """One copy of a release. `copy_id` equals `release_id` for the copy without a recipient.

    `tensor_digests` is JSON text: the sorted list of the hex digests of its tensors. `sketch` finds it again when it is
    disguised; None for copies from before sketches.
    """

    copy_id: str
    release_id: str
    recipient: str | None
    commitment: str | None
    log_index: int
    root_digest: str
    model_sig: bytes
    claims: bytes
    proof: bytes
    tensor_digests: str
    created_at: int
    sketch: bytes | None = None


@dataclass(frozen=True)
class CaseRecord:
    """A case: which suspect, which layer, how many blocks; later the challenge and what was opened (JSON)."""

    log_index: int
    release_id: str
    copy_id: str | None
    suspect_digest: str
    layer: str
    blocks_wanted: int
    opened: str | None
    challenge: str | None
    created_at: int


Record = TypeVar("Record", ReleaseRecord, CopyRecord, CaseRecord)


class OwnerRecords:
    """Reads and writes the records over the registry's engines."""

    def __init__(self, reader: Engine, writer: Engine | None) -> None:
        """`writer` None makes every `put` a NotAuthorizedError."""
        self._reader, self._writer = reader, writer

    def put_release(self, record: ReleaseRecord) -> None:
        """Remember a release; ConflictError when its id, or its owner's name and version, stand for another one."""
        with transaction(self._writing()) as session:
            if _already(session.get(ReleaseRow, record.release_id), record, "release", record.release_id):
                return
            named = select(ReleaseRow.release_id).where(
                ReleaseRow.owner == record.owner, ReleaseRow.name == record.name, ReleaseRow.version == record.version
            )
            other = session.exec(named).one_or_none()
            if other is not None:
                raise ConflictError(
                    f"{record.name} {record.version} of {record.owner} is release {other[:16]}, with another reference",
                    hint="give another --version, or release the same reference",
                )
            session.add(ReleaseRow(**_columns(record)))

    def put_copy(self, record: CopyRecord) -> None:
        """Remember a copy and the way to it from each of its tensors; ConflictError for another one under its id."""
        digests = _tensor_digests(record)
        with transaction(self._writing()) as session:
            if session.get(ReleaseRow, record.release_id) is None:
                raise InputError(f"copy {record.copy_id[:16]}: its release {record.release_id[:16]} is not recorded")
            if _already(session.get(CopyRow, record.copy_id), record, "copy", record.copy_id):
                return
            session.add(CopyRow(**_columns(record)))
            session.flush()
            if digests:
                rows = [{"digest": digest, "copy_id": record.copy_id} for digest in digests]
                session.connection().execute(insert(TensorDigestRow), rows)

    def put_case(self, record: CaseRecord) -> None:
        """Remember a case, or what became of it: `opened` and `challenge` may be filled in once, nothing changed."""
        with transaction(self._writing()) as session:
            row = session.get(CaseRow, record.log_index)
            if row is None:
                session.add(CaseRow(**_columns(record)))
                return
            present = _record(row, CaseRecord)
            filled = replace(
                present, opened=present.opened or record.opened, challenge=present.challenge or record.challenge
            )
            repeated = replace(
                record, opened=record.opened or filled.opened, challenge=record.challenge or filled.challenge
            )
            _already(filled, repeated, "case", str(record.log_index))
            row.sqlmodel_update(_columns(filled))
            session.add(row)

    def release(self, release_id: str) -> ReleaseRecord:
        """The release with this id, or with this unique beginning of one; InputError for none or several."""
        with reading(self._reader) as session:
            exact = session.get(ReleaseRow, release_id)
            if exact is not None:
                return _record(exact, ReleaseRecord)
            beginning = func.substr(ReleaseRow.release_id, 1, len(release_id))  # LIKE would not tell A from a
            rows = session.exec(select(ReleaseRow).where(beginning == release_id).limit(2)).all()
            if len(rows) != 1 or not release_id:
                known = "more than one release begins" if rows else "no release begins"
                raise InputError(f"{release_id!r}: {known} with this", hint="see `weightmark list`")
            return _record(rows[0], ReleaseRecord)

    def list_releases(self) -> list[ReleaseRecord]:
        """All releases, oldest first."""
        with reading(self._reader) as session:
            order = (col(ReleaseRow.created_at), col(ReleaseRow.release_id))
            return [_record(row, ReleaseRecord) for row in session.exec(select(ReleaseRow).order_by(*order))]

    def copies(self, release_id: str) -> list[CopyRecord]:
        """The copies of a release, in the order of the log."""
        with reading(self._reader) as session:
            wanted = select(CopyRow).where(CopyRow.release_id == release_id).order_by(col(CopyRow.log_index))
            return [_record(row, CopyRecord) for row in session.exec(wanted)]

    def each_copy(self, release_id: str) -> Iterator[CopyRecord]:
        """As `copies`, a few at a time: a release may have a million, of tens of kB each."""
        with reading(self._reader) as session:
            # Sorted without what they hold, which would not fit.
            ordered = select(CopyRow.copy_id).where(CopyRow.release_id == release_id).order_by(col(CopyRow.log_index))
            ids = session.exec(ordered, execution_options={"yield_per": _ROWS_AT_ONCE})
            for part in ids.partitions():
                rows = session.exec(select(CopyRow).where(col(CopyRow.copy_id).in_(part)))
                found = {row.copy_id: _record(row, CopyRecord) for row in rows}
                session.expunge_all()
                for copy_id in part:
                    yield found[copy_id]

    def count_copies(self, release_id: str) -> int:
        """How many copies a release has."""
        with reading(self._reader) as session:
            return session.exec(select(func.count()).select_from(CopyRow).where(CopyRow.release_id == release_id)).one()

    def recipients(self, release_id: str) -> Iterator[tuple[str, str]]:
        """Copy id and recipient of each copy that has one, in the order of the log.

        Nothing else of the rows is read, so their digests are not checked here: look up what is found with `find_copy`.
        """
        with reading(self._reader) as session:
            wanted = select(CopyRow.copy_id, CopyRow.recipient).where(
                CopyRow.release_id == release_id, col(CopyRow.recipient).is_not(None)
            )
            rows = session.exec(wanted.order_by(col(CopyRow.log_index)), execution_options={"yield_per": _ROWS_AT_ONCE})
            for copy_id, recipient in rows:
                assert recipient is not None
                yield copy_id, recipient

    def find_copy(self, copy_id: str) -> CopyRecord | None:
        """One copy by its whole id; None when there is none."""
        with reading(self._reader) as session:
            row = session.get(CopyRow, copy_id)
            return _record(row, CopyRecord) if row is not None else None

    def exact_copies(self, release_id: str, digests: Iterable[str]) -> list[CopyRecord]:
        """The copies of a release whose tensors are exactly these, in the order of the log.

        Looked for among the holders of the tensor that the fewest copies hold.
        """
        wanted = sorted(set(digests))
        with reading(self._reader) as session:
            fewest: Sequence[str] | None = None
            for digest in wanted:
                holders = select(TensorDigestRow.copy_id).where(TensorDigestRow.digest == digest)
                found = session.exec(holders.limit(_FEW_HOLDERS if fewest is None else len(fewest))).all()
                if fewest is None or len(found) < len(fewest):
                    fewest = found
                if not fewest:
                    return []
            query = select(CopyRow).where(CopyRow.release_id == release_id).order_by(col(CopyRow.log_index))
            if fewest is not None and len(fewest) < _FEW_HOLDERS:
                query = query.where(col(CopyRow.copy_id).in_(fewest))
            else:
                query = query.where(CopyRow.tensor_digests == json.dumps(wanted))
            records = [_record(row, CopyRecord) for row in session.exec(query)]
        return [record for record in records if _tensor_digests(record) == wanted]

    def held_tensors(self, release_id: str, digests: Iterable[str]) -> set[str]:
        """Those of the tensor digests (hex) that some copy of the release holds."""
        held = set()
        with reading(self._reader) as session:
            for digest in set(digests):
                holder = (
                    select(TensorDigestRow.copy_id)
                    .join(CopyRow, col(CopyRow.copy_id) == TensorDigestRow.copy_id)
                    .where(TensorDigestRow.digest == digest, CopyRow.release_id == release_id)
                )
                if session.exec(holder.limit(1)).first() is not None:
                    held.add(digest)
        return held

    def sketches(self) -> dict[str, bytes]:
        """The sketch of each release that has one: that of its first copy."""
        with reading(self._reader) as session:
            first = (
                select(CopyRow.release_id, func.min(CopyRow.log_index).label("log_index"))
                .where(col(CopyRow.sketch).is_not(None))
                .group_by(CopyRow.release_id)
                .subquery()
            )
            having = select(CopyRow.release_id, CopyRow.sketch).join(
                first,
                (col(CopyRow.release_id) == first.c.release_id) & (col(CopyRow.log_index) == first.c.log_index),
            )
            return {release_id: sketch for release_id, sketch in session.exec(having) if sketch is not None}

    def find_tensors(self, digests: Iterable[str]) -> dict[str, list[str]]:
        """For each of the tensor digests (hex) that a copy holds: the ids of all copies that hold it, sorted."""
        wanted = sorted(set(digests))
        found: dict[str, list[str]] = {}
        with reading(self._reader) as session:
            for at in range(0, len(wanted), _PARAMETERS):
                part = col(TensorDigestRow.digest).in_(wanted[at : at + _PARAMETERS])
                rows = select(TensorDigestRow).where(part).order_by(col(TensorDigestRow.copy_id))
                for row in session.exec(rows):
                    found.setdefault(row.digest, []).append(row.copy_id)
        return found

    def cases(self, release_id: str) -> list[CaseRecord]:
        """The cases of a release, in the order of the log."""
        with reading(self._reader) as session:
            wanted = select(CaseRow).where(CaseRow.release_id == release_id).order_by(col(CaseRow.log_index))
            return [_record(row, CaseRecord) for row in session.exec(wanted)]

    def _writing(self) -> Engine:
        if self._writer is None:
            raise NotAuthorizedError("the registry was opened without the log key, for reading only")
        return self._writer


def _columns(record: ReleaseRecord | CopyRecord | CaseRecord) -> dict[str, Any]:
    values = asdict(record)
    return {**values, "row_sha256": row_digest(values)}


def _record(row: SQLModel, kind: type[Record]) -> Record:
    """The record in a row, after the row's own digest was checked."""
    values = row.model_dump()
    if values.pop("row_sha256") != row_digest(values):
        raise LogHaltedError(f"registry database: a row of {row.__tablename__!r} is damaged")
    return kind(**values)


def _already(present: SQLModel | CaseRecord | None, record: Record, what: str, name: str) -> bool:
    """Whether the record is there already; ConflictError when something else stands there (times may differ)."""
    if present is None:
        return False
    for field in fields(record):
        if field.name != "created_at" and getattr(present, field.name) != getattr(record, field.name):
            raise ConflictError(f"{what} {name[:16]}: recorded already, with another {field.name}")
    return True


def _tensor_digests(record: CopyRecord) -> Sequence[str]:
    try:
        digests = json.loads(record.tensor_digests)
    except ValueError as error:
        raise InputError(f"copy {record.copy_id[:16]}: tensor_digests is not JSON") from error
    if not isinstance(digests, list) or digests != sorted(map(str, digests)) or len(set(digests)) != len(digests):
        raise InputError(f"copy {record.copy_id[:16]}: tensor_digests is not a sorted list of distinct digests")
    return digests
