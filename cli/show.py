"""The job of `weightmark show`: all that the records say about one release, or one copy, by the beginning of its id.

Looks whether the unmarked reference is still where it was, without reading it (`doctor --deep` does). Prints nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.home import Home
from cli.mark_record import Calibration, MarkRecord
from registry.store.records import CopyRecord, OwnerRecords, ReleaseRecord
from registry.store.s3_folder import is_s3
from watermark.errors import DocumentError, InputError


@dataclass(frozen=True)
class ShownCopy:
    """A copy of the release. Digests are hex, times POSIX seconds."""

    copy_id: str
    recipient: str | None
    commitment: str | None
    index: int
    root_digest: str
    created_at: int


@dataclass(frozen=True)
class ShownRelease:
    """A release, with all its copies or the one that was asked for.

    `mark_root` is R, None for a release without a mark. `reference_is_there` tells of the place only, not of what it
    holds now; None for a place in S3, which is not asked. `cases` are the log indices of the cases opened about it.
    `strengths` are the least and the most of the mark, None without one or with a damaged record.
    """

    release_id: str
    owner: str
    name: str
    version: str
    mark_root: str | None
    reference_place: str
    reference_digest: str
    reference_is_there: bool | None
    origin: str
    created_at: int
    copies: tuple[ShownCopy, ...]
    cases: tuple[int, ...]
    strengths: tuple[float, float] | None = None
    calibration: Calibration | None = None


def show(home_folder: Path, identifier: str) -> ShownRelease:
    """Return the release that has this id, or whose copy has it; a unique beginning of the id is enough.

    Raises InputError when no id begins so, or several do.
    """
    home = Home.open(home_folder)
    with home.registry() as registry:
        release, copies = find_copies(registry.records, identifier)
        cases = tuple(case.log_index for case in registry.records.cases(release.release_id))
    mark = _mark_of(release)
    alphas = [tensor.alpha for tensor in mark.geometry.marked] if mark is not None else []
    return ShownRelease(
        release.release_id,
        release.owner,
        release.name,
        release.version,
        release.mark_root,
        release.reference_place,
        release.reference_digest,
        None if is_s3(release.reference_place) else Path(release.reference_place).exists(),
        home.origin,
        release.created_at,
        tuple(
            ShownCopy(copy.copy_id, copy.recipient, copy.commitment, copy.log_index, copy.root_digest, copy.created_at)
            for copy in copies
        ),
        cases,
        (min(alphas), max(alphas)) if alphas else None,
        mark.calibration if mark is not None else None,
    )


def _mark_of(release: ReleaseRecord) -> MarkRecord | None:
    """What is kept of the mark; a damaged record is for `doctor` to report."""
    try:
        return MarkRecord.from_document(release.mark_document) if release.mark_root else None
    except DocumentError:
        return None


def find_copies(records: OwnerRecords, identifier: str) -> tuple[ReleaseRecord, list[CopyRecord]]:
    """The release and those of its copies that are meant: a release's own id means all of them."""
    found: list[tuple[ReleaseRecord, list[CopyRecord]]] = []
    for release in records.list_releases():
        copies = records.copies(release.release_id)
        if release.release_id.startswith(identifier):
            found.append((release, copies))
            copies = [copy for copy in copies if copy.copy_id != release.release_id]
        found += [(release, [copy]) for copy in copies if copy.copy_id.startswith(identifier)]
    if len(found) != 1 or not identifier:
        many = "more than one release or copy begins" if found else "no release or copy begins"
        raise InputError(f"{identifier!a}: {many} with this", hint="see `weightmark list`, and give more of the id")
    return found[0]
