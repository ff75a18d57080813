from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from registry.signing.files import MAX_DEPTH, ModelFile, ModelTree
from registry.signing.hashing import Span, hash_spans, shards, whole_files
from registry.signing.small_files import read_small_file, replace_file
from tests.registry.signing.models import SHARDED, TINY, write_tree
from watermark.errors import InputError, LimitError, ModelFormatError, PathEscapeError, WeightmarkError


def names(root: Path, ignored: tuple[str, ...] = (), **options: bool) -> list[str]:
    with ModelTree(root) as tree:
        return sorted(file.name for file in tree.enumerate(ignored, **options))


def test_walk_finds_files_and_leaves_ignored_subtrees(tmp_path: Path) -> None:
    write_tree(tmp_path, {**TINY, "sub/.git/x": b"", ".git/y": b"", "a.txt": b""})
    (tmp_path / "hollow/deeper").mkdir(parents=True)
    (tmp_path / ".git/link").symlink_to("/etc/passwd")
    assert names(tmp_path, (".git", "a")) == ["a-b", "a.txt", "config.json", "empty", "sub/.git/x"]


def test_hashes_are_right_and_progress_adds_up(tmp_path: Path) -> None:
    write_tree(tmp_path, SHARDED | {"big": os.urandom(3 << 20)})
    told: list[int] = []
    with ModelTree(tmp_path) as tree:
        digests = hash_spans(tree, whole_files(tree.enumerate(())), progress=told.append)
    expected = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert digests == {name: hashlib.sha256(content).digest() for name, content in expected.items()}
    assert sum(told) == sum(map(len, expected.values()))


@pytest.mark.parametrize("kind", ["link to file", "link to folder", "dangling link", "fifo", "socket"])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    root = write_tree(tmp_path / "m", TINY)
    odd = root / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(odd))
    else:
        odd.symlink_to({"link to file": "a-b", "link to folder": "a", "dangling link": "nowhere"}[kind])
    with pytest.raises(PathEscapeError, match="odd"):
        names(root)
    assert names(root, ("odd",)) == sorted(TINY)


def test_hugging_face_cache_is_explained(tmp_path: Path) -> None:
    write_tree(tmp_path, {"blobs/abc": b"x"})
    snapshot = tmp_path / "snapshots/1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    with pytest.raises(PathEscapeError) as caught:
        names(snapshot)
    assert "Hugging Face" in caught.value.hint


def test_allowed_links_stay_inside(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "m", TINY)
    (root / "inner").symlink_to("a/w.bin")
    assert "inner" in names(root, allow_symlinks=True)
    with ModelTree(root) as tree:
        digests = hash_spans(tree, whole_files(tree.enumerate((), allow_symlinks=True)))
    assert digests["inner"] == hashlib.sha256(b"abc").digest()
    for target in ("/etc/passwd", "../outside", "loop", "a", "nowhere"):
        (root / "loop").unlink(missing_ok=True)
        (root / "loop").symlink_to(target)
        (tmp_path / "outside").write_bytes(b"")
        with pytest.raises(PathEscapeError, match="loop"):
            names(root, allow_symlinks=True)


@pytest.mark.parametrize("name", [b"\xff", b"a\\b", b"a\nb", b"a\x1b[2Jb"])
def test_unportable_names_are_refused_and_printed_escaped(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
    with pytest.raises(PathEscapeError) as caught:
        names(tmp_path)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_depth_is_capped(tmp_path: Path) -> None:
    at = tmp_path
    for _ in range(MAX_DEPTH + 5):
        at = at / "d"
        at.mkdir()
    with pytest.raises(LimitError, match="levels"):
        names(tmp_path)


def test_count_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, TINY)
    monkeypatch.setattr("registry.signing.files.MAX_FILES", 3)
    with pytest.raises(LimitError, match="more than 3 files"):
        names(tmp_path)


def test_absent_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        ModelTree(tmp_path / "absent")


@pytest.mark.parametrize("location", ["a/w.bin", "a"])
def test_a_name_swapped_for_a_link_is_not_followed(tmp_path: Path, location: str) -> None:
    outside = write_tree(tmp_path / "out", {"w.bin": b"evil"})
    root = write_tree(tmp_path / "m", TINY)
    with ModelTree(root) as tree:
        spans = whole_files(tree.enumerate(()))
        (root / location).rename(tmp_path / "moved")
        (root / location).symlink_to(outside if location == "a" else outside / "w.bin")
        with pytest.raises(PathEscapeError, match="link"):
            hash_spans(tree, spans)


def test_swapping_links_never_lead_out(tmp_path: Path) -> None:
    """1,000 looks while another thread swaps the file for a link to other content: the content, or a refusal."""
    root = write_tree(tmp_path / "m", {"w": b"inside"})
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "spare").write_bytes(b"inside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(tmp_path / "link", root / "w")
            os.symlink(tmp_path / "outside", tmp_path / "link")
            os.rename(tmp_path / "spare", root / "w")
            (tmp_path / "spare").write_bytes(b"inside")

    thread = threading.Thread(target=swap)
    thread.start()
    read = refused = 0
    try:
        with ModelTree(root) as tree:
            for _ in range(1000):
                try:
                    digests = hash_spans(tree, [Span("w", ModelFile("w", "w", 6), 0, 6)])
                except WeightmarkError:
                    refused += 1
                else:
                    assert digests == {"w": hashlib.sha256(b"inside").digest()}
                    read += 1
    finally:
        stop.set()
        thread.join()
    assert read
    assert read + refused == 1000


@pytest.mark.parametrize("change", ["cut", "grow", "rewrite"])
def test_files_that_change_while_read_are_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(bytes(4 << 20))

    def meddle(_: int) -> None:
        if change == "cut":
            os.truncate(path, 1 << 20)
        elif change == "grow":
            with open(path, "ab") as file:
                file.write(b"x")
        else:
            path.write_bytes(bytes(4 << 20))
            os.utime(path, ns=(1, 1))

    with ModelTree(tmp_path) as tree, pytest.raises(ModelFormatError, match="'w'"):
        hash_spans(tree, whole_files(tree.enumerate(())), progress=meddle)


def test_vanished_file(tmp_path: Path) -> None:
    write_tree(tmp_path, TINY)
    with ModelTree(tmp_path) as tree:
        spans = whole_files(tree.enumerate(()))
        (tmp_path / "a-b").unlink()
        with pytest.raises(ModelFormatError, match="a-b"):
            hash_spans(tree, spans)


def test_shards_cover_each_file_once(tmp_path: Path) -> None:
    write_tree(tmp_path, {"w": bytes(range(25)), "empty": b"", "even": bytes(8)})
    with ModelTree(tmp_path) as tree:
        spans = shards(tree.enumerate(()), 4)
        digests = hash_spans(tree, spans)
    assert sorted(digests) == ["even:0:4", "even:4:8", *sorted(f"w:{i}:{min(i + 4, 25)}" for i in range(0, 25, 4))]
    assert digests["w:24:25"] == hashlib.sha256(b"\x18").digest()


@pytest.mark.parametrize(("hash_type", "size"), [("blake2b", 64), ("blake3", 32)])
def test_other_hashes(tmp_path: Path, hash_type: str, size: int) -> None:
    write_tree(tmp_path, {"w": b"abc"})
    with ModelTree(tmp_path) as tree:
        digest = hash_spans(tree, whole_files(tree.enumerate(())), hash_type=hash_type)["w"]
    assert len(digest) == size
    assert digest.hex().startswith({"blake2b": "ba80a53f981c4d0d", "blake3": "6437b3ac38465133"}[hash_type])


def test_small_files_are_bounded_and_regular(tmp_path: Path) -> None:
    path = tmp_path / "f"
    replace_file(path, b"abc")
    replace_file(path, b"abcd")
    assert os.listdir(tmp_path) == ["f"]
    assert read_small_file(path, what="it", max_bytes=4) == b"abcd"
    with pytest.raises(LimitError):
        read_small_file(path, what="it", max_bytes=3)
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path / "pipe", tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError):
            read_small_file(odd, what="it", max_bytes=3)
    with pytest.raises(WeightmarkError, match="no/such"):
        replace_file(tmp_path / "no/such", b"")
