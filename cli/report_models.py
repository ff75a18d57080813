"""Answers about models: sign, verify, release.

Verdict first, then what was and was not checked, then what to do next. Documents hold exactly what the command's
contract promises; nothing here decides anything.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.answer import counted, escaped, table
from cli.report_keyless import json_of_keyless, rows_of_keyless
from cli.report_keys import json_of_standing, rows_of_standing, unchecked_of_standing, warnings_of_standing
from cli.report_lineage import (
    json_of_companions,
    rows_of_also_signed,
    rows_of_companions,
    unchecked_of_companions,
)
from cli.report_time import json_of_order, json_of_time, rows_of_order, rows_of_stamping, rows_of_time

if TYPE_CHECKING:
    from cli.mark_record import Calibration
    from cli.release import ReleaseRequest, ReleaseResult
    from cli.sign import SignResult
    from cli.verify import VerifyRequest, VerifyResult

_MANY = 6  # more excluded tensors than this are counted by reason instead of named


def json_of_sign(result: SignResult) -> dict[str, Any]:
    """The document of `sign --json`."""
    return {
        "signature": str(result.signature),
        "root_digest": result.root,
        "key": result.key,
        "files": result.files,
        "stated_digests": result.stated_digests,
        **({"also_signed": [one.key for one in result.also_signed]} if result.also_signed else {}),
    }


def text_of_sign(result: SignResult) -> tuple[str, ...]:
    """The lines of `sign`."""
    return (
        f"SIGNED   {counted(result.files, 'file')}, in {escaped(result.signature)}",
        *table(
            [
                ("root digest", result.root),
                ("key", result.key),
                *rows_of_stamping(result),
                *rows_of_also_signed(result),
            ]
        ),
        *_text_of_stated(result),
        "  not done: no mark and no log entry; whoever verifies needs this very key",
    )


def _text_of_stated(result: SignResult) -> tuple[str, ...]:
    if not result.stated_digests:
        return ()
    return (f"  not read: {counted(result.stated_digests, 'file')}, signed by the digest stated for it; marked so",)


def json_of_verify(result: VerifyResult) -> dict[str, Any]:
    """The document of `verify --json`."""
    return {
        "verified": result.verified,
        "owner": result.owner,
        "key": result.key,
        "release": result.release,
        "index": result.index,
        "signed_at": result.signed_at,
        "time_source": result.time_source,
        **json_of_time(result),
        **json_of_standing(result.standing),
        **json_of_keyless(result),
        **json_of_companions(result),
    }


def text_of_verify(request: VerifyRequest, result: VerifyResult) -> tuple[str, ...]:
    """The lines of `verify`: a release was verified as a whole, a plain signature says less."""
    where = escaped(request.model)
    released = result.owner is not None
    head = f"VERIFIED   {where} is exactly what {escaped(result.owner or result.signed_by)}"
    rows: list[tuple[object, ...]] = [("files", f"{result.files}, each with its digest"), ("key", result.key)]
    if released:
        rows.append(("release", result.release or "-"))
        rows.append(("log", f"entry {result.index} of {result.origin}"))
    rows += [*rows_of_standing(result.standing), *rows_of_keyless(result), *rows_of_time(result)]
    rows += rows_of_companions(result)
    unchecked = [*result.stamp_notes, *unchecked_of_standing(result.standing), *unchecked_of_companions(result)]
    if request.reading.cache is not None:
        unchecked.append("the bytes of files that the file system says are unchanged since they were hashed")
    if request.ignore:
        unchecked.append(f"ignored on request: {', '.join(escaped(path) for path in request.ignore)}")
    if request.ignore_unsigned_files:
        unchecked.append("files that the signature does not name")
    if not released and result.keyless is None:
        unchecked.append("no log entry and no claims: a signature alone can be made in silence and taken back")
    return (
        f"{head} {'released' if released else 'signed'}",
        *table(rows),
        *warnings_of_standing(result.standing),
        *(f"  not checked: {line}" for line in unchecked),
    )


def json_of_release(request: ReleaseRequest, result: ReleaseResult) -> dict[str, Any]:
    """The document of `release --json`: one copy stands at the top, several in `copies`."""
    only = result.copies[0] if len(result.copies) == 1 else None
    document: dict[str, Any] = {
        "release": result.release,
        "copy": only.copy if only else None,
        "recipient": only.recipient if only else None,
        "index": only.index if only else None,
        "origin": result.origin,
        "out": only.out if only else str(request.out),
        "marked_tensors": result.marked_tensors,
        "carriers": result.carriers,
        "expected_log2_p": result.expected_log2_p,
        "max_weight_change": result.max_weight_change,
        "root_digest": only.root_digest if only else None,
        "warnings": list(result.warnings),
        **json_of_order(result),
    }
    if len(result.copies) > 1:
        document["copies"] = [
            {
                "copy": copy.copy,
                "recipient": copy.recipient,
                "index": copy.index,
                "out": copy.out,
                "root_digest": copy.root_digest,
            }
            for copy in result.copies
        ]
    if result.calibration is not None:
        document["calibration"] = json_of_calibration(result.calibration, (result.least_strength, result.most_strength))
    if result.dry_run:
        document |= {"dry_run": True, "strength": result.strength, "disk_bytes": result.disk_bytes}
    return document


def text_of_release(request: ReleaseRequest, result: ReleaseResult) -> tuple[str, ...]:
    """The lines of `release`, or of what it would do."""
    label = f"{escaped(result.name)} {escaped(result.version)}"
    head = "WOULD RELEASE" if result.dry_run else "RELEASED"
    rows: list[tuple[object, ...]] = [("release", result.release)]
    for copy in result.copies:
        rows.append(
            (f"copy for {copy.recipient}" if copy.recipient else "copy", f"{copy.out}  (log entry {copy.index})")
        )
    if result.marked_tensors:
        rows += [
            ("mark", f"{result.carriers:,} carriers in {result.marked_tensors} of {result.total_tensors} tensors"),
            *rows_of_strength((result.least_strength, result.most_strength), result.calibration),
            ("expected log2 p", f"{result.expected_log2_p:,.0f}  (blind, owner layer, untouched copy)"),
        ]
        if not result.dry_run:
            rows.append(("largest change", f"{result.max_weight_change:.3g} in any weight"))
    else:
        rows.append(("mark", "none: copies cannot be recognised once they are changed"))
    rows += rows_of_order(result)
    rows.append(("disk", f"{result.disk_bytes / 1e6:,.1f} MB {'needed' if result.dry_run else 'written'}"))
    return (
        f"{head}   {label}",
        *table(rows),
        *_left_out(result.excluded),
        *(f"  warning: {escaped(warning)}" for warning in result.warnings),
        *_next_of_release(request, result),
    )


def json_of_calibration(calibration: Calibration, strengths: tuple[float, float]) -> dict[str, Any]:
    """How strengths were chosen; costs are what the measure loses, at one strength for all and at those chosen."""
    return {
        "measure": calibration.measure,
        "trials": calibration.trials,
        "uniform_strength": calibration.uniform_ppm / 1e6,
        "least_strength": strengths[0],
        "most_strength": strengths[1],
        "cost_uniform": calibration.cost_uniform,
        "cost": calibration.cost,
        "unseen_tensors": calibration.unseen,
    }


def rows_of_strength(strengths: tuple[float, float], calibration: Calibration | None) -> tuple[tuple[object, ...], ...]:
    """How strong the mark is, and what it costs where that was measured."""
    if calibration is None:
        return (("strength", f"{strengths[0]:.4g} of each row's deviation"),)
    unseen = f"; {counted(calibration.unseen, 'tensor')} it does not see kept that" if calibration.unseen else ""
    return (
        ("strength", f"{strengths[0]:.4g} to {strengths[1]:.4g} of each row's deviation, calibrated"),
        ("cost", f"{calibration.cost:.3g} by {calibration.measure}"),
        ("", f"{calibration.cost_uniform:.3g} at {calibration.uniform_ppm / 1e6:.4g} everywhere{unseen}"),
    )


def _left_out(excluded: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    if len(excluded) <= _MANY:
        return tuple(f"  not marked: {escaped(name)} ({escaped(reason)})" for name, reason in excluded)
    reasons = Counter(reason for _, reason in excluded)
    return tuple(
        f"  not marked: {counted(count, 'tensor')} ({escaped(reason)})" for reason, count in reasons.most_common()
    )


def _next_of_release(request: ReleaseRequest, result: ReleaseResult) -> tuple[str, ...]:
    if result.dry_run:
        return ("  next: run it without --dry-run; nothing was written",)
    first = escaped(Path(result.copies[0].out))
    return (
        f"  next: ship {first} as it is; others verify it with your trust file (weightmark keys export)",
        f"  keep: the unmarked {escaped(request.model)}; check needs it for most of its power",
    )
