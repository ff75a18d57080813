"""Further training of a stolen model, on any task.

The thief's usual next step, with or without a mark in mind. It costs him data and time; it moves the weights far
less than it looks, since a small learning rate touches each weight a little. After a lossy attack it is the
repair: quality returns, the mark does not.

This module trains whatever module and loss it is handed; it knows no task and no data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch

from watermark.attacks.interface import State, is_target
from watermark.errors import InputError

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class FineTuned:
    """A model after further training: its weights, and the loss of each step in order."""

    state: State
    losses: tuple[float, ...]


def finetune(
    module: torch.nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor],
    *,
    steps: int,
    learning_rate: float = 1e-4,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> FineTuned:
    """Train a copy of `module` for `steps` batches with AdamW; `module` itself stays as it is.

    Dropout draws from `seed` alone and the caller's random state is put back, so the same batches give the same
    weights on the same machine. `progress` is told 1 after every step.

    Raises:
        InputError: `batches` ends before `steps`, or the loss stops being a finite number.
    """
    student = copy.deepcopy(module)
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=learning_rate)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student.train()
        for batch in islice(batches, steps):
            optimizer.zero_grad(set_to_none=True)
            value = loss(student, batch)
            if not bool(torch.isfinite(value)):
                raise InputError(
                    f"the loss is {value.item()} after {len(losses)} steps at a learning rate of {learning_rate}",
                    hint="lower the learning rate",
                )
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(value.detach()))
            if progress is not None:
                progress(1)
    if len(losses) < steps:
        raise InputError(f"the batches ended after {len(losses)} of {steps} steps", hint="pass an endless iterator")
    state = {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}
    return FineTuned(state, tuple(losses))


def movement(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> float:
    """Return how far the targets moved: the norm of all changes over the norm of all weights before.

    A fine-tune counts as an attack from 0.005 on. Tensors that either side lacks are left out.
    """
    moved = total = 0.0
    for name, tensor in before.items():
        if is_target(tensor) and name in after:
            start = tensor.detach().double()
            moved += float((after[name].detach().double() - start).square().sum())
            total += float(start.square().sum())
    return (moved / total) ** 0.5 if total else 0.0
