"""Fine-tuning by low-rank additions that are merged into the weights.

How most models are tuned on one accelerator (Hu et al., "LoRA", ICLR 2022): every matrix moves in a few directions, so
a mark stays whole in all others. Costs the thief less than training all weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch.nn.utils import parametrize

from watermark.attacks.finetune import Batch, FineTuned, finetune
from watermark.attacks.interface import generator, is_target
from watermark.errors import InputError


class _LowRank(torch.nn.Module):
    """A matrix plus the product of two thin ones, zero at first."""

    def __init__(self, weight: torch.Tensor, rank: int, stream: torch.Generator) -> None:
        super().__init__()
        inputs = weight[0].numel()
        self.into = torch.nn.Parameter(torch.randn(rank, inputs, generator=stream) / inputs**0.5)
        self.out_of = torch.nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.out_of @ self.into).reshape(weight.shape)


def finetune_low_rank(
    module: torch.nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor],
    *,
    rank: int,
    steps: int,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> FineTuned:
    """Train additions of this rank to every matrix of a copy of `module`, nothing else, and merge them.

    See `finetune`; `module` itself stays as it is.

    Raises:
        InputError: the rank is not at least 1, and as `finetune`.
    """
    if rank < 1:
        raise InputError(f"additions of rank {rank} add nothing", hint="pass 4 to 256")
    adapted = copy.deepcopy(module).requires_grad_(requires_grad=False)
    matrices = [
        (layer, name, f"{path}.{name}")
        for path, layer in list(adapted.named_modules())
        for name, weight in list(layer.named_parameters(recurse=False))
        if is_target(weight)
    ]
    for layer, name, path in matrices:
        weight = layer.get_parameter(name)
        addition = _LowRank(weight, min(rank, *weight.reshape(len(weight), -1).shape), generator(seed, path))
        parametrize.register_parametrization(layer, name, addition)
    tuned = finetune(adapted, batches, loss, steps=steps, learning_rate=learning_rate, seed=seed)
    adapted.load_state_dict(tuned.state)
    for layer, name, _ in matrices:
        parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    merged = adapted.state_dict()
    return FineTuned({name: merged[name].detach().clone() for name in module.state_dict()}, tuned.losses)
