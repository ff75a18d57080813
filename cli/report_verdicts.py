"""Answers that judge: check, evidence, audit.

Verdict first, then what was counted and what was not, then what to do next. "Derives from", never "stolen": numbers
speak of weights, not of how they were obtained. Documents hold exactly what the command's contract promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.answer import counted, escaped, short, table
from cli.report_sketch import json_of_fingerprint, rows_of_fingerprint
from cli.report_time import row_of_order

if TYPE_CHECKING:
    from cli.check import CheckRequest
    from cli.evidence import EvidenceRequest, EvidenceResult
    from cli.verdict import CheckResult
    from registry.monitor import AuditResult

OURS, RELATED, SHARED, NOT_SHOWN, NO_POWER = "ours", "related", "shared-ancestor", "not-shown", "no-power"
_UNDECIDED = 3


def exit_code_of_check(verdict: str, expected: str | None) -> int:
    """0 ours, 3 no-power, 1 all else; with an expectation: 0 as expected, 1 otherwise, 3 for no-power."""
    if verdict == NO_POWER:
        return _UNDECIDED
    return int((verdict == OURS) == (expected == "not-ours"))


def json_of_check(result: CheckResult) -> dict[str, Any]:
    """The document of `check --json`."""
    return {
        "verdict": result.verdict,
        "release": result.release,
        "recipient": result.recipient,
        "log2_p": result.log2_p,
        "log2_p_adjusted": result.log2_p_adjusted,
        "tests": [
            {"name": test.name, "log2_p": test.log2_p, "trials": test.trials, "detail": test.detail}
            for test in result.tests
        ],
        "order": result.order,
        "ordered_at": result.ordered_at,
        "order_source": result.order_source,
        "suspect": {"digest": result.suspect_digest, "kind": result.suspect_kind},
        "reasons": list(result.reasons),
        "fingerprint": json_of_fingerprint(result.fingerprint),
    }


def text_of_check(request: CheckRequest, result: CheckResult) -> tuple[str, ...]:
    """The lines of `check`."""
    return (
        verdict_line(result),
        *_counted(result),
        *_supporting(result),
        *(f"  {escaped(reason)}" for reason in result.reasons),
        *next_of_check(request, result),
    )


def verdict_line(result: CheckResult) -> str:
    """The verdict in one line: its name, three spaces, what it says."""
    model = " ".join(escaped(part) for part in (result.name, result.version) if part) or "a release of yours"
    release = f" (release {short(result.release)})" if result.release else ""
    if result.verdict == OURS:
        copy = f", the copy given to {escaped(result.recipient)}" if result.recipient else ""
        return f"OURS   derives from {model}{copy}{release}"
    if result.verdict == RELATED:
        return f"RELATED   shares weights with {model} beyond chance{release}; direction and ownership are open"
    if result.verdict == SHARED:
        return f"SHARED ANCESTOR   related to {model}{release}, and the declared public base explains it"
    if result.verdict == NOT_SHOWN:
        return "NOT SHOWN   nothing of your releases was found, and a copy would have been found"
    return "NO POWER   too little to tell: neither a copy nor its absence would show"


def _counted(result: CheckResult) -> tuple[str, ...]:
    if not result.tests:
        return ()
    rows: list[tuple[object, ...]] = [("counted", "log2 p", "")]
    telling = [test for test in result.tests if test.log2_p is None or test.log2_p <= -1]
    rows += [(test.name, _bits(test.log2_p), test.detail) for test in telling]
    if len(telling) < len(result.tests):
        rows.append((f"{len(result.tests) - len(telling)} other tests", "0", "found nothing"))
    tried = " x ".join(counted(count, text.removesuffix("s")) for text, count in result.multiplicity)
    rows.append(
        (f"after {tried}" if tried else "adjusted", _bits(result.log2_p_adjusted), f"threshold {result.threshold:,.0f}")
    )
    return table(rows, right=(1,))


def _supporting(result: CheckResult) -> tuple[str, ...]:
    rows: list[tuple[object, ...]] = []
    if result.total_tensors:
        rows.append(("matched", f"{result.matched_tensors} of {result.total_tensors} tensors"))
    if result.similarity is not None:
        rows.append(("weight similarity", f"{result.similarity:.3f}  (supporting, not counted)"))
    rows += rows_of_fingerprint(result.fingerprint)
    if result.excluded:
        rows.append(("left out", f"{counted(len(result.excluded), 'tensor')} without a mark"))
    rows.append(row_of_order(result.order, result.ordered_at, result.order_source))
    rows.append(("suspect", f"{result.suspect_kind} {result.suspect_digest}"))
    return table(rows)


def next_of_check(request: CheckRequest, result: CheckResult) -> tuple[str, ...]:
    """What to do next, in lines; empty where nothing is left to do."""
    if result.evidence_path is not None:
        file = escaped(result.evidence_path)
        return (f"Evidence written to {file}. Anyone can check it: weightmark evidence {file} --suspect MODEL",)
    suspect = escaped(request.suspect)
    if result.case is not None:
        return (
            f"  next: let the other side give a challenge for case {result.case}, then weightmark check {suspect}"
            f" --case {result.case} --challenge HEX --evidence FILE",
        )
    if result.verdict == OURS:
        return (f"  next: weightmark check {suspect} --evidence FILE writes what others can check without your secret",)
    return ()


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def exit_code_of_evidence(result: EvidenceResult) -> int:
    """0 holds for the suspect, 1 does not hold, 3 when the suspect was not compared."""
    if not result.suspect_compared:
        return _UNDECIDED
    return 0 if result.holds else 1


def json_of_evidence(result: EvidenceResult) -> dict[str, Any]:
    """The document of `evidence --json`."""
    return {
        "holds": result.holds,
        "owner": result.owner,
        "release": result.release,
        "recipient": result.recipient,
        "order": result.order,
        "ordered_at": result.ordered_at,
        "order_source": result.order_source,
        "log2_p_adjusted": result.log2_p_adjusted,
        "suspect_compared": result.suspect_compared,
        "reasons": list(result.reasons),
    }


def text_of_evidence(request: EvidenceRequest, result: EvidenceResult) -> tuple[str, ...]:
    """The lines of `evidence`."""
    owner = escaped(result.owner or "its owner")
    if not result.suspect_compared:
        head = f"UNDECIDED   {escaped(request.file)} of {owner} is whole, but the suspect was not compared"
    elif result.holds:
        head = f"HOLDS   the suspect derives from a release of {owner}"
    else:
        head = f"DOES NOT HOLD   {escaped(request.file)} of {owner}"
    rows: list[tuple[object, ...]] = [
        ("log2 p, recomputed", _bits(result.log2_p_adjusted)),
        ("counted", f"{result.statistic} over {result.blocks:,} opened blocks ({result.draw} draw)"),
        ("case", f"log entry {result.case}"),
    ]
    if result.release:
        rows.append(("release", result.release))
    if result.recipient:
        rows.append(("copy given to", result.recipient))
    rows.append(row_of_order(result.order, result.ordered_at, result.order_source))
    lines = (head, *table(rows), *(f"  {escaped(reason)}" for reason in result.reasons))
    if not result.suspect_compared:
        return (*lines, f"  next: weightmark evidence {escaped(request.file)} --suspect MODEL")
    return lines


def json_of_audit(result: AuditResult) -> dict[str, Any]:
    """The document of `audit --json`."""
    return {
        "whole": result.whole,
        "size": result.size,
        "root": result.root,
        "entries_checked": result.entries_checked,
        "findings": [{"code": one.code, "index": one.index, "text": one.text} for one in result.findings],
    }


def text_of_audit(result: AuditResult, *, since: bool) -> tuple[str, ...]:
    """The lines of `audit`; `since` says whether an earlier checkpoint was compared."""
    facts = table([("root", result.root or "-"), ("entries", f"{result.entries_checked} of {result.size} checked")])
    unchecked = (
        ()
        if since
        else (
            "  not checked: whether the log was put back to an earlier state as a whole; keep registry/log/checkpoint"
            " elsewhere and pass it with --since",
        )
    )
    if result.whole:
        return ("WHOLE   the log, its files and the records agree", *facts, *unchecked)
    places = [(one.code, "" if one.index is None else f"entry {one.index}", one.text) for one in result.findings]
    return (
        f"NOT WHOLE   {counted(len(result.findings), 'finding')}",
        *table(places),
        *facts,
        *unchecked,
        "  next: do not delete anything; compare with a backup, and ask who could write here",
    )
