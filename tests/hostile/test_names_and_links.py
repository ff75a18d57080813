"""Names, links and things that are no files: nothing leads out of the model, and no name means two files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from watermark.errors import InputError, LimitError, PathEscapeError
from watermark.model.directory import Limits, open_model
from watermark.model.dtypes import dtype
from watermark.model.names import check_component, check_path
from watermark.model.safetensors import write_safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    write_safetensors(model / "model.safetensors", [("w", dtype("U8"), (4,), b"abcd")])
    return model


REFUSED_NAMES = [
    "back\\slash", "..\\up", "new\nline", "esc\x1b[31m", "del\x7f", "c1\x85", "line\u2028end", "bidi\u202egnp.exe",
    "mark\u200f", "C:drive", "c:", "CON", "con.json", "aux", "AUX.safetensors", "nul.tar.gz", "COM1", "lpt9.txt",
    "COM\u00b9", "CONIN$", "con .txt", "dot.", "space ", "..", ".", "", "a/b", "nul\x00", "x" * 256, "\u20ac" * 86,
    "\ufeffconfig.json",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_name_is_refused_and_printed_escaped(name: str) -> None:
    with pytest.raises(PathEscapeError) as caught:
        check_component(name)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    ["config.json", ".gitattributes", "a b", "Gr\u00f6\u00dfe", "x" * 255, "con_fig", "com10", "..a", "a..b", "-x"],
)
def test_name_is_accepted(name: str) -> None:
    check_component(name)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../x", "a//b", "a/", "./a", "", "a/" * 2050 + "a", "a/NUL/b"]
)
def test_path_is_refused(path: str) -> None:
    with pytest.raises(PathEscapeError):
        check_path(path)


@pytest.mark.parametrize(
    "name", [name for name in REFUSED_NAMES if name not in ("..", ".", "") and not set(name) & {"/", "\x00"}]
)
def test_file_of_that_name_is_refused(folder: Path, name: str) -> None:
    try:
        (folder / name).write_bytes(b"")
    except OSError:
        # The file system itself refuses the longest ones.
        assert len(name.encode()) > 255
        return
    with pytest.raises(PathEscapeError) as caught:
        open_model(folder)
    assert str(caught.value).isprintable()


def test_name_that_is_not_utf8_is_refused(folder: Path) -> None:
    with open(os.fsencode(folder) + b"/caf\xe9", "wb"):
        pass
    with pytest.raises(PathEscapeError, match="not UTF-8") as caught:
        open_model(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("README.md", "readme.md"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u00c5ngstr\u00f6m", "\u212bngstr\u00f6m"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u0130x", "i\u0307x"),
        ("\ufb01le", "\ufb01LE"),
    ],
)
def test_two_names_that_fall_together_are_refused(folder: Path, first: str, second: str) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / first).write_bytes(b"1")
    (folder / "sub" / second).write_bytes(b"2")
    if len(list((folder / "sub").iterdir())) == 2:
        with pytest.raises(PathEscapeError, match="one file on some systems"):
            open_model(folder)
    (folder / "sub" / second).unlink()


def test_folders_that_fall_together_are_refused(folder: Path) -> None:
    for name in ("Pooling", "pooling"):
        (folder / name).mkdir()
    with pytest.raises(PathEscapeError, match="one file on some systems"):
        open_model(folder)


def test_same_name_in_two_folders_is_plain(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    with open_model(folder) as model:
        assert [entry.path for entry in model.files] == ["a/config.json", "b/config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../outside", "model.safetensors", "absent", "self", "..", "/dev/zero"]
)
def test_link_is_refused(folder: Path, target: str) -> None:
    (folder.parent / "outside").write_bytes(b"secret")
    (folder / "self").symlink_to(target)
    with pytest.raises(PathEscapeError, match="is a link"):
        open_model(folder)


def test_weight_file_that_is_a_link_is_refused_also_alone(folder: Path) -> None:
    (folder / "other.safetensors").symlink_to("model.safetensors")
    with pytest.raises(PathEscapeError, match="is a link"):
        open_model(folder / "other.safetensors")


def test_hard_link_is_plain(folder: Path) -> None:
    os.link(folder / "model.safetensors", folder.parent / "copy")
    with open_model(folder) as model:
        assert model.read(model.tensors["w"], 0, 4) == b"abcd"


def test_fifo_and_socket_are_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(PathEscapeError, match="FIFO"):
        open_model(folder)
    with pytest.raises(PathEscapeError, match="FIFO"):
        open_model(folder / "pipe")
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))
        with pytest.raises(PathEscapeError, match="socket"):
            open_model(folder)


def test_device_is_refused() -> None:
    with pytest.raises(PathEscapeError, match="device"):
        open_model(Path("/dev/null"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A Hugging Face cache folder of one model: everything in the snapshot is a link into blobs."""
    root = tmp_path / "models--owner--name"
    snapshot = root / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    write_safetensors(root / "blobs" / "0f", [("w", dtype("U8"), (4,), b"abcd")])
    (root / "blobs" / "1e").write_text("{}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0f")
    (snapshot / "config.json").symlink_to("../../blobs/1e")
    return root


def test_hugging_face_cache_is_explained(cache: Path) -> None:
    with pytest.raises(PathEscapeError) as caught:
        open_model(cache / "snapshots" / "abc123")
    assert "Hugging Face cache" in str(caught.value.hint)
    assert "cp -RL" in str(caught.value.hint)


def test_hugging_face_cache_is_read_below_a_named_root(cache: Path) -> None:
    with open_model(cache / "snapshots" / "abc123", link_root=cache) as model:
        assert (model.files[0].path, model.files[0].size_bytes) == ("config.json", 2)
        assert model.read(model.tensors["w"], 0, 4) == b"abcd"
        with model.open_file("config.json") as file:
            assert file.read() == b"{}"
        model.verify_unchanged()
    with open_model(cache / "snapshots" / "abc123" / "model.safetensors", link_root=cache) as model:
        assert model.read(model.tensors["w"], 0, 4) == b"abcd"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../secret", "../../blobs", "gone", "loop"])
def test_link_out_of_the_named_root_is_refused(cache: Path, target: str) -> None:
    (cache.parent / "secret").write_bytes(b"secret")
    (cache / "snapshots" / "abc123" / "loop").symlink_to(target)
    with pytest.raises(PathEscapeError, match="is a link"):
        open_model(cache / "snapshots" / "abc123", link_root=cache)


def test_link_by_way_of_a_link_out_of_the_named_root_is_refused(cache: Path) -> None:
    (cache.parent / "secret").write_bytes(b"secret")
    (cache / "blobs" / "out").symlink_to("../../secret")
    (cache / "snapshots" / "abc123" / "x").symlink_to("../../blobs/out")
    with pytest.raises(PathEscapeError, match="not below"):
        open_model(cache / "snapshots" / "abc123", link_root=cache)


def test_link_root_that_is_no_folder_is_said(cache: Path) -> None:
    with pytest.raises(InputError, match="folder cannot be read"):
        open_model(cache / "snapshots" / "abc123", link_root=cache / "absent")


def test_too_deep_folders_are_refused(folder: Path) -> None:
    deep = folder.joinpath(*["d"] * 200)
    deep.mkdir(parents=True)
    with pytest.raises(LimitError, match="64 deep"):
        open_model(folder)
    with open_model(folder, limits=Limits(max_depth=250)) as model:
        assert len(model.files) == 1


def test_too_many_files_are_refused(folder: Path) -> None:
    for number in range(20):
        (folder / f"{number}.txt").touch()
    with pytest.raises(LimitError, match="more than 20 files"):
        open_model(folder, limits=Limits(max_files=20))
    with open_model(folder, limits=Limits(max_files=21)) as model:
        assert len(model.files) == 21


def test_folders_count_against_the_limit(folder: Path) -> None:
    for number in range(20):
        (folder / f"folder{number}").mkdir()
    with pytest.raises(LimitError, match="more than 20 files"):
        open_model(folder, limits=Limits(max_files=20))


@pytest.mark.slow
def test_a_hundred_thousand_files_are_listed(folder: Path) -> None:
    for number in range(99_999):
        os.close(os.open(f"{folder}/file{number:06}.txt", os.O_CREAT | os.O_WRONLY))
    with open_model(folder) as model:
        assert len(model.files) == 100_000
        assert [entry.path for entry in model.files] == sorted(entry.path for entry in model.files)
