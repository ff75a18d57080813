from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import pytest
import torch

from watermark.attacks.finetune import finetune, movement
from watermark.errors import InputError

Batch = tuple[torch.Tensor, torch.Tensor]


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 2)
    ).eval()


def batches() -> Iterator[Batch]:
    stream = torch.Generator().manual_seed(1)
    while True:
        inputs = torch.randn(32, 8, generator=stream)
        yield inputs, (inputs[:, 0] > 0).long()


def loss(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(module(batch[0]), batch[1])


def test_training_improves_the_loss_and_moves_the_weights() -> None:
    module = network()
    tuned = finetune(module, batches(), loss, steps=60, learning_rate=1e-2)
    assert len(tuned.losses) == 60
    assert sum(tuned.losses[-5:]) < 0.7 * sum(tuned.losses[:5])
    assert movement(module.state_dict(), tuned.state) > 0.05


def test_module_given_stays_as_it_was() -> None:
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    finetune(module, batches(), loss, steps=3, learning_rate=1e-2)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not module.training


def test_seed_alone_decides_and_the_random_state_is_put_back() -> None:
    torch.manual_seed(5)
    expected = torch.randn(1)
    torch.manual_seed(5)
    first = finetune(network(), batches(), loss, steps=5, seed=3).state
    torch.manual_seed(99)
    second = finetune(network(), batches(), loss, steps=5, seed=3).state
    other = finetune(network(), batches(), loss, steps=5, seed=4).state
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(5)
    module = torch.nn.Linear(8, 2)
    torch.manual_seed(5)
    finetune(module, batches(), loss, steps=1)
    assert torch.equal(torch.randn(1), expected)


def test_progress_hears_of_every_step() -> None:
    told: list[int] = []
    finetune(network(), batches(), loss, steps=4, progress=told.append)
    assert told == [1, 1, 1, 1]


def test_batches_that_end_early_are_refused() -> None:
    with pytest.raises(InputError, match="ended after 2 of 5 steps"):
        finetune(network(), repeat(next(batches()), 2), loss, steps=5)


def test_loss_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="nan after 0 steps"):
        finetune(network(), batches(), lambda module, batch: loss(module, batch) * float("nan"), steps=5)


def test_movement_is_relative_to_all_weights_of_matrices() -> None:
    before = {"w": torch.full((2, 2), 2.0), "bias": torch.zeros(2), "gone": torch.ones(2, 2)}
    after = {"w": torch.full((2, 2), 2.02), "bias": torch.ones(2)}
    assert movement(before, after) == pytest.approx(0.01, rel=1e-4)
    assert movement({}, {}) == 0.0
