"""What time stamps change in the verdict of `check`: the lower threshold, and the order that the result states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from cli.examine import Finding
from cli.order import ReleaseOrder, Threshold, order_of_release, read_date, threshold_for
from cli.report_time import text_of_order
from registry.signing.trust import TrustPolicy
from registry.store.record_file import ReleaseBook
from watermark.errors import DocumentError
from watermark.evidence import THRESHOLD_STAMPED_LOG2_P

if TYPE_CHECKING:
    from cli.check import CheckRequest
    from cli.verdict import CheckResult

Orders = Mapping[str, ReleaseOrder]
NO_ORDERS: Orders = MappingProxyType({})


def orders_of(findings: Sequence[Finding], records: ReleaseBook, trust: TrustPolicy) -> Orders:
    """Since when others know of each release that was looked at, by its id."""
    named: dict[str, set[str]] = {}
    for finding in findings:
        copies = named.setdefault(finding.record.release_id, set())
        copies |= {copy.copy_id for copy in finding.identical_copies}
        if finding.recipient_copy is not None:
            copies.add(finding.recipient_copy)
    return {release_id: _order_of(records, release_id, trust, copies) for release_id, copies in named.items()}


def passes_stamped(
    tested: Sequence[Finding], counts: Sequence[int], request: CheckRequest, orders: Orders
) -> tuple[Finding, float, Threshold] | None:
    """The finding that shows most among those whose mark is independently older than the suspect, if that is enough.

    Gives it with its log2 p and the threshold that it passes; None without a date of the suspect.
    """
    if request.suspect_date is None:
        return None
    date = read_date(request.suspect_date)
    passed = []
    for finding in tested:
        threshold = threshold_for(orders.get(finding.record.release_id, ReleaseOrder()).owner, date)
        raw = finding.best.log2_p if finding.best is not None else 0.0
        if threshold.is_lower and threshold.adjust(raw, counts) <= threshold.log2_p:
            passed.append((finding, raw, threshold))
    return min(passed, key=lambda one: one[1], default=None)


def is_independently_older(finding: Finding, request: CheckRequest, orders: Orders) -> bool:
    """Whether others know of the release's mark, and so of its reference, since before the suspect's date."""
    if request.suspect_date is None:
        return False
    order = orders.get(finding.record.release_id, ReleaseOrder()).owner
    return threshold_for(order, read_date(request.suspect_date)).is_lower


def reason_stamped(finding: Finding, request: CheckRequest, orders: Orders) -> str:
    """Why the lower threshold applies: the word on the mark, and the date that it is compared with."""
    order = orders[finding.record.release_id].owner
    return (
        f"the lower threshold applies: the order of the mark is {text_of_order(order)}, before the suspect's date "
        f"{request.suspect_date} ({request.suspect_source})"
    )


def with_order(
    result: CheckResult, orders: Orders, findings: Sequence[Finding] = (), request: CheckRequest | None = None
) -> CheckResult:
    """The result with the order of the commitment that its verdict uses: R, or the copy's where it names one.

    Where no verdict uses one, it says whether a date of the suspect would make what was found enough.
    """
    if result.release is None and request is not None and request.suspect_date is None:
        return replace(result, reasons=(*result.reasons, *_date_would_do(result, orders, findings)))
    if result.release is None or result.release not in orders:
        return result
    order = orders[result.release].of(result.copy)
    at = order.time.strftime("%Y-%m-%dT%H:%M:%SZ") if order.time is not None else None
    reasons = (*result.reasons, *order.notes)
    return replace(result, order=order.kind, ordered_at=at, order_source=order.source, reasons=reasons)


def _date_would_do(result: CheckResult, orders: Orders, findings: Sequence[Finding]) -> tuple[str, ...]:
    counts = [count for _, count in result.multiplicity]
    for finding in findings:
        order, best = orders.get(finding.record.release_id, ReleaseOrder()).owner, finding.best
        if best is None or order.time is None:
            continue
        shown = threshold_for(order, order.time + timedelta(seconds=1)).adjust(best.log2_p, counts)
        if shown <= THRESHOLD_STAMPED_LOG2_P:
            return (
                f"{-shown:.0f} bits are enough if the suspect is younger than the stamp on {finding.record.name} "
                f"{finding.record.version} ({text_of_order(order)}): say when with --suspect-date and --suspect-source",
            )
    return ()


def _order_of(records: ReleaseBook, release_id: str, trust: TrustPolicy, named: set[str]) -> ReleaseOrder:
    try:
        return order_of_release(records, release_id, trust, named)
    except DocumentError:  # damaged records are the audit's finding; a verdict does not depend on them
        return ReleaseOrder()
