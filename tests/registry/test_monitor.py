"""Every flipped bit of a log is found and named, and a whole log is called whole."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.log.tiles import ENTRIES, parse_path
from registry.monitor import AuditResult, audit
from registry.signing.entry import make_entry
from registry.signing.keys import P256, generate
from registry.store.embedded import EmbeddedRegistry
from registry.store.files import CHECKPOINT, DATABASE, LATEST
from tests.registry.example_log import (
    LOG_KEY,
    ORIGIN,
    make_folder,
    make_registry,
    owner_key,
    release_entry,
    seeded_key,
    some_entries,
)

TINY = [b"tiny %02d" % number for number in range(20)]
"""No signed entries: each of them is a finding of its own, which the tests below do not count."""


@pytest.fixture(scope="module")
def vkey(tmp_path_factory: pytest.TempPathFactory) -> str:
    with make_registry(tmp_path_factory.mktemp("key") / "log", []) as registry:
        return registry.vkey


@pytest.fixture(scope="module")
def vkeys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Both keys of the log: what a trust file names."""
    with make_registry(tmp_path_factory.mktemp("keys") / "log", []) as registry:
        assert len(registry.vkeys) == 2
        return registry.vkeys


@pytest.fixture(scope="module")
def tiny_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 entries, published at sizes 7 and 20."""
    folder = tmp_path_factory.mktemp("tiny") / "log"
    with EmbeddedRegistry.create(folder, ORIGIN, LOG_KEY) as registry:
        registry.append(TINY[:7])
        registry.append(TINY)
    return folder


def damages(result: AuditResult) -> list[str]:
    return [finding.text for finding in result.findings if finding.code != "entry"]


def flip_everywhere(files: list[Path], at: int, bit: int) -> dict[Path, bytes]:
    """Flip one bit of byte `at` in each of the files that has so many; the old contents."""
    old = {}
    for file in files:
        content = file.read_bytes()
        if at < len(content):
            old[file] = content
            file.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
    return old


def test_a_whole_log_is_whole(tmp_path: Path, vkey: str) -> None:
    folder = make_folder(tmp_path / "log", some_entries(20))
    heard: list[int] = []
    result = audit(folder, [vkey], progress=heard.append)
    assert (result.whole, result.size, result.entries_checked, result.findings) == (True, 20, 20, ())
    assert sum(heard) == sum(map(len, some_entries(20)))
    empty = make_folder(tmp_path / "empty", [])
    assert audit(empty, [vkey]) == replace(audit(empty, [vkey]), whole=True, size=0, entries_checked=0)


STRIDES = pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
"""Every 13th byte in the quick run, every byte in the full one."""


@STRIDES
@pytest.mark.parametrize("kind", ["tile", "bundle"])
def test_every_byte_of_every_tile_and_bundle(tiny_log: Path, tmp_path: Path, vkey: str, kind: str, stride: int) -> None:
    """The same byte of all tiles at once (then of all bundles): each of them must be named."""
    folder = Path(shutil.copytree(tiny_log, tmp_path / "log"))
    assert damages(audit(folder, [vkey])) == []
    root = folder / "log"
    files = [file for file in (root / "tile").rglob("*") if file.is_file()]
    files = [
        file for file in files
        if (parse_path(file.relative_to(root).as_posix()).level == ENTRIES) == (kind == "bundle")
    ]  # fmt: skip
    assert len(files) == 2
    for at in range(0, max(file.stat().st_size for file in files), stride):
        old = flip_everywhere(files, at, at % 8)
        found = damages(audit(folder, [vkey]))
        for file, content in old.items():
            assert any(file.relative_to(root).as_posix() in text for text in found), (file, at)
            file.write_bytes(content)
    assert damages(audit(folder, [vkey])) == []


@STRIDES
def test_every_byte_of_checkpoint_and_latest_record(
    tiny_log: Path, tmp_path: Path, vkeys: tuple[str, ...], stride: int
) -> None:
    """The same byte of both at once: each must be named. Of the 3 kB of the second signature, one byte in eleven."""
    folder = Path(shutil.copytree(tiny_log, tmp_path / "log"))
    files = [folder / CHECKPOINT, folder / LATEST]
    content = files[0].read_bytes()
    size, second = len(content), content.rindex(b"\n", 0, -1) + 1
    assert second < 400, "a short text, a short signature, then the line of the second signature"
    for at in [*range(0, second, stride), *range(second, size, 11 * stride), size - 1]:
        old = flip_everywhere(files, at, at % 8)
        found = damages(audit(folder, vkeys))
        assert all(any(place in text for text in found) for place in (CHECKPOINT, LATEST)), at
        for file, content in old.items():
            file.write_bytes(content)


@STRIDES
def test_every_byte_of_every_row(tiny_log: Path, tmp_path: Path, vkey: str, stride: int) -> None:
    """The same byte of a column in all rows at once: each row must be named."""
    folder = Path(shutil.copytree(tiny_log, tmp_path / "log"))
    original = (folder / DATABASE).read_bytes()
    with sqlite3.connect(folder / DATABASE) as connection:
        columns = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for table in ("entry", "head", "checkpoint")
        }
    connection.close()
    for table, names in columns.items():
        for column in names:
            if (table, column) == ("head", "id"):
                continue  # the table itself allows no other value
            for at in range(0, 400, stride):
                rows = flip_column(folder / DATABASE, table, column, at)
                if not rows:
                    break
                found = damages(audit(folder, [vkey]))
                named = {text.split(":")[0] for text in found if text.startswith(f"{table} ")}
                assert len(named) >= (rows if column not in names[:1] else 1), (table, column, at, found)
                (folder / DATABASE).write_bytes(original)


def flip_column(database: Path, table: str, column: str, at: int) -> int:
    """Flip a bit of byte `at` of a column in each row that has so many; how many there were."""
    changed = 0
    with sqlite3.connect(database) as connection:
        for number, value in connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall():
            raw = value if isinstance(value, bytes) else str(value).encode()
            if at >= len(raw):
                continue
            changed += 1
            flipped: object = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            if isinstance(value, int):
                flipped = value ^ (1 << (8 + at))
            elif isinstance(value, str):
                flipped = bytes(flipped).decode()  # type: ignore[arg-type]
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (flipped, number))
    connection.close()
    return changed


def test_random_flips_in_the_database_file_never_stop_the_audit(tiny_log: Path, tmp_path: Path, vkey: str) -> None:
    """Structure included: the audit ends with a result, whatever the byte."""
    folder = Path(shutil.copytree(tiny_log, tmp_path / "log"))
    original = (folder / DATABASE).read_bytes()
    draw = random.Random(20261124)
    found = 0
    for _ in range(150):
        at = draw.randrange(len(original))
        (folder / DATABASE).write_bytes(
            original[:at] + bytes([original[at] ^ (1 << draw.randrange(8))]) + original[at + 1 :]
        )
        found += bool(damages(audit(folder, [vkey])))
    assert found > 0


def test_damage_in_all_three_places_is_told_apart(tmp_path: Path, vkey: str) -> None:
    folder = make_folder(tmp_path / "log", some_entries(20))
    for name, part in (("tile/0/000.p/20", 0.15), ("tile/entries/000.p/20", 0.5)):
        file = folder / "log" / name
        content = file.read_bytes()
        at = int(len(content) * part)
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute("UPDATE entry SET entry = x'00' WHERE log_index = 15")
    connection.close()
    result = audit(folder, [vkey])
    assert result.entries_checked == 20
    text = " ".join(damages(result))
    assert "tile/0/000.p/20: entry 3 " in text
    assert "tile/entries/000.p/20: entry" in text
    assert "entry 15: " in text


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "log/tile/0/000.p/20").unlink(), "tile/0/000.p/20: missing"),
        (lambda folder: (folder / "log/tile/entries/000.p/20").unlink(), "tile/entries/000.p/20: missing"),
        (lambda folder: (folder / CHECKPOINT).unlink(), f"{CHECKPOINT}: missing"),
        (lambda folder: (folder / LATEST).unlink(), f"{LATEST}: missing"),
        (lambda folder: (folder / DATABASE).unlink(), f"{DATABASE}: missing"),
        (lambda folder: (folder / DATABASE).write_bytes(b""), "database"),
        (lambda folder: (folder / DATABASE).write_bytes(b"no database at all" * 1000), "database"),
        (lambda folder: (folder / "log/tile/0/000.p/7").write_bytes(b""), "tile/0/000.p/7"),
        (lambda folder: (folder / "log/tile/0/000.p/7").write_bytes(b"x" * 20_000_000), "tile/0/000.p/7"),
        (lambda folder: (folder / "log/tile/0/000.p/300").write_bytes(b"x"), "tile/0/000.p/300: not the path"),
        (lambda folder: (folder / "log/tile/0/001.p").mkdir(), None),
        (lambda folder: (folder / "log/tile/0/007").write_bytes(b"x" * 32), "tile/0/007: belongs to"),
    ],
)
def test_missing_and_foreign_files(
    tmp_path: Path, vkey: str, damage: Callable[[Path], object], named: str | None
) -> None:
    folder = make_folder(tmp_path / "log", some_entries(20))
    damage(folder)
    result = audit(folder, [vkey])
    assert result.whole == (named is None)
    assert named is None or any(named in finding.text for finding in result.findings)
    if named and named.split(":")[0] not in (CHECKPOINT, LATEST):
        assert result.entries_checked == 20


def test_nothing_signed_is_not_whole(tmp_path: Path, vkey: str) -> None:
    folder = make_folder(tmp_path / "log", some_entries(3))
    stranger = vkey.replace("registry.example/log1", "other.example")
    for keys in ([], [vkey.split("+")[0]], [stranger]):
        result = audit(folder, keys)
        assert (result.whole, result.entries_checked) == (False, 0)
    assert not audit(tmp_path / "nowhere", [vkey]).whole


def test_growth_since_a_trusted_checkpoint(tmp_path: Path, vkey: str, vkeys: tuple[str, ...]) -> None:
    with make_registry(tmp_path / "log", some_entries(5)) as registry:
        trusted = registry.checkpoint()
        registry.append(some_entries(9))
    assert audit(tmp_path / "log", [vkey], trusted).whole
    assert audit(make_folder(tmp_path / "same", some_entries(5)), [vkey], trusted).whole
    shorter = audit(make_folder(tmp_path / "shorter", some_entries(4)), [vkey], trusted)
    assert [finding.code for finding in shorter.findings] == ["rollback"]
    damaged = audit(tmp_path / "log", vkeys, trusted[:-5] + b"AAA=\n")
    assert [finding.code for finding in damaged.findings] == ["since"]


def test_a_rewritten_log_is_found_with_both_checkpoints(tmp_path: Path, vkey: str) -> None:
    entries = some_entries(5)
    with make_registry(tmp_path / "log", entries) as registry:
        trusted = registry.checkpoint()
    other = [*entries[:4], release_entry(99)]
    same_size = audit(make_folder(tmp_path / "other", other), [vkey], trusted)
    split = [finding for finding in same_size.findings if finding.code == "split-view"]
    assert split
    assert all(finding.text.count(ORIGIN) == 2 for finding in split)
    longer = audit(make_folder(tmp_path / "longer", [*other, release_entry(5)]), [vkey], trusted)
    assert [finding.code for finding in longer.findings] == ["root"]


def foreign_entries() -> dict[str, list[bytes]]:
    stranger = generate(P256)
    owner = {"owner": "bob", "key": stranger.public.pem, "secret_commitment": "00" * 32}
    second = {**owner, "owner": "ann"}
    wrong = make_entry("owner", {**owner, "key": owner_key().public.pem}, stranger)
    signed = release_entry(1)
    return {
        "which no earlier entry introduced": [make_entry("release", {"release": "x"}, stranger)],
        "a second key for the owner": [make_entry("owner", second, stranger)],
        "not ": [wrong],
        "does not verify": [signed.replace(b'"sig":"ME', b'"sig":"MF') if b'"sig":"ME' in signed else b"{}"],
        "JSON": [b"plain bytes"],
    }


@pytest.mark.parametrize("named", sorted(foreign_entries()))
def test_entries_must_be_signed_by_an_enrolled_key(tmp_path: Path, vkey: str, named: str) -> None:
    entries = [*some_entries(3), *foreign_entries()[named]]
    folder = make_folder(tmp_path / "log", entries)
    result = audit(folder, [vkey])
    assert (result.whole, result.entries_checked) == (False, 3)
    assert [(finding.code, finding.index) for finding in result.findings] == [("entry", 3)]


def test_a_key_counts_only_after_its_introduction(tmp_path: Path, vkey: str) -> None:
    folder = make_folder(tmp_path / "log", list(reversed(some_entries(3))))
    result = audit(folder, [vkey])
    assert [finding.index for finding in result.findings] == [0, 1]
    assert result.entries_checked == 1


def test_another_logs_key_does_not_help(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with EmbeddedRegistry.create(folder, ORIGIN, seeded_key(90)) as registry:
        registry.append(some_entries(2))
        assert audit(folder, [registry.vkey]).whole
    with make_registry(tmp_path / "other", []) as other:
        assert not audit(folder, [other.vkey]).whole


def test_an_audit_beside_a_writer_finds_nothing(tmp_path: Path, vkey: str) -> None:
    import threading

    folder = make_folder(tmp_path / "log", some_entries(2))
    entries = [release_entry(number) for number in range(100, 140)]

    def write() -> None:
        with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
            for entry in entries:
                registry.append([entry])

    writer = threading.Thread(target=write)
    writer.start()
    results = []
    while writer.is_alive():
        results.append(audit(folder, [vkey]))
    writer.join()
    assert all(result.whole for result in [*results, audit(folder, [vkey])]), results
