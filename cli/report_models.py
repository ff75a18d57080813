"""Answers about models: sign, verify, release.

Verdict first, then what was and was not checked, then what to do next. Documents hold exactly what the command's
contract promises; nothing here decides anything.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.answer import counted, escaped, table

if TYPE_CHECKING:
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
    }


def text_of_sign(result: SignResult) -> tuple[str, ...]:
    """The lines of `sign`."""
    return (
        f"SIGNED   {counted(result.files, 'file')}, in {escaped(result.signature)}",
        *table([("root digest", result.root), ("key", result.key)]),
        "  not done: no mark and no log entry; whoever verifies needs this very key",
    )


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
        rows.append(
            ("signed at", f"{result.signed_at or 'not said'}{' (by the owner clock)' if result.signed_at else ''}")
        )
    unchecked = []
    if request.ignore:
        unchecked.append(f"ignored on request: {', '.join(escaped(path) for path in request.ignore)}")
    if request.ignore_unsigned_files:
        unchecked.append("files that the signature does not name")
    if not released:
        unchecked.append("no log entry and no claims: a signature alone can be made in silence and taken back")
    return (
        f"{head} {'released' if released else 'signed'}",
        *table(rows),
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
            ("strength", f"{result.strength:.4g} of each row's deviation"),
            ("expected log2 p", f"{result.expected_log2_p:,.0f}  (blind, owner layer, untouched copy)"),
        ]
        if not result.dry_run:
            rows.append(("largest change", f"{result.max_weight_change:.3g} in any weight"))
    else:
        rows.append(("mark", "none: copies cannot be recognised once they are changed"))
    rows.append(("disk", f"{result.disk_bytes / 1e6:,.1f} MB {'needed' if result.dry_run else 'written'}"))
    return (
        f"{head}   {label}",
        *table(rows),
        *_left_out(result.excluded),
        *(f"  warning: {escaped(warning)}" for warning in result.warnings),
        *_next_of_release(request, result),
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
