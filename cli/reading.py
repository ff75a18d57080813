"""How a model's files are found and digested when the usual way is not meant: links, known digests, the digest cache.

Shared by the jobs that sign and verify. Opens what the flags name; judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from watermark.errors import InputError

if TYPE_CHECKING:
    from registry.signing.digest_cache import DigestCache
    from registry.signing.stated_digests import StatedDigest


@dataclass(frozen=True)
class Reading:
    """The flags about reading.

    `links_below`: links to files below this folder count as those files. `cache`: the digest cache to ask and to fill;
    None reads every byte. `known_digests`: `SHA256SUMS` lists, or folders of Git LFS pointers.
    """

    links_below: Path | None = None
    cache: Path | None = None
    known_digests: tuple[Path, ...] = ()

    @contextmanager
    def open_cache(self) -> Iterator[DigestCache | None]:
        """The digest cache while the block runs, or None when there is none."""
        if self.cache is None:
            yield None
            return
        from registry.signing.digest_cache import DigestCache

        with DigestCache(self.cache) as cache:
            yield cache

    def stated(self) -> dict[str, StatedDigest]:
        """What the known digests say, by path; InputError where two of them differ."""
        if not self.known_digests:
            return {}
        from registry.signing.stated_digests import read_stated_digests

        stated: dict[str, StatedDigest] = {}
        for path in self.known_digests:
            for name, digest in read_stated_digests(path).items():
                if stated.setdefault(name, digest).sha256 != digest.sha256:
                    raise InputError(
                        f"{path} states another digest for {name!a} than the list before it",
                        hint="pass only the list that belongs to this very model",
                    )
        return stated


#: No links, no cache, no digests but those taken here.
USUAL = Reading()


def cache_root_of(place: Path) -> Path | None:
    """The folder that the links of a Hugging Face snapshot lead into, when `place` is one.

    For a reference whose digest is compared with the one on record: what its links lead to is then known to be right.
    """
    root = place.absolute().parent.parent
    return root if place.absolute().parent.name == "snapshots" and (root / "blobs").is_dir() else None
