"""Check a suspect when the registry is lost: from the records of a backup, or from secret and reference alone.

The mark of a release follows from the owner secret and the unmarked reference, as long as it was released as most are:
at the strength chosen by itself, and without a declared base. Then even a release that no backup knows can be found
again. Recipients are known only to the records, and what can be shown to others needs the log. Prints nothing.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from cli.home import Home
from cli.mark_record import MarkRecord
from cli.owner_secrets import OwnerSecrets
from registry.store.record_file import RecordFile, ReleaseBook
from registry.store.records import CopyRecord, ReleaseRecord
from watermark.marks.coded import survey_with_codes
from watermark.marks.plan import plan_mark
from watermark.marks.secret import ReleaseKey, stretch_root
from watermark.model.digest import Progress
from watermark.model.directory import open_model

LOST_NOTE: Final = "the registry is not here: this is your private answer, and no evidence for others can be made of it"
DERIVED_LABEL: Final = ("an unrecorded", "release")


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
            copies = [copy for record in records for copy in book.copies(record.release_id)]
    if reference is not None:
        derived = derive_release(home, secrets.current, Path(reference), progress)
        if all(record.reference_digest != derived.reference_digest for record in records):
            records.append(derived)
    if not records:
        with home.registry():  # says what is missing, and what to do
            pass
    return RecordFile(records, copies)


def derive_release(home: Home, secret: bytes, reference: Path, progress: Progress | None = None) -> ReleaseRecord:
    """The record that a release of this reference would have, at the default strength and without a base.

    Raises CapacityError when the reference cannot carry a mark.
    """
    with ExitStack() as stack:
        found = survey_with_codes(stack.enter_context(open_model(reference, allow_torch=True)), progress)
        key = ReleaseKey.of(secret, found.reference_digest)
        plan = plan_mark(key, found, owner=home.owner)
    names = {tensor.digest: plan.surveys[tensor.digest].names[0] for tensor in plan.geometry.marked}
    document = MarkRecord(plan.geometry, names, None, stretch_root(plan.root)).document()
    return ReleaseRecord(
        key.release_id,
        home.owner,
        *DERIVED_LABEL,
        str(reference.absolute()),
        found.reference_digest.hex(),
        plan.root.hex(),
        document,
        int(time.time()),
    )
