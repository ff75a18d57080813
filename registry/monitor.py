"""The engine of `audit`: is a registry whole and honest, as far as its folder and a remembered checkpoint can show?

It recomputes the root from bundles, tiles and rows, compares every object with what the log signed, checks each entry
by its owner's keys at that index, and the continuity with a checkpoint that the caller trusts from before. It writes
nothing, loads no model, and ends in findings, not in errors: a damage is named and the audit goes on. A folder restored
as a whole to an earlier state looks whole; only a checkpoint kept elsewhere (`since`) shows that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from registry.auditing.findings import AuditResult, Finding, Findings
from registry.auditing.leaves import Leaves, Places, check_tile_files, read_bundle, read_places
from registry.auditing.rows import check_log_rows, check_records, head_checkpoint, published_floor
from registry.auditing.signatures import SignatureAudit
from registry.log.checkpoint import Checkpoint, read_checkpoint
from registry.log.merkle import leaf_hash, prefix_roots
from registry.log.tiles import ENTRIES, TILE_WIDTH, Tile
from registry.store.files import CHECKPOINT, DATABASE, LATEST, LogFiles
from registry.store.inspection import DatabaseView, inspect_database
from registry.store.tables import EntryRow
from watermark.errors import WeightmarkError

__all__ = ["AuditResult", "Finding", "audit"]

_TRIES = 5


def audit(
    folder: Path,
    vkeys: Sequence[str],
    since: bytes | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> AuditResult:
    """Audit the registry in a folder against the trusted verifier keys of its log.

    `since` is a signed checkpoint that the caller trusts from before; `progress` hears the bytes of entries checked.
    Raises nothing for damage: whatever is wrong is a finding, and `whole` says whether there was none.
    """
    for _ in range(_TRIES):
        before = _state(folder)
        result = _audit_once(folder, tuple(vkeys), since, progress)
        if result.whole or _state(folder) == before:
            break  # findings in a log that grew meanwhile may only be two moments of it, seen side by side
    return result


def _audit_once(
    folder: Path, keys: tuple[str, ...], since: bytes | None, progress: Callable[[int], None] | None
) -> AuditResult:
    findings, files = Findings(), LogFiles(folder)
    with ExitStack() as stack:
        view: DatabaseView | None = None
        with findings.noting("database"):
            view = stack.enter_context(inspect_database(folder))
            for complaint in view.complaints():
                findings.add("database", f"registry database: {complaint}")
        frozen = stack.enter_context(ExitStack())
        if view is not None:
            with findings.noting("database"):
                frozen.enter_context(view.frozen())
        signed = _signed_views(files, view, keys, findings)
        if not signed:
            return AuditResult(False, 0, "", 0, tuple(findings.found))
        newest = max(signed.values(), key=lambda checkpoint: checkpoint.size)
        places = read_places(files, view, signed.get(CHECKPOINT, newest).size, findings)
        leaves = places.agreed(newest.size, newest.root)
        _compare_views(signed, leaves, since, keys, findings)
        check_tile_files(files, leaves, findings)
        if view is not None:
            floor = published_floor(view, findings)
            if CHECKPOINT in signed and signed[CHECKPOINT].size < floor:
                findings.add(
                    "rollback", f"{CHECKPOINT} is at size {signed[CHECKPOINT].size}, {floor} had been published"
                )
            check_log_rows(view, leaves, keys, findings)
            check_records(view, leaves, keys, findings)
        frozen.close()  # signatures take longer than all before; writers need not wait for them
        checked = _check_entries(files, view, places, leaves, findings, progress)
    return AuditResult(not findings.found, newest.size, newest.root.hex(), checked, tuple(findings.found))


def _state(folder: Path) -> tuple[object, ...]:
    """What changes whenever the log does."""
    seen: list[object] = []
    for place in (DATABASE, CHECKPOINT, LATEST):
        try:
            status = (folder / place).stat()
            seen.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            seen.append(None)
    return tuple(seen)


def _signed_views(
    files: LogFiles, view: DatabaseView | None, vkeys: tuple[str, ...], findings: Findings
) -> dict[str, Checkpoint]:
    """The verified checkpoints of the published file, the latest record and the head row, by place."""
    signed: dict[str, Checkpoint] = {}
    head = head_checkpoint(view, vkeys, findings) if view is not None else None
    if head is not None:
        signed["head"] = head
    for code, place in (("checkpoint", CHECKPOINT), ("latest", LATEST)):
        try:
            data = files.read(place)
            if data is None:
                findings.add(code, f"{place}: missing")
            else:
                signed[place] = read_checkpoint(data, vkeys)
        except WeightmarkError as error:
            findings.add(code, f"{place}: {error}")
    return signed


def _compare_views(
    signed: dict[str, Checkpoint], leaves: Leaves, since: bytes | None, vkeys: tuple[str, ...], findings: Findings
) -> None:
    """Hold the signed views against each other, against the entries, and against the one remembered from before."""
    views = dict(signed)
    if since is not None:
        with findings.noting("since"):
            views["since"] = read_checkpoint(since, vkeys)
    known = [leaf for leaf in leaves if leaf is not None]
    sizes = {checkpoint.size for checkpoint in views.values()}
    roots = prefix_roots(known, sizes) if len(known) == len(leaves) else {}
    for place, view in views.items():
        if place == "since" and view.size > len(leaves):
            findings.add("rollback", f"the log is at size {len(leaves)}; the trusted checkpoint had {view.size}")
        elif roots.get(view.size) != view.root:
            findings.add("root", f"{place}: the root signed for size {view.size} is not the root of the entries")
    for one, first in views.items():
        for other, second in views.items():
            if one < other and first.size == second.size and first.root != second.root:
                findings.add(
                    "split-view", f"{one} and {other}: two roots for size {first.size}:\n{first.text()}{second.text()}"
                )
    _order_of_places(signed, findings)


def _order_of_places(signed: dict[str, Checkpoint], findings: Findings) -> None:
    """Database first, then the latest record, then what is published: a place ahead of its source was not restored."""
    order = [(place, signed[place].size) for place in (CHECKPOINT, LATEST, "head") if place in signed]
    for (later, ahead), (source, behind) in pairwise(order):
        if ahead > behind:
            findings.add("rollback", f"{source} is at size {behind}, {later} at {ahead}: restored from a backup")


def _check_entries(
    files: LogFiles,
    view: DatabaseView | None,
    places: Places,
    leaves: Leaves,
    findings: Findings,
    progress: Callable[[int], None] | None,
) -> int:
    """Verify each entry's own signature, from whichever place holds the bytes that were signed; count the good ones."""
    signatures, checked = SignatureAudit(), 0
    for start in range(0, len(leaves), TILE_WIDTH):
        stop = min(start + TILE_WIDTH, len(leaves))
        entries = _signed_entries(files, view, start, min(stop, len(places.bundles)), stop, leaves)
        for index in range(start, stop):
            entry = entries.get(index)
            if entry is None:
                findings.add("entry", f"entry {index}: no place holds the bytes that were signed", index)
                continue
            checked += signatures.check(index, entry, findings)
            if progress is not None:
                progress(len(entry))
    signatures.note_fallen(findings)
    return checked


def _signed_entries(
    files: LogFiles, view: DatabaseView | None, start: int, published: int, stop: int, leaves: Leaves
) -> dict[int, bytes]:
    """Entries [start, stop) whose bytes fit their leaf hash: from the bundle, and from rows what it does not give."""
    found: dict[int, bytes] = {}
    unread = Findings()  # what cannot be read here is a finding already
    with unread.noting("bundle"):
        if published > start:
            bundle = read_bundle(files, Tile(ENTRIES, start // TILE_WIDTH, published - start))
            for index, entry in enumerate(bundle, start=start):
                if leaf_hash(entry) == leaves[index]:
                    found[index] = entry
    if view is None or len(found) == stop - start:
        return found
    with unread.noting("database"):
        for row in view.rows(EntryRow, first=start, stop=stop):
            index, entry = row["log_index"], row["entry"]
            if index not in found and isinstance(entry, bytes) and leaf_hash(entry) == leaves[index]:
                found[index] = entry
    return found
