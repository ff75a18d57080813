"""The job of `weightmark check`: is this suspect ours, whose copy is it, and how sure is that.

Digests first (is it a release, byte for byte or tensor for tensor), then the keyed tests of every release that was
asked for, then one verdict (`verdict.py`), and on request a case and its evidence file. "Not ours" is an answer, not an
error. Knows no flags and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from cli.case import NEW_CASE, CaseOrder, make_evidence, open_case
from cli.check_order import orders_of, with_order
from cli.examine import Finding, examine
from cli.home import Home
from cli.lost_registry import LOST_NOTE, book_without_registry
from cli.order import read_date
from cli.owner_secrets import OwnerSecrets, leak_notes
from cli.reading import cache_root_of
from cli.reference_places import local_place
from cli.sketches import likely_first, note_of_untested
from cli.stamping import NO_STAMPER, Stamper, stamper_of
from cli.verdict import OURS, CheckResult, judge
from registry.store.embedded import EmbeddedRegistry
from registry.store.record_file import ReleaseBook
from registry.store.records import ReleaseRecord
from watermark.errors import InputError
from watermark.model.digest import Progress, canonical_digest, digest_tensors
from watermark.model.directory import Model, open_model
from watermark.model.suspect import open_suspect

#: Unread files or tensors that a note lists by name.
_NAMED = 5


@dataclass(frozen=True)
class CheckRequest:
    """Which suspect to check against which releases (all, when none is named)."""

    home: Path
    suspect: str
    releases: tuple[str, ...] = ()
    reference: Path | str | None = None
    suspect_date: str | None = None
    suspect_source: str | None = None
    case: str | None = None
    challenge: str | None = None
    evidence: Path | None = None
    expect: str | None = None
    tsa: tuple[str, ...] | None = None
    links_below: Path | None = None
    pin: Callable[[str], bytes] | None = field(default=None, repr=False)


def check(request: CheckRequest, passphrase: Callable[[], bytes], progress: Progress | None = None) -> CheckResult:
    """Check a suspect; logs a case and writes an evidence file where that was asked for and the verdict is `ours`.

    Raises:
        InputError: the suspect, a release or a flag cannot be used.
    """
    home = Home.open(request.home)
    _check_request(request)
    phrase = home.passphrase(passphrase)
    return check_unlocked(request, home, phrase, OwnerSecrets(home, phrase, request.pin), progress)


def check_unlocked(
    request: CheckRequest, home: Home, phrase: bytes, secrets: OwnerSecrets, progress: Progress | None = None
) -> CheckResult:
    """As `check`, for whoever checks many suspects: opening the owner's secret takes a second, and is done once."""
    _check_request(request)
    stamper = stamper_of(home, request.tsa) if request.evidence is not None else NO_STAMPER
    with ExitStack() as stack:
        suspect = stack.enter_context(_open_suspect(request))
        if request.reference is not None:
            request = replace(request, reference=local_place(request.reference, stack))
        log_key = home.log_key(phrase, request.pin) if _wants_case(request) else None
        registry = None
        if home.has_registry or _wants_case(request):
            registry = stack.enter_context(home.registry(log_key))
            book: ReleaseBook = registry.records
        else:
            book = book_without_registry(home, secrets, request.reference, progress)
        known = _releases(book, request)
        records, fingerprint = known, None
        if not request.releases:
            records, fingerprint = likely_first(known, book.sketches(), suspect)
        digests = digest_tensors(suspect, progress)
        given = _given_reference(request, known)
        digest = canonical_digest(digests.values())

        def look(record: ReleaseRecord) -> Finding:
            return examine(suspect, digests, record, book, secrets.of(record), given(record), progress)

        def conclude(findings: list[Finding]) -> CheckResult:
            orders = orders_of(findings, book, home.trust())
            result = judge(findings, digest.hex(), suspect, request, orders, considered=len(known))
            return with_order(result, orders, findings, request)

        findings = [look(record) for record in records]
        result = conclude(findings)
        if result.verdict != OURS and fingerprint is not None and fingerprint.untested:
            # A sketch may hasten what is found; that nothing is there only the keyed tests may say.
            findings += [look(record) for record in known if record not in records]
            records, fingerprint = known, replace(fingerprint, untested=0)
            result = conclude(findings)
        suspect.verify_unchanged()
        notes = (*_notes_of_unread(suspect), *note_of_untested(fingerprint))
        result = replace(result, fingerprint=fingerprint, reasons=(*result.reasons, *notes))
        if registry is None:
            return replace(result, reasons=(*result.reasons, LOST_NOTE))
        result = with_leak(result, records, secrets, registry)
        if not _wants_case(request):
            return result
        return _with_case(result, findings, home, phrase, registry, suspect, digest, secrets, request, stamper)


def with_leak(
    result: CheckResult, records: list[ReleaseRecord], secrets: OwnerSecrets, registry: EmbeddedRegistry
) -> CheckResult:
    """Say so where the mark that was found is of a secret that leaked."""
    record = next((one for one in records if one.release_id == result.release), None)
    if result.verdict != OURS or record is None:
        return result
    return replace(result, reasons=(*result.reasons, *leak_notes(secrets.home, secrets.of(record), registry)))


def _check_request(request: CheckRequest) -> None:
    if request.expect not in (None, OURS, "not-ours"):
        raise InputError(f"--expect {request.expect!r} is neither `ours` nor `not-ours`")
    if (request.suspect_date is None) != (request.suspect_source is None):
        raise InputError(
            "--suspect-date and --suspect-source go together", hint="a date without its source convinces nobody"
        )
    if (request.challenge is not None) != (request.case not in (None, NEW_CASE)):
        raise InputError("--case INDEX and --challenge HEX go together", hint="log a case first with --case new")
    if request.suspect_date is not None:
        read_date(request.suspect_date)
    if request.challenge is not None and request.evidence is None:
        raise InputError("a challenge is answered by an evidence file", hint="name one with --evidence FILE")
    if request.evidence is not None and request.evidence.exists():
        raise InputError(
            f"{request.evidence} is there already", hint="name another file; evidence is never written over"
        )


def _wants_case(request: CheckRequest) -> bool:
    return request.evidence is not None or request.case is not None


def _open_suspect(request: CheckRequest) -> Model:
    """Open the suspect, with the links that the caller allows."""
    return open_suspect(_suspect_path(request.suspect), link_root=request.links_below)


def _notes_of_unread(suspect: Model) -> tuple[str, ...]:
    """Say which weights of the suspect were not looked at: an innocent file may lie beside a stolen one."""
    notes = []
    if suspect.carried_weights:
        files = _listed(suspect.carried_weights)
        notes.append(f"weights beside those that were read, not looked at: {files}; name such a file to check it")
    if suspect.unread:
        notes.append(f"tensors stored in a form that is not read here, not looked at: {_listed(suspect.unread)}")
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _suspect_path(suspect: str) -> Path:
    for scheme in ("http:", "https:", "sagemaker:", "python:", "s3:"):
        if suspect.startswith(scheme):
            raise InputError(
                f"{suspect}: a suspect that only answers cannot be checked by this version",
                hint="get its weights and name the folder or file",
            )
    return Path(suspect)


def _releases(book: ReleaseBook, request: CheckRequest) -> list[ReleaseRecord]:
    known = book.list_releases()
    if request.releases:
        wanted = {book.release(release).release_id for release in request.releases}
        return [record for record in known if record.release_id in wanted]  # without a registry in either form
    if not known:
        raise InputError("this owner has released nothing yet", hint="run `weightmark release MODEL --out DIR` first")
    return known


def _given_reference(request: CheckRequest, records: list[ReleaseRecord]) -> Callable[[ReleaseRecord], Path | None]:
    """Which release the --reference belongs to: the one that is tested, or among several the one it is marked for."""
    place = Path(request.reference) if request.reference is not None else None  # what was in S3 is here by now
    if place is None or len(records) == 1:
        return lambda _: place
    with open_model(place, link_root=cache_root_of(place), allow_torch=True) as model:
        digest = canonical_digest(digest_tensors(model).values()).hex()
    if not any(record.reference_digest == digest for record in records):
        raise InputError(f"{place} is not the unmarked reference of any release", hint="see `weightmark list`")
    return lambda record: place if record.reference_digest == digest else None


def _with_case(
    result: CheckResult,
    findings: list[Finding],
    home: Home,
    phrase: bytes,
    registry: EmbeddedRegistry,
    suspect: Model,
    digest: bytes,
    secrets: OwnerSecrets,
    request: CheckRequest,
    stamper: Stamper,
) -> CheckResult:
    """Log a case and, unless only that was asked for, open its blocks into an evidence file."""
    finding = next((f for f in findings if f.record.release_id == result.release), None)
    if result.verdict != OURS or finding is None or finding.best is None:
        note = "no evidence file was written: only the verdict `ours` can be shown to others"
        return replace(result, reasons=(*result.reasons, note))
    order = CaseOrder(
        request.case,
        request.challenge,
        request.evidence,
        request.reference,
        request.suspect_date,
        request.suspect_source,
        result.copy,
        result.recipient,
        stamper,
    )
    key = home.private_key(phrase, request.pin)
    case = open_case(finding, order, registry, key, home, suspect, digest)
    if request.evidence is None:
        return replace(result, case=case.log_index)
    make_evidence(case, finding, order, registry, home, key, suspect, secrets.of(finding.record))
    return replace(result, case=case.log_index, evidence_path=str(request.evidence))
