from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import rows_of, small_state
from watermark.attacks.clipping import at_deviations
from watermark.errors import InputError


@pytest.mark.parametrize("name", ["embedding", "dense", "kernel"])
def test_only_what_is_beyond_the_limit_is_cut_back_to_it(name: str) -> None:
    before, after = rows_of(small_state()[name]), rows_of(at_deviations(small_state(), 1.5)[name])
    bound = (1.5 * before.std(dim=1, correction=0, keepdim=True)).expand(before.shape)
    beyond = before.abs() > bound
    assert 0.05 < float(beyond.double().mean()) < 0.25
    assert torch.equal(after[~beyond], before[~beyond])
    assert torch.allclose(after[beyond], before.sign()[beyond] * bound[beyond], rtol=1e-5)


def test_rows_of_equal_weights_stay() -> None:
    weights = torch.full((3, 7), 2.5)
    assert torch.equal(at_deviations({"w": weights}, 2.0)["w"], weights)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_limits_that_leave_nothing_are_refused(limit: float) -> None:
    with pytest.raises(InputError, match="cannot be cut"):
        at_deviations(small_state(), limit)
