"""Check a suspect when the registry is lost: from the records of a backup, or from secret and reference alone.

The mark of a release follows from the owner secret and the unmarked reference, as long as it was released as most are:
at the strength chosen by itself, and without a declared base. Then even a release that no backup knows can be found
again, and whether it was made before R named its owner or since: both forms are tried, and paid for. Recipients are
known only to the records, and what can be shown to others needs the log. Prints nothing.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from cli.home import Home
from cli.mark_record import MarkRecord
from cli.owner_secrets import OwnerSecrets
from registry.store.record_file import RecordFile, ReleaseBook
from registry.store.records import CopyRecord, ReleaseRecord
from watermark.marks.coded import survey_with_codes
from watermark.marks.commitment import bind_root
from watermark.marks.geometry import Geometry
from watermark.marks.plan import plan_mark
from watermark.marks.secret import ReleaseKey, stretch_root
from watermark.model.digest import Progress
from watermark.model.directory import open_model

LOST_NOTE: Final = "the registry is not here: this is your private answer, and no evidence for others can be made of it"
DERIVED_LABEL: Final = ("an unrecorded", "release")
EARLIER_LABEL: Final = ("an unrecorded", "release of the form before R named its owner")


def book_without_registry(
    home: Home, secrets: OwnerSecrets, reference: Path | str | None, progress: Progress | None = None
) -> ReleaseBook:
    """The releases that can be checked without the registry: those in records, and the one `reference` leads to.

    Raises RegistryError when there is neither.
    """
    records: list[ReleaseRecord] = []
    copies: list[CopyRecord] = []
    if home.has_records:
        with home.book() as book:
            records = book.list_releases()
            copies = [copy for record in records for copy in book.each_copy(record.release_id)]
    if reference is not None:
        derived = derive_releases(home, secrets.current, Path(reference), progress)
        if all(record.reference_digest != derived[0].reference_digest for record in records):
            records += derived
    if not records:
        with home.registry():  # says what is missing, and what to do
            pass
    return RecordFile(records, copies)


def derive_releases(
    home: Home, secret: bytes, reference: Path, progress: Progress | None = None
) -> tuple[ReleaseRecord, ReleaseRecord]:
    """The records that a release of this reference may have, at the default strength and without a base.

    First as it is made now, then as before R named its owner. Raises CapacityError when the reference cannot carry a
    mark.
    """
    with ExitStack() as stack:
        found = survey_with_codes(stack.enter_context(open_model(reference, allow_torch=True)), progress)
        key = ReleaseKey.of(secret, found.reference_digest)
        plan = plan_mark(key, found, owner=home.owner)
    names = {tensor.digest: plan.surveys[tensor.digest].names[0] for tensor in plan.geometry.marked}

    def record(geometry: Geometry, label: tuple[str, str]) -> ReleaseRecord:
        root = bind_root(plan.tree.root, geometry.digest())
        return ReleaseRecord(
            key.release_id,
            home.owner,
            *label,
            str(reference.absolute()),
            found.reference_digest.hex(),
            root.hex(),
            MarkRecord(geometry, names, None, stretch_root(root)).document(),
            int(time.time()),
        )

    return record(plan.geometry, DERIVED_LABEL), record(replace(plan.geometry, owner=None), EARLIER_LABEL)
