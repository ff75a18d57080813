from __future__ import annotations

import pytest
import torch

from tests.watermark.attacks.states import MATRICES, rows_of, small_state
from watermark.attacks import pruning
from watermark.errors import InputError


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", MATRICES)
def test_magnitude_zeroes_exactly_its_share_of_the_smallest(share: float, name: str) -> None:
    before = small_state()[name].float().reshape(-1)
    after = pruning.magnitude(small_state(), share)[name].float().reshape(-1)
    gone = after == 0
    assert int(gone.sum()) == round(share * before.numel())
    assert torch.equal(after[~gone], before[~gone])
    if 0 < share < 1:
        assert before[gone].abs().max() <= before[~gone].abs().min()


def test_ties_do_not_prune_more_than_the_share() -> None:
    pruned = pruning.magnitude({"w": torch.ones(10, 10)}, 0.3)["w"].reshape(-1)
    assert pruned.tolist() == [0.0] * 30 + [1.0] * 70


def test_zeros_count_among_the_smallest() -> None:
    weights = torch.tensor([[0.0, 0.0, 1.0, 2.0, 3.0]])
    assert pruning.magnitude({"w": weights}, 0.6)["w"].tolist() == [[0.0, 0.0, 0.0, 2.0, 3.0]]


def test_random_share_is_exact_and_blind_to_magnitude() -> None:
    before = small_state()["embedding"]
    after = pruning.random_share(small_state(), 0.3, seed=1)["embedding"]
    gone = after == 0
    assert int(gone.sum()) == round(0.3 * before.numel())
    assert torch.equal(after[~gone], before[~gone])
    assert float(before[gone].abs().mean() / before.abs().mean()) == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(after, pruning.random_share(small_state(), 0.3, seed=2)["embedding"])


def test_two_of_every_four_neighbours_go() -> None:
    weights = torch.tensor([[4.0, -1.0, 2.0, -3.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.2]])
    assert pruning.two_four({"w": weights})["w"].tolist() == [
        [4.0, 0.0, 0.0, -3.0, 0.0, 0.0, 1.0, 1.0, *weights[0, 8:]]
    ]


@pytest.mark.parametrize("name", MATRICES)
def test_two_four_keeps_the_larger_pair(name: str) -> None:
    before = rows_of(small_state()[name])
    after = rows_of(pruning.two_four(small_state())[name])
    fours_before, fours_after = before.reshape(-1, 4), after.reshape(-1, 4)
    assert bool(((fours_after != 0).sum(dim=1) == 2).all())
    kept = fours_after.abs().sort(dim=1).values[:, 2:]
    assert torch.equal(kept, fours_before.abs().sort(dim=1).values[:, 2:])


def test_rows_shorter_than_four_stay() -> None:
    weights = torch.randn(5, 3)
    assert torch.equal(pruning.two_four({"w": weights})["w"], weights)


def test_share_of_thirty_is_refused() -> None:
    with pytest.raises(InputError, match="the share to prune is 30"):
        pruning.magnitude(small_state(), 30)
    with pytest.raises(InputError, match="the share to prune is 30"):
        pruning.random_share(small_state(), 30, seed=0)
