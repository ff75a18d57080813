from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.log.tiles import (
    ENTRIES,
    MAX_ENTRY_BYTES,
    Tile,
    decode_bundle,
    decode_tile,
    encode_bundle,
    parse_path,
    tiles_between,
)
from watermark.errors import DocumentError, LimitError


@given(st.integers(-1, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_a_path_names_one_tile(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0/5",
        "tile/0/0005",
        "tile/0/005.p/0",
        "tile/0/005.p/256",
        "tile/0/005.p/01",
        "tile/0/005.p",
        "tile/00/005",
        "tile/64/005",
        "tile/-1/005",
        "tile/0/x000/005",
        "tile/0/001/005",
        "tile/0/x005",
        "tile/entries/x001/x234/067/",
        "tile/data/005",
        "/tile/0/005",
        "tile/0/../005",
        "tile/0/005\n",
        "tile/0/\u0660\u0660\u0665",
    ],
)
def test_what_is_not_a_path(path: str) -> None:
    with pytest.raises(DocumentError):
        parse_path(path)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=6))
def test_growing_step_by_step_writes_all_that_the_size_needs(steps: list[int]) -> None:
    written: set[Tile] = set()
    size = 0
    for step in steps:
        written |= set(tiles_between(size, size + step))
        size += step
        assert set(tiles_between(0, size)) <= written


def test_nothing_new_between_equal_sizes() -> None:
    assert list(tiles_between(300, 300)) == []
    assert list(tiles_between(0, 0)) == []
    assert list(tiles_between(300, 301)) == [Tile(ENTRIES, 1, 45), Tile(0, 1, 45)]
    assert list(tiles_between(510, 512)) == [Tile(ENTRIES, 1), Tile(0, 1), Tile(1, 0, 2)]
    assert Tile(1, 1, 1) not in set(tiles_between(0, 65536))
    assert Tile(2, 0, 1) in set(tiles_between(0, 65536))


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_bundles_round_trip(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries), what="bundle") == tuple(entries)


def test_bundle_limits_and_cuts() -> None:
    largest = b"x" * MAX_ENTRY_BYTES
    assert decode_bundle(encode_bundle([largest]), what="bundle") == (largest,)
    with pytest.raises(LimitError):
        encode_bundle([largest + b"x"])
    data = encode_bundle([b"alpha", b"beta"])
    for cut in range(1, len(data)):
        if cut != 7:
            with pytest.raises(DocumentError, match="cut short"):
                decode_bundle(data[:cut], what="bundle")


@pytest.mark.parametrize("size", [0, 1, 31, 33, 257 * 32])
def test_what_is_not_a_tile(size: int) -> None:
    with pytest.raises(DocumentError):
        decode_tile(b"x" * size, what="tile")
