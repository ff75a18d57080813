"""SFT and DPO on a small language model: it learns what it should, the mark stays, the innocent stay innocent."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from tests.attacks.marked_victims import Victim
from tests.attacks.other_tasks import prose_batches, right_sums, sums
from tests.attacks.victims import module_of, state_of
from watermark.attacks.adversarial import adversarial_loss
from watermark.attacks.finetune import finetune, movement
from watermark.attacks.instruction import Dialogues, answer_log_p, answer_loss
from watermark.attacks.interface import State
from watermark.attacks.label_noise import relabelled
from watermark.attacks.preferences import preference_loss
from watermark.attacks.transfer import with_new_last_layer
from watermark.errors import InputError
from watermark.evidence import THRESHOLD_LOG2_P

RATE = 1e-3


def model_with(state: State) -> torch.nn.Module:
    module = module_of("gpt")
    module.load_state_dict(state)
    return module


def instructed(state: State) -> State:
    return finetune(model_with(state), right_sums(1), answer_loss, steps=30, learning_rate=RATE).state


def preferring(state: State) -> State:
    before = model_with(instructed(state))
    return finetune(before, sums(1), preference_loss(before), steps=15, learning_rate=RATE / 4).state


@pytest.mark.parametrize("train", [instructed, preferring])
def test_the_mark_outlives_it_and_only_the_mark(victim, train):
    """Wrong keys, and the unmarked reference through the same training, show nothing."""
    marked: Victim = victim("gpt")
    tuned = train(marked.state)
    assert movement(marked.state, tuned) > 0.005
    assert marked.shown_in(tuned).test.log2_p < THRESHOLD_LOG2_P
    assert marked.shown_in(train(state_of("gpt"))).test.log2_p > -16
    assert min(test.log2_p for test in marked.wrong_keys(tuned, 1_000)) > -26


def test_answers_alone_count():
    module = model_with(state_of("gpt"))
    texts = next(right_sums(5))
    with torch.inference_mode():
        scores = module(texts.tokens).logits.log_softmax(dim=-1)
        by_hand = [
            sum(float(scores[row, at - 1, texts.tokens[row, at]]) for at in range(24) if texts.is_answer[row, at])
            for row in range(len(texts.tokens))
        ]
        assert answer_log_p(module, texts).tolist() == pytest.approx(by_hand, rel=1e-4)
        # Whatever stands after the answer is no part of it.
        padded = texts.tokens.clone()
        padded[:, -1] = 7
        changed = answer_log_p(module, Dialogues(padded, texts.is_answer))
        assert changed.tolist() == pytest.approx(by_hand, rel=1e-4)


def test_preferences_start_even_and_are_learned():
    before = model_with(state_of("gpt"))
    loss, pairs = preference_loss(before), next(sums(6))
    assert float(loss(before, pairs).detach()) == pytest.approx(math.log(2), abs=1e-4)
    after = copy.deepcopy(before)
    after.load_state_dict(finetune(before, sums(1), loss, steps=15, learning_rate=RATE).state)
    with torch.inference_mode():
        assert float(loss(after, pairs)) < math.log(2) - 0.01
        gain = answer_log_p(after, pairs.chosen) - answer_log_p(before, pairs.chosen)
        other = answer_log_p(after, pairs.rejected) - answer_log_p(before, pairs.rejected)
    assert float((gain - other).mean()) > 0


@pytest.mark.parametrize("steps", [1, 3])
def test_adversaries_make_the_loss_worse_within_their_limit(steps):
    module = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    seen = []

    def loss(model, batch):
        handle = model[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
        value = model(batch).square().mean()
        handle.remove()
        return value

    plain = float(loss(module, inputs).detach())
    hard = float(adversarial_loss(loss, "0", size=0.2, steps=steps)(module, inputs).detach())
    assert hard > plain
    assert len(seen) == steps + 2
    assert float((seen[-1] - inputs).abs().max()) <= 0.2 * float(inputs.std() + 0.2 * inputs.std())
    with pytest.raises(InputError, match="move nothing"):
        adversarial_loss(loss, "0", size=0.0)


def test_wrong_labels_are_wrong_and_as_many_as_wanted():
    labels = torch.arange(10).repeat(1_000)
    noisy = relabelled(labels, 0.3, 10, torch.Generator().manual_seed(1))
    wrong = noisy != labels
    assert float(wrong.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert len(set(((noisy - labels) % 10)[wrong].tolist())) == 9
    assert torch.equal(relabelled(labels, 0.0, 10, torch.Generator()), labels)
    with pytest.raises(InputError, match="no label can be wrong"):
        relabelled(labels, 0.1, 1, torch.Generator())


def test_a_new_last_layer_is_new_and_nothing_else():
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    made = with_new_last_layer(module, "2", 3, seed=1)
    assert made(torch.ones(2, 4)).shape == (2, 3)
    assert torch.equal(made[0].weight, module[0].weight)
    with pytest.raises(InputError, match="no linear layer"):
        with_new_last_layer(module, "1", 3, seed=1)


def test_prose_is_text_of_python_s_own():
    batch = next(prose_batches(1))
    assert batch.shape == (8, 64)
    assert 0 < int(batch.max()) < 256
