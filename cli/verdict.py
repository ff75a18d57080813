"""One verdict from all that was found in a suspect, after everything that was tried has been paid for.

What a key shows goes first, then what is identical, then kinship; "nothing found" is said only where a copy would have
been found. Pure judgement: opens and reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cli.check_order import NO_ORDERS, Orders, is_independently_older, passes_stamped, reason_stamped
from cli.examine import IDENTICAL_BITS, Finding
from cli.kin import KINSHIP, nearest_kin
from cli.sketches import Fingerprint
from registry.signing.order import SELF_ASSERTED
from watermark.evidence import POWER_MARGIN_BITS, THRESHOLD_LOG2_P, KeyedTest, add_multiplicity
from watermark.model.directory import Model

if TYPE_CHECKING:
    from cli.check import CheckRequest

OURS, RELATED, SHARED_ANCESTOR = "ours", "related", "shared-ancestor"
NOT_SHOWN, NO_POWER = "not-shown", "no-power"
#: Releases that a reason lists by name.
_NAMED = 5


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
    comparable = [finding for finding in findings if finding.is_comparable]
    weakest = min(comparable or findings, key=lambda finding: finding.power_bits)
    apart = _not_comparable([finding for finding in findings if not finding.is_comparable]) if comparable else []
    if comparable and weakest.power_bits >= needed:
        reasons = [
            f"nothing found; a copy disturbed by 0.4 row deviations would have shown {weakest.power_bits:,.0f} bits, "
            f"and {needed:.0f} are enough",
            *apart,
        ]
        return _result(NOT_SHOWN, best, raw, adjusted, digest, suspect, request, multiplicity, reasons)
    reasons = [
        f"for release {weakest.record.name} {weakest.record.version}, {weakest.matched} of {weakest.marked} marked "
        "tensors have a partner of the same shape in the suspect: even a copy would show "
        f"{weakest.power_bits:,.0f} bits of the {needed:.0f} that are needed",
        *apart,
        "needed: the whole model, or the release that this suspect might come from (--release)",
    ]
    return _result(NO_POWER, best, raw, adjusted, digest, suspect, request, multiplicity, reasons)


def _not_comparable(findings: list[Finding]) -> list[str]:
    """Name the releases about which nothing is said: no power is claimed for them, and they do not take it away."""
    reasons = []
    for group, why in (
        ([f for f in findings if f.marked], "no tensor of the suspect is the partner of one that carries the mark"),
        ([f for f in findings if not f.marked], "no mark, so only what is untouched would have shown"),
    ):
        names = [f"{finding.record.name} {finding.record.version}" for finding in group]
        if names:
            shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")
            reasons.append(f"not comparable: {shown} ({why})")
    return reasons


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
