"""Check the rows of the registry's database: their own digests, against the log, and against each other.

The log's rows must say what was signed; the owner's records must fit the entries they point to. Knows no signature of
an owner and no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from sqlmodel import SQLModel

from registry.auditing.findings import Findings
from registry.auditing.leaves import Leaves, level_above
from registry.log.checkpoint import Checkpoint, read_checkpoint
from registry.log.merkle import leaf_hash, prefix_roots
from registry.log.proof import read_proof, verify_proof
from registry.store.inspection import DatabaseView
from registry.store.tables import (
    CaseRow,
    CheckpointRow,
    CopyRow,
    EntryRow,
    HeadRow,
    ReleaseRow,
    TensorDigestRow,
    TileHashRow,
    row_digest,
)
from watermark.errors import WeightmarkError

Row = dict[str, Any]
_DAMAGED = "the row's own digest does not fit its content"


def check_log_rows(view: DatabaseView, leaves: Leaves, vkeys: tuple[str, ...], findings: Findings) -> None:
    """Check entries, tile hashes, signed checkpoints and the head row against the leaf hashes that were signed."""
    _each(view, EntryRow, findings, lambda row, number: _entry_fault(row, number, leaves))
    level_rows: dict[int, Leaves] = {0: leaves}
    _each(view, TileHashRow, findings, lambda row, _: _tile_hash_fault(row, level_rows))
    sizes = {row["size"] for row in _rows(view, CheckpointRow, findings) if isinstance(row["size"], int)}
    sizes |= {row["size"] for row in _rows(view, HeadRow, findings) if isinstance(row["size"], int)}
    known = [leaf for leaf in leaves if leaf is not None]
    roots = prefix_roots(known, sizes) if len(known) == len(leaves) else {}
    _each(view, CheckpointRow, findings, lambda row, _: _checkpoint_fault(row, roots, vkeys))
    _each(view, HeadRow, findings, lambda row, _: _head_fault(row, roots, vkeys))


def check_records(view: DatabaseView, leaves: Leaves, vkeys: tuple[str, ...], findings: Findings) -> None:
    """Check the owner's records: own digests, and that each copy's proof proves the entry at its index."""
    _each(view, ReleaseRow, findings, lambda row, _: None)
    _each(view, CaseRow, findings, lambda row, _: _index_fault(row, leaves))
    _each(view, CopyRow, findings, lambda row, _: _copy_fault(row, leaves, vkeys))
    wanted: set[tuple[Any, Any]] = set()
    for row in _rows(view, CopyRow, findings):
        wanted |= {(str(digest), row["copy_id"]) for digest in _json_list(row["tensor_digests"])}
    present = {(row["digest"], row["copy_id"]) for row in _rows(view, TensorDigestRow, findings)}
    for digest, copy_id in wanted ^ present:
        findings.add("row", f"tensor_digest {str(digest)[:16]!r}: does not fit the copy {str(copy_id)[:16]!r}")


def head_checkpoint(view: DatabaseView, vkeys: tuple[str, ...], findings: Findings) -> Checkpoint | None:
    """The checkpoint in the head row, verified; None with a finding when there is none."""
    rows = list(_rows(view, HeadRow, findings))
    if len(rows) != 1 or not isinstance(rows[0]["checkpoint"], bytes):
        findings.add("row", f"head: {len(rows)} rows that hold a checkpoint, not one")
        return None
    with findings.noting("row"):
        return read_checkpoint(rows[0]["checkpoint"], vkeys)
    return None


def published_floor(view: DatabaseView, findings: Findings) -> int:
    """The size that had been published when the head was signed: a published checkpoint below it was restored."""
    sizes = [row["published_size"] for row in _rows(view, HeadRow, findings)]
    return max((size for size in sizes if isinstance(size, int)), default=0)


def _rows(view: DatabaseView, table: type[SQLModel], findings: Findings) -> list[Row]:
    with findings.noting("database"):
        return list(view.rows(table))
    return []


def _each(
    view: DatabaseView, table: type[SQLModel], findings: Findings, fault: Callable[[Row, int], str | None]
) -> None:
    """Judge each row of a table: its own digest, then the fault that only this table can have."""
    with findings.noting("database"):
        for number, row in enumerate(view.rows(table)):
            wrong = _DAMAGED if row["row_sha256"] != row_digest(row) else fault(row, number)
            if wrong:
                name = str(row[next(iter(row))])[:32]
                findings.add("row", f"{table.__tablename__} {name}: {wrong}", number if table is EntryRow else None)


def _entry_fault(row: Row, number: int, leaves: Leaves) -> str | None:
    if row["log_index"] != number:
        return f"stands where entry {number} is wanted"
    if hashlib.sha256(row["entry"]).digest() != row["entry_sha256"]:
        return "its digest is not that of the entry"
    if number >= len(leaves):
        return f"is beyond the {len(leaves)} entries that are signed"
    if row["leaf_hash"] != leaves[number] or leaf_hash(row["entry"]) != leaves[number]:
        return "is not what was signed"
    return None


def _tile_hash_fault(row: Row, levels: dict[int, Leaves]) -> str | None:
    level, position = row["level"], row["position"]
    for above in range(1, level + 1):
        if above not in levels:
            levels[above] = level_above(levels[above - 1])
    if not 0 <= position < len(levels[level]) or row["hash"] != levels[level][position]:
        return f"hash {position} is not that of the tile below"
    return None


def _checkpoint_fault(row: Row, roots: dict[int, bytes], vkeys: tuple[str, ...]) -> str | None:
    try:
        checkpoint = read_checkpoint(row["checkpoint"], vkeys)
    except WeightmarkError as error:
        return str(error)
    if checkpoint.size != row["size"]:
        return f"holds the checkpoint of size {checkpoint.size}"
    if roots.get(checkpoint.size) != checkpoint.root:
        return "its root is not the root of the entries that are signed"
    return None


def _head_fault(row: Row, roots: dict[int, bytes], vkeys: tuple[str, ...]) -> str | None:
    fault = _checkpoint_fault(row, roots, vkeys)
    if fault:
        return fault
    if read_checkpoint(row["checkpoint"], vkeys).root != row["root"] or row["published_size"] > row["size"]:
        return "its columns do not fit each other"
    return None


def _index_fault(row: Row, leaves: Leaves) -> str | None:
    return None if 0 <= row["log_index"] < len(leaves) else "points to an entry that is not in the log"


def _copy_fault(row: Row, leaves: Leaves, vkeys: tuple[str, ...]) -> str | None:
    fault = _index_fault(row, leaves)
    if fault:
        return fault
    try:
        proof = read_proof(row["proof"])
        if proof.extra is None:
            return "its proof does not hold the entry"
        index = verify_proof(proof, proof.extra, vkeys).index
    except WeightmarkError as error:
        return str(error)
    if index != row["log_index"] or leaf_hash(proof.extra) != leaves[index]:
        return f"its proof is for another entry than {row['log_index']}"
    return None


def _json_list(text: Any) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, TypeError):
        value = None
    return value if isinstance(value, list) else []
