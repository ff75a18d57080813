from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import small_state
from watermark.attacks.clustering import shared_values
from watermark.attacks.precision import round_groups
from watermark.errors import InputError


@pytest.mark.parametrize("bits", [1, 5, 6])
@pytest.mark.parametrize("name", ["embedding", "dense", "kernel"])
def test_each_weight_takes_the_nearest_of_few_values(bits: int, name: str) -> None:
    before = small_state()[name].reshape(-1)
    after = shared_values(small_state(), bits)[name].reshape(-1)
    values = after.unique()
    assert len(values) <= 1 << bits
    nearest = (before[:, None] - values).abs().min(dim=1).values
    assert torch.allclose((after - before).abs(), nearest)


def test_a_value_is_the_mean_of_its_weights() -> None:
    clusters = torch.cat([centre + 0.01 * torch.linspace(-1, 1, 101) for centre in (-4.0, -1.0, 0.5, 3.0)])
    after = shared_values({"w": clusters.reshape(4, 101)}, 2)["w"]
    assert torch.allclose(after, torch.tensor([-4.0, -1.0, 0.5, 3.0])[:, None].expand(4, 101), atol=1e-5)


def test_errs_less_than_even_steps() -> None:
    weights = torch.randn(100, 100, generator=torch.Generator().manual_seed(4))
    even = round_groups(weights.reshape(1, -1), 4, 10_000).reshape(100, 100)
    assert (shared_values({"w": weights}, 4)["w"] - weights).norm() < 0.8 * (even - weights).norm()


def test_equal_weights_stay() -> None:
    weights = torch.full((3, 7), 2.5)
    assert torch.equal(shared_values({"w": weights}, 5)["w"], weights)


@pytest.mark.parametrize("bits", [0, 9])
def test_impossible_numbers_of_values_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match="cannot gather"):
        shared_values(small_state(), bits)
