"""A weight file that is cut short or grows, before or while it is read, is refused and never kills the reader."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.hostile.headers import good_file
from watermark.errors import InputError, ModelFormatError
from watermark.model.directory import open_model
from watermark.model.dtypes import dtype
from watermark.model.safetensors import write_safetensors


def test_file_cut_at_every_offset_is_refused(tmp_path: Path) -> None:
    whole = good_file()
    path = tmp_path / "model.safetensors"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
            open_model(path)
    path.write_bytes(whole)
    open_model(path).close()


def test_file_longer_by_any_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for value in range(256):
        path.write_bytes(good_file() + bytes([value]))
        with pytest.raises(ModelFormatError, match="1 bytes follow"):
            open_model(path)


def big_model(folder: Path) -> Path:
    path = folder / "model.safetensors"
    write_safetensors(path, [("w", dtype("U8"), (1 << 20,), os.urandom(1 << 20))])
    return path


def test_file_cut_while_open_ends_in_an_error(tmp_path: Path) -> None:
    path = big_model(tmp_path)
    with open_model(tmp_path) as model:
        tensor = model.tensors["w"]
        assert len(model.read(tensor, 0, tensor.nbytes)) == tensor.nbytes
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(ModelFormatError, match="cut short"):
            model.read(tensor, 0, tensor.nbytes)
        with pytest.raises(ModelFormatError, match="was changed"):
            model.verify_unchanged()


def test_file_cut_by_another_thread_while_read_ends_in_an_error(tmp_path: Path) -> None:
    path = big_model(tmp_path)
    started = threading.Event()

    def cut() -> None:
        started.wait()
        os.truncate(path, 4096)

    with open_model(tmp_path) as model:
        tensor = model.tensors["w"]
        cutter = threading.Thread(target=cut)
        cutter.start()
        with pytest.raises(ModelFormatError, match="cut short"):  # noqa: PT012 (the cut comes at any time)
            while True:
                model.read(tensor, 0, tensor.nbytes)
                started.set()
        cutter.join()


@pytest.mark.parametrize("change", ["grow", "overwrite", "overwrite and set the time back"])
def test_file_changed_while_open_is_noticed(tmp_path: Path, change: str) -> None:
    path = big_model(tmp_path)
    before = path.stat()
    with open_model(tmp_path) as model:
        model.verify_unchanged()
        with path.open("ab" if change == "grow" else "rb+") as file:
            file.write(b"\x00")
        if change.endswith("back"):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(ModelFormatError, match="was changed"):
            model.verify_unchanged()


def test_other_file_changed_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    big_model(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{}")
    with open_model(tmp_path) as model:
        with model.open_file("config.json") as file:
            assert file.read() == b"{}"
        model.verify_unchanged()
        config.write_text("[]")
        with pytest.raises(ModelFormatError, match=r"config\.json"):
            model.verify_unchanged()


def test_other_file_changed_before_it_was_opened_is_noticed(tmp_path: Path) -> None:
    big_model(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{}")
    with open_model(tmp_path) as model:
        config.write_text("[]")
        with pytest.raises(ModelFormatError, match=r"config\.json"):
            model.open_file("config.json")


def test_other_file_removed_is_noticed(tmp_path: Path) -> None:
    big_model(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{}")
    with open_model(tmp_path) as model:
        model.open_file("config.json").close()
        config.unlink()
        with pytest.raises(ModelFormatError, match=r"config\.json"):
            model.verify_unchanged()
        with pytest.raises(ModelFormatError, match=r"config\.json"):
            model.open_file("config.json")


def test_missing_model_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing that can be read"):
        open_model(tmp_path / "absent")
    with pytest.raises(InputError, match="nothing that can be read"):
        open_model(Path("a\x00b"))
