"""The attacks of classes B to E and the strongest removal known, as points of a rehearsal of a model trained here.

Class C is the product's own sweep, with GPTQ and AWQ where a language model can be fed. Trainings are kept in the
folder under the name of the model they started from, so that nulls and compositions do not train again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch

from cli.rehearse_sweep import BASELINE, SEED, Point, sweep
from scripts.forensics_structure import structural
from scripts.forensics_training import training
from tests.attacks.other_tasks import held_out_loss
from tests.attacks.trained_subjects import GPT, Trained
from watermark.attacks import calibrated, merging, noise, truncation
from watermark.attacks.finetune import FineTuned, finetune
from watermark.attacks.interface import State
from watermark.attacks.lora import finetune_low_rank

CLASSES = ("B", "C", "D", "E", "strongest")
CALIBRATION_BATCHES = 32


@dataclass
class Thief:
    """Who trains: on which model's weights (its name keeps the results apart), with all data of the owner.

    `longest` is how many original trainings he goes on for at most. `learned` gives the loss of the last training that
    was asked for on batches it never saw, before and after.
    """

    trained: Trained
    whose: str
    longest: int = 10
    learned: Callable[[], tuple[float, float]] | None = None

    def train(
        self,
        before: torch.nn.Module,
        name: str,
        loss: Callable[..., torch.Tensor],
        batches: Callable[[int], Iterator[Any]],
        steps: int,
        rate: float,
        by: Callable[..., FineTuned] = finetune,
    ) -> State:
        """The weights of `before` after training `by` some way, kept under the name."""

        def make() -> State:
            return by(before, batches(900), loss, steps=steps, learning_rate=rate, seed=900).state

        state = self.trained.kept(f"{self.whose}, {name}", make)
        self.learned = partial(_losses, before, state, loss, batches)
        return state

    def tune(
        self, state: State, name: str, steps: int, rate: float, loss: Callable[..., torch.Tensor] | None = None
    ) -> State:
        """Further training of all layers on batches of his own."""
        subject = self.trained.subject
        return self.train(subject.module_of(state), name, loss or subject.loss, subject.batches, steps, rate)

    def tune_last(self, state: State, name: str, steps: int, rate: float) -> State:
        """Further training of the last layer alone."""
        subject = self.trained.subject
        module = subject.module_of(state)
        for layer, weight in module.named_parameters():
            weight.requires_grad_(layer in subject.last_layer)
        return self.train(module, name, subject.loss, subject.batches, steps, rate)

    def without_last(self, state: State) -> State:
        """The last layer drawn anew."""
        drawn = self.trained.subject.draw(901).state_dict()
        return {name: drawn[name] if name in self.trained.subject.last_layer else state[name] for name in state}

    def low_rank(self, state: State, rank: int, steps: int, rate: float) -> State:
        """LoRA on every matrix, merged."""
        subject, by = self.trained.subject, partial(finetune_low_rank, rank=rank)
        module = subject.module_of(state)
        return self.train(module, f"LoRA {rank}", subject.loss, subject.batches, steps, rate, by)

    def continued(self, state: State, times: int) -> State:
        """The original training once more, so many times as long; each round is kept, the next goes on from it."""
        subject, before = self.trained.subject, state
        for number in range(1, times + 1):
            make = partial(subject.tuned, state, subject.original_steps, subject.learning_rate / 2, seed=1_000 + number)
            state = self.trained.kept(f"{self.whose}, continued {number}", make)
        self.learned = partial(_losses, subject.module_of(before), state, subject.loss, subject.batches)
        return state


def _losses(
    module: torch.nn.Module,
    after: State,
    loss: Callable[..., torch.Tensor],
    batches: Callable[[int], Iterator[Any]],
) -> tuple[float, float]:
    first = held_out_loss(module, loss, batches)
    module.load_state_dict(after)
    return first, held_out_loss(module, loss, batches)


def points_of(which: str, thief: Thief) -> list[Point]:
    """The points of one class: the untouched copy first, plain noise, then the class at rising strength."""
    known = {point.key: point for point in sweep(None, {})}
    plain = [known["untouched"], *(point for point in known.values() if point.family == BASELINE)]
    more = {"B": structural, "C": _lossy, "D": training, "E": _merging, "strongest": _strongest}[which](thief)
    return list({point.key: point for point in [*plain, *more]}.values())


def _lossy(thief: Thief) -> Iterator[Point]:
    yield from (point for point in sweep(None, {}) if not point.renames)
    subject = thief.trained.subject
    if subject is GPT:

        def fed(state: State) -> dict[str, calibrated.Inputs]:
            batches = islice(subject.batches(900), CALIBRATION_BATCHES)
            return calibrated.inputs_of(subject.module_of(state), lambda module: [module(batch) for batch in batches])

        for bits in (4, 3):
            yield Point("GPTQ", f"{bits} bits", lambda state, b=bits: calibrated.gptq(state, fed(state), b))
            yield Point("AWQ", f"{bits} bits", lambda state, b=bits: calibrated.awq(state, fed(state), b))


def _merging(thief: Thief) -> Iterator[Point]:
    trained = thief.trained
    base = trained.base
    for percent in (10, 30, 50, 70):
        yield Point("with the base", f"{percent} %", lambda state, p=percent: merging.linear(state, base(), p / 100))

    def siblings(count: int) -> list[State]:
        return [trained.child(number) for number in range(1, count + 1)]

    for percent in (50, 70):
        yield Point(
            "with a sibling", f"{percent} %", lambda state, p=percent: merging.linear(state, trained.child(1), p / 100)
        )
        yield Point("slerp", f"{percent} %", lambda state, p=percent: merging.slerp(state, trained.child(1), p / 100))
    for weight in (0.3, 0.5):
        yield Point(
            "task arithmetic of 2",
            f"weight {weight}",
            lambda state, w=weight: merging.task_arithmetic(state, siblings(1), base(), w),
        )
    for keep in (0.5, 0.2):
        yield Point("TIES of 2", f"keeps {keep:.0%}", lambda state, k=keep: merging.ties(state, siblings(1), base(), k))
    for drop in (0.5, 0.9):
        yield Point(
            "DARE of 2", f"drops {drop:.0%}", lambda state, d=drop: merging.dare(state, siblings(1), base(), d, SEED)
        )
    for count in (2, 4, 8):
        yield Point("soup", f"of {count}", lambda state, c=count: merging.soup(state, siblings(c - 1)))


def _strongest(thief: Thief) -> Iterator[Point]:
    """Noise or truncation, fine-tuning at the original rate, then all symmetries."""
    subject = thief.trained.subject

    def removed(damage: Callable[[State], State], name: str, steps: int) -> Callable[[State], State]:
        def run(state: State) -> State:
            tuned = thief.tune(damage(state), f"{name}, tuned {steps}", steps, subject.learning_rate / 2)
            return subject.disguise(tuned, SEED)

        return run

    yield Point("all symmetries", "", lambda state: subject.disguise(state, SEED))
    for percent, times in ((20, 1), (40, 1), (80, 2)):
        damage = partial(noise.gaussian, sigma=percent / 100, seed=SEED + 1)
        steps = times * subject.tuning_steps
        yield Point(
            "noise, tuned, disguised", f"{percent} %, {steps} steps", removed(damage, f"noise {percent}", steps)
        )
    for percent, times in ((50, 1), (25, 2), (10, 2)):
        damage = partial(truncation.svd, share=percent / 100)
        steps = times * subject.tuning_steps
        yield Point(
            "low rank, tuned, disguised", f"{percent} %, {steps} steps", removed(damage, f"rank {percent}", steps)
        )


def has_null(point: Point) -> bool:
    """Whether an independent model goes through the same attack: all that costs no training, and one training each."""
    if point.family == "noise, tuned, disguised":
        return point.strength.startswith("40 %")
    if point.strength.endswith("steps"):
        return point.family == "vocabulary replaced"
    return point.family not in (
        "untouched", "all layers", "last layer", "last layer anew", "L2 0.1, then fine-tuned",
        "pruned, then fine-tuned", "low rank, tuned, disguised", "training continued",
    )  # fmt: skip
