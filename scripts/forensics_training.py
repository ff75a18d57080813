"""Class D: what a thief trains a stolen model for, as points of a rehearsal; see `forensics_points`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch

from cli.rehearse_sweep import Point
from tests.attacks import other_tasks
from tests.attacks.trained_subjects import GPT
from watermark.attacks import pruning
from watermark.attacks.adversarial import adversarial_loss
from watermark.attacks.instruction import answer_loss
from watermark.attacks.interface import State
from watermark.attacks.preferences import preference_loss
from watermark.attacks.transfer import with_new_last_layer

if TYPE_CHECKING:
    from scripts.forensics_points import Thief

L2 = 0.1
SMOOTHING = 0.1
WRONG_LABELS = 0.2
#: Deviations of what enters; the first layer of the classifier reads pixels, what follows GPT-2's embeddings is `drop`.
PUSH, PUSHED_LAYER = 0.25, {"gpt": "transformer.drop", "cnn": "0"}
RANKS = (4, 16, 64, 256)
DPO_RATE = 0.1
#: Families after which the model is for another task: they count by their own loss, not by the old quality.
OTHER_TASK = ("SFT", "DPO after SFT", "transfer")
#: Families whose every point has its nulls beside it.
ALWAYS_WITH_NULLS = (*OTHER_TASK, "adversarial", "labels noised", "LoRA")


def training(thief: Thief) -> Iterator[Point]:
    """Every training, the usual ones by rising rate first."""
    subject = thief.trained.subject
    steps, rate = subject.tuning_steps, subject.learning_rate
    rates = [rate * factor for factor in (0.2, 1, 5, 20)]
    for each in rates:
        yield Point("all layers", f"rate {each:.0e}", lambda state, r=each: thief.tune(state, f"all {r:.0e}", steps, r))
    for each in rates[1::2]:
        yield Point(
            "last layer", f"rate {each:.0e}", lambda state, r=each: thief.tune_last(state, f"last {r:.0e}", steps, r)
        )
    yield Point(
        "last layer anew",
        "last trained",
        lambda state: thief.tune_last(thief.without_last(state), "last anew", steps, rate),
    )
    yield Point(
        "last layer anew",
        "all trained",
        lambda state: thief.tune(thief.without_last(state), "last anew, all", steps, rate),
    )

    def decayed(state: State) -> State:
        shrunk = thief.tune(state, "L2", steps // 2, rate, partial(_decayed_loss, thief))
        return thief.tune(shrunk, "L2, tuned", steps, rate)

    yield Point("L2 0.1, then fine-tuned", "", decayed)
    smooth = partial(subject.loss, smoothing=SMOOTHING)
    yield Point("labels smoothed", "0.1", lambda state: thief.tune(state, "smoothed", steps, rate, smooth))
    yield Point(
        "labels noised",
        f"{WRONG_LABELS:.0%}",
        lambda state: thief.tune(state, "noised", steps, rate, _noisy_loss(subject is GPT)),
    )
    for name, pushes in (("FGSM", 1), ("PGD of 5", 5)):
        hard = adversarial_loss(subject.loss, PUSHED_LAYER[subject.name], size=PUSH, steps=pushes)
        yield Point("adversarial", name, lambda state, n=name, h=hard: thief.tune(state, n, steps, rate, h))
    for rank in RANKS:
        yield Point("LoRA", f"rank {rank}", lambda state, r=rank: thief.low_rank(state, r, steps, rate))
    yield from _for_another_task(thief)
    for percent in (50, 80):

        def fine_pruned(state: State, percent: int = percent) -> State:
            return thief.tune(pruning.magnitude(state, percent / 100), f"pruned {percent}, tuned", steps, rate)

        yield Point("pruned, then fine-tuned", f"{percent} %", fine_pruned)
    for times in (times for times in (1, 3, 10) if times <= thief.longest):
        yield Point("training continued", f"{times} x", lambda state, t=times: thief.continued(state, t))


def _for_another_task(thief: Thief) -> Iterator[Point]:
    subject = thief.trained.subject
    steps, rate = subject.tuning_steps, subject.learning_rate
    if subject is not GPT:

        def transferred(state: State) -> State:
            fresh = with_new_last_layer(subject.module_of(state), "8", 2, seed=902).eval()
            return thief.train(fresh, "transfer", other_tasks.parity_loss, subject.batches, steps, rate)

        yield Point("transfer", "odd or even", transferred)
        return

    def instructed(state: State, times: int = 1) -> State:
        before, batches = subject.module_of(state), other_tasks.right_sums
        return thief.train(before, f"SFT {times}", answer_loss, batches, times * steps, rate)

    def preferring(state: State) -> State:
        before = subject.module_of(instructed(state))
        loss = preference_loss(before)
        return thief.train(before, "DPO", loss, other_tasks.sums, steps, DPO_RATE * rate)

    for times in (1, 10):
        yield Point("SFT", f"{times * steps} batches", partial(instructed, times=times))
    yield Point("DPO after SFT", f"{steps} batches", preferring)
    for times in (1, 10):

        def moved(state: State, times: int = times) -> State:
            before, batches = subject.module_of(state), other_tasks.prose_batches
            return thief.train(before, f"prose {times}", subject.loss, batches, times * steps, rate)

        yield Point("transfer", f"English prose, {times * steps} batches", moved)


def _noisy_loss(is_gpt: bool) -> Callable[..., torch.Tensor]:
    make = other_tasks.noisy_byte_loss if is_gpt else other_tasks.noisy_digits_loss
    return make(WRONG_LABELS, 903)


def _decayed_loss(thief: Thief, module: torch.nn.Module, batch: object) -> torch.Tensor:
    """The loss with L2 on all weights."""
    weight = torch.stack([values.square().sum() for values in module.parameters()]).sum()
    return thief.trained.subject.loss(module, batch) + L2 / 2 * weight
