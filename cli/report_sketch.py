"""What the search by sketch found, for people and for programs: supporting, never counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.answer import counted, escaped

if TYPE_CHECKING:
    from cli.sketches import Fingerprint


def json_of_fingerprint(found: Fingerprint | None) -> dict[str, Any] | None:
    """What `check --json` says of the search."""
    if found is None:
        return None
    return {
        "form": found.form,
        "searched": found.searched,
        "untested": found.untested,
        "best": [
            {"release": one.release, "name": one.name, "version": one.version, "cosine": one.cosine, "level": one.level}
            for one in found.best
        ],
        "margin": found.margin,
        "counted": False,
    }


def rows_of_fingerprint(found: Fingerprint | None) -> list[tuple[object, ...]]:
    """The line of `check` about the likeliest release, where one is at least possible."""
    if found is None or not found.best or found.best[0].level == "unlike":
        return []
    first = found.best[0]
    text = f"{first.level}: {escaped(first.name)} {escaped(first.version)}, cosine {first.cosine:.2f}"
    if found.margin is not None:
        text += f", margin {found.margin:.2f} to the next"
    return [("sketch", f"{text} of {counted(found.searched, 'release')}  (supporting, not counted)")]
