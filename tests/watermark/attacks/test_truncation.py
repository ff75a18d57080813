from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import rows_of, small_state
from watermark.attacks.truncation import svd


@pytest.mark.parametrize("share", [0.75, 0.5, 0.1, 0.0])
@pytest.mark.parametrize("name", ["embedding", "dense", "kernel"])
def test_truncation_is_the_best_approximation_of_its_rank(share: float, name: str) -> None:
    before, after = rows_of(small_state()[name]), rows_of(svd(small_state(), share)[name])
    rank = max(1, round(share * min(before.shape)))
    left, singular, right = torch.linalg.svd(before, full_matrices=False)
    best = (left[:, :rank] * singular[:rank]) @ right[:rank]
    assert torch.allclose(after, best, atol=1e-5 * float(singular[0]))
    assert int(torch.linalg.matrix_rank(after, rtol=1e-5)) == rank


def test_full_rank_stays_exactly() -> None:
    state = small_state()
    assert torch.equal(svd(state, 1.0)["dense"], state["dense"])
