"""Tiles and entry bundles: the log as files that never change, as C2SP tlog-tiles v0.1.0 lays them out.

A tile holds up to 256 hashes of one level, an entry bundle the up to 256 entries below one tile of level 0. Full tiles
are final; a partial tile belongs to one size and stays until the full one exists. Knows names and bytes, no folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from registry.log.merkle import HASH_BYTES, node_hash
from watermark.errors import DocumentError, LimitError, LogHaltedError

TILE_WIDTH = 256
TILE_HEIGHT = 8
ENTRIES = -1
"""The `level` of an entry bundle: below the leaf hashes."""
MAX_LEVEL = 63
MAX_ENTRY_BYTES = 65535

_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")

RowReader = Callable[[int, int, int], Sequence[bytes]]
"""`row(tile_level, start, stop)`: hashes [start, stop) of a tile level, never across the bounds of one tile."""


@dataclass(frozen=True, order=True)
class Tile:
    """The name of a tile: its level (`ENTRIES` for a bundle), its index in that level, how many hashes it holds."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where it lies below the log's prefix: `tile/L/N[.p/W]`, N in groups of three digits."""
        digits = f"{self.index:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*("x" + group for group in groups[:-1]), groups[-1]])
        level = "entries" if self.level == ENTRIES else str(self.level)
        return f"tile/{level}/{number}" + (f".p/{self.width}" if self.width < TILE_WIDTH else "")

    @property
    def start(self) -> int:
        """Number of the first hash (or entry) it holds, counted within its level."""
        return self.index * TILE_WIDTH

    @property
    def stop(self) -> int:
        """One past the number of the last hash (or entry) it holds."""
        return self.start + self.width


def parse_path(path: str) -> Tile:
    """Read a tile's path back into its name, or raise DocumentError: each tile has exactly one path."""
    match = _PATH.fullmatch(path)
    if not match:
        raise DocumentError(f"{path[:80]!r} is not the path of a tile")
    level = ENTRIES if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(match[2].replace("x", "").replace("/", "")), int(match[3] or TILE_WIDTH))
    if tile.path != path or level > MAX_LEVEL:
        raise DocumentError(f"{path[:80]!r} is not the path of a tile")
    return tile


def tiles_between(old_size: int, new_size: int) -> Iterator[Tile]:
    """The tiles and bundles that a log of `new_size` needs and one of `old_size` did not have, level by level.

    With `old_size` 0: all that the log needs. Partial tiles are never hashed into the level above (C2SP tlog-tiles).
    """
    for level in (ENTRIES, *range(MAX_LEVEL + 1)):
        shift = TILE_HEIGHT * max(level, 0)
        old, new = old_size >> shift, new_size >> shift
        if new == 0:
            return
        for index in range(old // TILE_WIDTH, new // TILE_WIDTH):
            yield Tile(level, index)
        if new % TILE_WIDTH and new != old:
            yield Tile(level, new // TILE_WIDTH, new % TILE_WIDTH)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Join entries into a bundle: each one as its length in two bytes, big-endian, then itself."""
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise LimitError(f"log entry: {len(entry)} bytes, more than {MAX_ENTRY_BYTES}")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(data: bytes, *, what: str) -> tuple[bytes, ...]:
    """Split a bundle into its entries, or raise DocumentError naming the bundle when a length runs past the end."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        at += 2
        if at + size > len(data):
            raise DocumentError(f"{what}: entry {len(entries)} of the bundle is cut short")
        entries.append(data[at : at + size])
        at += size
    return tuple(entries)


def decode_tile(data: bytes, *, what: str) -> tuple[bytes, ...]:
    """Split a tile into its hashes, or raise DocumentError when it is not a whole number of them."""
    if not data or len(data) % HASH_BYTES or len(data) > TILE_WIDTH * HASH_BYTES:
        raise DocumentError(f"{what}: {len(data)} bytes are not 1 to {TILE_WIDTH} hashes")
    return tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def subtree_of(hashes: Sequence[bytes]) -> bytes:
    """Hash a power of two of neighbouring hashes into the root of their complete subtree."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


class TileHashes:
    """Answers for every complete subtree out of tile rows; the `HashReader` that `merkle` asks for.

    Remembers what it computed, so that many proofs over one tree read each row once. Trusts the rows: what is built
    from them must be verified against a signed root before anybody relies on it.
    """

    def __init__(self, row: RowReader) -> None:
        """`row` reads hashes of a tile level."""
        self._row = row
        self._known: dict[tuple[int, int], bytes] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree at a binary level."""
        known = self._known.get((level, index))
        if known is not None:
            return known
        if level % TILE_HEIGHT:
            left, right = self(level - 1, 2 * index), self(level - 1, 2 * index + 1)
            self._known[level, index] = node_hash(left, right)
        else:
            self._read_row(level, index)
        return self._known[level, index]

    def _read_row(self, level: int, index: int) -> None:
        """Read the stored hash, with all its stored neighbours of the same tile, in one go."""
        start = index - index % TILE_WIDTH
        for offset, value in enumerate(self._row(level // TILE_HEIGHT, start, start + TILE_WIDTH)):
            self._known[level, start + offset] = value
        if (level, index) not in self._known:
            raise LogHaltedError(f"tile level {level // TILE_HEIGHT}: hash {index} is missing from the log's store")
