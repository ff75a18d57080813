"""Sketches in the jobs: taken from what ships, stated in the fingerprint claim, and asked when a suspect is checked.

A sketch says which releases are worth testing and in which order. It is never counted: no verdict, no p-value and no
threshold depends on a cosine, and every release that was known is paid for, whether it was tested or not.
"""

from __future__ import annotations

import base64
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.signing.claims import read_claims
from registry.signing.statement import parse_statement
from registry.store.records import ReleaseRecord
from watermark.errors import DocumentError
from watermark.lineage.fingerprint import Sketch, sketch_model
from watermark.lineage.search import POSSIBLE, RANKED, SketchIndex, margin
from watermark.model.directory import Model
from watermark.model.suspect import open_suspect

SKETCH_VERSION: Final = 1
#: So many releases are all tested; of more, those that the sketch finds possible, and at least so many.
TESTED_AT_LEAST: Final = 32
#: Candidates that are named in an answer.
SHOWN: Final = 3


@dataclass(frozen=True)
class Likeness:
    """A release and how like the suspect's sketch its own is; `level` is `named`, `possible` or `unlike`."""

    release: str
    name: str
    version: str
    cosine: float
    level: str


@dataclass(frozen=True)
class Fingerprint:
    """What the search by sketch found; never evidence.

    Attributes:
        form: the kind of network the suspect was sketched as.
        searched: releases that have a sketch.
        untested: releases that were left out because their sketches are unlike the suspect's.
        best: the most alike, best first.
        margin: 1 where a copy of the first would lie, 0 halfway to the second, -1 at the second; None without one.
    """

    form: str
    searched: int
    untested: int
    best: tuple[Likeness, ...]
    margin: float | None


def sketch_of_folder(folder: Path, pieces: MutableMapping[str, bytes]) -> Sketch:
    """Sketch the weights as they lie in a finished copy; `pieces` remembers what is done."""
    with open_suspect(folder) as shipped:
        return sketch_model(shipped, pieces=pieces)


def predicate_of_sketch(sketch: Sketch) -> dict[str, Any]:
    """A sketch as the fingerprint claim states it."""
    data = base64.b64encode(sketch.to_bytes()).decode("ascii")
    return {"version": SKETCH_VERSION, "form": sketch.form.word, "data": data}


def stated_sketch(claims: bytes) -> bytes | None:
    """The sketch in the owner's own claims, which he has just signed or verified; None where they state none."""
    for claim in read_claims(claims):
        stated = parse_statement(claim.bundle.envelope.payload).predicate.get("sketch")
        if isinstance(stated, dict) and stated.get("version") == SKETCH_VERSION:
            try:
                return base64.b64decode(stated["data"], validate=True)
            except (KeyError, TypeError, ValueError) as error:
                raise DocumentError(f"claim {claim.number}: its sketch is not base64") from error
    return None


def likely_first(
    known: Sequence[ReleaseRecord], stored: dict[str, bytes], suspect: Model
) -> tuple[list[ReleaseRecord], Fingerprint | None]:
    """Order releases by how like the suspect they are, and leave out what is unlike where they are many.

    A release whose sketch is missing, or of a later version, is always tested. Where only one is known, nothing is left
    to order, and the suspect is not sketched.

    Args:
        known: every release that may be tested.
        stored: the sketch of each release that has one.
        suspect: the suspect.
    """
    sketches = {record.release_id: _read(stored.get(record.release_id)) for record in known}
    sketched = [record for record in known if sketches[record.release_id] is not None]
    if not sketched or len(known) == 1:
        return list(known), None
    listed = [sketch for record in sketched if (sketch := sketches[record.release_id]) is not None]
    asked = sketch_model(suspect)
    matches = SketchIndex.of(listed).search(asked, RANKED)
    if not matches:
        return list(known), None
    possible = [match for match in matches if match.cosine >= POSSIBLE]
    kept = matches if len(known) <= TESTED_AT_LEAST else matches[: max(len(possible), TESTED_AT_LEAST)]
    chosen = [sketched[match.number] for match in kept]
    if len(known) <= TESTED_AT_LEAST:
        chosen += [record for record in sketched if record not in chosen]
    chosen += [record for record in known if sketches[record.release_id] is None]
    between = margin(asked, listed[matches[0].number], listed[matches[1].number]) if len(matches) > 1 else None
    best = tuple(
        Likeness(record.release_id, record.name, record.version, match.cosine, match.level)
        for match in matches[:SHOWN]
        for record in (sketched[match.number],)
    )
    return chosen, Fingerprint(asked.form.word, len(sketched), len(known) - len(chosen), best, between)


def _read(stored: bytes | None) -> Sketch | None:
    if stored is None:
        return None
    try:
        return Sketch.from_bytes(stored)
    except DocumentError:  # of a later version: the release is tested without it
        return None


def note_of_untested(found: Fingerprint | None) -> tuple[str, ...]:
    """What was left out, and what to do to test it all the same."""
    if found is None or not found.untested:
        return ()
    return (
        f"{found.untested:,} releases were not tested, since their sketches are unlike the suspect's; "
        "they are paid for like the rest, and --release ID tests one",
    )
