"""Compare the three places that hold the log's entries: bundles, tiles and database rows.

Each gives a list of leaf hashes. The one that leads to the signed root is right, and each object of the others that
differs from it is named. Where none does, the majority at each index is taken for right, so that damage in different
places is still told apart. Knows no entry's meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.auditing.findings import Findings
from registry.log.merkle import leaf_hash, root_of
from registry.log.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, decode_tile, subtree_of, tiles_between
from registry.store.files import LogFiles
from registry.store.inspection import DatabaseView
from registry.store.tables import EntryRow
from watermark.errors import DocumentError, LogHaltedError

Leaves = Sequence[bytes | None]
"""A leaf hash for each index, None where there is none that can be read."""


@dataclass(frozen=True)
class Places:
    """The leaf hashes as each place tells them."""

    bundles: Leaves
    tiles: Leaves
    rows: Leaves

    def agreed(self, size: int, root: bytes) -> Leaves:
        """The right leaf hashes for the first `size` entries: a place that leads to the root, else the majority."""
        for leaves in (self.bundles, self.tiles, self.rows):
            known = [leaf for leaf in leaves[:size] if leaf is not None]
            if len(known) == size and root_of(known) == root:
                return known
        places = (self.bundles, self.tiles, self.rows)
        return [_majority(leaves[index] for leaves in places if index < len(leaves)) for index in range(size)]


def _majority(votes: Iterator[bytes | None]) -> bytes | None:
    count = Counter(vote for vote in votes if vote is not None)
    return count.most_common(1)[0][0] if count else None


def read_places(files: LogFiles, view: DatabaseView | None, published: int, findings: Findings) -> Places:
    """Read the leaf hashes from all three places; what is missing or cannot be read is a finding.

    Bundles and tiles are read as far as the published size needs them, rows as far as there are any.
    """
    bundles: list[bytes | None] = [None] * published
    tiles: list[bytes | None] = [None] * published
    for tile in tiles_between(0, published):
        with findings.noting("bundle" if tile.level == ENTRIES else "tile"):
            if tile.level == ENTRIES:
                bundles[tile.start : tile.stop] = [leaf_hash(entry) for entry in read_bundle(files, tile)]
            elif tile.level == 0:
                tiles[tile.start : tile.stop] = _read_hashes(files, tile)
            else:
                _read_hashes(files, tile)
    rows: list[bytes | None] = []
    if view is not None:
        with findings.noting("database"):
            for row in view.rows(EntryRow):
                rows.append(leaf_hash(row["entry"]) if isinstance(row["entry"], bytes) else None)
    return Places(bundles, tiles, rows)


def check_tile_files(files: LogFiles, leaves: Leaves, findings: Findings) -> None:
    """Compare every file below `tile/`, also the partial ones of earlier sizes, with what it must hold."""
    levels: list[Leaves] = [leaves]
    while len(levels[-1]) >= TILE_WIDTH:
        levels.append(level_above(levels[-1]))
    for path, tile in files.all_tiles():
        if tile is None:
            findings.add("unexpected-file", f"{path}: not the path of a tile")
            continue
        code = "bundle" if tile.level == ENTRIES else "tile"
        right = levels[max(tile.level, 0)] if tile.level < len(levels) else ()
        if tile.stop > len(right):
            findings.add("rollback", f"{path}: belongs to a log of more than the {len(leaves)} entries known here")
            continue
        with findings.noting(code):
            hashes = [leaf_hash(e) for e in read_bundle(files, tile)] if code == "bundle" else _read_hashes(files, tile)
            for offset, (found, wanted) in enumerate(zip(hashes, right[tile.start : tile.stop], strict=True)):
                if found != wanted:
                    index = tile.start + offset
                    named = f"entry {index}" if tile.level <= 0 else f"hash {offset}"
                    findings.add(code, f"{path}: {named} is not what was signed", index if tile.level <= 0 else None)


def read_bundle(files: LogFiles, tile: Tile) -> tuple[bytes, ...]:
    """The entries of a bundle, exactly as many as its name says; an error that names it otherwise."""
    entries = decode_bundle(_content(files, tile), what=tile.path)
    if len(entries) != tile.width:
        raise DocumentError(f"{tile.path}: holds {len(entries)} entries, not {tile.width}")
    return entries


def _read_hashes(files: LogFiles, tile: Tile) -> tuple[bytes, ...]:
    hashes = decode_tile(_content(files, tile), what=tile.path)
    if len(hashes) != tile.width:
        raise DocumentError(f"{tile.path}: holds {len(hashes)} hashes, not {tile.width}")
    return hashes


def _content(files: LogFiles, tile: Tile) -> bytes:
    content = files.read_tile(tile)
    if content is None:
        raise LogHaltedError(f"{tile.path}: missing")
    return content


def level_above(row: Leaves) -> Leaves:
    """The hashes of the full tiles of a level; None over a tile with a hash that is not known."""
    above: list[bytes | None] = []
    for start in range(0, len(row) - TILE_WIDTH + 1, TILE_WIDTH):
        known = [value for value in row[start : start + TILE_WIDTH] if value is not None]
        above.append(subtree_of(known) if len(known) == TILE_WIDTH else None)
    return above
