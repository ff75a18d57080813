"""The job of `weightmark check`: is this suspect ours, whose copy is it, and how sure is that.

Digests first (is it a release, byte for byte or tensor for tensor), then the keyed tests of every release that was
asked for, then one verdict after everything that was tried has been paid for. "Not ours" is an answer, not an error;
"nothing found" is said only with power. Knows no flags and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from cli.case import NEW_CASE, CaseOrder, make_evidence, open_case
from cli.check_order import (
    NO_ORDERS,
    Orders,
    is_independently_older,
    orders_of,
    passes_stamped,
    reason_stamped,
    with_order,
)
from cli.examine import IDENTICAL_BITS, Finding, examine
from cli.home import Home
from cli.kin import KINSHIP, nearest_kin
from cli.lost_registry import LOST_NOTE, book_without_registry
from cli.order import read_date
from cli.owner_secrets import OwnerSecrets, leak_notes
from cli.reading import cache_root_of
from cli.reference_places import local_place
from cli.sketches import Fingerprint, likely_first, note_of_untested
from cli.stamping import NO_STAMPER, Stamper, stamper_of
from registry.signing.order import SELF_ASSERTED
from registry.store.embedded import EmbeddedRegistry
from registry.store.record_file import ReleaseBook
from registry.store.records import ReleaseRecord
from watermark.errors import InputError
from watermark.evidence import POWER_MARGIN_BITS, THRESHOLD_LOG2_P, KeyedTest, add_multiplicity
from watermark.model.digest import Progress, canonical_digest, digest_tensors
from watermark.model.directory import Model, open_model

OURS, RELATED, SHARED_ANCESTOR = "ours", "related", "shared-ancestor"
NOT_SHOWN, NO_POWER = "not-shown", "no-power"


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


@dataclass(frozen=True)
class TestResult:
    """One test as it is reported; counted ones carry a log2 p, the others only a detail."""

    name: str
    log2_p: float | None
    trials: int
    detail: str


@dataclass(frozen=True)
class CheckResult:
    """The verdict and everything it rests on."""

    verdict: str
    release: str | None
    recipient: str | None
    log2_p: float | None
    log2_p_adjusted: float | None
    tests: tuple[TestResult, ...]
    order: str
    suspect_digest: str
    suspect_kind: str
    reasons: tuple[str, ...]
    name: str | None
    version: str | None
    copy: str | None
    matched_tensors: int
    total_tensors: int
    similarity: float | None
    excluded: tuple[tuple[str, str], ...]
    threshold: float
    multiplicity: tuple[tuple[str, int], ...]
    evidence_path: str | None
    case: int | None
    expect: str | None
    ordered_at: str | None = None
    order_source: str | None = None
    fingerprint: Fingerprint | None = None


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
            copies = book.copies(record.release_id)
            return examine(suspect, digests, record, copies, secrets.of(record), given(record), progress)

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
        notes = note_of_untested(fingerprint)
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
    return open_model(_suspect_path(request.suspect), link_root=request.links_below, allow_torch=True)


def _suspect_path(suspect: str) -> Path:
    for scheme in ("http:", "https:", "sagemaker:", "python:", "s3:"):
        if suspect.startswith(scheme):
            raise InputError(
                f"{suspect}: a suspect that only answers cannot be checked by this version",
                hint="get its weights and name the folder or file",
            )
    return Path(suspect)


def _releases(book: ReleaseBook, request: CheckRequest) -> list[ReleaseRecord]:
    if request.releases:
        return [book.release(release) for release in dict.fromkeys(request.releases)]
    known = book.list_releases()
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


def judge(
    findings: list[Finding],
    digest: str,
    suspect: Model,
    request: CheckRequest,
    orders: Orders = NO_ORDERS,
    *,
    considered: int = 0,
) -> CheckResult:
    """One verdict from all findings, after everything that was tried is paid for.

    `orders` by release id decide whether the lower threshold applies: see `cli.order`. `considered` are the releases
    that could have been tested: what a sketch left out is paid for like the rest.
    """
    tested = [finding for finding in findings if finding.best is not None]
    tried = max((finding.statistics_tried for finding in tested), default=1)
    multiplicity = (("statistics", tried), ("releases", max(considered, len(findings))))
    counts = [count for _, count in multiplicity]
    best = min(tested, key=lambda f: f.best.log2_p if f.best else 0.0, default=None)
    raw = best.best.log2_p if best is not None and best.best is not None else None
    adjusted = add_multiplicity(raw, counts) if raw is not None else None
    exact = next((f for f in findings if f.identical_bits >= IDENTICAL_BITS or f.identical_copies), None)
    if adjusted is not None and adjusted <= THRESHOLD_LOG2_P and best is not None:
        return _result(OURS, best, raw, adjusted, digest, suspect, request, multiplicity, _reasons_ours(best))
    stamped = passes_stamped(tested, counts, request, orders)
    if stamped is not None:
        known, raw, threshold = stamped
        reasons = [*_reasons_ours(known), reason_stamped(known, request, orders)]
        paid = (*multiplicity, *threshold.counts)
        adjusted = threshold.adjust(raw, counts)
        result = _result(OURS, known, raw, adjusted, digest, suspect, request, paid, reasons)
        return replace(result, threshold=threshold.log2_p)
    if exact is not None and exact.identical_bits >= IDENTICAL_BITS:
        reasons = [f"tensors identical to this release carry {exact.identical_bits:.0f} predicted bits of its mark"]
        return _result(OURS, exact, raw, adjusted, digest, suspect, request, multiplicity, reasons)
    related = exact or next((f for f in findings if f.identical_to_reference), None)
    if related is not None:
        what = "unmarked reference" if related.identical_to_reference else "release, which carries no mark"
        reasons = [
            f"every tensor is identical to the {what}: the same model, but no key of ours speaks for whose it is"
        ]
        return _result(RELATED, related, None, None, digest, suspect, request, multiplicity, reasons)
    child = next((f for f in findings if f.identical_to_base), None)
    if child is not None:
        reasons = ["every tensor is identical to the public base that this release was declared to stand on"]
        return _result(SHARED_ANCESTOR, child, None, None, digest, suspect, request, multiplicity, reasons)
    kindred = nearest_kin([finding.kin for finding in findings], max(considered, len(findings)))
    if kindred is not None:
        return _related_by_kin(findings[kindred], digest, suspect, request, orders, multiplicity)
    return _nothing_found(findings, best, raw, adjusted, digest, suspect, request, multiplicity)


def _related_by_kin(
    finding: Finding,
    digest: str,
    suspect: Model,
    request: CheckRequest,
    orders: Orders,
    multiplicity: tuple[tuple[str, int], ...],
) -> CheckResult:
    """`related` or `shared-ancestor`, with a number only where the reference is independently the older one."""
    kin = finding.kin
    assert kin is not None
    raw = adjusted = None
    if is_independently_older(finding, request, orders):
        raw, adjusted = kin.reference.log2_p, kin.log2_p_adjusted(dict(multiplicity)["releases"])
    verdict = SHARED_ANCESTOR if kin.is_explained_by_base() else RELATED
    result = _result(verdict, finding, raw, adjusted, digest, suspect, request, multiplicity, kin.reasons())
    row = TestResult(KINSHIP, raw, kin.reference.units, kin.detail)
    return replace(result, tests=(row, *result.tests))


def _reasons_ours(finding: Finding) -> list[str]:
    reasons = []
    if finding.identical_copies:
        reasons.append("every tensor is identical to a released copy, whatever the container and names")
    elif finding.identical_bits >= IDENTICAL_BITS:
        reasons.append(f"some tensors are identical to a release ({finding.identical_bits:.0f} predicted bits)")
    if finding.recipient is not None:
        reasons.append("the recipient's code names a copy, never who leaked it: the owner held it too")
    elif finding.copies and finding.recipient_test is not None:
        reasons.append("the owner's mark shows, and no recipient's code passes its threshold")
    return reasons


def _nothing_found(
    findings: list[Finding],
    best: Finding | None,
    raw: float | None,
    adjusted: float | None,
    digest: str,
    suspect: Model,
    request: CheckRequest,
    multiplicity: tuple[tuple[str, int], ...],
) -> CheckResult:
    needed = -THRESHOLD_LOG2_P + POWER_MARGIN_BITS
    weakest = min(findings, key=lambda finding: finding.power_bits)
    if weakest.power_bits >= needed:
        reasons = [
            f"nothing found; a copy disturbed by 0.4 row deviations would have shown {weakest.power_bits:,.0f} bits, "
            f"and {needed:.0f} are enough"
        ]
        return _result(NOT_SHOWN, best, raw, adjusted, digest, suspect, request, multiplicity, reasons)
    reasons = [
        f"for release {weakest.record.name} {weakest.record.version}, {weakest.matched} of {weakest.marked} marked "
        "tensors have a partner of the same shape in the suspect: even a copy would show "
        f"{weakest.power_bits:,.0f} bits of the {needed:.0f} that are needed",
        "needed: the whole model, or the release that this suspect might come from (--release)",
    ]
    return _result(NO_POWER, best, raw, adjusted, digest, suspect, request, multiplicity, reasons)


def _result(
    verdict: str,
    finding: Finding | None,
    raw: float | None,
    adjusted: float | None,
    digest: str,
    suspect: Model,
    request: CheckRequest,
    multiplicity: tuple[tuple[str, int], ...],
    reasons: list[str],
) -> CheckResult:
    named = verdict in (OURS, RELATED, SHARED_ANCESTOR) and finding is not None
    copy = _copy_of(finding) if finding is not None and verdict == OURS else (None, None)
    tests = tuple(_test_result(test) for test in finding.tests) if finding is not None else ()
    if finding is not None and finding.recipient_test is not None:
        tests += (_test_result(finding.recipient_test, f"best of {finding.copies} copies, two looks"),)
    return CheckResult(
        verdict=verdict,
        release=finding.record.release_id if named and finding is not None else None,
        recipient=copy[0],
        log2_p=raw,
        log2_p_adjusted=adjusted,
        tests=tests,
        order=SELF_ASSERTED,
        suspect_digest=digest,
        suspect_kind="file" if suspect.is_single_file else "directory",
        reasons=(*reasons, *(finding.notes if finding is not None else ())),
        name=finding.record.name if named and finding is not None else None,
        version=finding.record.version if named and finding is not None else None,
        copy=copy[1],
        matched_tensors=finding.matched if finding is not None else 0,
        total_tensors=finding.marked if finding is not None else 0,
        similarity=finding.similarity if finding is not None else None,
        excluded=finding.excluded if finding is not None else (),
        threshold=THRESHOLD_LOG2_P,
        multiplicity=multiplicity,
        evidence_path=None,
        case=None,
        expect=request.expect,
    )


def _copy_of(finding: Finding) -> tuple[str | None, str | None]:
    """Recipient and copy id: by the code, or because the suspect is exactly one copy."""
    if finding.recipient is not None:
        return finding.recipient, finding.recipient_copy
    if len(finding.identical_copies) == 1:
        return finding.identical_copies[0].recipient, finding.identical_copies[0].copy_id
    return None, None


def _test_result(test: KeyedTest, detail: str = "") -> TestResult:
    return TestResult(test.name, test.log2_p, test.trials, detail or test.detail or f"z = {test.z:.1f}")


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
