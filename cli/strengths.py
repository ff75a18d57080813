"""Which strength each tensor of a release gets: chosen by calibration once, and the same ever after.

Two marks of one reference would show the chips by their difference, so what the records hold is kept or refused, never
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cli.calibrate import Subject, Telling, calibrate
from cli.home import Home
from cli.mark_record import Calibration, MarkRecord
from registry.store.records import ReleaseRecord
from watermark.errors import ConflictError
from watermark.evidence import default_strength
from watermark.marks.geometry import ppm_of

if TYPE_CHECKING:
    from cli.release import ReleaseRequest


def choose_strengths(
    request: ReleaseRequest,
    home: Home,
    before: ReleaseRecord | None,
    release_id: str,
    subject: Subject,
    telling: Telling | None,
) -> tuple[Mapping[str, int] | None, Calibration | None]:
    """The strength map by digest and how it was chosen; None twice where one strength serves all.

    Raises:
        ConflictError: this reference was released with other strengths.
        InputError: the measure cannot be used.
    """
    kept = MarkRecord.from_document(before.mark_document) if before is not None and before.mark_root else None
    if request.calibrate is None:
        if before is not None and kept is not None and kept.calibration is not None:
            raise released_otherwise(before, "strengths chosen by calibration", "give --calibrate again")
        return None, None
    uniform = default_strength(subject.found.carriers) if request.strength is None else request.strength
    if before is None:
        notes = None if request.dry_run else notes_of(home, release_id)
        return calibrate(subject, uniform, request.calibrate, notes, telling)
    if kept is None:
        raise released_otherwise(before, "and without a mark")
    if kept.calibration is None or kept.calibration.uniform_ppm != ppm_of(uniform):
        raise released_otherwise(before, "another strength, or without calibration")
    return {tensor.digest: tensor.strength_ppm for tensor in kept.geometry.marked}, kept.calibration


def notes_of(home: Home, release_id: str) -> Path:
    """Where a calibration notes what it has measured, until the release is made."""
    return home.path / "calibrations" / f"{release_id}.jsonl"


def released_otherwise(known: ReleaseRecord, how: str, advice: str = "release it as before") -> ConflictError:
    """This reference was released before, in a way that does not go together with what is asked for now."""
    return ConflictError(
        f"this reference was released before as {known.name} {known.version}, with {how}",
        hint=f"{advice}: the difference of two marks of one reference would show the chips",
    )
