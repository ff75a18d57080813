from __future__ import annotations

import pytest
import torch

from tests.attacks.trained_subjects import SUBJECTS, Subject
from tests.byte_gpt import BATCH, CONTEXT, byte_gpt, library_batches, library_bytes, next_byte_loss, perplexity
from watermark.attacks.finetune import finetune
from watermark.attacks.interface import is_target


def test_it_learns_and_is_judged_on_what_it_never_saw() -> None:
    module = byte_gpt(1)
    assert 1_000_000 < sum(weight.numel() for weight in module.state_dict().values() if is_target(weight)) < 2_000_000
    before = perplexity(module.state_dict())
    assert before == pytest.approx(256, rel=0.1)  # it knows nothing of the 256 bytes
    tuned = finetune(module, library_batches(1), next_byte_loss, steps=8, learning_rate=2e-3)
    assert perplexity(tuned.state) < before / 3
    batch = next(library_batches(1))
    assert batch.shape == (BATCH, CONTEXT)
    held_out, trained = (bytes(library_bytes(held_out=held).tolist()) for held in (True, False))
    assert held_out[5_000:5_200] not in trained


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_a_disguise_moves_every_matrix_and_costs_nothing(subject: Subject) -> None:
    state = subject.draw(2).state_dict()
    disguised = subject.disguise(state, 3)
    assert subject.quality(disguised) == pytest.approx(subject.quality(state), rel=1e-3)
    moved = [name for name, weight in state.items() if is_target(weight) and not torch.equal(weight, disguised[name])]
    assert moved == [name for name, weight in state.items() if is_target(weight)]
