"""Answers about backups and about how the secret is closed: the same facts as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.answer import counted, escaped, table

if TYPE_CHECKING:
    from cli.backup import BackupResult
    from cli.restore import RestoreResult
    from cli.wrapping import ClosedSecret


def json_of_backup(result: BackupResult) -> dict[str, Any]:
    """The document of `keys backup --json`."""
    return {
        "file": str(result.file),
        "fingerprint": result.fingerprint,
        "owner": result.owner,
        "size": result.size_bytes,
        "kept": list(result.kept),
        "outside": list(result.outside),
        "releases": result.releases,
        "with_registry": result.with_registry,
    }


def text_of_backup(result: BackupResult) -> tuple[str, ...]:
    """The lines of `keys backup`."""
    rows: list[tuple[object, ...]] = [("fingerprint", result.fingerprint), ("holds", ", ".join(result.kept))]
    if result.has_records:
        rows.append(("", f"the records of {counted(result.releases, 'release')}"))
    if result.with_registry:
        rows.append(("", "the registry as it is now"))
    rows += [("not in it", one) for one in result.outside]
    if not result.with_registry:
        rows.append(("not in it", "the registry (--with-registry takes it along)"))
    rows.append(("not in it", "the unmarked references: keep them too, most of the power of `check` is theirs"))
    return (
        f"WRITTEN   {escaped(result.file)} is a backup of the home of {escaped(result.owner)}",
        *table(rows),
        "  keep: the file elsewhere, its passphrase apart from it, and the fingerprint on paper",
        f"  next: try it: weightmark keys restore {escaped(result.file)} --home NEW_FOLDER",
    )


def json_of_restore(result: RestoreResult) -> dict[str, Any]:
    """The document of `keys restore --json`."""
    return {
        "home": str(result.home),
        "owner": result.owner,
        "key": result.key,
        "origin": result.origin,
        "fingerprint": result.fingerprint,
        "made_at": result.made_at,
        "restored": list(result.restored),
        "outside": list(result.outside),
        "unwrapped": list(result.unwrapped),
        "releases": result.releases,
        "references": list(result.references),
        "with_registry": result.with_registry,
    }


def text_of_restore(result: RestoreResult) -> tuple[str, ...]:
    """The lines of `keys restore`: what is there again, and plainly what is not."""
    rows: list[tuple[object, ...]] = [
        ("fingerprint", result.fingerprint),
        ("made", result.made_at),
        ("holds", ", ".join(result.restored)),
        ("opens with", "the passphrase of the backup (weightmark keys change-passphrase)"),
    ]
    rows += [("not here", f"{one}: without it nothing new is signed; `check` works") for one in result.outside]
    rows += [
        ("changed", f"{one} was wrapped by a key in a store, and is sealed by the passphrase now")
        for one in result.unwrapped
    ]
    if result.with_registry:
        rows.append(("registry", f"as of {result.made_at}; what was logged later is not in it"))
    else:
        rows.append(("not here", "the registry: nothing can be logged, released or proved to others from this home"))
        rows.append(("works", f"check, list: by the records of {counted(result.releases, 'release')}, recipients too"))
        rows.append(("works", "check --reference DIR: also for releases of later, by secret and reference alone"))
    rows += [("needed", f"the unmarked reference at {place}") for place in result.references[:5]]
    if len(result.references) > 5:
        rows.append(("needed", f"and {len(result.references) - 5} more references"))
    return (
        f"RESTORED   {escaped(result.home)} is the home of {escaped(result.owner)}",
        *table(rows),
        *_next_steps(result),
    )


def _next_steps(result: RestoreResult) -> tuple[str, ...]:
    if result.with_registry:
        return (
            "  careful: if anything was logged after the backup, release nothing from here: two histories under one",
            "           log key would be held against you. Compare: weightmark audit --since NEWEST_CHECKPOINT",
        )
    return ("  next: put a copy of the registry folder back if you have one; then weightmark doctor",)


def json_of_closed(closed: ClosedSecret) -> dict[str, Any]:
    """The document of `keys wrap-secret --json` and `keys seal-secret --json`."""
    return {"secret": closed.place, "needs_passphrase": closed.still_needs_passphrase}


def text_of_closed(closed: ClosedSecret) -> tuple[str, ...]:
    """The lines of `keys wrap-secret` and `keys seal-secret`."""
    keys = "is still asked for, to open the key files" if closed.still_needs_passphrase else "is not asked for any more"
    return (
        f"CHANGED   the owner secret is {escaped(closed.place)}",
        *table([("passphrase", keys)]),
        "  keep: a backup (weightmark keys backup FILE): it holds the secret itself, whatever becomes of the store",
    )
