"""Answers about the life of keys: changes, drafts, countersignatures, and what stands behind a verified release.

What happened first, then who signed, then what to do next. Nothing here decides anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.answer import counted, escaped, table

if TYPE_CHECKING:
    from cli.key_change import KeyChange
    from cli.key_cosign import CosignRequest, CosignResult
    from cli.standing import Standing

_DONE = {
    "enrol": "ENROLLED   a further key of {owner}",
    "rotate": "ROTATED   {owner} signs with a new key",
    "revoke": "REVOKED   a key of {owner}",
    "retire": "RETIRED   a key of {owner}",
    "threshold": "SET   {count} must sign for {owner}",
    "secret": "REPLACED   new releases of {owner} are marked with a new secret",
}
_NEXT = {
    "secret": (
        "  keep: the old secret, which stays in your home; without it no mark of an old release is found",
        "  keep: a new backup of your home; an old one does not hold the new secret",
    ),
}
_TELL = "  next: give your readers a new trust file (weightmark keys export); with the old one they do not know of this"


def json_of_change(change: KeyChange) -> dict[str, Any]:
    """The document of a change of keys: `index` is null for a draft."""
    return {
        "kind": change.kind,
        "owner": change.owner,
        "version": change.version,
        "index": change.index,
        "key": change.key,
        "signers": list(change.signers),
        "threshold": change.threshold,
        "current": change.current,
        "draft": None if change.draft is None else str(change.draft),
        "says": list(change.says),
        "notes": list(change.notes),
    }


def text_of_change(change: KeyChange) -> tuple[str, ...]:
    """The lines of a change of keys, logged or drafted."""
    rows: list[tuple[object, ...]] = [("key", change.key)] if change.key is not None else []
    rows += [("says", line) for line in change.says]
    rows += [("signed by", key_id) for key_id in change.signers]
    notes = tuple(f"  note: {escaped(note)}" for note in change.notes)
    if change.draft is not None:
        draft = escaped(change.draft)
        return (
            f"DRAFTED   version {change.version} of the keys of {escaped(change.owner)} ({change.kind}), in {draft}",
            *table(rows),
            *notes,
            f"  next: others run weightmark keys approve {draft}, then you weightmark keys submit {draft}",
        )
    head = _DONE[change.kind].format(owner=escaped(change.owner), count=counted(change.threshold or 0, "key"))
    rows.append(("log", f"entry {change.index}, version {change.version} of the keys"))
    rows.append(("threshold", f"{counted(change.threshold or 0, 'key')} must sign"))
    return (head, *table(rows), *notes, *_NEXT.get(change.kind, (_TELL,)))


def json_of_cosign(result: CosignResult) -> dict[str, Any]:
    """The document of `keys cosign --json`."""
    return {
        "owner": result.owner,
        "release": result.release,
        "added": list(result.added),
        "signers": list(result.signers),
        "threshold": result.threshold,
    }


def text_of_cosign(request: CosignRequest, result: CosignResult) -> tuple[str, ...]:
    """The lines of `keys cosign`."""
    where = escaped(request.release)
    missing = result.threshold - len(result.signers)
    what = f"COSIGNED   {where}" if result.added else f"UNCHANGED   {where}: these keys have signed it already"
    rows = [("signed by", key_id) for key_id in result.signers]
    after = (
        f"  next: {counted(missing, 'key')} more must sign before it verifies"
        if missing > 0
        else "  next: ship it; claims.jsonl holds the signatures"
    )
    return (f"{what}", *table([*rows, ("threshold", f"{counted(result.threshold, 'key')} must sign")]), after)


def json_of_standing(standing: Standing | None) -> dict[str, Any]:
    """What `verify --json` adds for a release; nothing for a plain signature."""
    if standing is None:
        return {}
    return {
        "signers": list(standing.signers),
        "threshold": standing.threshold,
        "viewed_at": standing.viewed_at,
        "warnings": list(standing.warnings),
    }


def rows_of_standing(standing: Standing | None) -> list[tuple[object, ...]]:
    """What `verify` adds to its table: further signers, and the age of the trust file."""
    if standing is None:
        return []
    rows: list[tuple[object, ...]] = [("and key", key_id) for key_id in standing.signers[1:]]
    if standing.threshold > 1:
        rows.append(("threshold", f"{len(standing.signers)} of {counted(standing.threshold, 'key')} that must sign"))
    if standing.viewed_at is not None:
        rows.append(("trust file", f"of {standing.viewed_at}"))
    return rows


def unchecked_of_standing(standing: Standing | None) -> list[str]:
    """What `verify` must say that it did not look at."""
    if standing is None or standing.viewed_at is not None:
        return []
    return ["whether a key was revoked lately: the trust file does not say how old it is"]


def warnings_of_standing(standing: Standing | None) -> tuple[str, ...]:
    """The warnings of `verify`."""
    return () if standing is None else tuple(f"  warning: {escaped(warning)}" for warning in standing.warnings)
