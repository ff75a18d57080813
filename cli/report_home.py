"""Answers about an owner's home: init, list, show, keys, doctor. Nothing here decides anything."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cli.answer import counted, escaped, short, table
from cli.report_models import json_of_calibration, rows_of_strength

if TYPE_CHECKING:
    from cli.doctor import Diagnosis
    from cli.init import InitResult
    from cli.keys import ExportedTrust, KeyFile, OwnerKey
    from cli.listing import Listing
    from cli.show import ShownRelease


def iso(seconds: int) -> str:
    """POSIX seconds as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def json_of_init(result: InitResult) -> dict[str, Any]:
    """The document of `init --json`."""
    return {
        "home": str(result.home),
        "owner": result.owner,
        "key": result.key,
        "origin": result.origin,
        "index": result.index,
        "trust": str(result.trust),
    }


def text_of_init(result: InitResult) -> tuple[str, ...]:
    """The lines of `init`."""
    return (
        f"READY   {escaped(result.home)} is the home of {escaped(result.owner)}",
        *table([("key", result.key), ("log", f"{result.origin}, entry {result.index} commits to your secret")]),
        "  keep: a backup elsewhere (weightmark keys backup FILE) and its passphrase; without both no mark is found",
        "  next: weightmark release MODEL --out DIR --to RECIPIENT",
    )


def json_of_listing(listing: Listing) -> dict[str, Any]:
    """The document of `list --json`."""
    return {
        "owner": listing.owner,
        "releases": [
            {
                "release": release.release_id,
                "name": release.name,
                "version": release.version,
                "marked": release.marked,
                "created_at": iso(release.created_at),
                "copies": [
                    {
                        "copy": copy.copy_id,
                        "recipient": copy.recipient,
                        "index": copy.index,
                        "created_at": iso(copy.created_at),
                    }
                    for copy in release.copies
                ],
            }
            for release in listing.releases
        ],
    }


def text_of_listing(listing: Listing) -> tuple[str, ...]:
    """The lines of `list`."""
    if not listing.releases:
        return (f"{escaped(listing.owner)} has released nothing yet", "  next: weightmark release MODEL --out DIR")
    rows: list[tuple[object, ...]] = [("id", "what", "for", "entry", "date")]
    for release in listing.releases:
        mark = "" if release.marked else ", no mark"
        date = iso(release.created_at)[:10]
        rows.append((short(release.release_id), f"{release.name} {release.version}{mark}", "", "", date))
        rows += [
            (short(copy.copy_id), "  copy", copy.recipient or "anyone", copy.index, iso(copy.created_at)[:10])
            for copy in release.copies
        ]
    return (f"{counted(len(listing.releases), 'release')} of {escaped(listing.owner)}", *table(rows))


def json_of_show(release: ShownRelease) -> dict[str, Any]:
    """The document of `show --json`."""
    return {
        "release": release.release_id,
        "owner": release.owner,
        "name": release.name,
        "version": release.version,
        "mark_root": release.mark_root,
        **_json_of_strengths(release),
        "reference": {
            "place": release.reference_place,
            "digest": release.reference_digest,
            "is_there": release.reference_is_there,
        },
        "origin": release.origin,
        "created_at": iso(release.created_at),
        "copies": [
            {
                "copy": copy.copy_id,
                "recipient": copy.recipient,
                "commitment": copy.commitment,
                "index": copy.index,
                "root_digest": copy.root_digest,
                "created_at": iso(copy.created_at),
            }
            for copy in release.copies
        ],
        "cases": list(release.cases),
    }


def _json_of_strengths(release: ShownRelease) -> dict[str, Any]:
    if release.strengths is None:
        return {}
    if release.calibration is None:
        return {"strength": release.strengths[0]}
    return {"calibration": json_of_calibration(release.calibration, release.strengths)}


def text_of_show(release: ShownRelease) -> tuple[str, ...]:
    """The lines of `show`."""
    there = "is there (weightmark doctor --deep reads it)" if release.reference_is_there else "IS GONE"
    if release.reference_is_there is None:
        there = "not looked at (weightmark doctor --deep fetches it)"
    rows: list[tuple[object, ...]] = [
        ("release", release.release_id),
        ("released", f"{iso(release.created_at)} by {release.owner}"),
        ("log", release.origin),
        ("mark root R", release.mark_root or "none: released without a mark"),
        *(rows_of_strength(release.strengths, release.calibration) if release.strengths is not None else ()),
        ("reference", f"{release.reference_place}  {there}"),
        ("reference digest", release.reference_digest),
    ]
    for copy in release.copies:
        rows += [
            ("copy", f"{copy.copy_id} for {copy.recipient or 'anyone'}, log entry {copy.index}"),
            ("  root digest", copy.root_digest),
            ("  commitment", copy.commitment or "none"),
        ]
    if release.cases:
        rows.append(("cases", ", ".join(f"log entry {index}" for index in release.cases)))
    return (f"{escaped(release.name)} {escaped(release.version)}", *table(rows))


def json_of_keys(keys: tuple[KeyFile, ...]) -> dict[str, Any]:
    """The document of `keys list --json`."""
    return {
        "keys": [
            {
                "name": key.name,
                "purpose": key.purpose,
                "algorithm": key.algorithm,
                "key": key.key_id,
                "encrypted": key.sealed,
                "mode": f"{key.mode:04o}",
                "problem": key.problem,
                "place": key.place,
            }
            for key in keys
        ]
    }


def text_of_keys(keys: tuple[KeyFile, ...]) -> tuple[str, ...]:
    """The lines of `keys list`."""
    bad = sum(key.problem is not None for key in keys)
    rows = [
        (key.name, key.algorithm, (key.key_id or "")[:16], key.problem or key.place or "encrypted", key.purpose)
        for key in keys
    ]
    return (f"{len(keys)} keys, {f'{bad} of them with a problem' if bad else 'all in order'}", *table(rows))


def json_of_owner_key(key: OwnerKey) -> dict[str, Any]:
    """The document of `keys show --json`."""
    return {
        "owner": key.owner,
        "key": key.key_id,
        "algorithm": key.algorithm,
        "pem": key.pem,
        "origin": key.origin,
        "log": key.log_vkey,
    }


def text_of_owner_key(key: OwnerKey) -> tuple[str, ...]:
    """The lines of `keys show`."""
    return (
        f"{escaped(key.owner)} signs with {key.algorithm} key {key.key_id}",
        *key.pem.rstrip("\n").split("\n"),
        f"log {escaped(key.log_vkey)}",
    )


def json_of_trust(exported: ExportedTrust) -> dict[str, Any]:
    """The document of `keys export --json`."""
    written = None if exported.written_to is None else str(exported.written_to)
    return {"owner": exported.owner, "key": exported.key_id, "trust": exported.text, "out": written}


def text_of_trust(exported: ExportedTrust) -> tuple[str, ...]:
    """The lines of `keys export`: the file itself, ready for a pipe, unless it was written somewhere."""
    if exported.written_to is None:
        return (exported.text.rstrip("\n"),)
    return (
        f"WRITTEN   {escaped(exported.written_to)}: whom to believe about {escaped(exported.owner)}",
        *table([("key", exported.key_id)]),
        "  next: send it, and tell its receiver the key by another way; then weightmark verify MODEL --trust FILE",
    )


def json_of_diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    """The document of `doctor --json`."""
    return {
        "well": diagnosis.well,
        "checks": [
            {"name": one.name, "well": one.well, "text": one.text, "hint": "" if one.well else one.hint}
            for one in diagnosis.checks
        ],
    }


def text_of_diagnosis(diagnosis: Diagnosis, *, deep: bool) -> tuple[str, ...]:
    """The lines of `doctor`."""
    bad = [one for one in diagnosis.checks if not one.well]
    head = (
        f"UNWELL   {len(bad)} of {counted(len(diagnosis.checks), 'check')} failed"
        if bad
        else "WELL   everything is in order"
    )
    rows = [("ok" if one.well else "BAD", one.name, one.text) for one in diagnosis.checks]
    hints = dict.fromkeys(f"  next: {escaped(one.hint)}" for one in bad if one.hint)
    unchecked = () if deep else ("  not checked: the weights of the references (weightmark doctor --deep reads them)",)
    return (head, *table(rows), *unchecked, *hints)
