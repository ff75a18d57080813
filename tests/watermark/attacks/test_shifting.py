from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import rows_of, small_state
from watermark.attacks.shifting import by_mean_row
from watermark.errors import InputError


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("name", ["embedding", "dense", "kernel"])
def test_the_mean_row_is_taken_out_and_differences_stay(strength: float, name: str) -> None:
    before, after = rows_of(small_state()[name]), rows_of(by_mean_row(small_state(), strength)[name])
    assert torch.allclose(after.mean(dim=0), (1 - strength) * before.mean(dim=0), atol=1e-6)
    assert torch.allclose(after - after[:1], before - before[:1], atol=1e-5)


def test_a_shift_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be shifted"):
        by_mean_row({"w": torch.ones(2, 2)}, float("nan"))
