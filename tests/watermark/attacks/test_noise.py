from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from tests.watermark.attacks.states import rows_of, small_state
from watermark.attacks.noise import gaussian
from watermark.errors import InputError


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.8])
def test_noise_is_normal_with_the_deviation_of_its_row(sigma: float) -> None:
    state = {"w": torch.randn(200, 500, dtype=torch.float64) * torch.logspace(-3, 3, 200)[:, None]}
    before = rows_of(state["w"])
    added = (rows_of(gaussian(state, sigma, seed=3)["w"]) - before) / before.std(dim=1, correction=0, keepdim=True)
    assert float(added.std()) == pytest.approx(sigma, rel=0.02)
    assert kstest((added / sigma).reshape(-1).numpy(), "norm").pvalue > 1e-4


def test_seed_decides_the_noise() -> None:
    first, again, other = (gaussian(small_state(), 0.1, seed=seed)["dense"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_tensors_of_one_shape_get_different_noise() -> None:
    weights = torch.randn(30, 30)
    noisy = gaussian({"a": weights, "b": weights}, 0.1, seed=1)
    assert not torch.equal(noisy["a"], noisy["b"])


def test_rows_of_equal_weights_stay() -> None:
    weights = torch.full((3, 7), 2.5)
    assert torch.equal(gaussian({"w": weights}, 0.5, seed=1)["w"], weights)


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_noise_that_cannot_be_drawn_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match="row deviations"):
        gaussian(small_state(), sigma, seed=0)
