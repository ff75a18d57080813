"""Classes C, D and E on a digit classifier: what leaves it useful leaves the mark, and twins stay innocent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from tests.attacks import other_tasks
from tests.attacks.marked_victims import Victim
from tests.subjects import digits_accuracy, digits_batches, digits_cnn, digits_loss, digits_network
from watermark.attacks import calibrated, channels, clipping, clustering, merging, noise, precision, pruning, shifting
from watermark.attacks.adversarial import adversarial_loss
from watermark.attacks.channels import Stage
from watermark.attacks.finetune import finetune
from watermark.attacks.interface import State
from watermark.attacks.lora import finetune_low_rank
from watermark.attacks.transfer import with_new_last_layer
from watermark.evidence import THRESHOLD_LOG2_P
from watermark.model.torch_state import load_state

#: What the product chooses for so small a model.
STRENGTH = 0.10
CHAIN = tuple(Stage(f"{number}.weight", f"{number}.bias") for number in (0, 2, 6, 8))
USEFUL = 0.95
BASE, MARKED, SIBLING, TWIN = (7, 60), 1, 2, 9


def network_of(state: State) -> torch.nn.Module:
    module = digits_network()
    module.load_state_dict(state)
    return module


def tuned(state: State, seed: int, steps: int = 40, rate: float = 1e-3) -> State:
    return finetune(network_of(state), digits_batches(seed), digits_loss, steps=steps, learning_rate=rate).state


@pytest.fixture(scope="session")
def base() -> State:
    return digits_cnn(*BASE).state


@pytest.fixture(scope="session")
def sibling(base: State) -> State:
    return tuned(base, SIBLING)


@pytest.fixture(scope="session")
def classifier(base: State, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(tmp_path_factory.mktemp("digits"), tuned(base, MARKED), STRENGTH)


@pytest.fixture(scope="session")
def twin() -> State:
    return digits_cnn(TWIN).state


def by_gptq(state: State) -> State:
    batch = next(digits_batches(3))
    fed = calibrated.inputs_of(network_of(state), lambda module: digits_loss(module, batch))
    return calibrated.gptq(state, fed)


def by_low_rank(state: State) -> State:
    module, batches = network_of(state), digits_batches(3)
    return finetune_low_rank(module, batches, digits_loss, rank=4, steps=30, learning_rate=3e-3).state


def by_adversaries(state: State) -> State:
    loss = adversarial_loss(digits_loss, "0", size=0.25)
    return finetune(network_of(state), digits_batches(3), loss, steps=20, learning_rate=1e-3).state


def by_wrong_labels(state: State) -> State:
    loss = other_tasks.noisy_digits_loss(0.1, 3)
    return finetune(network_of(state), digits_batches(3), loss, steps=20, learning_rate=5e-4).state


def by_another_task(state: State) -> State:
    fresh = with_new_last_layer(network_of(state), "8", 2, seed=3)
    return finetune(fresh, digits_batches(3), other_tasks.parity_loss, steps=60, learning_rate=3e-3).state


def by_the_strongest(state: State) -> State:
    repaired = tuned(noise.gaussian(state, sigma=0.4, seed=4), 3, steps=40)
    return channels.scale_channels(channels.permute_channels(repaired, CHAIN, 5), CHAIN, 5)


ATTACKS: dict[str, Callable[[State], State]] = {
    "fp8": partial(precision.fp8, form="e5m2"),
    "32 shared values": partial(clustering.shared_values, bits=5),
    "clipped": partial(clipping.at_deviations, limit=1.5),
    "shifted": partial(shifting.by_mean_row, strength=1.5),
    "GPTQ": by_gptq,
    "pruned, tuned": lambda state: tuned(pruning.magnitude(state, 0.5), 3),
    "tuned fast": lambda state: tuned(state, 3, rate=3e-3),
    "low rank": by_low_rank,
    "adversaries": by_adversaries,
    "wrong labels": by_wrong_labels,
    "another task": by_another_task,
    "noise, tuned, disguised": by_the_strongest,
}
MERGES: dict[str, Callable[[State, State, State], State]] = {
    "half the base": lambda state, _sibling, base: merging.linear(state, base, 0.5),
    "70 % a sibling": lambda state, sibling, _base: merging.linear(state, sibling, 0.7),
    "along the arc": lambda state, sibling, _base: merging.slerp(state, sibling, 0.5),
    "soup of three": lambda state, sibling, base: merging.soup(state, [sibling, base]),
    "task arithmetic": lambda state, sibling, base: merging.task_arithmetic(state, [sibling], base, 0.5),
    "TIES": lambda state, sibling, base: merging.ties(state, [sibling], base, keep=0.5),
    "DARE": lambda state, sibling, base: merging.dare(state, [sibling], base, drop=0.5, seed=6),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_leaves_the_classifier_useful_leaves_the_mark(classifier: Victim, twin: State, name: str) -> None:
    attacked = ATTACKS[name](classifier.state)
    assert other_tasks.digits_quality(attacked) >= USEFUL * digits_accuracy(classifier.state)
    assert classifier.shown_in(attacked).test.log2_p < THRESHOLD_LOG2_P
    assert classifier.shown_in(ATTACKS[name](twin)).test.log2_p > -16


@pytest.mark.parametrize("name", MERGES)
def test_merges_with_a_third_of_us_leave_the_mark(
    classifier: Victim, twin: State, base: State, sibling: State, name: str
) -> None:
    attacked = MERGES[name](classifier.state, sibling, base)
    assert digits_accuracy(attacked) >= USEFUL * digits_accuracy(classifier.state)
    assert classifier.shown_in(attacked).test.log2_p < THRESHOLD_LOG2_P
    # The same merge of the unmarked models: the base and the sibling are ours by descent, but carry no mark.
    assert classifier.shown_in(MERGES[name](twin, sibling, base)).test.log2_p > -16


def test_trainings_of_the_unmarked_reference_show_nothing(classifier: Victim) -> None:
    unmarked = load_state(classifier.marked.reference)
    for name in ("adversaries", "wrong labels", "another task"):
        assert classifier.shown_in(ATTACKS[name](unmarked)).test.log2_p > -16


@pytest.mark.parametrize(
    "attack", [ATTACKS["noise, tuned, disguised"], ATTACKS["32 shared values"], ATTACKS["adversaries"]]
)
def test_wrong_keys_find_nothing_on_the_same_path(classifier: Victim, attack: Callable[[State], State]) -> None:
    tests = classifier.wrong_keys(attack(classifier.state), 1_000)
    z = np.array([test.z for test in tests])
    assert abs(z.mean()) < 0.13
    assert 0.9 < z.std() < 1.1
    assert min(test.log2_p for test in tests) > -26
