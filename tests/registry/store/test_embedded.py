from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from registry.log.checkpoint import read_checkpoint
from registry.log.merkle import leaf_hash, root_of, verify_consistency
from registry.log.proof import read_proof, verify_proof
from registry.log.tiles import decode_bundle, decode_tile, tiles_between
from registry.monitor import audit
from registry.store.embedded import EmbeddedRegistry
from registry.store.files import DATABASE
from tests.registry.example_log import LOG_KEY, ORIGIN, WITNESS_KEY, make_registry, some_entries
from watermark.errors import (
    ConflictError,
    InputError,
    LimitError,
    LogHaltedError,
    NotAuthorizedError,
    RegistryError,
)

PLAIN = [b"entry %d" % number for number in range(20)]


def test_receipts_prove_their_entries(tmp_path: Path) -> None:
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, LOG_KEY) as registry:
        receipts = registry.append(PLAIN)
        assert [receipt.index for receipt in receipts] == list(range(20))
        for entry, receipt in zip(PLAIN, receipts, strict=True):
            proof = read_proof(receipt.proof)
            assert proof.extra == entry
            verified = verify_proof(proof, entry, [registry.vkey])
            assert (verified.index, verified.size, verified.origin) == (receipt.index, 20, ORIGIN)


def test_the_same_bytes_keep_their_first_place(tmp_path: Path) -> None:
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, LOG_KEY) as registry:
        registry.append(PLAIN[:3])
        receipts = registry.append([PLAIN[1], PLAIN[5], PLAIN[5], PLAIN[1]])
        assert [receipt.index for receipt in receipts] == [1, 3, 3, 1]
        checkpoint = registry.checkpoint()
        assert registry.append([PLAIN[2]])[0].index == 2
        assert registry.checkpoint() == checkpoint
        assert registry.size == 4
        assert registry.append([]) == []


def test_what_is_stored_survives_and_is_read_back_proved(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_registry(folder, PLAIN).close()
    with EmbeddedRegistry.open(folder, None) as registry:
        assert (registry.size, registry.origin) == (20, ORIGIN)
        assert list(registry.entries(0, 20)) == PLAIN
        assert list(registry.entries(5, 5)) == []
        assert registry.entry(7) == PLAIN[7]
        assert registry.find(hashlib.sha256(PLAIN[7]).digest()) == 7
        assert registry.find(bytes(32)) is None
        root = root_of(leaf_hash(entry) for entry in PLAIN)
        assert read_checkpoint(registry.checkpoint(), [registry.vkey]).root == root


def test_proofs_for_earlier_sizes(tmp_path: Path) -> None:
    with make_registry(tmp_path / "log", PLAIN) as registry:
        for size in range(1, 21):
            for index in range(size):
                assert verify_proof(read_proof(registry.prove(index, size)), PLAIN[index], [registry.vkey]).size == size
            with pytest.raises(InputError):
                registry.prove(size, size)
        roots = {size: root_of(leaf_hash(entry) for entry in PLAIN[:size]) for size in range(1, 21)}
        for new in range(1, 21):
            for old in range(1, new + 1):
                verify_consistency(old, new, registry.consistency(old, new), roots[old], roots[new])


def test_a_size_that_was_never_signed_has_no_proof(tmp_path: Path) -> None:
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, LOG_KEY) as registry:
        registry.append(PLAIN)
        with pytest.raises(InputError, match="no checkpoint of size 7"):
            registry.prove(0, 7)
        for old, new in ((0, 5), (5, 21), (6, 5)):
            with pytest.raises(InputError):
                registry.consistency(old, new)
        for start, stop in ((-1, 3), (3, 21), (4, 3)):
            with pytest.raises(InputError):
                list(registry.entries(start, stop))


def test_tiles_on_disk_are_what_the_size_requires(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    entries = [b"%d" % number for number in range(600)]
    with EmbeddedRegistry.create(folder, ORIGIN, LOG_KEY) as registry:
        for at in (0, 7, 255, 256, 257, 511, 513):
            registry.append(entries[: at + 1])
        registry.append(entries)
    leaves = [leaf_hash(entry) for entry in entries]
    for tile in tiles_between(0, 600):
        content = (folder / "log" / tile.path).read_bytes()
        if tile.level == 0:
            assert list(decode_tile(content, what=tile.path)) == leaves[tile.start : tile.stop]
        elif tile.level == 1:
            assert decode_tile(content, what=tile.path) == (root_of(leaves[:256]), root_of(leaves[256:512]))
        else:
            assert list(decode_bundle(content, what=tile.path)) == entries[tile.start : tile.stop]
    assert not (folder / "log/tile/0/000.p").exists()
    assert sorted(path.name for path in (folder / "log/tile/0/002.p").iterdir()) == ["2", "88"]
    assert list((folder / "staging").iterdir()) == []


def test_only_the_key_holder_appends(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_registry(folder, PLAIN[:1]).close()
    with EmbeddedRegistry.open(folder, None) as registry, pytest.raises(NotAuthorizedError):
        registry.append([b"x"])
    with pytest.raises(RegistryError, match="not the one"):
        EmbeddedRegistry.open(folder, WITNESS_KEY)


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_registry(folder, some_entries(5)).close()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with EmbeddedRegistry.open(folder, None) as registry:
        list(registry.entries(0, 5))
        assert audit(folder, [registry.vkey]).whole
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_create_refuses_a_folder_in_use_and_open_an_empty_one(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    with pytest.raises(RegistryError, match="no registry"):
        EmbeddedRegistry.open(folder, LOG_KEY)
    EmbeddedRegistry.create(folder, ORIGIN, LOG_KEY).close()
    with pytest.raises(ConflictError):
        EmbeddedRegistry.create(folder, ORIGIN, LOG_KEY)
    assert list(tmp_path.iterdir()) == [folder]


def test_entries_have_a_size(tmp_path: Path) -> None:
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, LOG_KEY) as registry:
        with pytest.raises(InputError, match="empty"):
            registry.append([b"good", b""])
        with pytest.raises(LimitError):
            registry.append([b"x" * 65536])
        assert registry.size == 0
        assert registry.append([b"x" * 65535])[0].index == 0


@pytest.mark.parametrize(("column", "index"), [("entry", 7), ("leaf_hash", 6)])
def test_a_changed_row_is_never_served(tmp_path: Path, column: str, index: int) -> None:
    folder = tmp_path / "log"
    make_registry(folder, PLAIN).close()
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute(f"UPDATE entry SET {column} = x'{'00' * 32}' WHERE log_index = 7")
    connection.close()
    with EmbeddedRegistry.open(folder, None) as registry, pytest.raises(LogHaltedError):
        registry.prove(index)
    with EmbeddedRegistry.open(folder, None) as registry, pytest.raises(LogHaltedError):
        list(registry.entries(0, 20))
