"""The job of `weightmark list`: the releases and copies that this home remembers. Reads the records, prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.home import Home


@dataclass(frozen=True)
class ListedCopy:
    """A copy: whom it went to (None for one without recipient) and its place in the log. Times are POSIX seconds."""

    copy_id: str
    recipient: str | None
    index: int
    created_at: int


@dataclass(frozen=True)
class ListedRelease:
    """A release with its copies, in the order of the log."""

    release_id: str
    name: str
    version: str
    marked: bool
    created_at: int
    copies: tuple[ListedCopy, ...]


@dataclass(frozen=True)
class Listing:
    """Every release of an owner, oldest first."""

    owner: str
    releases: tuple[ListedRelease, ...]


def list_releases(home_folder: Path) -> Listing:
    """Return what the owner's records say was released, and to whom."""
    home = Home.open(home_folder)
    with home.book() as records:
        releases = [
            ListedRelease(
                release.release_id,
                release.name,
                release.version,
                release.mark_root is not None,
                release.created_at,
                tuple(
                    ListedCopy(copy.copy_id, copy.recipient, copy.log_index, copy.created_at)
                    for copy in records.each_copy(release.release_id)
                ),
            )
            for release in records.list_releases()
        ]
    return Listing(home.owner, tuple(releases))
