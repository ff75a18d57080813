from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import same, small_state
from watermark.attacks.merging import linear
from watermark.errors import InputError


def test_merge_is_the_weighted_mean_of_every_float_tensor() -> None:
    ours, other = small_state(0), small_state(1)
    merged = linear(ours, other, 0.3)
    for name in ("embedding", "dense", "kernel", "bias"):
        assert torch.allclose(merged[name], 0.7 * ours[name] + 0.3 * other[name])
    assert merged["half"].dtype == torch.bfloat16
    assert same(merged["codes"], ours["codes"])


def test_share_of_none_and_of_all() -> None:
    ours, other = small_state(0), small_state(1)
    assert same(linear(ours, other, 0.0)["dense"], ours["dense"])
    assert same(linear(ours, other, 1.0)["dense"], other["dense"])


def test_negative_share_extrapolates() -> None:
    merged = linear({"w": torch.tensor([[3.0]])}, {"w": torch.tensor([[1.0]])}, -1.0)
    assert merged["w"].item() == 5.0


def test_inputs_are_untouched() -> None:
    ours, other = small_state(0), small_state(1)
    linear(ours, other, 0.5)
    assert all(same(ours[name], tensor) for name, tensor in small_state(0).items())
    assert all(same(other[name], tensor) for name, tensor in small_state(1).items())


def test_missing_partner_is_named() -> None:
    with pytest.raises(InputError, match=r"'dense' \(64, 300\): the other model lacks it"):
        linear(small_state(), {k: v for k, v in small_state().items() if k != "dense"}, 0.5)


def test_partner_of_another_shape_is_named() -> None:
    other = small_state() | {"dense": torch.zeros(64, 299)}
    with pytest.raises(InputError, match=r"has it as \(64, 299\)"):
        linear(small_state(), other, 0.5)
