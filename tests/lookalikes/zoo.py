"""A zoo of small models that look alike: many of one architecture, each trained on its own and checked to do its task.

Models of one architecture are trained together, their weights stacked along a first dimension: fifty perceptrons cost
little more than one. Each has its own seed for its first weights and for the order of its batches. Nothing is
downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional

from tests.lookalikes.architectures import ARCHITECTURES
from tests.lookalikes.tasks import Score, tasks
from watermark.attacks.interface import State
from watermark.model.torch_state import load_state, save_state

TRAINED, DRAWN, TUNED, TAUGHT = "trained", "drawn", "tuned", "taught"
#: The seed of the embedding that models with a common frozen one share.
COMMON = 999_999
#: Trained together: more would outgrow the cache.
TOGETHER = 50


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Attributes:
        architecture: models of one have equal shapes.
        task: what it learns.
        seed: draws its first weights.
        order: draws its batches.
        how: trained from its first weights, merely drawn, fine-tuned from `parent`, or taught by its answers.
        parent: the name of the base or the teacher.
        frozen: starts from the embedding that all such models share, and keeps it.
        padded: a quarter of its hidden units are zero, at the same places in all such models.
    """

    architecture: str
    task: str
    seed: int
    order: int = 0
    how: str = TRAINED
    parent: str | None = None
    frozen: bool = False
    padded: bool = False

    @property
    def name(self) -> str:
        """What it is called in the folder."""
        flags = ("-frozen" if self.frozen else "") + ("-padded" if self.padded else "")
        return f"{self.architecture}-{self.how}-{self.task}-{self.seed}-{self.order}{flags}"

    @property
    def is_independent(self) -> bool:
        """Trained from weights of its own on labels, not on another's answers."""
        return self.how == TRAINED


def first_weights(recipe: Recipe) -> State:
    """The weights that a recipe starts from when it has no base, by its seed alone."""
    architecture = ARCHITECTURES[recipe.architecture]
    stream = torch.Generator().manual_seed(recipe.seed)
    state: State = {}
    for name, shape in architecture.shapes.items():
        if name in architecture.constants:
            state[name] = _cosines()
            continue
        if "norm" in name:
            state[name] = torch.ones(shape)
            continue
        drawn = torch.Generator().manual_seed(COMMON) if recipe.frozen and name == "embedding.weight" else stream
        if name in ("embedding.weight", "positions.weight", "model.embed_tokens.weight"):
            state[name] = 0.3 * torch.randn(shape, generator=drawn)
            continue
        reach = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.05
        state[name] = reach * (2 * torch.rand(shape, generator=drawn) - 1)
    for name, axis in (architecture.padded or {}).items() if recipe.padded else ():
        # A unit without weights in and out gets no gradient either: it stays zero.
        part = state[name].narrow(axis, 0, state[name].shape[axis] // 4)
        part.zero_()
    return state


def _cosines() -> torch.Tensor:
    """The discrete cosine transform of 8 x 8 pixels, (64, 64)."""
    place = torch.arange(8)
    one = torch.cos(math.pi / 8 * (place[None] + 0.5) * place[:, None]) / 2
    one[0] /= math.sqrt(2)
    return torch.kron(one, one)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Models this small are trained faster by one thread than by two that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def train(recipes: Sequence[Recipe], states: Mapping[str, State]) -> list[State]:
    """Train models of one architecture and kind together; `states` holds their bases or teachers by name."""
    first = recipes[0]
    architecture = ARCHITECTURES[first.architecture]
    starts = [states[r.parent] if r.how == TUNED and r.parent else first_weights(r) for r in recipes]
    stacked = {name: torch.stack([start[name] for start in starts]) for name in architecture.shapes}
    if first.how == DRAWN:
        return starts
    fixed = {*architecture.constants, *(["embedding.weight"] if first.frozen else [])}
    moving = [stacked[name].requires_grad_() for name in stacked if name not in fixed]
    steps, rate = architecture.steps, architecture.rate
    if first.how == TUNED:
        steps, rate = steps // 3, rate / 4
    optimizer = torch.optim.Adam(moving, lr=rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    run = torch.func.vmap(architecture.run)
    teach = [states[r.parent] if r.how == TAUGHT and r.parent else None for r in recipes]
    data = [tasks(first.architecture)[recipe.task] for recipe in recipes]
    streams = [torch.Generator().manual_seed(10_000 + recipe.order + 7 * recipe.seed) for recipe in recipes]
    for _ in range(steps):
        picked = [
            torch.randint(len(task.labels), (architecture.batch,), generator=stream)
            for task, stream in zip(data, streams, strict=True)
        ]
        inputs = torch.stack([task.inputs[index] for task, index in zip(data, picked, strict=True)])
        labels = torch.stack([task.labels[index] for task, index in zip(data, picked, strict=True)])
        outputs = run(stacked, inputs)
        if first.how == TAUGHT:
            with torch.no_grad():
                wanted = torch.stack(
                    [
                        architecture.run(state, one).softmax(dim=-1)
                        for state, one in zip(teach, inputs, strict=True)
                        if state
                    ]
                )
            loss = -(wanted * outputs.log_softmax(dim=-1)).sum(dim=-1).mean() * len(recipes)
        else:
            loss = functional.cross_entropy(outputs.flatten(0, -2), labels.flatten()) * len(recipes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    done = {name: values.detach() for name, values in stacked.items()}
    return [{name: done[name][number].clone() for name in done} for number in range(len(recipes))]


def score(recipe: Recipe, state: State) -> Score:
    """How well a model does its recipe's task."""
    task = tasks(recipe.architecture)[recipe.task]
    with torch.inference_mode():
        return task.score(ARCHITECTURES[recipe.architecture].run(state, task.unseen))


def cohorts(recipes: Sequence[Recipe]) -> Iterator[list[Recipe]]:
    """Recipes that can be trained together, parents before their children."""
    groups: dict[tuple[object, ...], list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault((recipe.how in (TUNED, TAUGHT), recipe.architecture, recipe.how, recipe.frozen), []).append(
            recipe
        )
    for key in sorted(groups, key=str):
        members = groups[key]
        yield from (members[start : start + TOGETHER] for start in range(0, len(members), TOGETHER))


def make(
    recipes: Sequence[Recipe], folder: Path, known: Collection[str], retrained: Callable[[Recipe, Score], None]
) -> Iterator[tuple[Recipe, Score]]:
    """Train what the folder does not hold yet, write it, and give each model with its score.

    A model that fails its task is trained once more with another order of batches, which `retrained` is told; one that
    fails again is given with its score, and not for use. Random weights have no task.
    """
    for cohort in cohorts(recipes):
        left = [recipe for recipe in cohort if recipe.name not in known]
        parents = {recipe.parent: load_state(folder / recipe.parent) for recipe in left if recipe.parent}
        for number, state in enumerate(train(left, parents)) if left else ():
            recipe, reached = left[number], score(left[number], state)
            if recipe.how != DRAWN and not reached.passed:
                retrained(recipe, reached)
                state = train([replace(recipe, order=recipe.order + 1_000)], parents)[0]
                reached = score(recipe, state)
            save_state(folder / recipe.name, state)
            yield recipe, reached
