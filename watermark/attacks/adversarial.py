"""Adversarial training: each step on inputs that were pushed to where the model does worst.

Meant for robustness, and tried as a removal since it bends what a model computes near every input (Lukas et al., S&P
2022). One step is the fast gradient sign method (Goodfellow et al., ICLR 2015), several are projected gradient descent
(Madry et al., ICLR 2018); text cannot be moved, so its embeddings are (Miyato et al., ICLR 2017). Costs the thief a
further pass for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from watermark.attacks.finetune import Batch
from watermark.errors import InputError

Loss = Callable[[torch.nn.Module, Batch], torch.Tensor]
#: How far a step goes, in parts of the way that all steps might go together; Madry et al. let them overshoot.
_OVERSHOOT = 2.5


def adversarial_loss(loss: Loss[Batch], layer: str, *, size: float, steps: int = 1) -> Loss[Batch]:
    """The loss at the worst place near each batch; pass it to `finetune`.

    `layer` names the module whose input is moved: the first one of a picture model, what follows the embeddings of a
    language model. No number moves by more than `size` deviations of all that enters there.

    Raises:
        InputError: there is no step, or no size to go.
    """
    if steps < 1 or size <= 0:
        raise InputError(f"{steps} steps of size {size} move nothing", hint="pass 1 step or more, and 0.1 for 10 %")

    def hardened(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        entered = module.get_submodule(layer)
        push: torch.Tensor | float = 0.0
        limit = size
        for _ in range(steps):
            with _pushed(entered, push) as inputs:
                value = loss(module, batch)
            (moved,) = inputs
            limit = size * float(moved.detach().std())
            (slope,) = torch.autograd.grad(value, moved)
            stride = limit if steps == 1 else _OVERSHOOT * limit / steps
            push = (push + stride * slope.sign()).clamp(-limit, limit)
        with _pushed(entered, push):
            return loss(module, batch)

    return hardened


@contextmanager
def _pushed(layer: torch.nn.Module, push: torch.Tensor | float) -> Iterator[list[torch.Tensor]]:
    """Add `push` to what enters a layer while the block runs; gives what entered, to differentiate by."""
    entered: list[torch.Tensor] = []

    def change(_: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        moved = given[0] + push
        if not moved.requires_grad:
            moved.requires_grad_()
        entered.append(moved)
        return (moved, *given[1:])

    handle = layer.register_forward_pre_hook(change)
    try:
        yield entered
    finally:
        handle.remove()
