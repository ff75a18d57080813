from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from watermark.errors import InputError
from watermark.model.torch_state import load_state, save_shards, save_state

EVERY_TYPE = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16,
    torch.uint8, torch.bool,
)  # fmt: skip


def state_of_every_type() -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    values = torch.randn(6, 5, generator=stream) * 3
    state = {str(kind).removeprefix("torch."): values.abs().round().to(kind) for kind in EVERY_TYPE}
    return state | {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 7), "kernel": torch.randn(2, 3, 4, 5)}


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return bytes(left.contiguous().reshape(-1).view(torch.uint8).numpy()) == bytes(
        right.contiguous().reshape(-1).view(torch.uint8).numpy()
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_every_type_comes_back_as_it_went(tmp_path: Path, shards: int) -> None:
    state = state_of_every_type()
    save_state(tmp_path / "model", state, shards=shards)
    loaded = load_state(tmp_path / "model")
    assert set(loaded) == set(state)
    assert all(same(loaded[name], tensor) for name, tensor in state.items())


def test_safetensors_package_reads_what_we_write(tmp_path: Path) -> None:
    state = state_of_every_type()
    save_state(tmp_path, state, metadata={"format": "pt"})
    loaded = load_file(tmp_path / "model.safetensors")
    assert all(same(loaded[name], tensor) for name, tensor in state.items())


def test_we_read_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    state = state_of_every_type()
    save_file(state, tmp_path / "one.safetensors")
    loaded = load_state(tmp_path / "one.safetensors")
    assert all(same(loaded[name], tensor) for name, tensor in state.items())


def test_transposed_view_is_written_as_it_reads(tmp_path: Path) -> None:
    weights = torch.arange(6.0).reshape(2, 3).T
    save_state(tmp_path, {"w": weights})
    assert torch.equal(load_state(tmp_path)["w"], weights)


def test_loaded_tensors_may_be_changed(tmp_path: Path) -> None:
    save_state(tmp_path, {"w": torch.ones(3)})
    loaded = load_state(tmp_path)["w"]
    loaded += 1
    assert torch.equal(load_state(tmp_path)["w"], torch.ones(3))


def test_tensor_longer_than_one_read_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watermark.model.torch_state.READ_BYTES", 1000)
    weights = torch.randn(999)
    save_state(tmp_path, {"w": weights})
    assert torch.equal(load_state(tmp_path)["w"], weights)


def test_shards_follow_the_order_of_the_dict_in_about_equal_sizes(tmp_path: Path) -> None:
    state = {f"t{index:02d}": torch.zeros(100 + index) for index in range(20)}
    save_state(tmp_path, state, shards=4)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 2190, "total_size": 8760}
    assert list(index["weight_map"]) == list(state)
    assert list(index["weight_map"].values()) == sorted(index["weight_map"].values())
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) < 1.4 * min(sizes)


@pytest.mark.parametrize("sizes", [(1000, 1, 1), (1, 1, 1000), (0, 0, 0), (0, 5, 0)])
def test_no_shard_is_left_empty(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    save_state(tmp_path, {f"t{index}": torch.zeros(size) for index, size in enumerate(sizes)}, shards=3)
    assert len(load_state(tmp_path)) == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_one_file_has_no_index(tmp_path: Path) -> None:
    save_state(tmp_path, {"w": torch.ones(2)})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_more_shards_than_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 tensors do not fill 2 shards"):
        save_state(tmp_path / "model", {"w": torch.ones(2)}, shards=2)
    assert not (tmp_path / "model").exists()


def test_folder_that_holds_weights_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, {"w": torch.ones(2)})
    with pytest.raises(InputError, match="holds safetensors already"):
        save_state(tmp_path, {"w": torch.zeros(2)}, shards=1)
    assert torch.equal(load_state(tmp_path)["w"], torch.ones(2))


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'w' is in two shards"):
        save_shards(tmp_path, [{"w": torch.ones(2)}, {"w": torch.ones(2)}])


def test_type_that_the_format_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'w' is torch\.complex128"):
        save_state(tmp_path, {"w": torch.ones(2, dtype=torch.complex128)})
