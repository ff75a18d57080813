"""Every packed layout is unpacked to exactly what its tool computes with; what does not fit stays as it is."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import packed_files
from tests.packed_files import Packer, Parts
from watermark.errors import InputError
from watermark.model.digest import digest_tensors
from watermark.model.directory import Model, open_model
from watermark.model.suspect import open_suspect
from watermark.model.torch_state import save_state

LAYOUTS: dict[str, Packer] = {
    "gptq": packed_files.gptq(),
    "gptq 2 bits": packed_files.gptq(2),
    "gptq 3 bits": packed_files.gptq(3),
    "gptq 8 bits, one group": packed_files.gptq(8, group=256),
    "gptq version 2": packed_files.gptq(version=2),
    "gptq act order": packed_files.gptq(act_order=True),
    "awq": packed_files.awq(),
    "compressed": packed_files.compressed(),
    "compressed 3 bits": packed_files.compressed(3),
    "int8": packed_files.int8,
    "fp8 in squares": packed_files.fp8_squares,
    "nf4": packed_files.nf4(),
    "nf4, scales quantised too": packed_files.nf4(nested=True),
    "mxfp4": packed_files.mxfp4,
    "nvfp4": packed_files.nvfp4,
}


def weight(seed: int = 1) -> np.ndarray:
    """(outputs, inputs), not around zero in every row, as trained ones are not."""
    draw = np.random.default_rng(seed)
    return (0.02 * draw.standard_normal((192, 256)) + 0.002 * draw.standard_normal((192, 1))).astype(np.float32)


def written(folder: Path, parts: Parts) -> Path:
    save_state(folder, {f"l{name}": part for name, part in parts.items()})
    return folder


def values_of(model: Model, name: str = "l.weight") -> np.ndarray:
    tensor = model.weights[name]
    return np.array(model.values(tensor, 0, tensor.count)).reshape(tensor.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_unpacked_to_what_it_stands_for(layout: str, tmp_path: Path) -> None:
    parts, expected = LAYOUTS[layout](weight())
    assert np.abs(expected - weight()).max() < 0.05  # else the packer would not be one
    with open_suspect(written(tmp_path, parts)) as model:
        np.testing.assert_allclose(values_of(model), expected, rtol=2e-7, atol=0)
        # No code is a weight beside what it stands for; the digests still name what is stored.
        kept = [tensor for name, tensor in model.weights.items() if name != "l.weight"]
        assert all(tensor.dtype.is_float for tensor in kept)
        assert set(digest_tensors(model)) == set(model.tensors) == {f"l{name}" for name in parts}
    with open_model(tmp_path) as model:  # what is released is taken as it is stored
        assert model.weights == model.tensors


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_that_do_not_fit_are_left_as_they_are(layout: str, tmp_path: Path) -> None:
    parts, _ = LAYOUTS[layout](weight())
    codes = max(parts, key=lambda name: parts[name].nbytes)
    spoilt = 0
    for name, part in parts.items():
        others = {
            "gone": None,
            "cut": part.reshape(-1)[: max(1, part.numel() // 3)],
            "longer": torch.cat([part.reshape(-1)] * 7),
            "another type": torch.zeros(part.shape, dtype=torch.bool),
        }
        for how, other in others.items():
            changed = {**parts, name: other} if other is not None else {k: v for k, v in parts.items() if k != name}
            with open_suspect(written(tmp_path / f"{spoilt}", changed)) as model:
                if name == codes and "l.weight" in model.weights:
                    assert model.weights["l.weight"] == model.tensors["l.weight"], how
                for tensor in model.weights.values():
                    model.values(tensor, 0, tensor.count)
            spoilt += 1


def test_random_numbers_in_every_part_never_leave_the_tensors(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    for number, pack in enumerate(LAYOUTS.values()):
        parts, _ = pack(weight())
        for name, part in parts.items():
            raw = draw.integers(0, 256, part.numel() * part.element_size(), np.uint8)
            noise = torch.from_numpy(raw.copy()).view(part.dtype).reshape(part.shape)
            with open_suspect(written(tmp_path / f"{number}{name}", {**parts, name: noise})) as model:
                for tensor in model.weights.values():
                    model.values(tensor, 0, tensor.count)


def test_a_weight_beside_its_decoy_is_not_hidden(tmp_path: Path) -> None:
    """A thief's loader may take the float weight and leave the codes beside it alone."""
    parts, unpacked = packed_files.gptq()(weight(2))
    stolen = weight()
    with open_suspect(written(tmp_path, {**parts, ".weight": torch.from_numpy(stolen)})) as model:
        np.testing.assert_array_equal(values_of(model), stolen)
        np.testing.assert_allclose(values_of(model, "l.weight (unpacked)"), unpacked, rtol=2e-7)
        assert "l.scales" in model.weights


def test_two_layouts_under_one_name_are_both_unpacked(tmp_path: Path) -> None:
    """Whichever the thief's loader takes, it is looked at."""
    first, gptq_values = packed_files.gptq()(weight())
    second, compressed_values = packed_files.compressed()(weight(2))
    with open_suspect(written(tmp_path, {**first, **second})) as model:
        np.testing.assert_allclose(values_of(model), gptq_values, rtol=2e-7)
        np.testing.assert_allclose(values_of(model, "l.weight (again)"), compressed_values, rtol=2e-7)


def test_no_room_to_unpack_is_said(tmp_path: Path) -> None:
    parts, _ = packed_files.gptq()(weight())
    folder = written(tmp_path, parts)
    with files_of_at_most(100_000), pytest.raises(InputError, match="cannot be unpacked") as refused:
        open_suspect(folder)
    assert "TMPDIR" in refused.value.hint
    open_suspect(folder).close()


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
